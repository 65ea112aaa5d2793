"""The run folder: atomic files, one writer, settings and provenance, and what repeating a step means."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanomd.base.errors import StoreError
from nanomd.base.files import explain_os_error, sha256_of, write_atomic
from nanomd.study.folder import RunFolder


def test_write_atomic_replaces_whole_files_and_leaves_no_parts(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_atomic(file, "one")
    write_atomic(file, b"two")
    assert file.read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.json"
    write_atomic(file, "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(file, "new")
    assert file.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_sha256_of_a_folder_sees_names_and_contents(tmp_path: Path) -> None:
    a = tmp_path / "a"
    a.mkdir()
    (a / "x").write_text("1")
    first = sha256_of(a)
    (a / "x").write_text("2")
    second = sha256_of(a)
    (a / "x").rename(a / "y")
    assert len({first, second, sha256_of(a)}) == 3
    assert sha256_of(a / "y") == "d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35"


def test_the_lock_refuses_a_second_writer_and_names_the_first(tmp_path: Path) -> None:
    refused = pytest.raises(StoreError, match=rf"in use by process {os.getpid()};")
    with RunFolder(tmp_path).lock(), refused, RunFolder(tmp_path).lock():
        pass
    with RunFolder(tmp_path).lock():
        pass


def test_the_lock_ends_with_its_process(tmp_path: Path) -> None:
    code = (
        "import os, sys; from nanomd.study.folder import RunFolder\n"
        "with RunFolder(sys.argv[1]).lock():\n print('locked', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdin is not None
    try:
        assert child.stdout.readline() == "locked\n"
        with pytest.raises(StoreError, match=f"process {child.pid};"), RunFolder(tmp_path).lock():
            pass
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
        child.stdin.close()
    with RunFolder(tmp_path).lock():
        pass


def test_unusable_folders_are_clear_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        RunFolder(tmp_path / "absent", create=False)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(StoreError, match="is a file"):
        RunFolder(file)
    with pytest.raises(StoreError, match="cannot be made"):
        RunFolder(file / "below")

    # Permission bits do not stop an administrator, who runs many test machines: the refusal is simulated.
    def refuse(path: object, *_: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StoreError, match="cannot be written: no permission"), RunFolder(tmp_path).lock():
        pass


def test_os_errors_become_one_line() -> None:
    for number in (errno.ENOSPC, errno.EACCES, errno.ENOENT, errno.EIO):
        text = explain_os_error(OSError(number, os.strerror(number), "x.npy"))
        assert "x.npy" in text
        assert "\n" not in text
    assert "disk is full" in explain_os_error(OSError(errno.ENOSPC, "No space left on device"))


plain = st.one_of(
    st.integers(-(2**53), 2**53), st.booleans(), st.text(), st.floats(allow_nan=False, allow_infinity=False)
)
names = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=8)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(names, plain), st.dictionaries(names, plain))
def test_settings_come_back_as_they_were_recorded(first: dict[str, object], second: dict[str, object]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(folder)
        run.record_config("tokenize", first)
        run.record_config("train", second)
        run.record_config("tokenize", first)
        assert run.config("tokenize") == first
        assert run.config("train") == second
        assert run.config("generate") == {}


def _finished(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path)
    assert run.begin("train", {"seed": 1, "preset": "small"}, {"tokens": "aa"})
    _write(run.model, "old")
    run.finish("train", {"seed": 1, "preset": "small"}, {"tokens": "aa"}, 1.5, n_steps=7)
    return run


def _write(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "content").write_text(text)


def _read(folder: Path) -> str:
    assert [path.name for path in folder.iterdir()] == ["content"]
    return (folder / "content").read_text()


def test_repeating_a_finished_step(tmp_path: Path) -> None:
    run = _finished(tmp_path)
    assert not run.begin("train", {"seed": 1, "preset": "small"}, {"tokens": "aa"})
    assert not run.begin("train", {"seed": 1, "preset": "small", "n_threads": 2}, {"tokens": "aa"})  # the same result
    with pytest.raises(StoreError, match=r"seed \(1 -> 2\) differs; use --force"):
        run.begin("train", {"seed": 2, "preset": "small"}, {"tokens": "aa"})
    with pytest.raises(StoreError, match="input tokens differs"):
        run.begin("train", {"seed": 1, "preset": "small"}, {"tokens": "bb"})
    assert run.config("train")["seed"] == 1
    assert run.model.exists()
    assert run.begin("train", {"seed": 2, "preset": "small"}, {"tokens": "aa"}, force=True)
    assert run.model.exists()  # until the new one is whole
    assert run.record("train")["settings"]["seed"] == 1


def test_an_unfinished_step_needs_resume_or_force(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.begin("generate", {"seed": 1, "hop_keep": None}, {})
    _write(run.generated, "half")
    with pytest.raises(StoreError, match="unfinished `generate`"):
        run.begin("generate", {"seed": 1, "hop_keep": None}, {})
    with pytest.raises(StoreError, match=r"seed \(1 -> 2\) differs"):
        run.begin("generate", {"seed": 2, "hop_keep": None}, {}, resume=True)
    assert run.begin("generate", {"seed": 1, "hop_keep": None}, {}, resume=True)
    assert run.work == run.path
    assert run.generated.exists()
    with pytest.raises(StoreError, match="an unfinished `generate` is there"):
        run.require("generate", run.generated, "nanomd generate")
    with run.lock():
        assert run.begin("generate", {"seed": 2, "hop_keep": None}, {}, force=True)
        _write(run.work / "generated", "whole")
        run.finish("generate", {"seed": 2, "hop_keep": None}, {}, 1.0)
    assert _read(run.generated) == "whole"


def test_provenance_says_where_results_come_from(tmp_path: Path) -> None:
    run = _finished(tmp_path)
    record = json.loads((tmp_path / "provenance.json").read_text())["stages"]["train"]
    assert record["settings"] == {"seed": 1, "preset": "small"}
    assert record["inputs"] == {"tokens": "aa"}
    assert record["n_steps"] == 7
    assert {"nanomd", "python", "numpy", "torch"} <= set(record["environment"]["versions"])
    (tmp_path / "provenance.json").write_text("{")
    with pytest.raises(StoreError, match="is damaged"):
        run.provenance()
