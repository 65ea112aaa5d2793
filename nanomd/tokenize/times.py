"""Time stamps: the time between frames, and the order of the files of one trajectory.

Most formats keep stamps in 32 bits, so a late stamp is rounded to a multiple of its unit in the last place: to 8 ps at
100 microseconds. Differences of neighbours can then be off by a factor of two; the difference of first and last is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError
from nanomd.base.units import FrameInterval

_REMEDY = "use files with one frame interval, or give frame_interval= to count frames regardless"
_RELATIVE = 1e-3
# Units in the last place by which a difference of two stamps may be off: half for each, and as much again for programs
# that calculate times in 32 bits.
_ROUNDINGS = 2.5


@dataclass(frozen=True, eq=False)
class Stamps:
    """Time stamps of consecutive frames.

    Parameters
    ----------
    where : str
        The file.
    times : float64 array, shape (n_frames,)
        ps.
    """

    where: str
    times: NDArray[np.float64]

    @property
    def rounding(self) -> float:
        """The unit in the last place of the latest stamp in 32 bits, ps."""
        return float(np.spacing(np.float32(np.abs(self.times).max(initial=0.0))))

    @property
    def interval(self) -> float:
        """Time between frames, ps: (last - first) / (n - 1); 0 for a single frame, or stamps that stand still."""
        return float((self.times[-1] - self.times[0]) / (len(self.times) - 1)) if len(self.times) > 1 else 0.0

    @property
    def uncertainty(self) -> float:
        """How far `interval` may be off by rounding, ps."""
        return self.rounding / max(len(self.times) - 1, 1)

    def check(self) -> None:
        """Refuse stamps that do not advance by one interval, naming the frame."""
        steps = np.diff(self.times)
        if not steps.any():
            return
        if not np.isfinite(self.times).all():
            raise InputError(f"{self.where}: the time stamps are not finite; {_REMEDY}")
        tolerance = _ROUNDINGS * self.rounding + _RELATIVE * abs(self.interval)
        typical = float(np.median(steps))
        wrong = np.flatnonzero(np.abs(steps - typical) > tolerance)
        if wrong.size:
            raise InputError(
                f"{self.where}: the time stamps advance by {steps[wrong[0]]:g} ps after frame {wrong[0]}, but by "
                f"{typical:g} ps elsewhere; {_REMEDY}"
            )
        # A gap that is smaller than the rounding still shifts all that follow it.
        line = self.times[0] + self.interval * np.arange(len(self.times))
        off = np.abs(self.times - line)
        if off.max() > tolerance:
            raise InputError(
                f"{self.where}: the time stamps do not advance evenly (frame {off.argmax()} is {off.max():g} ps off); "
                f"{_REMEDY}"
            )
        if self.interval < 0:
            raise InputError(f"{self.where}: the time stamps run backwards; {_REMEDY}")


def common_interval(files: Sequence[Stamps | None], stride: int) -> FrameInterval:
    """Return the interval of every stride-th frame, in frames where some file does not tell the time.

    Raises
    ------
    InputError
        If stamps are uneven, or the files have different intervals.
    """
    if any(stamps is None for stamps in files):
        return FrameInterval()
    value = _agreed([stamps for stamps in files if stamps is not None])
    return FrameInterval(float(f"{value * stride:.6g}"), "ps") if value else FrameInterval()


def _agreed(files: Sequence[Stamps]) -> float:
    """Return the interval that all files have, ps; 0 where they do not tell."""
    known = [stamps for stamps in files if len(stamps.times) > 1]
    for stamps in known:
        stamps.check()
        slack = _RELATIVE * known[0].interval + stamps.uncertainty + known[0].uncertainty
        if abs(stamps.interval - known[0].interval) > slack:
            raise InputError(
                f"{stamps.where}: the time stamps advance by {stamps.interval:.6g} ps, but by "
                f"{known[0].interval:.6g} ps in {known[0].where}; {_REMEDY}"
            )
    if not known or known[0].interval == 0:
        return 0.0
    best = min(known, key=lambda stamps: stamps.uncertainty)
    return _shortest(best.interval, best.uncertainty)


def _shortest(value: float, uncertainty: float) -> float:
    """Return the number of fewest digits, six at most, that rounding cannot tell from `value`."""
    for digits in range(1, 7):
        rounded = float(f"{value:.{digits}g}")
        if abs(rounded - value) <= uncertainty:
            return rounded
    return float(f"{value:.6g}")


class Piece(NamedTuple):
    """A file of a trajectory: its place in the order given, and how many of its frames are used, from the first."""

    place: int
    n_frames: int


def arrange(files: Sequence[Stamps], *, regardless: bool) -> list[Piece]:
    """Put the files of one trajectory in the order of their times, each up to where the next one begins.

    A simulation that was restarted writes again what came after its last checkpoint; the later file is the one that the
    rest continues. Files that all begin at one time have no common clock, and are joined as given.

    Parameters
    ----------
    files : sequence of Stamps
        In the order given.
    regardless : bool
        The user gave the frame interval: files with uneven stamps are joined as given instead of refused.

    Raises
    ------
    InputError
        For a gap, a file that lies within another, or files that begin at the same time.
    """
    as_given = [Piece(index, len(stamps.times)) for index, stamps in enumerate(files)]
    try:
        interval = _agreed(files)
    except InputError:
        if regardless:
            return as_given
        raise
    starts = np.array([stamps.times[0] for stamps in files])
    if interval == 0:
        # Single frames have no interval of their own.
        apart = np.diff(np.sort(starts))
        interval = float(np.median(apart)) if max(len(stamps.times) for stamps in files) == 1 else 0.0
        if interval == 0:
            return as_given
    if np.ptp(starts) < interval / 2:
        return as_given  # the clock of each file begins anew
    order = np.argsort(starts, kind="stable").tolist()
    pieces = [Piece(one, _frames_before(files[one], files[other], interval)) for one, other in pairwise(order)]
    return [*pieces, as_given[order[-1]]]


def _frames_before(one: Stamps, other: Stamps, interval: float) -> int:
    """Return how many frames of a file come before the next file, which has to continue it."""
    begin, end = float(other.times[0]), float(one.times[-1])
    between = f"{one.where} ({one.times[0]:g} to {end:g} ps) and {other.where} ({begin:g} to {other.times[-1]:g} ps)"
    if begin - float(one.times[0]) < interval / 2:
        raise InputError(
            f"{between} begin at the same time, so they are not parts of one trajectory; leave one of them out, or "
            "give them as trajectories of their own"
        )
    if float(other.times[-1]) < end - interval / 2:
        raise InputError(f"{between}: the second lies within the first; leave one of them out")
    count = int(np.searchsorted(one.times, begin - interval / 2))
    step = begin - float(one.times[count - 1])
    if abs(step - interval) > _RELATIVE * interval + _ROUNDINGS * max(one.rounding, other.rounding):
        what = "there is a gap between" if begin > end else "time stamps do not match where the second begins in"
        raise InputError(
            f"{what} {between}, whose frames are {interval:g} ps apart; give them as trajectories of their own"
        )
    return count
