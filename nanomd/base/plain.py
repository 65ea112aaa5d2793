"""Results of arrays and numbers as plain lists for JSON and back; NaN and infinity are null."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


def to_plain(value: Any, digits: int = 17) -> Any:
    """Return dataclasses, arrays and numbers as dictionaries, lists and plain numbers.

    Parameters
    ----------
    value : object
        Nested as it may be.
    digits : int
        Significant digits of floating-point numbers; 17 keep every bit.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name), digits) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item, digits) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return to_plain(value.tolist(), digits)
    if isinstance(value, (list, tuple)):
        return [to_plain(item, digits) for item in value]
    if isinstance(value, np.generic):
        return to_plain(value.item(), digits)
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return value if digits >= 17 else float(f"{value:.{digits}g}")
    return value


def from_plain(value: Any, kind: type[T]) -> T:
    """Return what `to_plain` made as a value of a type; fields that are absent have their defaults.

    Raises
    ------
    ValueError
        If it does not fit, naming what does not.
    """
    import msgspec

    try:
        return msgspec.convert(_filled(value, kind), kind, dec_hook=_array)
    except (msgspec.MsgspecError, RecursionError, OverflowError, TypeError) as problem:
        raise ValueError(" ".join(str(problem).split())) from None


def _filled(value: Any, kind: Any) -> Any:
    """Return the value with NaN where a number is null."""
    if value is None:
        return math.nan if kind is float else None
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _filled(value, next(part for part in inside if part is not types.NoneType))
    if origin is list and isinstance(value, list):
        return [_filled(item, inside[0]) for item in value]
    if origin is dict and isinstance(value, dict):
        return {key: _filled(item, inside[1]) for key, item in value.items()}
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        hints = _hints(typing.cast("Any", kind))
        return {key: _filled(item, hints.get(key, Any)) for key, item in value.items()}
    return value


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _array(kind: Any, value: Any) -> Any:
    """Read an array of the annotated type; null becomes NaN."""
    _, dtype = typing.get_args(kind)
    (scalar,) = typing.get_args(dtype)
    return np.array(value, scalar)
