"""Macrostates of one's own from files, and a verdict with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanomd.base.errors import InputError
from nanomd.study.macrostates_file import read_macrostates

WANTED = {0: "folded", 2: "not folded", 7: "folded"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "state,name\n0,folded\n1,-1\n2,not folded\n3,none\n7,folded\n"),
        ("a.csv", '\ufeff0,"folded"\r\n1,\r\n2,"not folded"\r\n7,folded\r\n'),
        ("a.tsv", "# mine\n0\tfolded\n1\t\n2\tnot folded\n\n7\tfolded"),
        ("a.txt", "0 folded\n1 None\n2  not folded\n7 folded\n"),
        ("a.dat", "state; name\n0; folded\n1\n2; not folded\n7; folded\n"),
        ("a.json", '{"0": "folded", "1": null, "2": "not folded", "3": -1, "7": "folded"}'),
    ],
)
def test_states_and_names(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text.encode())
    assert read_macrostates(tmp_path / name) == WANTED


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "0,a\nx,b\n", "line 2, must begin with a state"),
        ("a.csv", "0,a\n-1,b\n", "line 2, must begin with a state"),
        ("a.csv", "0,a\n²,b\n", "line 2, must begin with a state"),
        ("a.csv", "0,a\n99999999999,b\n", "line 2, must begin with a state"),
        ("a.csv", "0,a\n1,b\n0,b\n", "line 3, names state 0 a second time"),
        ("a.csv", "0,a\n1,a\n2,-1", "at least 2 macrostates, got 1"),
        ("a.csv", "", "at least 2 macrostates, got 0"),
        ("a.json", "[1, 2]", "damaged"),
        ("a.json", '{"0": [1]}', "damaged"),
        ("a.json", "[" * 100_000, "damaged"),
        ("a.csv", b"\xff\xfe0", "cannot be read as text"),
    ],
)
def test_what_is_wrong_is_named(name: str, text: str | bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message):
        read_macrostates(tmp_path / name)
    for absent in ("b.csv", "b.json"):
        with pytest.raises(InputError, match="does not exist"):
            read_macrostates(tmp_path / absent)
