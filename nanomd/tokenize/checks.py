"""Checks of numbers that users give."""

from __future__ import annotations

import operator
from typing import Any

from nanomd.base.checks import check_range
from nanomd.base.errors import InputError


def check_whole(name: str, value: Any, low: int | None = None, why: str = "") -> int:
    """Return `value` as an int; refuse fractions, which would otherwise fail far from here."""
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name} must be a whole number, got {value!r}") from None
    if low is not None:
        check_range(name, number, low, 2**63 - 1, why)
    return number
