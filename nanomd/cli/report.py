"""Write the HTML report of a validated run."""

from __future__ import annotations

import argparse

from nanomd.cli.common import add_common, arguments, say, whole


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_common(parser, seed=False)
    parser.add_argument("--seed", type=whole, default=0, help="accepted for uniformity; a report has nothing random")
    parser.add_argument("--title", default=None, help="title of the report")
    parser.add_argument(
        "--formats", nargs="+", choices=["pdf", "svg"], default=[], help="write the pictures in these formats too"
    )
    parser.add_argument(
        "--projection", nargs=2, type=whole, default=None, metavar=("I", "J"),
        help="two coordinates of the states, from 1, for free energies (default: the slowest two of a reduction)",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from nanomd.study.report import report

    say(options, report(**arguments(options, "seed")))
    return 0
