"""Change the trained model as little as possible to meet what an experiment says (maximum caliber).

Averages of observables, populations, rates and relaxation times with their errors stand in the TOML file --wishes. The
new model goes into a run folder of its own, where generate, validate and report go on; the old one stays as it is.
Prints what was wanted, before and after, and what the change costs.
"""

from __future__ import annotations

import argparse

from nanomd.cli.common import add_common, arguments, progress, real, say, whole


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_common(parser)
    parser.add_argument(
        "--wishes", required=True, metavar="FILE", help="TOML file of averages, populations, rates; docs/constrain.md"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the new run folder")
    parser.add_argument(
        "--weight", type=real, default=1.0, metavar="X",
        help="independent configurations that the simulation counts for against the errors (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--driven", action="store_true", help="give up detailed balance: the system is not at rest")
    parser.add_argument(
        "--static", action="store_true", help="populations by maximum entropy without dynamics, as of reweighted frames"
    )
    parser.add_argument("--n-threads", type=whole, default=None, metavar="N", help="CPU threads (default: all)")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from nanomd.study.constrain import constrain

    say(options, constrain(**arguments(options), progress=progress(options)))
    return 0
