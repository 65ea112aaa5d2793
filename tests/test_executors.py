"""Parts of a rollout as tasks of local processes, Ray, Dask and submitit; and what goes wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from command_line import TRAIN, ok, refused, run
from executor_tools import LIBRARY, engine, ray_may_be_late, their_warnings
from rollout_models import make_files

from nanomd import InputError, Observables, Rollout, Sampler
from nanomd.base.errors import StoreError
from nanomd.rollout.executors import Executor, array_script
from nanomd.rollout.parts import Part
from nanomd.study.folder import RunFolder

pytestmark = their_warnings


@pytest.mark.slow
@pytest.mark.parametrize("name", list(LIBRARY))
def test_the_rollout_of_one_process(name, tmp_path):
    sampler = Sampler(make_files())
    options = {"seed": 3, "observables": Observables(lagtimes=[1])}
    whole = sampler.generate(300, 7, **options)
    with ray_may_be_late():
        made = sampler.generate(300, 7, **options, out=tmp_path / "r", executor=engine(name, n_parts=3, n_workers=2))
    assert made == whole
    assert made.observables == whole.observables
    assert Rollout.load(tmp_path / "r") == whole
    with pytest.raises(InputError, match="holds a whole rollout already"):
        sampler.generate(300, 7, **options, out=tmp_path / "r", executor="local")


def flaky(folder: str, number: int) -> None:
    """Fail at the first call of every number, and always for number 9; die at the first call of number 7."""
    mark = Path(folder) / str(number)
    first = not mark.exists()
    mark.write_text("")
    if number == 7 and first:
        os._exit(1)
    if first or number == 9:
        raise RuntimeError("no luck")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["local", "dask"])
def test_parts_that_fail_are_run_again(name, tmp_path):
    executor, done = engine(name, n_workers=2, retries=3), []
    numbers = (1, 2, 7) if name == "local" else (1, 2)
    executor.run(flaky, [(str(tmp_path), n) for n in numbers], tmp_path, done.append)
    assert sorted(done) == list(range(len(numbers)))
    with pytest.raises(StoreError, match=r"part 1 of 2 failed.*repeat the command to go on"):
        engine(name, n_workers=1, retries=1).run(flaky, [(str(tmp_path), 3), (str(tmp_path), 9)], tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("executors") / "run"
    ok("simulate", "--run", folder, "--n-frames", 400, "--n-trajs", 3)
    ok("tokenize", "--run", folder)
    ok("train", "--run", folder, *TRAIN)
    return folder


@pytest.mark.slow
def test_the_command_line(trained, tmp_path, capsys):
    generate = ["generate", "--run", trained, "--n-steps", 200, "--n-trajs", 5]
    ok("generate", "--run", trained, "--status")
    assert "no parts" in capsys.readouterr().out
    ok(*generate, "--shard", "1/3")
    ok("generate", "--run", trained, "--status")
    said = capsys.readouterr().out
    assert "part 0 of 3: missing\npart 1 of 3: complete\npart 2 of 3: missing\n1 of 3 parts complete" in said
    assert "holds parts of 3, not 2: use --parts 3" in refused(capsys, *generate, "--executor", "local", "--parts", 2)
    folder = RunFolder(trained, create=False).generated
    token = next(Part(1, 3).folder(folder).glob("shard_*.npy"))
    kept = token.read_bytes()
    token.write_bytes(kept[:-10])
    ok("generate", "--run", trained, "--status")
    assert "part 1 of 3: broken: " in capsys.readouterr().out
    token.write_bytes(kept)
    ok(*generate, "--executor", "local", "--parts", 3)
    assert "merged: generated 5 x 200 steps" in capsys.readouterr().out
    ok("generate", "--run", trained, "--status")
    assert "the rollout is whole: complete" in capsys.readouterr().out
    ok(*generate, "--executor", "local", "--parts", 3)
    assert "nothing to do" in capsys.readouterr().out


def test_a_dry_run_prints_the_script(trained, capsys):
    capsys.readouterr()
    ok(
        "generate", "--run", trained, "--n-steps", 200, "--n-trajs", 40, "--executor", "slurm", "--parts", 8,
        "--n-threads", 4, "--observe-lags", 2, 5, "--dry-run",
    )  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "#!/bin/bash"
    assert "#SBATCH --array=0-7%2" in lines and "#SBATCH --cpus-per-task=4" in lines
    assert f"--run {trained} --n-steps 200 --n-trajs 40" in lines[-1]
    assert lines[-1].endswith('--observe-lags 2 5 --n-threads 4 --resume --shard "$SLURM_ARRAY_TASK_ID/8"')
    assert "--gpus-per-task=1" in array_script("x", 2, Executor(name="slurm", gpu=True))
    assert "shows the job script" in refused(capsys, "generate", "--run", trained, "--dry-run")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "cloud"}, "executor must be one of local, ray, dask, slurm"),
        ({"n_workers": 0}, "n_workers must be at least 1"),
        ({"retries": -1}, "retries must be at least 0"),
        ({"n_parts": 0}, "n_parts must be at least 1"),
    ],
)
def test_bad_options(options, says):
    with pytest.raises(InputError, match=says):
        Executor(**options)


def test_an_executor_needs_a_folder():
    with pytest.raises(InputError, match="give out="):
        Sampler(make_files()).generate(10, executor="local")
    assert Executor(n_workers=4).parts(3) == 3
    assert run("generate", "--run", "nowhere", "--status") == 2
