"""Compare the GPT with Markov models, an LSTM and itself on one system, over seeds and data sets.

Every training is one record under --out, and what is recorded is not repeated: an interrupted experiment goes on
where it stopped, and more seeds or methods can be added later. Writes tables.md, and for the study of short
trajectories pieces.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nanomd.cli.common import add_common, progress


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_common(parser, run=False, seed=False, force=False)
    parser.add_argument("name", help="the system; `nanomd experiment list` shows them")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("experiments"), help="(default: %(default)s)")
    parser.add_argument("--data", metavar="DIR", default=None, help="folder of trajectories (default: NANOMD_DATA)")
    parser.add_argument("--study", choices=["main", "pieces"], default="main", help="(default: %(default)s)")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", default=None, help="(default: those of the study)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds of each method (default: %(default)s)")
    parser.add_argument("--datasets", type=int, default=1, metavar="N", help="data sets (default: %(default)s)")
    parser.add_argument("--n-steps", type=int, default=None, help="optimiser steps in place of the system's")
    parser.add_argument("--report", metavar="METHOD", default=None, help="write report/index.html for this method")
    parser.add_argument("--n-processes", type=int, default=1, help="trainings at a time (default: %(default)s)")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from nanomd import experiments

    if options.name == "list":
        for case in experiments.CASES.values():
            print(f"{case.name:20} {case.title}")
        return 0
    text = experiments.run(
        options.name,
        options.out,
        data=options.data,
        study=options.study,
        methods=options.methods,
        n_seeds=options.seeds,
        n_datasets=options.datasets,
        n_steps=options.n_steps,
        n_processes=options.n_processes,
        report=options.report,
        progress=progress(options),
    )
    if not options.quiet:
        print(text)
    return 0
