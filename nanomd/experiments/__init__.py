"""Experiments: every method on the same data, over seeds, judged by long rollouts against held-out dynamics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nanomd.base.checks import check_choice, check_range
from nanomd.base.errors import InputError
from nanomd.base.files import write_atomic
from nanomd.experiments import tables
from nanomd.experiments.case import Case
from nanomd.experiments.cases import CASES, get_case
from nanomd.experiments.methods import MAIN, METHODS, PIECES, PUBLISHED, get_method
from nanomd.experiments.runner import Job, Study
from nanomd.experiments.tasks import run_jobs, status
from nanomd.experiments.zoo import run_zoo, zoo_status
from nanomd.experiments.zoo_cases import ZOO
from nanomd.rollout.executors import Executor, ExecutorName
from nanomd.rollout.parts import Part

__all__ = ["CASES", "METHODS", "ZOO", "experiment_jobs", "experiment_status", "run", "run_zoo", "zoo_status"]


def run(
    name: str,
    out: str | Path,
    *,
    data: str | Path | None = None,
    study: Study = "main",
    methods: Sequence[str] | None = None,
    n_seeds: int = 3,
    n_datasets: int = 1,
    n_steps: int | None = None,
    n_processes: int = 1,
    executor: Executor | ExecutorName | None = None,
    shard: Part | tuple[int, int] | None = None,
    unfinished: bool = False,
    report: str | None = None,
    progress: bool | None = None,
) -> str:
    """Run an experiment, and return its table in Markdown.

    Parameters
    ----------
    name : str
        A key of `CASES`.
    out : path
        Gets a folder `name` with ``records/``, one JSON file for every training, and ``tables.md``. What is recorded is
        not repeated.
    data : path, optional
        Folder of the molecular dynamics; default NANOMD_DATA.
    study : str
        ``"main"``: whole trajectories; ``"pieces"``: the same frames cut into short trajectories of several lengths.
    methods : sequence of str, optional
        Keys of `METHODS`; by default those of the study.
    n_seeds, n_datasets : int
        Trainings of each method with different seeds, and sets of training data.
    n_steps : int, optional
        Optimiser steps in place of the case's.
    n_processes : int
        Trainings at a time, each in one thread, on this machine.
    executor : Executor or str, optional
        Who trains: ``"local"``, ``"ray"``, ``"dask"`` or ``"slurm"``, a training a task; `n_processes` is not looked
        at then. All workers must see `out`.
    shard : (i, n), optional
        Only this part of the trainings, and no tables: for processes that know nothing of each other.
    unfinished : bool
        Judge trainings of the paper's method as far as they have come, in place of going on with them.
    report : str, optional
        Write report/index.html for this method's first model, judged like any rollout.
    progress : bool, optional
        Show a bar; where a person watches by default.
    """
    check_range("n_processes", n_processes, 1)
    case, jobs = get_case(name), experiment_jobs(name, study, methods, n_seeds, n_datasets, n_steps)
    if shard is not None:
        if report is not None:
            raise InputError("report= needs all trainings; leave shard out")
        part = shard if isinstance(shard, Part) else Part.of(shard)
        jobs = jobs[part.index :: part.count]
    chosen = Executor(name=executor) if isinstance(executor, str) else executor
    folder = Path(out) / name
    runs = chosen or Executor(n_workers=n_processes, retries=0)
    run_jobs(jobs, case, folder, runs, data=data, unfinished=unfinished, bar=progress)
    if shard is not None:
        return status(jobs, folder)
    text = summarise(folder)
    if case.published:
        from nanomd.experiments.analyses import analyse

        text += "\n" + analyse(case, folder, data=data)
    if report is not None:
        from nanomd.experiments.report import report as write

        text += f"\nreport: {write(case, folder, get_method(report).name, data=data)}\n"
    return text


def experiment_jobs(
    name: str,
    study: Study = "main",
    methods: Sequence[str] | None = None,
    n_seeds: int = 3,
    n_datasets: int = 1,
    n_steps: int | None = None,
) -> list[Job]:
    """Return the trainings of an experiment, always in the same order; for the arguments see `run`."""
    case = get_case(name)
    check_choice("study", study, Study)
    check_range("n_seeds", n_seeds, 1)
    check_range("n_datasets", n_datasets, 1, case.n_datasets)
    lengths = case.pieces if study == "pieces" else (0,)
    chosen = [get_method(m).name for m in methods or _methods(case, study)]
    return [
        Job(name, method, dataset, seed, pieces, n_steps)
        for seed in range(n_seeds)
        for dataset in range(n_datasets)
        for pieces in lengths
        for method in chosen
    ]


def experiment_status(
    name: str,
    out: str | Path,
    *,
    study: Study = "main",
    methods: Sequence[str] | None = None,
    n_seeds: int = 3,
    n_datasets: int = 1,
    n_steps: int | None = None,
) -> str:
    """Say which trainings of an experiment are recorded, begun, missing or broken; for the arguments see `run`."""
    return status(experiment_jobs(name, study, methods, n_seeds, n_datasets, n_steps), Path(out) / name)


def _methods(case: Case, study: Study) -> Sequence[str]:
    """Return the methods of a study of a case where none are named."""
    return PIECES if study == "pieces" else PUBLISHED if case.published else MAIN


def summarise(folder: str | Path) -> str:
    """Write tables.md, and pieces.png where there are such records, and return the tables as text."""
    folder = Path(folder)
    references, records = tables.load_records(folder)
    parts = [f"# {get_case(folder.name).title}", tables.markdown(tables.rows(references, records))]
    for length in sorted({int(r["pieces"]) for r in records} - {0}):
        parts += [f"## Pieces of {length} frames", tables.markdown(tables.rows(references, records, pieces=length))]
    if any(r["pieces"] for r in records):
        from nanomd.experiments.figure import plot_pieces

        plot_pieces(references, records, get_case(folder.name).title, folder / "pieces.png")
    text = "\n\n".join(parts) + "\n"
    write_atomic(folder / "tables.md", text)
    return text
