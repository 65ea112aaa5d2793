"""Measure rollout speed against the eager reference.

First proves that both compute the same probabilities, then times them in turns. Writes one JSON record.
"""

from __future__ import annotations

import argparse

from nanomd.cli.common import add_common, say


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_common(parser, run=False, force=False)
    parser.add_argument(
        "--run", default=None, metavar="DIR", help="write the record here instead of benchmarks/results"
    )
    parser.add_argument("--out", metavar="FILE", default=None, help="name of the JSON record")
    parser.add_argument("--quick", action="store_true", help="small, in seconds: for correctness rather than figures")
    parser.add_argument("--preset", nargs="+", default=None, help="model shapes (default: base xs)")
    parser.add_argument("--n-threads", type=int, default=None, help="CPU threads (default: all cores)")
    parser.add_argument("--repeats", type=int, default=None, help="timed repeats (default: 5, quick 2)")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from nanomd import bench

    text = bench.run(
        presets=options.preset,
        quick=options.quick,
        n_threads=options.n_threads,
        repeats=options.repeats,
        seed=options.seed,
        out=options.out,
        folder=options.run,
    )
    say(options, text)
    return 0
