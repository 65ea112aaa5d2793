"""Rollouts against the floor, the eager reference and peers: the same as ``nanomd bench``, whose options it takes."""

from __future__ import annotations

import sys

from common import run_command

if __name__ == "__main__":
    sys.exit(run_command("rollout"))
