"""The jobs of an experiment as tasks: of processes here, Ray, Dask or SLURM; and which of them are recorded.

A job is one training and leaves one record, written whole or not at all. So nothing has to be put together at the end,
and what is recorded is never repeated, however often and wherever the experiment is started.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from nanomd.base.errors import InputError, one_line
from nanomd.base.progress import progress_bar
from nanomd.experiments.case import Case, Data
from nanomd.experiments.runner import Job, Material, prepare, run_job, run_reference
from nanomd.rollout.executors import Executor

# One process holds the data of one case and data set at a time.
_material: dict[tuple[str, str, int], Material] = {}


def work(job: Job, case: Case, folder: str, unfinished: bool) -> None:
    """Run a job in whatever process this is; the data are in `folder` already."""
    key = (folder, job.case, job.dataset)
    if key not in _material:
        _material.clear()
        _material[key] = prepare(case, job.dataset, None, Path(folder))
    run_job(job, case, _material[key], Path(folder), unfinished=unfinished)


def _not_here(dataset: int, data: str | Path | None) -> Data:  # noqa: ARG001
    raise InputError(f"the worker does not see the data of set {dataset}: all workers need the experiment's folder")


def run_jobs(
    jobs: Sequence[Job],
    case: Case,
    folder: str | Path,
    executor: Executor,
    *,
    data: str | Path | None = None,
    unfinished: bool = False,
    bar: bool | None = None,
) -> None:
    """Run the jobs that have no record yet, each in one thread.

    Parameters
    ----------
    jobs : sequence of Job
        All of one case.
    case : Case
    folder : path
        Gets ``records/``; all workers must see it.
    executor : Executor
        Who runs them.
    data : path, optional
        Folder of the molecular dynamics.
    unfinished : bool
        Judge trainings of the paper's method as far as they have come, in place of going on with them.
    bar : bool, optional
        Show a progress bar; where a person watches by default.

    Raises
    ------
    StoreError
        If a training failed more often than it may; the records of the others are kept.
    """
    target = Path(folder).resolve()
    wanted = [job for job in jobs if not job.path(target).exists()]
    for dataset in sorted({job.dataset for job in wanted}):
        run_reference(case, prepare(case, dataset, data, target), dataset, target)
    progress = progress_bar(len(wanted), "experiment", "job", bar)

    def done(number: int) -> None:
        progress.note(str(wanted[number]))
        progress.update(1)

    travelling = replace(case, load=_not_here)  # what loads may be a closure, and the data are in the folder
    tasks = [(job, travelling, str(target), unfinished) for job in wanted]
    try:
        with _one_thread():
            executor.run(work, tasks, target / "logs", done, [str(job) for job in wanted])
    finally:
        progress.close()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let processes that are started meanwhile compute in one thread each."""
    kept = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if kept is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = kept


def status(jobs: Sequence[Job], folder: str | Path) -> str:
    """Say in a line a job which are recorded, begun, missing or broken."""
    place = Path(folder)
    states = [_state(job.path(place), place / "trainings" / job.path(place).stem) for job in jobs]
    lines = [f"{job}: {state}" for job, state in zip(jobs, states, strict=True)]
    return "\n".join([*lines, f"{states.count('recorded')} of {len(jobs)} trainings recorded"])


def _state(record: Path, training: Path) -> str:
    try:
        json.loads(record.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "begun" if training.is_dir() else "missing"
    except (OSError, ValueError) as error:
        return f"broken: {record} ({one_line(error)}); remove it, and it will be made again"
    return "recorded"
