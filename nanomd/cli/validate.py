"""Compare the kinetics of the generated trajectories with the molecular dynamics.

The reference is --reference, or else the trajectories that the training held out, or else the training data. A Markov
state model from the training data stands beside it, and so do the training data themselves. Writes
report/validation.json and prints the verdict.
"""

from __future__ import annotations

import argparse

from nanomd.cli.common import add_common, arguments, duration, real, say, whole, whole_or_word


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_common(parser)
    parser.add_argument(
        "--reference", nargs="+", default=None, metavar="FILE", help="discrete trajectories of other MD"
    )
    parser.add_argument(
        "--lagtimes", nargs="+", type=duration, default=None, metavar="N", help="frames or '1 ns', of the timescales"
    )
    parser.add_argument(
        "--lagtime", type=duration, default=None, help="frames or '1 ns', of macrostates and MSM (default: by data)"
    )
    parser.add_argument(
        "--macrostates",
        type=whole_or_word,
        default=None,
        metavar="N|FILE",
        help="number of macrostates (default: from the spectrum), or a file of your own: a state and a name a line",
    )
    parser.add_argument(
        "--memory-kernel", nargs="?", type=whole, const=True, default=False, metavar="FRAMES",
        help="add a Markov model with a memory of so many frames (default: by data), the strongest rival",
    )  # fmt: skip
    parser.add_argument("--confidence", type=real, default=0.95, help="of the intervals (default: %(default)s)")
    parser.add_argument("--n-bootstrap", type=whole, default=200, help="resamples (default: %(default)s)")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from nanomd.study.validate import validate

    chosen = options.macrostates
    number, file = (chosen, None) if isinstance(chosen, int) else (None, chosen)
    text = validate(**arguments(options, "macrostates"), n_macrostates=number, macrostates=file)
    say(options, text)
    return 0
