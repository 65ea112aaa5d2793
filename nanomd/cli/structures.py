"""Map generated states back to frames of the molecular dynamics.

For every state one of the frames that were assigned to it is drawn, reproducibly.
"""

from __future__ import annotations

import argparse

from nanomd.cli.common import add_common, say


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_common(parser)
    parser.add_argument("--trajectory", type=int, default=0, help="which generated trajectory (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="first generated frame (default: %(default)s)")
    parser.add_argument("--n-frames", type=int, default=1000, help="frames to write (default: %(default)s)")
    parser.add_argument("--stride", type=int, default=1, help="use every stride-th frame (default: %(default)s)")
    parser.add_argument("--top", metavar="FILE", default=None, help="topology, if it has moved since `nanomd tokenize`")
    parser.add_argument("--out", metavar="FILE", default="generated.xtc", help="XTC file (default: %(default)s)")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from nanomd.study.structures import structures

    text = structures(
        options.run,
        options.out,
        trajectory=options.trajectory,
        first=options.first,
        n_frames=options.n_frames,
        stride=options.stride,
        top=options.top,
        seed=options.seed,
        force=options.force,
    )
    say(options, text)
    return 0
