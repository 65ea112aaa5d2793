"""Generate trajectories with the trained model.

Complete shards survive an interruption; --resume goes on, and the result is the same bit for bit.
"""

from __future__ import annotations

import argparse

from nanomd.cli.common import add_common, add_resume, progress, say


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_common(parser)
    add_resume(parser)
    parser.add_argument("--n-steps", type=int, default=1_000_000, help="steps per trajectory (default: %(default)s)")
    parser.add_argument("--n-trajs", type=int, default=16, help="trajectories (default: %(default)s)")
    parser.add_argument(
        "--start",
        default="stationary",
        help="stationary, uniform, data, or one state for all trajectories (a label) (default: %(default)s)",
    )
    parser.add_argument(
        "--mode", choices=["auto", "ring", "hop", "crop"], default="auto", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--hop-keep", type=int, default=None, help="states kept when a hop refills its window (default: W/2)"
    )
    parser.add_argument("--stride", type=int, default=1, help="keep every stride-th state (default: %(default)s)")
    parser.add_argument(
        "--sampling-temperature", type=float, default=1.0, help="divides the logits (default: %(default)s)"
    )
    parser.add_argument(
        "--backend", choices=["auto", "reference", "cpu", "cuda"], default="auto", help="(default: %(default)s)"
    )
    parser.add_argument("--n-threads", type=int, default=None, help="CPU threads (default: all cores)")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from nanomd import pipeline

    text = pipeline.generate(
        options.run,
        n_steps=options.n_steps,
        n_trajs=options.n_trajs,
        start=options.start,
        mode=options.mode,
        hop_keep=options.hop_keep,
        stride=options.stride,
        sampling_temperature=options.sampling_temperature,
        backend=options.backend,
        n_threads=options.n_threads,
        seed=options.seed,
        force=options.force,
        resume=options.resume,
        progress=progress(options),
    )
    say(options, text)
    return 0
