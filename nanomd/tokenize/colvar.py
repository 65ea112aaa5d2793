"""PLUMED's COLVAR files: collective variables by time, as text.

A line ``#! FIELDS time phi psi`` names the columns, ``#! SET min_phi -pi`` and ``max_phi pi`` say that a variable is
periodic. Periodic variables become a cosine and a sine each, so that both ends of the period are one place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError, one_line
from nanomd.base.units import FrameInterval


class Colvar(NamedTuple):
    """What a COLVAR file holds.

    Parameters
    ----------
    features : float64 array (n_frames, n_features)
    names : list of str
        Of the features; those of a periodic variable are ``cos phi`` and ``sin phi``.
    interval : FrameInterval, optional
        Between lines, in PLUMED's unit of time, ps, if the file tells it.
    """

    features: NDArray[np.float64]
    names: list[str]
    interval: FrameInterval | None


def is_colvar(path: Path) -> bool:
    """Whether a file begins as PLUMED's do."""
    with path.open("rb") as file:
        return file.read(9) == b"#! FIELDS"


def read_colvar(path: str | Path, columns: Sequence[str] | None = None) -> Colvar:
    """Read a COLVAR file, also one that a restarted simulation went on with.

    Parameters
    ----------
    path : path
    columns : sequence of str, optional
        Variables to take, in this order; by default all but ``time``.

    Raises
    ------
    InputError
        For a file that is none, columns that it does not have, lines of another width, and times that do not rise
        evenly: such as those of a restart that wrote some frames twice.
    """
    path = Path(path)
    fields: list[str] = []
    limits: dict[str, float] = {}
    rows: list[list[float]] = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                words = line.split()
                if words[:2] == ["#!", "FIELDS"]:
                    if fields and words[2:] != fields:
                        raise InputError(f"{path}, line {number}: the fields change; cut the file there")
                    fields = words[2:]
                elif words[:2] == ["#!", "SET"] and len(words) == 4:
                    limits[words[2]] = _limit(words[3])
                elif words and not words[0].startswith("#"):
                    if not fields:
                        break
                    if len(words) != len(fields):
                        raise InputError(
                            f"{path}, line {number}: {len(words)} numbers for {len(fields)} fields; is the file whole?"
                        )
                    rows.append([float(word) for word in words])
    except (OSError, ValueError) as error:
        raise (
            error
            if isinstance(error, InputError)
            else InputError(f"{path} cannot be read as a COLVAR file of PLUMED: {one_line(error)}")
        ) from None
    if not fields or not rows:
        raise InputError(f"{path} is no COLVAR file of PLUMED: it has no line `#! FIELDS ...` with numbers below")
    table = np.array(rows)
    chosen = [name for name in fields if name != "time"] if columns is None else list(columns)
    absent = [name for name in chosen if name not in fields]
    if absent or not chosen:
        raise InputError(f"{path} has no column {', '.join(absent) or '(none asked for)'}; it has {', '.join(fields)}")
    features, names = [], []
    for name in chosen:
        values, low, high = table[:, fields.index(name)], limits.get(f"min_{name}"), limits.get(f"max_{name}")
        if low is None or high is None:
            features.append(values)
            names.append(name)
        else:
            angle = 2 * math.pi * (values - low) / (high - low)
            features += [np.cos(angle), np.sin(angle)]
            names += [f"cos {name}", f"sin {name}"]
    interval = _interval(path, table[:, fields.index("time")]) if "time" in fields else None
    return Colvar(np.stack(features, axis=1), names, interval)


def _limit(text: str) -> float:
    """Read PLUMED's ``-pi``, ``2pi`` or a number."""
    factor, pi, rest = text.partition("pi")
    if not pi:
        return float(text)
    if rest:
        raise ValueError(f"{text!r} is no limit of a period")
    return math.pi * (float(factor) if factor not in ("", "+", "-") else float(f"{factor}1"))


def _interval(path: Path, times: NDArray[np.float64]) -> FrameInterval | None:
    if len(times) < 2:
        return None
    step = (times[-1] - times[0]) / (len(times) - 1)
    wrong = np.flatnonzero(np.abs(np.diff(times) - step) > 0.01 * abs(step) + 1e-9)
    if step <= 0 or wrong.size:
        at = times[wrong[0] + 1] if wrong.size else times[0]
        raise InputError(
            f"{path}: times do not rise evenly, at time {at:g}: a restart may have written frames twice; cut the file "
            "where it went on, and give the parts as files of their own"
        )
    return FrameInterval(float(f"{step:.6g}"), "ps")
