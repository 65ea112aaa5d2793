"""Times with a unit: `FrameInterval` turns frames into the user's time."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from numbers import Real
from typing import TypeAlias

from nanomd.base.checks import check_whole
from nanomd.base.errors import InputError, shown

Duration: TypeAlias = int | str  # frames, or a time with a unit

#: What a function takes as the time of a frame: ``"0.2 ns"``, ``(0.2, "ns")``, a `FrameInterval`, or None if not known.
GivenInterval: TypeAlias = "str | tuple[float, str] | FrameInterval | None"

_IN_SECONDS = {"fs": 1e-15, "ps": 1e-12, "ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
_IN_PS = {"fs": 1e-3, "ps": 1.0, "ns": 1e3, "us": 1e6, "ms": 1e9, "s": 1e12}
# Unicode has two letters mu, the micro sign and the Greek one, and keyboards give either.
_MICRO = ("\u00b5s", "\u03bcs")
_PATTERN = re.compile(r"\s*([0-9.eE+-]+)\s*([A-Za-z\u00b5\u03bc]+)\s*")


@dataclass(frozen=True, slots=True)
class FrameInterval:
    """The time between two frames, such as ``FrameInterval(0.2, "ns")``.

    Parameters
    ----------
    value : float
        Time per frame, in `unit`; positive.
    unit : str
        One of fs, ps, ns, us (also with the letter mu), ms, s, or ``"frame"`` where no physical time is known.

    Examples
    --------
    >>> interval = FrameInterval.parse("0.2 ns")
    >>> interval.describe(12_500)
    '2.5 us'
    >>> print(FrameInterval())
    1 frame
    """

    value: float = 1.0
    unit: str = "frame"

    def __post_init__(self) -> None:
        """Refuse a non-positive interval and an unknown unit."""
        if self.unit in _MICRO:
            object.__setattr__(self, "unit", "us")
        if not (self.value > 0 and self.value < float("inf")):
            raise InputError(f"frame_interval must be a positive number, got {self.value}")
        if self.unit != "frame" and self.unit not in _IN_SECONDS:
            raise InputError(
                f"frame_interval has the unknown unit {self.unit!r}; use one of {', '.join(_IN_SECONDS)}, frame"
            )

    def __str__(self) -> str:
        """``0.2 ns``."""
        return f"{self.value:g} {self.unit}"

    @classmethod
    def parse(cls, value: str | float | tuple[float, str] | FrameInterval | None) -> FrameInterval:
        """Read ``"0.2 ns"``, ``(0.2, "ns")``, a `FrameInterval`, or None (frames)."""
        if value is None:
            return cls()
        if isinstance(value, FrameInterval):
            return value
        if isinstance(value, str):
            match = _PATTERN.fullmatch(value)
            if match is None:
                raise InputError(f"frame_interval must look like '0.2 ns', got {value!r}")
            try:
                number = float(match.group(1))
            except ValueError:
                raise InputError(f"frame_interval must look like '0.2 ns', got {value!r}") from None
            return cls(number, match.group(2).removesuffix("s") if match.group(2) == "frames" else match.group(2))
        if isinstance(value, tuple):
            return cls(float(value[0]), str(value[1]))
        raise InputError(f"frame_interval needs a unit, such as '{value} ns', got the bare number {value}")

    def frames(self, duration: Duration, name: str, *, at_least: bool = False) -> int:
        """Return a number of frames: a whole number itself, or a time with a unit, such as ``"1 ns"``.

        Every lag and length that a user gives goes through here.

        Parameters
        ----------
        duration : int or str
            Frames, or a time, which must be a whole number of frames of this length.
        name : str
            Of the argument, for the errors.
        at_least : bool
            A time that falls between two frames means the later one, as for the length of a trajectory.

        Raises
        ------
        InputError
            For anything else, a lag that falls between two frames, and a time where that of a frame is not known.

        Examples
        --------
        >>> FrameInterval(0.2, "ns").frames("1 us", "lagtime")
        5000
        """
        if not isinstance(duration, str):
            return check_whole(name, duration)
        exact = self._exact(duration, name)
        frames = round(exact)
        if abs(exact - frames) > 1e-6 * max(abs(exact), 1.0):
            below = int(exact // 1)
            if at_least:
                return below + 1
            near = " or ".join(f"'{n * self.value:.10g} {self.unit}'" for n in (below, below + 1) if n > 0)
            raise InputError(f"{name} must be a whole number of frames of {self}, got {duration!r}; use {near}")
        return frames

    def real_frames(self, duration: object, name: str) -> float:
        """Return a number of frames, whole or not: a number itself, or a time with a unit, such as ``"1.4 ns"``.

        For times that are measured, and not counted.

        Raises
        ------
        InputError
            For anything else, and a time where that of a frame is not known.
        """
        if isinstance(duration, str):
            return self._exact(duration, name, "a number of frames")
        if isinstance(duration, bool) or not isinstance(duration, Real) or not math.isfinite(duration):
            raise InputError(f"{name} must be a number of frames or a time such as '1 ns', got {shown(duration)}")
        return float(duration)

    def _exact(self, duration: str, name: str, what: str = "a whole number of frames") -> float:
        match = _PATTERN.fullmatch(duration)
        try:
            value = float(match.group(1)) if match else None
        except ValueError:
            value = None
        if match is None or value is None:
            raise InputError(f"{name} must be {what} or a time such as '1 ns', got {shown(duration)}")
        unit = "us" if match.group(2) in _MICRO else match.group(2)
        if unit in ("frame", "frames"):
            return value
        if unit not in _IN_SECONDS:
            raise InputError(f"{name} has the unknown unit {unit!r}; use one of {', '.join(_IN_SECONDS)}, frames")
        if self.unit == "frame":
            raise InputError(
                f"{name} is a time, {duration!r}, but the time of a frame is not known: give frame_interval, or frames"
            )
        exact = value * _IN_SECONDS[unit] / (self.value * _IN_SECONDS[self.unit])
        if not abs(exact) < 2**62:
            raise InputError(f"{name} must be a finite time, got {duration!r}")
        return exact

    @property
    def ps(self) -> float | None:
        """The interval in picoseconds; None where no physical time is known."""
        return None if self.unit == "frame" else self.value * _IN_PS[self.unit]

    def times(self, stride: int) -> FrameInterval:
        """Return the interval of every stride-th frame."""
        return FrameInterval(self.value * stride, self.unit)

    def describe(self, frames: float) -> str:
        """Write a number of frames as time in a readable unit: ``describe(5000)`` of 0.2 ns is ``1 us``."""
        factor, unit = self.scale(frames)
        return f"{frames * factor:.4g} {unit}"

    def scale(self, frames: float) -> tuple[float, str]:
        """Return the factor that turns frames into a unit readable at this magnitude, and the unit."""
        if self.unit == "frame":
            return self.value, "frames"
        seconds = self.value * _IN_SECONDS[self.unit]
        for unit in ("s", "ms", "us", "ns", "ps"):
            # A billionth of slack: 5000 frames of 0.2 ns are 1 us although the product rounds to just below it.
            if abs(frames) * seconds >= _IN_SECONDS[unit] * (1 - 1e-9):
                return seconds / _IN_SECONDS[unit], unit
        return seconds / 1e-15, "fs"


def in_frames(duration: Duration, interval: GivenInterval, name: str, low: int | None = None) -> int:
    """Return a lag as frames: a whole number itself, of at least `low`, or a time where that of a frame is given."""
    return check_whole(name, FrameInterval.parse(interval).frames(duration, name), low)
