"""Map generated states, or a passage of a rare event, back to frames of the molecular dynamics.

For every state one of the frames that were assigned to it is drawn, reproducibly.
"""

from __future__ import annotations

import argparse

from nanomd.cli.common import add_common, arguments, progress, say, whole


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_common(parser)
    parser.add_argument("--trajectory", type=whole, default=0, help="which generated trajectory (default: %(default)s)")
    parser.add_argument(
        "--passage", type=whole, default=None, metavar="K", help="instead, passage K (from 0) of `nanomd rare --paths`"
    )
    parser.add_argument("--first", type=whole, default=0, help="first generated frame (default: %(default)s)")
    parser.add_argument("--n-frames", type=whole, default=1000, help="frames to write (default: %(default)s)")
    parser.add_argument("--stride", type=whole, default=1, help="use every stride-th frame (default: %(default)s)")
    parser.add_argument("--top", metavar="FILE", default=None, help="topology, if it has moved since `nanomd tokenize`")
    parser.add_argument("--out", metavar="FILE", default="generated.xtc", help="XTC file (default: %(default)s)")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from nanomd.study.structures import structures

    say(options, structures(**arguments(options), progress=progress(options)))
    return 0
