"""Look into the trained model: attention by lag, causal tracing, memory length, distances between states.

Uses the trajectories that the training held out, or else the part it validated on. Writes interpret/*.json and
pictures; a report made afterwards shows them.
"""

from __future__ import annotations

import argparse

from nanomd.cli.common import add_common, say


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_common(parser)
    parser.add_argument(
        "--windows", type=int, default=200, metavar="N", help="windows for the attention (default: %(default)s)"
    )
    parser.add_argument(
        "--targets", type=int, default=1000, metavar="N", help="frames scored per context (default: %(default)s)"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.005,
        metavar="X",
        help="nats per frame that a context may be worse than the best (default: %(default)s)",
    )
    parser.add_argument(
        "--tracing-windows", type=int, default=64, metavar="N", help="windows for the tracing (default: %(default)s)"
    )
    parser.add_argument(
        "--draws", type=int, default=4, metavar="N", help="draws of the noise per window (default: %(default)s)"
    )
    parser.add_argument(
        "--noise",
        type=float,
        default=3.0,
        metavar="X",
        help="noise over the embeddings' standard deviation (default: %(default)s)",
    )
    parser.add_argument("--changes-only", action="store_true", help="trace only frames after which the state changes")
    parser.add_argument(
        "--lagtime", type=int, default=10, metavar="N", help="frames, of the distances' MSM (default: %(default)s)"
    )
    parser.add_argument("--confidence", type=float, default=0.95, help="of the intervals (default: %(default)s)")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from nanomd.study.interpret import interpret

    text = interpret(
        options.run,
        n_windows=options.windows,
        n_targets=options.targets,
        tolerance=options.tolerance,
        tracing_windows=options.tracing_windows,
        n_draws=options.draws,
        noise=options.noise,
        changes_only=options.changes_only,
        lagtime=options.lagtime,
        confidence=options.confidence,
        seed=options.seed,
        force=options.force,
    )
    say(options, text)
    return 0
