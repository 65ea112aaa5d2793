"""Files and folders that are replaced whole, whatever links lie there, with the permissions that all files get."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nanomd.base.errors import StoreError
from nanomd.base.files import lock_folder, replacing, sha256_of, sweep_parts, write_atomic


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    for text in ("one", "two"):
        with replacing(folder) as new:
            new.mkdir()
            (new / text).write_text(text)
    with pytest.raises(RuntimeError), replacing(folder) as new:  # noqa: PT012
        new.mkdir()
        (new / "half").write_text("")
        raise RuntimeError
    assert [p.name for p in folder.iterdir()] == ["two"]
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_file_never_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results/mine.txt").write_text("mine")
    with pytest.raises(IsADirectoryError), replacing(tmp_path / "results") as new:
        new.write_text("a file")
    assert (tmp_path / "results/mine.txt").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_files_follow_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_atomic(tmp_path / "file", "x")
        with replacing(tmp_path / "folder") as new:
            new.mkdir()
        with lock_folder(tmp_path):
            pass
    finally:
        os.umask(old)
    modes = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.iterdir()}
    assert modes == {"file": 0o640, "folder": 0o750, ".lock": 0o640}


def test_a_link_to_a_folder_stays_and_what_it_points_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "scratch" / "big").mkdir(parents=True)
    (tmp_path / "scratch" / "big" / "old").write_text("")
    link = tmp_path / "generated"
    link.symlink_to(tmp_path / "scratch" / "big")
    with replacing(link) as new:
        new.mkdir()
        (new / "fresh").write_text("")
    assert link.is_symlink()
    assert [p.name for p in link.iterdir()] == ["fresh"]
    assert [p.name for p in (tmp_path / "scratch").iterdir()] == ["big"]


def test_planted_links_are_not_followed(tmp_path: Path) -> None:
    treasure = tmp_path / "treasure"
    treasure.write_text("gold")
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock").symlink_to(treasure)
    with pytest.raises(StoreError, match="cannot be written"), lock_folder(run):
        pass
    for name in ("a.json", f".a.json.{os.getpid()}.part", "a.json.part"):
        (run / name).symlink_to(treasure)
    write_atomic(run / "a.json", "new")
    assert (run / "a.json").read_text() == "new"
    assert not (run / "a.json").is_symlink()
    assert treasure.read_text() == "gold"


@pytest.mark.parametrize(("left", "found"), [(("new",), "kept"), (("new", "old"), "new"), (("old",), "old")])
def test_what_a_killed_replacement_left_is_finished_or_removed(
    tmp_path: Path, left: tuple[str, ...], found: str
) -> None:
    private = tmp_path / ".model.ab12_xyz.part"
    for name in left:
        (private / name).mkdir(parents=True)
        (private / name / name).write_text("")
    if "old" not in left:  # killed before anything was renamed
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "kept").write_text("")
    (tmp_path / ".else.part").mkdir()  # not one of ours
    sweep_parts(tmp_path)
    assert [p.name for p in (tmp_path / "model").iterdir()] == [found]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".else.part", "model"]


def test_the_digest_of_a_folder_leaves_hidden_files_out(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("1")
    before = sha256_of(tmp_path)
    (tmp_path / ".lock").write_text("123")
    assert sha256_of(tmp_path) == before
