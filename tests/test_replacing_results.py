"""Results are replaced by whole ones only: --force, kills in between, links to other disks, and what goes stale."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nanomd.base.errors import InputError, StoreError
from nanomd.study import staging
from nanomd.study.folder import RunFolder


def write(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(text)


def read(folder: Path) -> str:
    assert [path.name for path in folder.iterdir()] == ["manifest.json"]
    return (folder / "manifest.json").read_text()


def train(run: RunFolder, seed: int, text: str, **flags: bool) -> None:
    """A training that leaves `text` in each of its three folders."""
    with run.lock():
        assert run.begin("train", {"seed": seed}, {"tokens": "aa"}, **flags)
        for name in ("model", "checkpoints", "logs"):
            write(run.work / name, text)
        run.finish("train", {"seed": seed}, {"tokens": "aa"}, 1.0)


def interrupted(run: RunFolder, seed: int, **flags: bool) -> None:
    """One that is killed after it has written a checkpoint."""
    with pytest.raises(KeyboardInterrupt), run.lock():  # noqa: PT012
        assert run.begin("train", {"seed": seed}, {"tokens": "aa"}, **flags)
        write(run.work / "checkpoints", f"half of {seed}")
        raise KeyboardInterrupt


def is_whole(run: RunFolder, seed: int, text: str) -> None:
    assert run.record("train")["settings"] == run.config("train") == {"seed": seed}
    assert [read(folder) for folder in (run.model, run.checkpoints, run.logs)] == [text] * 3
    run.require("train", run.model, "nanomd train")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    train(run, 1, "old")
    return run


def test_an_interrupted_force_leaves_the_old_result_whole_and_can_be_resumed(run: RunFolder) -> None:
    interrupted(run, 2, force=True)
    is_whole(run, 1, "old")
    with run.lock():
        assert not run.begin("train", {"seed": 1}, {"tokens": "aa"})  # the old one is there
        with pytest.raises(StoreError, match="use --force to replace it"):
            run.begin("train", {"seed": 3}, {"tokens": "aa"}, resume=True)
        assert run.begin("train", {"seed": 2}, {"tokens": "aa"}, resume=True)
        assert read(run.work / "checkpoints") == "half of 2"
        write(run.work / "checkpoints", "new")
        write(run.work / "model", "new")
        write(run.work / "logs", "new")
        run.finish("train", {"seed": 2}, {"tokens": "aa"}, 1.0)
    is_whole(run, 2, "new")
    assert sorted(p.name for p in run.path.iterdir() if p.name.startswith(".")) == [".lock"]


def test_a_refused_force_after_an_interrupted_one_leaves_the_old_result(run: RunFolder) -> None:
    interrupted(run, 2, force=True)
    with pytest.raises(InputError), run.lock():  # noqa: PT012
        assert run.begin("train", {"seed": 3}, {"tokens": "aa"}, force=True)
        write(run.work / "model", "half")
        raise InputError("unknown preset")
    is_whole(run, 1, "old")
    assert sorted(p.name for p in run.path.iterdir() if p.name.startswith(".")) == [".lock"]
    train(run, 2, "new", force=True)
    is_whole(run, 2, "new")


def test_outputs_that_the_new_result_lacks_do_not_stay(run: RunFolder) -> None:
    with run.lock():
        assert run.begin("train", {"seed": 2}, {"tokens": "aa"}, force=True)
        write(run.work / "model", "new")
        run.finish("train", {"seed": 2}, {"tokens": "aa"}, 1.0)
    assert read(run.model) == "new"
    assert not run.checkpoints.exists()
    assert not run.logs.exists()


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("moment", range(12))
def test_killed_while_the_new_takes_the_place_of_the_old(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, moment: int, linked: bool
) -> None:
    """After any number of renames and removals the next command finishes what was begun."""
    if linked:
        run.model.rename(tmp_path / "disk")
        run.model.symlink_to(tmp_path / "disk")
    calls = []
    real_rename, real_remove = Path.rename, staging.remove

    def tick() -> None:
        calls.append(0)
        if len(calls) > moment:
            raise KeyboardInterrupt

    def rename(self: Path, target: Path) -> Path:
        tick()
        return real_rename(self, target)

    def remove(path: Path) -> None:
        tick()
        real_remove(path)

    with pytest.raises(KeyboardInterrupt), run.lock():  # noqa: PT012
        assert run.begin("train", {"seed": 2}, {"tokens": "aa"}, force=True)
        for name in ("model", "checkpoints", "logs"):
            write(run.work / name, "new")
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", rename)
            patch.setattr(staging, "remove", remove)
            run.finish("train", {"seed": 2}, {"tokens": "aa"}, 1.0)
    again = RunFolder(run.path)
    with again.lock():
        pass
    is_whole(again, 2, "new")
    assert sorted(p.name for p in run.path.iterdir() if p.name.startswith(".")) == [".lock"]
    assert run.model.is_symlink() == linked
    assert sorted(p.name for p in tmp_path.iterdir()) == (["disk", "run"] if linked else ["run"])


def test_links_to_folders_on_another_disk_stay_and_wedge_nothing(tmp_path: Path) -> None:
    run, scratch = RunFolder(tmp_path / "run"), tmp_path / "scratch"
    scratch.mkdir()
    for name, target in (("model", "there"), ("checkpoints", "missing"), ("logs", "also/missing")):
        (run.path / name).symlink_to(scratch / target)
    (scratch / "there").mkdir()
    train(run, 1, "old")  # an empty folder is no unfinished training
    is_whole(run, 1, "old")
    interrupted(run, 2, force=True)
    is_whole(run, 1, "old")
    for seed in (3, 4):
        train(run, seed, f"new {seed}", force=True)
        is_whole(run, seed, f"new {seed}")
    assert all((run.path / name).is_symlink() for name in ("model", "checkpoints", "logs"))
    assert sorted(p.name for p in scratch.iterdir()) == ["also", "missing", "there"]
    assert read(scratch / "there") == "new 4"


def test_what_was_made_from_a_replaced_result_is_stale(run: RunFolder) -> None:
    """generate was made from the model, validate from generate; a model that comes out the same changes nothing."""
    from nanomd.base.files import sha256_of

    def make(stage: str, inputs: dict[str, str], out: str, force: bool = False) -> None:
        with run.lock():
            assert run.begin(stage, {}, inputs, force=force)
            (run.work / out).parent.mkdir(parents=True, exist_ok=True)
            (run.work / out).write_text(json.dumps(inputs))
            run.finish(stage, {}, inputs, 1.0)

    def generate(force: bool = False) -> None:
        make("generate", {"model": sha256_of(run.model)}, "generated/manifest.json", force)

    def validate(force: bool = False) -> None:
        inputs = {"generated": sha256_of(run.generated / "manifest.json")}
        make("validate", inputs, "report/validation.json", force)

    generate()
    validate()
    train(run, 2, "old", force=True)  # bit for bit the same
    assert run.stale_notes("report", itself=True) == []
    train(run, 3, "another", force=True)
    notes = run.stale_notes("report", itself=True)
    assert [note.split("`")[1] for note in notes] == ["generate", "validate"]
    assert all("`train` was repeated on 2" in note for note in notes)
    assert [note.split("`")[1] for note in run.stale_notes("validate", itself=False)] == ["generate"]
    generate(force=True)
    assert [note.split("`")[1] for note in run.stale_notes("report", itself=True)] == ["validate"]
    with pytest.raises(StoreError, match="input generated differs"):
        validate()
    validate(force=True)
    assert run.stale_notes("report", itself=True) == []


def test_a_result_that_is_up_to_date_again_is_not_stale(run: RunFolder) -> None:
    from nanomd.base.files import sha256_of

    inputs = {"model": sha256_of(run.model)}
    with run.lock():
        assert run.begin("generate", {}, inputs)
        write(run.generated, "tokens")
        run.finish("generate", {}, inputs, 1.0)
    train(run, 2, "another", force=True)
    assert run.stale_notes("generate", itself=True)
    train(run, 1, "old", force=True)  # back to what it was
    with run.lock():
        assert not run.begin("generate", {}, inputs)
    assert run.stale_notes("generate", itself=True) == []
