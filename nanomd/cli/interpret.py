"""Look into the trained model: attention by lag, causal tracing, memory length, distances between states.

Uses the trajectories that the training held out, or else the part it validated on. Writes interpret/*.json and
pictures; a report made afterwards shows them.
"""

from __future__ import annotations

import argparse

from nanomd.cli.common import add_common, arguments, duration, real, say, whole


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_common(parser)
    parser.add_argument(
        "--windows",
        dest="n_windows",
        type=whole,
        default=200,
        metavar="N",
        help="windows for the attention (default: %(default)s)",
    )
    parser.add_argument(
        "--targets",
        dest="n_targets",
        type=whole,
        default=1000,
        metavar="N",
        help="frames scored per context (default: %(default)s)",
    )
    parser.add_argument(
        "--tolerance",
        type=real,
        default=0.005,
        metavar="X",
        help="nats per frame that a context may be worse than the best (default: %(default)s)",
    )
    parser.add_argument(
        "--tracing-windows", type=whole, default=64, metavar="N", help="windows for the tracing (default: %(default)s)"
    )
    parser.add_argument(
        "--draws",
        dest="n_draws",
        type=whole,
        default=4,
        metavar="N",
        help="draws of the noise per window (default: %(default)s)",
    )
    parser.add_argument(
        "--noise",
        type=real,
        default=3.0,
        metavar="X",
        help="noise over the embeddings' standard deviation (default: %(default)s)",
    )
    parser.add_argument("--changes-only", action="store_true", help="trace only frames after which the state changes")
    parser.add_argument(
        "--lagtime",
        type=duration,
        default=10,
        metavar="N",
        help="frames or a time, of the distances' MSM (default: %(default)s)",
    )
    parser.add_argument("--confidence", type=real, default=0.95, help="of the intervals (default: %(default)s)")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from nanomd.study.interpret import interpret

    say(options, interpret(**arguments(options)))
    return 0
