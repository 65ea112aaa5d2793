"""What every script here shares; the work is done by `nanomd.bench`, so that an installed package can do it too."""

from __future__ import annotations

import sys
from pathlib import Path

from nanomd.cli.main import main

RESULTS = Path(__file__).parent / "results"


def run_command(part: str) -> int:
    """Run one part of the suite with the options of the command line, and put its record beside the others."""
    return main(["bench", "--part", part, "--run", str(RESULTS), *sys.argv[1:]])
