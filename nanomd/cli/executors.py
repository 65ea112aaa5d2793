"""Options of the commands whose work other processes and machines can share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from nanomd.base.errors import InputError
from nanomd.cli.common import whole

if TYPE_CHECKING:
    from nanomd.rollout.executors import Executor


def add_executor(group: Any, task: str, tasks: str) -> None:
    """Add --executor and its options to a group of arguments; a task is a `task`."""
    group.add_argument(
        "--executor",
        choices=["local", "ray", "dask", "slurm"],
        default=None,
        help=f"make all {tasks} on processes here, Ray, Dask or a SLURM array (submitit)",
    )
    group.add_argument(
        "--workers", type=whole, default=2, metavar="N", help=f"{tasks} at a time (default: %(default)s)"
    )
    group.add_argument("--address", default=None, help="of a Ray cluster or Dask scheduler that is running")
    group.add_argument(
        "--retries", type=whole, default=2, help=f"of a {task} that failed, by --executor (default: %(default)s)"
    )
    group.add_argument(
        "--dry-run", action="store_true", help="print the job script of --executor slurm, and submit nothing"
    )
    group.add_argument(
        "--status", action="store_true", help=f"say which {tasks} are complete, unfinished, missing, broken"
    )


def executor_of(options: argparse.Namespace, **more: Any) -> Executor | None:
    """Return what --executor asks for, or None; `more` is what the options do not say.

    Raises
    ------
    InputError
        For --dry-run of anything but SLURM.
    """
    from nanomd.rollout.executors import Executor

    if options.dry_run and options.executor != "slurm":
        raise InputError("--dry-run shows the job script of --executor slurm")
    if options.executor is None:
        return None
    return Executor(
        name=options.executor,
        n_workers=options.workers,
        n_threads=options.n_threads or 1,
        retries=options.retries,
        address=options.address,
        **more,
    )
