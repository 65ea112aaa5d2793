"""`nanomd constrain` end to end, and wishes that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import ok, refused

from nanomd.base.errors import InputError
from nanomd.base.files import sha256_of
from nanomd.model.files import load_model_files
from nanomd.study.folder import RunFolder
from nanomd.study.results import load_tokens
from nanomd.study.wishes_file import read_wishes

MACROSTATES = {"A": [0, 1, 2], "B": [3, 4]}


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanomd.matching.rollouts.LEAST_FRAMES", 1 << 16)
    monkeypatch.setattr("nanomd.matching.rollouts.MOST_FRAMES", 1 << 18)
    monkeypatch.setattr("nanomd.caliber.rolled._CONTEXTS", 1 << 13)


@pytest.mark.usefixtures("_short")
def test_from_a_run_to_a_run_that_goes_on(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = np.unique(np.concatenate(load_tokens(RunFolder(finished, create=False))[0]))
    np.save(tmp_path / "position.npy", np.arange(labels.max() + 1, dtype=float))
    middle = float(np.median(labels))
    (tmp_path / "wishes.toml").write_text(
        f"""
        [[average]]
        name = "position"
        values = "position.npy"
        wanted = {middle}

        [[population]]
        states = "A"
        wanted = 0.5
        error = "10 %"
        """
    )
    before = {name: sha256_of(finished / name) for name in ("model", "tokens", "provenance.json")}
    words = ("constrain", "--run", finished, "--wishes", tmp_path / "wishes.toml", "--out", tmp_path / "new")
    ok(*words, "--n-threads", 1)
    out = capsys.readouterr().out
    assert "position" in out and "population of A" in out and "relative entropy paid" in out
    assert f"nanomd generate --run {tmp_path / 'new'}" in out
    assert before == {name: sha256_of(finished / name) for name in before}
    record = json.loads((tmp_path / "new/logs/constrained.json").read_text())
    assert [x["name"] for x in record["wishes"]] == ["position", "population of A"]
    assert record["wishes"][0]["after"]["value"] == pytest.approx(middle, abs=0.5)
    new = load_model_files(tmp_path / "new/model")
    assert new.provenance["constrained"]["wishes"] == record["wishes"]
    old = load_model_files(finished / "model")
    assert all(np.array_equal(new.tensors[k], x) for k, x in old.tensors.items() if k != "markov.weight")
    ok(*words)
    assert "nothing to do" in capsys.readouterr().out
    assert "--force" in refused(capsys, *words, "--seed", 2)
    ok("generate", "--run", tmp_path / "new", "--n-steps", 600, "--n-trajs", 3, "--quiet")
    ok("validate", "--run", tmp_path / "new", "--n-bootstrap", 20, "--lagtimes", 1, 5, "--macrostates", 2, "--quiet")
    ok("report", "--run", tmp_path / "new", "--quiet")
    assert (tmp_path / "new/report/index.html").is_file()


def test_what_cannot_be_is_refused_in_a_line(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wishes = tmp_path / "wishes.toml"
    wishes.write_text('[[population]]\nstates = "Z"\nwanted = 0.5\n')
    error = refused(capsys, "constrain", "--run", finished, "--wishes", wishes, "--out", tmp_path / "new")
    assert "unknown set 'Z'; known are A, B" in error
    assert not (tmp_path / "new").exists()
    wishes.write_text('[[population]]\nstates = "A"\nwanted = 1.5\n')
    error = refused(capsys, "constrain", "--run", finished, "--wishes", wishes, "--out", tmp_path / "new")
    assert "share between 0 and 1" in error and not (tmp_path / "new").exists()
    wishes.write_text('[[population]]\nstates = "A"\nwanted = 0.5\n')
    assert "another folder" in refused(capsys, "constrain", "--run", finished, "--wishes", wishes, "--out", finished)


def test_the_whole_file(tmp_path: Path) -> None:
    (tmp_path / "j.txt").write_text("# state, coupling\n0, 4.5\n7\t6.25\n")
    (tmp_path / "wishes.toml").write_text(
        """
        [sets]
        helix = [0, 7]
        A = [9]
        [[average]]
        values = "j.txt"
        wanted = 5
        [[average]]
        values = [1, 2.5]
        wanted = 2
        name = "second"
        [[population]]
        states = "helix"
        wanted = 0.25
        error = 0.02
        [[rate]]
        source = "A"
        target = [1, 2]
        mfpt = "1.4 ns"
        error = "10 %"
        [[rate]]
        source = "A"
        target = "helix"
        rate = 0.01
        [relaxation]
        timescale = 300
        error = 20.5
        """
    )
    found = read_wishes(tmp_path / "wishes.toml", MACROSTATES)
    first, second = found.averages
    assert first.values == {0: 4.5, 7: 6.25} and first.wanted == 5 and first.error == 0
    assert list(second.values) == [1.0, 2.5] and second.name == "second"
    assert found.populations[0].states == [0, 7] and found.populations[0].name == "population of helix"
    assert found.rates[0].source == [9] and found.rates[0].mfpt == "1.4 ns" and found.rates[0].error == "10 %"
    assert found.rates[1].name == "mfpt A -> helix" and found.rates[1].rate == 0.01
    assert found.relaxation is not None and found.relaxation.timescale == 300
    assert found.files == [tmp_path / "j.txt"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[[avarage]]\n", "unknown section 'avarage'"),
        ("[average]\nwanted = 1\n", r"\[\[average\]\]"),
        ("[[average]]\nwanted = 1\n", "average 1 lacks values"),
        ("[[average]]\nvalues = [1.0]\nwanted = 'six'\n", "wanted must be a number"),
        ("[[average]]\nvalues = [1.0]\nwanted = nan\n", "wanted must be a number"),
        ("[[average]]\nvalues = [1.0]\nwanted = 1\nweight = 2\n", "unknown key 'weight'"),
        ("[[average]]\nvalues = 'no.npy'\nwanted = 1\n", "does not exist"),
        ("[[average]]\nvalues = ['a']\nwanted = 1\n", "list of numbers or the name of a file"),
        ("[[average]]\nvalues = 'bad.txt'\nwanted = 1\n", "line 2, must hold a state and a value"),
        ("[[average]]\nvalues = 'twice.txt'\nwanted = 1\n", "names its state a second time"),
        ("[[average]]\nvalues = 'flat.npy'\nwanted = 1\n", "one number a state"),
        ("[sets]\na = [1, -2]\n", "list of states"),
        ("sets = 3\n", r"must be a table, \[sets\]"),
        ("[[population]]\nstates = [1.5]\nwanted = 0.5\n", "list of states"),
        ("[[population]]\nstates = 'C'\nwanted = 0.5\n", "unknown set 'C'; known are A, B"),
        ("relaxation = 3\n", "must be a table"),
        ("[relaxation]\ntimescale = 3\nname = 4\n", "name must be a text"),
        ("= 3\n", "not valid TOML"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "bad.txt").write_text("0 1.0\n1 one\n")
    (tmp_path / "twice.txt").write_text("0 1.0\n0 2.0\n")
    np.save(tmp_path / "flat.npy", np.ones((2, 2)))
    (tmp_path / "wishes.toml").write_text(text)
    with pytest.raises(InputError, match=match):
        read_wishes(tmp_path / "wishes.toml", MACROSTATES)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_wishes(tmp_path / "none.toml", {})
