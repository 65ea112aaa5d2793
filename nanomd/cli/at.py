"""Take the model of one condition out of a model of several: trained by nanomd condition, or between those.

The model goes into a run folder of its own, where generate, validate and report go on. Of a condition that was trained
the folder gets the trajectories too; of another one it may hold molecular dynamics, tokenized into the same states.
"""

from __future__ import annotations

import argparse

from nanomd.cli.common import add_common, arguments, say


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_common(parser, seed=False)
    parser.add_argument(
        "--condition", required=True, nargs="+", metavar="NAME=VALUE", help="such as temperature=310 ligand=atp"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the run folder of the condition")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from nanomd.study.at import at

    say(options, at(**arguments(options)))
    return 0
