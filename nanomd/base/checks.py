"""Checks of single arguments: name, constraint, value, remedy in one line."""

from __future__ import annotations

import math
import operator
import os
from itertools import pairwise
from typing import Any, get_args

from nanomd.base.errors import InputError, shown


def check_range(name: str, value: float, low: float, high: float | None = None, why: str = "") -> None:
    """Raise `InputError` unless low <= value <= high, and finite."""
    if not value >= low or (value > high if high is not None else math.isinf(value)):
        span = f"in [{low}, {high}]" if high is not None else f"at least {low}{' and finite' * math.isinf(value)}"
        raise InputError(f"{name} must be {span}{f' ({why})' if why else ''}, got {value}")


def check_whole(name: str, value: Any, low: int | None = None, high: int | None = None, why: str = "") -> int:
    """Return a whole number (NumPy's too) as an int; raise `InputError` for anything else, or out of [low, high]."""
    try:
        whole = operator.index(value)
    except TypeError:
        whole = None
    if whole is None or isinstance(value, bool):
        whole_float = isinstance(value, float) and value.is_integer()
        hint = f"; write {int(value)}" if whole_float else ""
        raise InputError(f"{name} must be a whole number, got {shown(value)}{hint}")
    if low is not None:
        check_range(name, whole, low, high, why)
    return whole


def check_finite(name: str, value: float) -> None:
    """Raise `InputError` for NaN and infinity."""
    if not math.isfinite(value):
        raise InputError(f"{name} must be a finite number, got {value}")


def check_choice(name: str, value: object, choices: object) -> None:
    """Raise `InputError` unless value is one of the choices of a Literal."""
    allowed = get_args(choices)
    if value not in allowed:
        raise InputError(f"{name} must be one of {', '.join(map(str, allowed))}, got {shown(value)}")


def check_lags(name: str, lags: object) -> tuple[int, ...]:
    """Return lags in frames as a tuple; raise `InputError` unless they are rising whole numbers of at least 2."""
    values = tuple(lags) if isinstance(lags, (tuple, list)) else (lags,)
    try:
        whole = tuple(check_whole(name, lag) for lag in values)
    except InputError:
        whole = ()
    if len(whole) != len(values) or any(lag < 2 for lag in whole) or any(a >= b for a, b in pairwise(whole)):
        raise InputError(f"{name} must be rising whole numbers of frames from 2 on, got {list(values)}")
    return whole


def check_memory(n_bytes: int, what: str, remedy: str) -> None:
    """Raise `InputError` for what this machine's memory cannot hold, before anything is begun."""
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if n_bytes > available:
        raise InputError(
            f"{what} takes {n_bytes / 2**30:,.1f} GiB, but this machine has {available / 2**30:,.1f} GiB of memory; "
            f"{remedy}"
        )
