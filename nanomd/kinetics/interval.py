"""Estimates with their confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nanomd.kinetics.numbers import format_interval, format_number

FloatArray = NDArray[np.float64]

_SHOWN = 6  # elements of an array in its repr


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Interval:
    """Arrays of one shape: estimates, and the ends of their confidence intervals (NaN where undefined).

    Parameters
    ----------
    value, low, high : ndarray
    error : ndarray, optional
        Standard error on the scale on which the interval is symmetric: of the logarithm of a time, of the logit of a
        probability. NaN where unknown; by default everywhere.

    Examples
    --------
    >>> import numpy as np
    >>> time = Interval(np.array([31.2, 12.7]), np.array([25.4, 12.0]), np.array([38.3, 13.4]))
    >>> time
    Interval(31.2 [25.4, 38.3], 12.7 [12.0, 13.4])
    >>> f"{time[0]:.1f}"
    '31.2 [25.4, 38.3]'
    """

    value: FloatArray
    low: FloatArray
    high: FloatArray
    error: Any = None  # an array of the same shape, see below

    def __post_init__(self) -> None:
        """Stand in NaN for an unknown error."""
        known = np.full(np.shape(self.value), np.nan) if self.error is None else np.asarray(self.error, np.float64)
        object.__setattr__(self, "error", known)

    @classmethod
    def undefined(cls, value: Any) -> Self:
        """Return estimates without intervals."""
        value = np.asarray(value, np.float64)
        return cls(value, *(np.full(value.shape, np.nan) for _ in range(3)))

    @classmethod
    def stack(cls, parts: Sequence[Interval]) -> Self:
        """Stack intervals of one shape along a new first axis."""
        return cls(*(np.stack([getattr(part, name) for part in parts]) for name in ("value", "low", "high", "error")))

    @classmethod
    def joined(cls, parts: Sequence[Interval]) -> Self:
        """Put intervals one after the other along their first axis."""
        return cls(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in ("value", "low", "high", "error"))
        )

    def __getitem__(self, index: Any) -> Interval:
        """Index all arrays at once."""
        return Interval(*(np.asarray(x[index]) for x in (self.value, self.low, self.high, self.error)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return the estimates: ``numpy.asarray(interval)`` is ``interval.value``."""
        return np.array(self.value, dtype=dtype, copy=copy)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the arrays."""
        return np.shape(self.value)

    def scaled(self, factor: float) -> Interval:
        """Return the same in another unit of time, which leaves the error of a logarithm as it is."""
        return Interval(factor * self.value, factor * self.low, factor * self.high, self.error)

    def __repr__(self) -> str:
        shape = np.shape(self.value)
        flat = [self[index] for index in list(np.ndindex(shape))[: _SHOWN + 1]]
        shown = ", ".join(format(x) for x in flat[:_SHOWN]) + (", ..." if len(flat) > _SHOWN else "")
        return f"Interval({shown})" if len(shape) < 2 else f"Interval of shape {shape}({shown})"

    def __format__(self, spec: str) -> str:
        """Write ``1.23 [1.10, 1.36]``, with as many digits as the width supports or as the specification says."""
        if np.ndim(self.value):
            return repr(self)
        value, low, high = (float(x) for x in (self.value, self.low, self.high))
        if not spec:
            return " ".join(part for part in format_interval(value, low, high) if part)
        if not np.isfinite([low, high]).any():
            return format(value, spec) if np.isfinite(value) else format_number(value)
        return f"{value:{spec}} [{low:{spec}}, {high:{spec}}]"
