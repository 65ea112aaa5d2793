"""Macrostates of one's own, read from a file of states and names."""

from __future__ import annotations

import re
from pathlib import Path

from nanomd.base.codec import read_json
from nanomd.base.errors import InputError
from nanomd.base.paths import expand_home

_NONE = ("", "-1", "none", "null", "unassigned")
_LARGEST = 2**31 - 1


def read_macrostates(path: str | Path) -> dict[int, str]:
    """Read the macrostate of every state.

    Parameters
    ----------
    path : path
        Text with a state and a name a line, parted by a comma, a tab, a semicolon or blanks, with or without a heading
        (``state,name``); or JSON, ``{"0": "folded", "7": null}``. ``-1``, ``none`` and nothing stand for no macrostate.
        Lines that begin with ``#`` are comments.

    Returns
    -------
    dict of int to str
        Only of states that are in a macrostate, in the order of the file. Names may be numbers.

    Raises
    ------
    InputError
        Naming the line and what is wrong with it.
    """
    path = expand_home(path)
    if path.suffix.lower() == ".json":
        try:
            table = read_json(path, dict[str, str | int | None])
        except FileNotFoundError:
            raise InputError(f"file {str(path)!r} does not exist; check the path") from None
        rows = [(f"{path}: {label!r}", label, "" if name is None else str(name)) for label, name in table.items()]
    else:
        rows = _lines(path)
    found: dict[int, str] = {}
    seen = set()
    for where, label, name in rows:
        if not re.fullmatch(r"[0-9]{1,10}", label) or int(label) > _LARGEST:
            raise InputError(f"{where} must begin with a state, a whole number from 0, got {label!r}")
        if int(label) in seen:
            raise InputError(f"{where} names state {label} a second time")
        seen.add(int(label))
        if name.strip().lower() not in _NONE:
            found[int(label)] = " ".join(name.split())
    if len(set(found.values())) < 2:
        raise InputError(f"{path} must put states into at least 2 macrostates, got {len(set(found.values()))}")
    return found


def _lines(path: Path) -> list[tuple[str, str, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"file {str(path)!r} does not exist; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text: {error}") from None
    rows: list[tuple[str, str, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        label, *rest = re.split(r"[,;\t]|(?<=\S)\s+", line.strip(), maxsplit=1)
        is_heading = not rows and not re.match(r"[0-9+-]", label.strip('" '))
        if not is_heading:
            rows.append((f"{path}, line {number},", label.strip('" '), (rest[0] if rest else "").strip('" ,;\t')))
    return rows
