"""The rate of a rare event of the trained model, orders of magnitude below what a rollout sees.

A weighted ensemble, or adaptive multilevel splitting, of many short trajectories of the model, on the CPU. Writes
rare/result.npz and a picture; with --paths how the event happens, with --west what the tools of WESTPA read.
--resume goes on with an interrupted sampling, and the result is the same bit for bit.
"""

from __future__ import annotations

import argparse

from nanomd.base.errors import InputError
from nanomd.cli.common import add_common, add_resume, arguments, progress, real, say, whole

_OF_METHOD = {
    "weighted_ensemble": ("n_iterations", "tau", "n_bins", "walkers_per_bin", "burn_in"),
    "splitting": ("n_particles", "n_killed"),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_common(parser)
    add_resume(parser)
    parser.add_argument("--source", required=True, metavar="STATES", help="states to start from, such as 0,1,7-9")
    parser.add_argument("--target", required=True, metavar="STATES", help="states to reach")
    parser.add_argument(
        "--progress",
        metavar="FILE",
        help=".npy file with a value for each state that rises from source to target (default: ln of the committor of "
        "a Markov model of the model's own states)",
    )
    parser.add_argument(
        "--method", choices=list(_OF_METHOD), default="weighted_ensemble", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--repeats",
        dest="n_repeats",
        type=whole,
        default=8,
        metavar="N",
        help="independent repetitions, which give the interval (default: %(default)s)",
    )
    parser.add_argument("--confidence", type=real, default=0.95, help="of the interval (default: %(default)s)")
    parser.add_argument(
        "--paths",
        type=whole,
        metavar="N",
        help="keep the passages from source to target: N of equal weight in rare/paths/, all in rare/paths.npz",
    )
    parser.add_argument(
        "--west",
        metavar="FILE",
        help="write the weighted ensemble to this file in the layout of WESTPA's west.h5 (h5py)",
    )
    parser.add_argument("--n-threads", type=whole, default=None, help="CPU threads (default: all cores)")
    group = parser.add_argument_group("weighted ensemble", "defaults: `nanomd.rare.WeightedEnsemble`")
    group.add_argument("--n-iterations", type=whole, metavar="N", help="resamplings")
    group.add_argument("--tau", type=whole, metavar="N", help="steps between two resamplings")
    group.add_argument("--bins", dest="n_bins", type=whole, metavar="N", help="bins of progress")
    group.add_argument("--walkers-per-bin", type=whole, metavar="N", help="walkers of every bin")
    group.add_argument("--burn-in", type=whole, metavar="N", help="iterations that do not count (default: a third)")
    group = parser.add_argument_group("splitting", "defaults: `nanomd.rare.Splitting`")
    group.add_argument("--particles", dest="n_particles", type=whole, metavar="N", help="trajectories of a repetition")
    group.add_argument("--killed", dest="n_killed", type=whole, metavar="N", help="ended at a level (default: a tenth)")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from nanomd.study.rare import rare

    for method, names in _OF_METHOD.items():
        for name in names:
            if method != options.method and getattr(options, name) is not None:
                raise InputError(f"{name} is an option of {method}, but the method is {options.method}")
    say(options, rare(**arguments(options), show_progress=progress(options)))
    return 0
