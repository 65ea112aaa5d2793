"""What a training never sees: chosen by default, recorded, and what judges."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanomd.base.errors import InputError, StoreError
from nanomd.cli.main import main
from nanomd.model.files import load_model_files
from nanomd.study.folder import RunFolder
from nanomd.study.held_out import HeldOut, hold_out
from nanomd.study.results import held_out_of, load_tokens

SHORT = ["--preset", "tiny", "--n-steps", "3", "--batch-size", "4", "--train-length", "64", "--n-threads", "1"]


def numbers(pieces: list[tuple[int, int, int]]) -> list[int]:
    return [number for number, _, _ in pieces]


def test_a_fifth_of_the_trajectories_spread_evenly() -> None:
    assert numbers(hold_out([1000] * 10, "auto").judging) == [2, 7]
    assert numbers(hold_out([1000] * 2, "auto").judging) == [1]
    assert hold_out([1000] * 3, "auto").describe() == "1 of 3 trajectories (1,000 frames, 33 %)"


def test_the_last_part_of_each_where_whole_ones_are_too_much_or_too_little() -> None:
    found = hold_out([1_000, 100_000], "auto")
    assert found.judging == [(0, 800, 1_000), (1, 80_000, 100_000)]
    assert found.training == [(0, 0, 780), (1, 0, 78_000)]
    assert found.describe() == "the last part of 2 of 2 trajectories (20,200 frames, 20 %)"
    assert hold_out([50, 10_000], "auto").training[0] == (0, 0, 50), "too short to cut"


def test_a_single_trajectory_is_cut_only_when_asked() -> None:
    assert hold_out([1000], "auto").judging == []
    assert hold_out([1000], "10%").judging == [(0, 900, 1000)]


def test_numbers_are_the_last_trajectories() -> None:
    assert hold_out([5, 6, 7], 2) == HeldOut([(0, 0, 5)], [(1, 0, 6), (2, 0, 7)], 3)
    assert hold_out([5, 6, 7], 0).judging == []


@pytest.mark.parametrize("what", ["60%", "0%", "none", "-5%", "%", "²%", 3, -1])
def test_what_cannot_be_held_out_is_refused(what: int | str) -> None:
    with pytest.raises(InputError, match="hold_out"):
        hold_out([1000] * 3, what)
    with pytest.raises(InputError, match="no trajectory is long enough"):
        hold_out([90, 90], "20%")


@given(st.lists(st.integers(1, 30_000), min_size=1, max_size=40), st.sampled_from(["auto", "5%", "20%", "50%", 0]))
def test_no_frame_trains_and_judges(lengths: list[int], what: int | str) -> None:
    try:
        found = hold_out(lengths, what)
    except InputError:
        return
    dtrajs = [np.arange(length) + 100_000 * number for number, length in enumerate(lengths)]
    training, judging = (set(np.concatenate(part).tolist()) if part else set() for part in found.split(dtrajs))
    assert training and not training & judging
    assert len(training) + len(judging) >= 0.94 * sum(lengths)
    assert HeldOut.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def study(tmp_path: Path, n_trajs: int) -> Path:
    """Train on trajectories of which number 2 alone visits state 9."""
    rng = np.random.default_rng(0)
    dtrajs = [np.cumsum(rng.random(1500) < 0.1) % 3 for _ in range(n_trajs)]
    if n_trajs > 2:
        dtrajs[2][700:720] = 9
    for number, labels in enumerate(dtrajs):
        np.save(tmp_path / f"d{number}.npy", labels)
    run = tmp_path / "run"
    files = [str(tmp_path / f"d{number}.npy") for number in range(n_trajs)]
    assert main(["tokenize", "--run", str(run), "--quiet", *files]) == 0
    assert main(["train", "--run", str(run), *SHORT]) == 0
    assert main(["generate", "--run", str(run), "--quiet", "--n-steps", "2000", "--n-trajs", "4"]) == 0
    assert main(["validate", "--run", str(run), "--n-bootstrap", "20", "--lagtimes", "1", "5"]) == 0
    return run


def test_the_default_reference_is_what_the_training_never_saw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = study(tmp_path, 5)
    said = capsys.readouterr().out
    assert "held out to judge it: 1 of 5 trajectories (1,500 frames, 20 %)" in said
    files = load_model_files(run / "model")
    assert 9 not in files.state_map.symbols, "the training never saw the trajectory with state 9"
    folder = RunFolder(run)
    record = {"n_trajs": 5, "training": [[k, 0, 1500] for k in (0, 1, 3, 4)], "judging": [[2, 0, 1500]]}
    assert files.provenance["held_out"] == folder.record("train")["held_out"] == record
    assert folder.record("validate")["judged_by"].startswith("1 of 5 trajectories")
    assert main(["report", "--run", str(run), "--quiet"]) == 0
    page = (run / "report" / "index.html").read_text()
    assert "which the training never saw" in page.split("<h2>", 1)[0], "in the first lines of the report"


def test_where_the_training_data_judge_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = study(tmp_path, 1)
    said = capsys.readouterr().out
    assert "nothing is held out" in said and "--hold-out 20%" in said
    assert main(["report", "--run", str(run), "--quiet"]) == 0
    page = (run / "report" / "index.html").read_text()
    assert "the training data itself" in page.split("<h2>", 1)[0]


def test_a_record_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    run = study(tmp_path, 3)
    folder = RunFolder(run)
    dtrajs, _ = load_tokens(folder)
    assert held_out_of(folder, dtrajs).judging == [(1, 0, 1500)]
    for changed in ([[1, 0, 1501]], [[3, 0, 5]], [[1, 0]], "x"):
        copy = Path(shutil.copytree(run, tmp_path / "copy"))
        file = copy / "provenance.json"
        value = json.loads(file.read_text())
        value["stages"]["train"]["held_out"]["judging"] = changed
        file.write_text(json.dumps(value))
        with pytest.raises(StoreError, match="other trajectories"):
            held_out_of(RunFolder(copy), dtrajs)
        shutil.rmtree(copy)


def test_macrostates_of_ones_own_and_the_verdict_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = study(tmp_path, 5)
    capsys.readouterr()
    table = tmp_path / "mine.csv"
    table.write_text("state,name\n0,left & <b>\n1,none\n2,right\n")
    options = ["--n-bootstrap", "20", "--lagtimes", "1", "5", "--force"]
    assert main(["validate", "--run", str(run), "--macrostates", str(table), *options]) == 0
    assert capsys.readouterr().out.split(":", 1)[0] == "GPT", "the rollout's verdict is the first word"
    value = json.loads((run / "report" / "validation.json").read_text())
    assert value["macrostate_of_state"][:3] == [0, -1, 1]
    assert [name.split(" (")[0] for name in value["macrostate_names"]] == ["left & <b>", "right"]
    assert main(["validate", "--run", str(run), "--macrostates", "2", *options]) == 0
    assert main(["report", "--run", str(run), "--quiet"]) == 0
    first = (run / "report" / "index.html").read_text().split("<nav", 1)[0]
    assert 'class="lead"' in first and "which the training never saw" in first
    assert any(f'outcome {word}">{word.upper()}' in first for word in ("pass", "fail", "undecided"))
    table.write_text("0,a\n")
    assert main(["validate", "--run", str(run), "--macrostates", str(table), *options]) == 2
