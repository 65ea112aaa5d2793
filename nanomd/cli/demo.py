"""Run everything on one system: trajectories, states, training, million-step rollouts, validation, report.

The four-state potential takes less than two minutes on two cores. With --system alanine-dipeptide --data DIR the same
is done on real molecular dynamics: phi_psi_0.npy trains, phi_psi_1.npy judges.
"""

from __future__ import annotations

import argparse

from nanomd.cli.common import add_common, arguments, progress, whole


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_common(parser)
    parser.set_defaults(run="demo_run")
    parser.add_argument(
        "--system", choices=["four-state", "alanine-dipeptide"], default="four-state", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--data",
        metavar="DIR",
        default=None,
        help="folder with the trajectories of alanine dipeptide (default: NANOMD_DATA)",
    )
    parser.add_argument("--quick", action="store_true", help="a few seconds instead of a minute: for testing only")
    parser.add_argument(
        "--objective",
        choices=["one_pass", "two_pass_token", "two_pass_hidden"],
        default=None,
        help="of the training, where it is not to be the default",
    )
    parser.add_argument("--n-threads", type=whole, default=None, help="CPU threads (default: all cores)")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from nanomd.study import demo

    demo.run(**arguments(options), quiet=options.quiet, progress=progress(options))
    return 0
