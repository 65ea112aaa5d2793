"""The command `nanomd rare` in a run folder with a model."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import ok, refused
from rare_chain import make_model

from nanomd import Sampler
from nanomd.data.dtrajs import load_dtrajs
from nanomd.model.files import save_model
from nanomd.rare import RareEvents
from nanomd.study.check import check_run
from nanomd.study.folder import RunFolder

OPTIONS = ["--source", "10", "--target", "16-21", "--repeats", "3", "--n-threads", "1", "--quiet"]
QUICK = [*OPTIONS, "--n-iterations", "60", "--walkers-per-bin", "4"]


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = RunFolder(tmp_path / "run")
    with folder.lock():
        folder.begin("train", {}, {})
        save_model(folder.model, make_model())
        folder.finish("train", {}, {}, 0.0)
    return folder.path


def test_the_command_writes_what_the_sampler_finds(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ok("rare", "--run", run_folder, *[o for o in QUICK if o != "--quiet"])
    text = capsys.readouterr().out
    assert "weighted ensemble, 10 -> 16, 17, 18, 19, ...: " in text and "mean first passage" in text
    result = RareEvents.load(run_folder / "rare" / "result.npz")
    again = Sampler.load(run_folder / "model", "cpu").rare_event(
        [10], range(16, 22), n_repeats=3, n_threads=1, n_iterations=60, walkers_per_bin=4
    )
    assert result.rates.tolist() == again.rates.tolist()
    if "matplotlib" in sys.modules:
        assert (run_folder / "rare" / "rare.png").stat().st_size > 1000
    ok("rare", "--run", run_folder, *[o for o in QUICK if o != "--quiet"])
    assert "nothing to do" in capsys.readouterr().out
    assert check_run(run_folder)["rare"] == []
    assert "use --force" in refused(capsys, "rare", "--run", run_folder, *QUICK, "--seed", 1)
    ok("rare", "--run", run_folder, *OPTIONS, "--method", "splitting", "--particles", "40", "--force")
    assert RareEvents.load(run_folder / "rare" / "result.npz").method == "splitting"


def test_progress_comes_from_a_file(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "progress.npy", np.arange(12))
    ok("rare", "--run", run_folder, *QUICK, "--progress", tmp_path / "progress.npy")
    assert RareEvents.load(run_folder / "rare" / "result.npz").progress.tolist() == list(range(12))
    np.save(tmp_path / "short.npy", np.arange(11))
    message = refused(capsys, "rare", "--run", run_folder, *QUICK, "--progress", tmp_path / "short.npy", "--force")
    assert "12 finite numbers" in message


def test_paths_and_segments_are_written(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    h5py = pytest.importorskip("h5py")
    shown = [o for o in QUICK if o != "--quiet"]
    ok("rare", "--run", run_folder, *shown, "--paths", "25", "--west", tmp_path / "west.h5")
    text = capsys.readouterr().out
    assert "a passage takes" in text and "west.h5" in text
    paths = load_dtrajs(f"{run_folder}/rare/paths/path_*.npy")
    assert len(paths) == 25 and all(path[0] == 10 and path[-1] == 16 for path in paths)
    result = RareEvents.load(run_folder / "rare" / "result.npz")
    with np.load(run_folder / "rare" / "paths.npz") as stored:
        assert stored["weight"].sum() / 3 == pytest.approx(result.rate.value)
    with h5py.File(tmp_path / "west.h5") as file:
        assert file.attrs["west_current_iteration"] == 61
    # Once more, of the result that is there.
    ok("rare", "--run", run_folder, *shown, "--paths", "7", "--west", tmp_path / "again.h5")
    assert "nothing to do" in capsys.readouterr().out
    assert len(load_dtrajs(f"{run_folder}/rare/paths/path_*.npy")) == 7 and (tmp_path / "again.h5").exists()
    message = refused(capsys, "rare", "--run", run_folder, *QUICK, "--west", tmp_path / "west.h5")
    assert "is there already" in message
    message = refused(capsys, "rare", "--run", run_folder, *QUICK, "--west", tmp_path, "--force")
    assert "west must be a file" in message and run_folder.is_dir()
    message = refused(capsys, "rare", "--run", run_folder, *OPTIONS, "--method", "splitting", "--west", "some.h5")
    assert "west is an option of weighted_ensemble" in message
    ok("rare", "--run", run_folder, *OPTIONS, "--method", "splitting", "--particles", "60", "--paths", "5", "--force")
    paths = load_dtrajs(f"{run_folder}/rare/paths/path_*.npy")
    assert len(paths) == 5 and all(path[0] == 10 and path[-1] == 16 for path in paths)


def test_wrong_options_are_refused(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "n_particles is an option of splitting" in refused(
        capsys, "rare", "--run", run_folder, *QUICK, "--particles", "9"
    )
    assert "must look like" in refused(capsys, "rare", "--run", run_folder, "--source", "a", "--target", "3")
    assert "unknown state 5" in refused(capsys, "rare", "--run", run_folder, "--source", "5", "--target", "21")
    assert "nanomd train" in refused(capsys, "rare", "--run", _empty(tmp_path), *QUICK)


def test_a_killed_command_goes_on(run_folder: Path) -> None:
    """Killed while it samples, resumed, the result is that of a run without interruption."""
    options = [*OPTIONS, "--n-iterations", "100", "--walkers-per-bin", "4"]
    code = (
        "import sys; from nanomd.rare import files; files.EVERY = 0.0; from nanomd.cli.main import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "rare", "--run", str(run_folder), *options]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    checkpoint = run_folder / "rare" / "checkpoint.npz"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    result = run_folder / "rare" / "result.npz"
    if not result.exists():  # it was not faster than the look at it
        ok("rare", "--run", run_folder, *options, "--resume")
    interrupted = RareEvents.load(result).rates.tolist()
    ok("rare", "--run", run_folder, *options, "--force", "--seed", "0")
    assert RareEvents.load(result).rates.tolist() == interrupted


def _empty(tmp_path: Path) -> Path:
    RunFolder(tmp_path / "other")
    return tmp_path / "other"


def test_passages_of_another_model_are_refused(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ok("rare", "--run", run_folder, *QUICK, "--paths", "2")
    (run_folder / "tokens/tokenizer").mkdir(parents=True)
    folder, files = RunFolder(run_folder), make_model()
    save_model(folder.model, replace(files, provenance={**files.provenance, "seed": 1}))
    words = ("structures", "--run", run_folder, "--out", tmp_path / "a.xtc", "--passage", 0)
    assert "rare was made by another model" in refused(capsys, *words)
