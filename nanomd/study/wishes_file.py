"""What an experiment says, read from a TOML file; docs/constrain.md shows one.

::

    [sets]                         # named sets of states; macrostates of the run have names already: "A", "B", ...
    helix = [0, 3, 17]

    [[average]]                    # an observable with a value in every state
    name = "3J(HN-HA)"
    values = "coupling.npy"        # by label; or a text of states and values, or a list
    wanted = 6.1
    error = 0.3                    # or "5 %"

    [[population]]
    states = "helix"               # a set, a macrostate, or states: [0, 3, 17]
    wanted = 0.25
    error = 0.02

    [[rate]]
    source = "helix"
    target = "A"
    mfpt = "1.4 ns"                # or rate = "0.7 /ns"; a bare number means steps of the model
    error = "10 %"

    [relaxation]
    timescale = "2 ns"
    error = "0.3 ns"
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd.base.arrays import map_npy
from nanomd.base.codec import load_sections, read_text_file
from nanomd.base.errors import InputError, shown
from nanomd.base.paths import expand_home
from nanomd.caliber.wishes import Average, Population, Rate, Relaxation

_SECTIONS = {"average": Average, "population": Population, "rate": Rate, "relaxation": Relaxation}
_LARGEST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the file asks for, as `nanomd.constrain` takes it, and the files that it names."""

    averages: list[Average]
    populations: list[Population]
    rates: list[Rate]
    relaxation: Relaxation | None
    files: list[Path] = field(default_factory=list)


def read_wishes(path: str | Path, macrostates: Mapping[str, Sequence[int]]) -> Wishes:
    """Read the file.

    Parameters
    ----------
    path : path
        Files that it names are looked for beside it.
    macrostates : mapping
        Labels by name, besides the sets of the file.

    Raises
    ------
    InputError
        Naming the section, what is wrong in it, and the remedy.
    """
    path = expand_home(path)
    content = load_sections(path, ("sets", *_SECTIONS))
    sets = {**macrostates, **_sets(path, content.get("sets", {}))}
    files: list[Path] = []

    def made(section: str) -> list[Any]:
        tables = content.get(section, [])
        if not isinstance(tables, list):
            raise InputError(f"{path}: {section} must be a list of tables, [[{section}]]")
        return [_wish(f"{path}: {section} {k}", section, x, sets, files) for k, x in enumerate(tables, 1)]

    relaxation = content.get("relaxation")
    if relaxation is not None:
        relaxation = _wish(f"{path}: relaxation", "relaxation", relaxation, sets, files)
    return Wishes(made("average"), made("population"), made("rate"), relaxation, files)


def _sets(path: Path, table: Any) -> dict[str, list[int]]:
    if not isinstance(table, dict):
        raise InputError(f"{path}: sets must be a table, [sets]")
    return {name: _labels(f"{path}: set {name}", value) for name, value in table.items()}


def _labels(where: str, value: Any) -> list[int]:
    right = isinstance(value, list) and all(isinstance(x, int) and not isinstance(x, bool) for x in value)
    if not right or not value or min(value) < 0 or max(value) > _LARGEST:
        raise InputError(f"{where} must be a list of states, such as [0, 3, 17], got {shown(value)}")
    return list(value)


def _wish(where: str, section: str, table: Any, sets: Mapping[str, Sequence[int]], files: list[Path]) -> Any:
    kind = _SECTIONS[section]
    if not isinstance(table, dict):
        raise InputError(f"{where} must be a table, got {shown(table)}")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key in table:
        if key not in fields:
            raise InputError(f"{where} has the unknown key {key!r}; it knows {', '.join(fields)}")
    for name, one in fields.items():
        if one.default is dataclasses.MISSING and name not in table:
            raise InputError(f"{where} lacks {name}")
    values = dict(table)
    for name in ("states", "source", "target"):
        if name in values:
            values[name] = _set(f"{where}: {name}", values[name], sets)
    if "values" in values:
        values["values"] = _values(f"{where}: values", values["values"], Path(where.partition(":")[0]).parent, files)
    for name in ("wanted", "error", "mfpt", "rate", "timescale"):
        text = name != "wanted"
        if name in values and not _is_number(values[name]) and not (text and isinstance(values[name], str)):
            raise InputError(f"{where}: {name} must be a number{' or a text' * text}, got {shown(values[name])}")
    if not isinstance(values.get("name", ""), str):
        raise InputError(f"{where}: name must be a text, got {shown(values['name'])}")
    if section == "population" and isinstance(table["states"], str):
        values.setdefault("name", f"population of {table['states']}")
    if section == "rate" and isinstance(table["source"], str) and isinstance(table["target"], str):
        values.setdefault("name", f"mfpt {table['source']} -> {table['target']}")
    return kind(**values)


def _set(where: str, value: Any, sets: Mapping[str, Sequence[int]]) -> Sequence[int]:
    if not isinstance(value, str):
        return _labels(where, value)
    if value not in sets:
        names = ", ".join(sets) if sets else "none: add them in [sets], or run `nanomd validate` for macrostates"
        raise InputError(f"{where} names the unknown set {value!r}; known are {names}")
    return sets[value]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _values(where: str, given: Any, folder: Path, files: list[Path]) -> NDArray[np.float64] | dict[int, float]:
    """Return an observable by label: a list, a .npy file, or a text with a state and a value a line."""
    if isinstance(given, list) and all(_is_number(x) for x in given):
        return np.array(given, np.float64)
    if not isinstance(given, str):
        raise InputError(f"{where} must be a list of numbers or the name of a file, got {shown(given)}")
    file = folder / expand_home(given)
    if not file.is_file():
        raise InputError(f"{where}: file {str(file)!r} does not exist; check the path")
    files.append(file)
    if file.suffix == ".npy":
        array = map_npy(file)
        if array.ndim != 1 or array.dtype.kind not in "fiu":
            raise InputError(f"{file} must hold one number a state, got {array.dtype} of shape {array.shape}")
        return np.array(array, np.float64)
    found: dict[int, float] = {}
    for number, line in enumerate(read_text_file(file).decode("utf-8", "replace").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        parts = re.split(r"[,;\s]+", line.strip())
        try:
            label, value = int(parts[0]), float(parts[1])
        except (ValueError, IndexError):
            raise InputError(f"{file}, line {number}, must hold a state and a value, got {shown(line)}") from None
        if len(parts) != 2 or label in found:
            what = "names its state a second time" if label in found else "must hold a state and a value alone"
            raise InputError(f"{file}, line {number}, {what}: {shown(line)}")
        found[label] = value
    return found
