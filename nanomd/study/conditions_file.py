"""At which conditions the trajectories of a run folder were taken, read from a TOML file; docs/conditions.md shows one.

::

    [features]                    # optional: how numbers act; a temperature is "inverse", others are "linear"
    concentration = "log"

    [[condition]]
    trajectories = "0-3"          # numbers of the trajectories in tokens/, from 0; or a list: [0, 1, 2, 3]
    temperature = 300
    ligand = "none"

    [[condition]]
    trajectories = "4-7"
    temperature = 300
    ligand = "atp"
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanomd.base.codec import load_sections
from nanomd.base.errors import InputError, shown
from nanomd.base.paths import expand_home
from nanomd.conditional.conditions import Kind, Value

_LARGEST = 10_000_000


@dataclass(frozen=True, slots=True)
class ConditionsFile:
    """What the file says.

    Parameters
    ----------
    trajectories : list of list of int
        Of each section.
    conditions : list of dict
        Name to value.
    features : dict
        Name to kind, where it was said.
    """

    trajectories: list[list[int]]
    conditions: list[dict[str, Value]]
    features: dict[str, Kind]


def read_conditions(path: str | Path, n_trajs: int) -> ConditionsFile:
    """Read the file.

    Parameters
    ----------
    path : path
    n_trajs : int
        Trajectories that there are; each must be named once.

    Raises
    ------
    InputError
        Naming the section, what is wrong in it, and the remedy.
    """
    path = expand_home(path)
    content = load_sections(path, ("features", "condition"))
    features, sections = content.get("features", {}), content.get("condition", [])
    if not isinstance(features, dict) or not isinstance(sections, list) or not sections:
        raise InputError(f"{path} must have a list of tables, [[condition]], and may have a table, [features]")
    trajectories, conditions, known = [], [], dict[int, int]()
    for number, table in enumerate(sections, 1):
        where = f"{path}: condition {number}"
        if not isinstance(table, dict) or "trajectories" not in table or len(table) < 2:
            raise InputError(f"{where} must say its trajectories and at least one value, such as temperature = 300")
        own = _numbers(where, table["trajectories"], n_trajs)
        for trajectory in own:
            if trajectory in known:
                raise InputError(
                    f"{where} names trajectory {trajectory}, which condition {known[trajectory]} has already"
                )
            known[trajectory] = number
        trajectories.append(own)
        conditions.append({name: value for name, value in table.items() if name != "trajectories"})
    left = sorted(set(range(n_trajs)) - set(known))
    if left:
        raise InputError(f"{path} does not say the condition of trajectory {left[0]}; all {n_trajs} must have one")
    return ConditionsFile(trajectories, conditions, features)


def _numbers(where: str, value: Any, n_trajs: int) -> list[int]:
    """Return the numbers of ``"0-3, 7"`` or of a list."""
    if isinstance(value, str):
        parts = [re.fullmatch(r"\s*([0-9]{1,8})(?:\s*-\s*([0-9]{1,8}))?\s*", part) for part in value.split(",")]
        spans = [(int(m.group(1)), int(m.group(2) or m.group(1))) for m in parts if m is not None]
        whole = len(spans) == len(parts) and all(a <= b < _LARGEST for a, b in spans)
        found = [k for a, b in spans for k in range(a, b + 1)] if whole else []
    else:
        found = list(value) if isinstance(value, list) and all(type(x) is int for x in value) else []
    if not found or len(set(found)) != len(found):
        raise InputError(f'{where}: trajectories must be different numbers, such as "0-3, 7", got {shown(value)}')
    if not 0 <= min(found) <= max(found) < n_trajs:
        raise InputError(f"{where}: there are the trajectories 0 to {n_trajs - 1}, got {shown(value)}")
    return found
