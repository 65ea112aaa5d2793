"""`nanomd condition` and `nanomd at` end to end, and conditions that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from arrhenius_chain import sample
from command_line import ok, refused

from nanomd import ConditionalModel
from nanomd.base.errors import InputError
from nanomd.data.dtrajs import save_dtrajs
from nanomd.model.files import load_model_files
from nanomd.study.check import check_run
from nanomd.study.conditions_file import read_conditions
from nanomd.study.folder import RunFolder
from nanomd.study.results import held_out_of, load_tokens

QUICK = ["--preset", "tiny", "--n-steps", 6, "--batch-size", 8, "--context-length", 6, "--n-threads", 1, "--quiet"]
CONDITIONS = """
[[condition]]
trajectories = "0-2"
temperature = 0.7

[[condition]]
trajectories = [3, 4, 5]
temperature = 1.2
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conditions")
    dtrajs = [*sample(0.7, 600, 3, 1), *sample(1.2, 500, 3, 2)]
    save_dtrajs([x * 10 for x in dtrajs], folder / "md")
    (folder / "conditions.toml").write_text(CONDITIONS)
    ok("tokenize", "--run", folder / "run", folder / "md" / "*.npy", "--frame-interval", "2 ps", "--quiet")
    words = ("condition", "--run", folder / "run", "--conditions", folder / "conditions.toml")
    ok(*words, *QUICK, "--hold-out", 1)
    return folder


def test_from_several_conditions_to_a_report_of_one(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ConditionalModel.load(trained / "run/conditional/model")
    assert model.conditions.trained == ({"temperature": 0.7}, {"temperature": 1.2})
    assert model.frame_interval.unit == "ps"
    words = ("at", "--run", trained / "run", "--condition", "temperature=1.2", "--out", tmp_path / "hot")
    ok(*words)
    out = capsys.readouterr().out
    assert "at temperature = 1.2, which was trained" in out and f"nanomd generate --run {tmp_path / 'hot'}" in out
    one, expected = load_model_files(tmp_path / "hot/model"), model.at(temperature=1.2).to_files()
    assert all(np.array_equal(one.tensors[name], x) for name, x in expected.tensors.items())
    folder = RunFolder(tmp_path / "hot")
    dtrajs, _ = load_tokens(folder)
    assert [len(x) for x in dtrajs] == [500, 500, 500]
    held_out = held_out_of(folder, dtrajs)
    assert held_out.judging == [(2, 0, 500)] and [p[0] for p in held_out.training] == [0, 1]
    ok(*words)
    assert "nothing to do" in capsys.readouterr().out
    ok("generate", "--run", tmp_path / "hot", "--n-steps", 600, "--n-trajs", 3, "--quiet")
    ok("validate", "--run", tmp_path / "hot", "--n-bootstrap", 20, "--lagtimes", 1, 5, "--macrostates", 2, "--quiet")
    ok("report", "--run", tmp_path / "hot", "--quiet")
    assert (tmp_path / "hot/report/index.html").is_file()
    assert not any(problems for problems in check_run(tmp_path / "hot").values())
    assert not any(problems for problems in check_run(trained / "run").values())


def test_md_of_a_condition_that_was_not_trained_judges(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("at", "--run", trained / "run", "--condition", "temperature=1.0", "--out", tmp_path / "new")
    ok(*words)
    out = capsys.readouterr().out
    assert "interpolated" in out and f"nanomd tokenize --run {tmp_path / 'new'}" in out
    ok("generate", "--run", tmp_path / "new", "--n-steps", 600, "--n-trajs", 3, "--quiet")
    save_dtrajs([x * 10 for x in sample(1.0, 500, 2, 3)], tmp_path / "md")
    ok("tokenize", "--run", tmp_path / "new", tmp_path / "md" / "*.npy", "--frame-interval", "2 ps", "--quiet")
    assert "--force" in refused(capsys, *words)
    ok(*words, "--force", "--quiet")
    ok("generate", "--run", tmp_path / "new", "--n-steps", 600, "--n-trajs", 3, "--quiet", "--force")
    ok("validate", "--run", tmp_path / "new", "--n-bootstrap", 20, "--lagtimes", 1, 5, "--macrostates", 2, "--quiet")
    record = json.loads((tmp_path / "new/provenance.json").read_text())["stages"]["validate"]
    assert "which the training never saw" in record["judged_by"]
    ok("at", "--run", trained / "run", "--condition", "temperature=3", "--out", tmp_path / "far")
    assert "warning: extrapolated" in capsys.readouterr().out


def test_what_is_refused_leaves_no_tokens_of_another_condition(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("at", "--run", trained / "run", "--out", tmp_path / "new", "--condition")
    ok(*words, "temperature=1.0", "--quiet")
    assert "--force" in refused(capsys, *words, "temperature=1.2")
    assert not (tmp_path / "new/tokens").exists()  # they would judge the model of 1.0
    ok(*words, "temperature=1.2", "--force", "--quiet")
    assert len(load_tokens(RunFolder(tmp_path / "new"))[0]) == 3


def test_what_cannot_be_is_refused_in_a_line(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = ("at", "--run", trained / "run", "--out", tmp_path / "new", "--condition")
    assert "a value for each of temperature" in refused(capsys, *at, "ligand=atp")
    assert "must be a number, got 'warm'" in refused(capsys, *at, "temperature=warm")
    assert "NAME=VALUE" in refused(capsys, *at, "temperature")
    assert "NAME=VALUE" in refused(capsys, *at, "temperature=1", "temperature=2")
    assert not (tmp_path / "new").exists()
    assert "another folder" in refused(capsys, *at[:3], "--out", trained / "run", "--condition", "temperature=1")
    again = ("condition", "--run", trained / "run", "--conditions", trained / "conditions.toml", *QUICK)
    assert "--force" in refused(capsys, *again, "--seed", 3)
    ok("simulate", "--run", tmp_path / "other", "--n-frames", 200, "--n-trajs", 2, "--quiet")
    assert "nanomd condition" in refused(capsys, "at", "--run", tmp_path / "other", *at[3:], "temperature=1")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[condition]]\ntrajectories = '0-1'\nt = 1\n", "does not say the condition of trajectory 2"),
        ("[[condition]]\ntrajectories = '0-3'\nt = 1\n", "there are the trajectories 0 to 2"),
        ("[[condition]]\ntrajectories = '0-2'\n", "at least one value"),
        ("[[condition]]\ntrajectories = '2-0'\nt = 1\n", "must be different numbers"),
        ("[[condition]]\ntrajectories = [0, 0]\nt = 1\n", "must be different numbers"),
        ("[[condition]]\ntrajectories = [0.5]\nt = 1\n", "must be different numbers"),
        ("[[condition]]\ntrajectories = '0-2'\nt = 1\n[[condition]]\ntrajectories = '1'\nt = 2\n", "condition 1 has"),
        ("[[conditions]]\ntrajectories = '0-2'\nt = 1\n", "unknown section 'conditions'"),
        ("condition = 3\n", "list of tables"),
        ("features = 3\n[[condition]]\ntrajectories = '0-2'\nt = 1\n", "may have a table"),
        ("[[condition]\n", "not valid TOML"),
    ],
)
def test_files_that_cannot_be_read_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(InputError, match=words.replace("[", r"\[")):
        read_conditions(tmp_path / "c.toml", 3)
    with pytest.raises(InputError, match="does not exist"):
        read_conditions(tmp_path / "absent.toml", 3)
