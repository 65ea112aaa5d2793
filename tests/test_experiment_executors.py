"""Trainings of an experiment as tasks of local processes, Ray, Dask and submitit; their status; the job script."""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from executor_tools import LIBRARY, engine, ray_may_be_late, their_warnings
from two_wells import two_wells

from nanomd import InputError, experiments
from nanomd.base.errors import StoreError
from nanomd.cli.main import main
from nanomd.experiments import cases, runner, tasks, zoo
from nanomd.experiments.case import Data
from nanomd.rollout.executors import Executor

pytestmark = their_warnings

METHODS = ["one_pass", "one_pass, no refit"]


@pytest.fixture
def small_case(monkeypatch):
    """A walk between two wells of two states; a case that no worker knows by name, loaded by a function of its own."""

    def load(dataset, data):
        rng = np.random.default_rng(dataset)
        side = np.cumsum(rng.random((3, 3000)) < 0.05, axis=1) % 2
        walks = list(2 * side + (rng.random(side.shape) > 0.5))
        return Data(walks[:1], walks[1:], np.array([0, 0, 1, 1]), ("left", "right"))

    case = two_wells(load, n_steps=5, lagtimes=(1, 2), rollout=(2, 500), burn_in=20)
    monkeypatch.setitem(cases.CASES, case.name, case)
    return case


def kinetics_of(folder: Path) -> dict[str, object]:
    return {path.name: json.loads(path.read_text())["kinetics"] for path in (folder / "records").glob("one_pass*.json")}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(LIBRARY))
def test_the_records_are_those_of_one_process(name, small_case, tmp_path):
    options = {"methods": METHODS[:1], "n_seeds": 1}
    with ray_may_be_late():
        text = experiments.run(small_case.name, tmp_path / "many", executor=engine(name), **options)
    assert "| one_pass |" in text
    here = tmp_path / "one" / small_case.name
    material = runner.prepare(small_case, 0, None, here)
    for job in experiments.experiment_jobs(small_case.name, **options):
        runner.run_job(job, small_case, material, here)
    found = kinetics_of(tmp_path / "many" / small_case.name)
    assert len(found) == 1 and found == kinetics_of(here)
    said = experiments.experiment_status(small_case.name, tmp_path / "many", **options)
    assert said.splitlines()[-1] == "1 of 1 trainings recorded"


@pytest.mark.slow
def test_a_mistake_is_said_at_once(small_case, tmp_path):
    jobs = experiments.experiment_jobs(small_case.name, methods=["one_pass"], n_seeds=1)
    runner.run_reference(small_case, runner.prepare(small_case, 0, None, tmp_path), 0, tmp_path)
    (tmp_path / "dtrajs_0.npz").unlink()
    executor = Executor(n_workers=1, retries=100)
    with pytest.raises(InputError, match="all workers need the experiment's folder"):
        executor.run(tasks.work, [(jobs[0], replace(small_case, load=tasks._not_here), str(tmp_path), False)], tmp_path)


def dies(*_: object) -> None:
    os._exit(1)


@pytest.mark.slow
def test_a_training_whose_process_dies_is_named(tmp_path):
    executor = Executor(n_workers=1, retries=1)
    with pytest.raises(StoreError, match=r"default, data 0, seed 1 failed \(a worker process died\); what is complete"):
        executor.run(dies, [(1,)], tmp_path, labels=["default, data 0, seed 1"])


def test_every_training_is_in_one_shard(small_case, tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(tasks, "run_jobs", lambda jobs, *_, **__: ran.append(jobs))
    monkeypatch.setattr(experiments, "run_jobs", tasks.run_jobs)
    options = {"methods": METHODS, "n_seeds": 3, "n_datasets": 2}
    for index in range(5):
        assert "0 of" in experiments.run(small_case.name, tmp_path, shard=(index, 5), **options)
    jobs = experiments.experiment_jobs(small_case.name, **options)
    assert len(jobs) == 12 and sorted(map(str, itertools.chain(*ran))) == sorted(map(str, jobs))
    with pytest.raises(InputError, match="leave shard out"):
        experiments.run(small_case.name, tmp_path, shard=(0, 2), report="one_pass")


def test_the_status_tells_recorded_begun_missing_and_broken(small_case, tmp_path, capsys):
    folder = tmp_path / small_case.name
    jobs = experiments.experiment_jobs(small_case.name, methods=["one_pass", "paper"], n_seeds=2)
    for job, text in zip(jobs, ('{"case": 1}', None, '{"case', None), strict=True):
        if text is not None:
            runner.write_json(job.path(folder), {})
            job.path(folder).write_text(text)
    (folder / "trainings" / jobs[1].path(folder).stem).mkdir(parents=True)
    command = ["experiment", small_case.name, "--out", str(tmp_path), "--methods", "one_pass", "paper", "--seeds", "2"]
    assert main([*command, "--status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "one_pass, data 0, seed 0: recorded"
    assert lines[1] == "paper, data 0, seed 0: begun"
    assert lines[2].startswith("one_pass, data 0, seed 1: broken: ") and lines[2].endswith("it will be made again")
    assert lines[3:] == ["paper, data 0, seed 1: missing", "1 of 4 trainings recorded"]


def test_a_dry_run_prints_the_script(capsys):
    command = ["experiment", "four-state", "--methods", "default", "one_pass, no refit", "--seeds", "3", "--out", "a b"]
    assert main([*command, "--executor", "slurm", "--workers", "4", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "#!/bin/bash" and "#SBATCH --array=0-5%4" in lines
    assert lines[-1] == (
        "nanomd experiment four-state --out 'a b' --study main --methods default 'one_pass, no refit' --seeds 3"
        ' --datasets 1 --shard "$SLURM_ARRAY_TASK_ID/6"'
    )
    assert main([*command, "--dry-run"]) == 2
    assert "shows the job script" in capsys.readouterr().err
    assert main(["experiment", "zoo", "--shard", "0/2"]) == 2
    assert "the zoo has no --dry-run and no --shard" in capsys.readouterr().err


def test_the_zoo_by_an_executor(tmp_path, monkeypatch):
    told = []

    def run_here(self, function, arguments, logs, done, labels):
        for number, task in enumerate(arguments):
            told.append((labels[number], task[2:4]))
            Path(task[-1]).write_text("{}")
            done(number)

    monkeypatch.setattr(Executor, "run", run_here)
    monkeypatch.setattr(zoo, "zoo_table", lambda records: f"{len(records)} rows")
    names = list(experiments.ZOO)[:3]
    text = experiments.run_zoo(tmp_path, cases=names, seed=4, n_threads=2, executor=Executor(name="local"))
    assert "3 rows" in text and told == [(name, (4, 2)) for name in names]
    assert experiments.zoo_status(tmp_path, cases=[*names], seed=4).endswith("3 of 3 cases recorded")
    assert f"{names[0]}: missing" in experiments.zoo_status(tmp_path, seed=0)


def test_a_case_of_the_zoo_says_in_one_line_what_is_wrong(tmp_path):
    with pytest.raises(InputError, match=r"^alanine.*nowhere"):
        experiments.run_zoo(tmp_path, data=tmp_path / "nowhere", cases=[next(c for c in experiments.ZOO if "ala" in c)])
