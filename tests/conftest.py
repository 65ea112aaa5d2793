"""Fixtures that several files of tests share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command_line import GENERATE, TRAIN, ok


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run with every step done; tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    ok("simulate", "--run", folder, "--n-frames", 1500, "--n-trajs", 3, "--quiet")
    ok("tokenize", "--run", folder, "--quiet")
    ok("train", "--run", folder, *TRAIN, "--quiet")
    ok("generate", "--run", folder, *GENERATE, "--quiet")
    ok("validate", "--run", folder, "--n-bootstrap", 20, "--lagtimes", 1, 5, 20, "--macrostates", 2, "--quiet")
    ok("report", "--run", folder, "--quiet")
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def md(tmp_path, monkeypatch):
    """Three XTC files of 50, 37 and 64 frames, read in chunks of 7, and the two-state truth of each."""
    from md_files import trajectory  # mdtraj takes a second to import, and most tests do without

    monkeypatch.setattr("nanomd.tokenize.sources._MAX_CHUNK", 7)
    truth = []
    for index, n_frames in enumerate((50, 37, 64)):
        made, state = trajectory(n_frames, index)
        made.save_xtc(str(tmp_path / f"run_{index}.xtc"))
        truth.append(state)
    made[0].save_pdb(str(tmp_path / "top.pdb"))
    return tmp_path, tmp_path / "top.pdb", str(tmp_path / "run_*.xtc"), truth
