"""Compare the GPT with Markov models, an LSTM and itself on one system, over seeds and data sets.

Every training is one record under --out, and what is recorded is not repeated: an interrupted experiment goes on
where it stopped, and more seeds or methods can be added later. Writes tables.md, and for the study of short
trajectories pieces.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nanomd.cli.common import add_common, arguments, progress, say, whole


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_common(parser, run=False, seed=False, force=False)
    parser.add_argument("name", help="the system; `nanomd experiment list` shows them")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("experiments"), help="(default: %(default)s)")
    parser.add_argument("--data", metavar="DIR", default=None, help="folder of trajectories (default: NANOMD_DATA)")
    parser.add_argument("--study", choices=["main", "pieces"], default="main", help="(default: %(default)s)")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", default=None, help="(default: those of the study)")
    parser.add_argument(
        "--seeds",
        dest="n_seeds",
        type=whole,
        default=3,
        metavar="N",
        help="seeds of each method (default: %(default)s)",
    )
    parser.add_argument(
        "--datasets", dest="n_datasets", type=whole, default=1, metavar="N", help="data sets (default: %(default)s)"
    )
    parser.add_argument("--n-steps", type=whole, default=None, help="optimiser steps in place of the system's")
    parser.add_argument(
        "--unfinished", action="store_true", help="judge the paper's training as far as it has come, without going on"
    )
    parser.add_argument("--report", metavar="METHOD", default=None, help="write report/index.html for this method")
    parser.add_argument("--cases", nargs="+", metavar="CASE", default=None, help="of the zoo (default: all)")
    parser.add_argument("--n-threads", type=whole, default=None, help="of the zoo's trainings and rollouts")
    parser.add_argument("--n-processes", type=whole, default=1, help="trainings at a time (default: %(default)s)")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from nanomd import experiments

    if options.name == "list":
        for case in experiments.CASES.values():
            print(f"{case.name:20} {case.title}")
        print(f"{'zoo':20} the defaults alone, on {len(experiments.ZOO)} kinds of data; --cases takes some of them:")
        print("\n".join(f"  {case.name:20} {case.title}" for case in experiments.ZOO.values()))
        return 0
    if options.name == "zoo":
        text = experiments.run_zoo(
            options.out, data=options.data, cases=options.cases, n_threads=options.n_threads, progress=progress(options)
        )
        say(options, text)
        return 0
    say(options, experiments.run(**arguments(options, "cases", "n_threads"), progress=progress(options)))
    return 0
