"""Counting transitions and passages, in frames/s: ``nanomd bench --part kinetics``, whose other options it takes."""

from __future__ import annotations

import sys

from common import run_command

if __name__ == "__main__":
    sys.exit(run_command("kinetics"))
