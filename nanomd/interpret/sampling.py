"""Which windows of the data are looked at, and how sure an average over them is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd.base.checks import check_range
from nanomd.base.errors import InputError
from nanomd.kinetics.interval import Interval

N_BLOCKS = 20


def spread_windows(
    trajectories: Sequence[NDArray[Any]], length: int, n_windows: int, *, changes_only: bool = False
) -> NDArray[np.int64]:
    """Return up to `n_windows` windows (n, length) of the data, int64, spread evenly, in the order of time.

    Parameters
    ----------
    trajectories : sequence of 1-D integer arrays
    length : int
        Frames of a window.
    n_windows : int
        At most this many; fewer if the data hold no more different ones.
    changes_only : bool
        Only windows whose last frame differs from the one before.

    Raises
    ------
    InputError
        If there is no such window.
    """
    check_range("n_windows", n_windows, 1)
    places = [np.arange(max(0, len(trajectory) - length + 1)) for trajectory in trajectories]
    if changes_only and length > 1:
        places = [
            place[np.asarray(trajectory)[place + length - 1] != np.asarray(trajectory)[place + length - 2]]
            for trajectory, place in zip(trajectories, places, strict=True)
        ]
    ends = np.cumsum([len(place) for place in places])
    total = int(ends[-1]) if len(ends) else 0
    if total == 0:
        longest = max(map(len, trajectories), default=0)
        what = " that end with a change of state" if changes_only and longest >= length else ""
        raise InputError(
            f"dtrajs hold no windows of {length} frames{what} (the longest unbroken piece has {longest}); "
            "use longer trajectories, or a shorter length"
        )
    chosen = (2 * np.arange(min(n_windows, total)) + 1) * total // (2 * min(n_windows, total))
    rows = []
    for place in chosen.tolist():
        index = int(np.searchsorted(ends, place, side="right"))
        start = int(places[index][place - (int(ends[index - 1]) if index else 0)])
        rows.append(np.asarray(trajectories[index][start : start + length], np.int64))
    return np.stack(rows)


def usable_length(trajectories: Sequence[NDArray[Any]], wanted: int) -> int:
    """Return the window length to use: `wanted`, or less where most of the data lie in shorter pieces.

    Half of all frames lie in pieces at least as long as the weighted median n; a window takes up to 3 n / 4 frames, so
    that such pieces hold many different ones.
    """
    lengths = np.sort([len(trajectory) for trajectory in trajectories])[::-1]
    median = int(lengths[np.searchsorted(np.cumsum(lengths), lengths.sum() / 2)])
    return max(2, min(wanted, 3 * median // 4))


def block_interval(values: NDArray[Any], confidence: float = 0.95, n_blocks: int = N_BLOCKS) -> Interval:
    """Return the mean of `values` (n, ...) over its first axis, and its confidence interval.

    The windows are in the order of time, and neighbours in time resemble each other; so their mean is taken in up to
    `n_blocks` successive groups, and the interval is Student's for these group means. NaN ends for a single window.
    """
    from scipy.stats import t as student

    check_range("confidence", confidence, 0.5, 0.9999)
    values = np.asarray(values, np.float64)
    mean = values.mean(axis=0)
    blocks = min(n_blocks, len(values))
    if blocks < 2:
        return Interval.undefined(mean)
    groups = np.array_split(values, blocks)
    share = np.array([len(group) for group in groups], np.float64).reshape(-1, *[1] * mean.ndim)
    means = np.stack([group.mean(axis=0) for group in groups])
    # Groups differ in size by one window at most; each counts by its size.
    variance = (share * (means - mean) ** 2).sum(axis=0) / share.sum() / (blocks - 1)
    half = student.ppf(0.5 + 0.5 * confidence, blocks - 1) * np.sqrt(variance)
    return Interval(mean, mean - half, mean + half)


def spread_integers(first: int, last: int) -> NDArray[np.int64]:
    """Return whole numbers from `first` to `last`: the first eight, then steps of about a quarter, and the last."""
    out = list(range(first, min(first + 8, last + 1)))
    while out[-1] < last:
        out.append(min(last, max(out[-1] + 1, round(1.25 * out[-1]))))
    if len(out) > 8 and out[-1] < 1.12 * out[-2]:
        del out[-2]
    return np.array(out, np.int64)
