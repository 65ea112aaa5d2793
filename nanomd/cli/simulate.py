"""Simulate the four-state model potential (Langevin dynamics).

Writes the coordinates to simulation/ of the run folder; `nanomd tokenize` turns them into states.
"""

from __future__ import annotations

import argparse

from nanomd.cli.common import add_common, progress, say


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_common(parser)
    parser.add_argument(
        "--system", choices=["four-state"], default="four-state", help="the model (default: %(default)s)"
    )
    parser.add_argument(
        "--preset",
        choices=["demo", "paper"],
        default="demo",
        help="demo: slowest process of a few hundred frames; paper: Tsai, Kuo and Tiwary 2020 (default: %(default)s)",
    )
    parser.add_argument("--n-frames", type=int, default=100_000, help="frames per trajectory (default: %(default)s)")
    parser.add_argument("--n-trajs", type=int, default=8, help="independent trajectories (default: %(default)s)")
    parser.add_argument("--n-threads", type=int, default=None, help="CPU threads (default: all cores)")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from nanomd import pipeline

    text = pipeline.simulate(
        options.run,
        preset=options.preset,
        n_frames=options.n_frames,
        n_trajs=options.n_trajs,
        n_threads=options.n_threads,
        seed=options.seed,
        force=options.force,
        progress=progress(options),
    )
    say(options, text)
    return 0
