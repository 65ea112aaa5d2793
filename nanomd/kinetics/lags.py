"""Lag times: which ones are looked at, and where implied timescales have settled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError
from nanomd.base.units import Duration, FrameInterval
from nanomd.data.counts import largest_connected_set, transition_counts
from nanomd.kinetics import markov
from nanomd.kinetics.inputs import Trajs, check_lagtime, usable_length

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_FRAMES = FrameInterval()
SETTLED = 0.05  # relative change up to the longest reliable lag that a settled slowest timescale may show
SETTLED_OTHERS = 0.1  # the same of the others


@dataclass(frozen=True, slots=True)
class Lags:
    """Lags in frames: `lagtimes` (l,) of implied timescales, `lagtime` of the Markov models, its slowest timescale.

    `settled` tells whether a lag was found, or given, at which timescales mean something.
    """

    lagtimes: IntArray
    lagtime: int
    slowest: float
    settled: bool


def choose_lags(
    reference: Trajs,
    n_states: int,
    lagtimes: Sequence[Duration] | None = None,
    lagtime: Duration | None = None,
    interval: FrameInterval = _FRAMES,
) -> Lags:
    """Return the lags of a validation; what is not given is chosen.

    Parameters
    ----------
    reference : list of arrays (n_frames,)
        States 0..n_states-1.
    n_states : int
    lagtimes, lagtime : see `nanomd.kinetics.validate`
    interval : FrameInterval
        Of a frame of the reference, for lags with units.

    Raises
    ------
    InputError
        For lags that the reference is too short for, and where no lag shows transitions to and fro.
    """
    length = usable_length(reference)
    if lagtimes is not None and (isinstance(lagtimes, str) or np.ndim(lagtimes) != 1):
        raise InputError(f"lagtimes must be a list, such as [1, 10, 100] frames or ['1 ns'], got {lagtimes!r}")
    given = None if lagtimes is None else [interval.frames(lag, "lagtimes") for lag in lagtimes]
    lagtime = None if lagtime is None else interval.frames(lagtime, "lagtime")
    for lag in [*(given or ()), *([] if lagtime is None else [lagtime])]:
        check_lagtime(lag, length)
    lags = default_lagtimes(length) if given is None else np.unique(np.asarray(given, np.int64))
    if len(lags) == 0:
        raise InputError("lagtimes must not be empty")
    table = np.full((len(lags), min(3, n_states - 1)), np.nan)
    for i, lag in enumerate(lags):
        counts = transition_counts(reference, n_states, int(lag))
        if len(largest_connected_set(counts)) > 1:
            table[i] = markov.estimate_markov_model(counts, int(lag)).timescales(table.shape[1])
    slowest = table[:, 0] if table.shape[1] else np.full(len(lags), np.nan)
    if not np.isfinite(slowest).any():
        raise InputError(
            "the reference has no two states with transitions to and fro at any lagtime: its kinetics cannot be "
            "judged; use longer trajectories or other states"
        )
    best: int | None
    if lagtime is not None:
        best, chosen = int(np.nanargmin(np.where(np.isfinite(slowest), abs(lags - lagtime), np.nan))), lagtime
    else:
        best = settled(lags, table)
        chosen = int(lags[best if best is not None else np.flatnonzero(np.isfinite(slowest))[0]])
    at = int(np.flatnonzero(np.isfinite(slowest))[0]) if best is None else best
    times = float(slowest[at])
    if lagtimes is None:  # later ones show only noise
        lags = lags[lags <= max(2 * times, chosen)]
    return Lags(lags, int(chosen), times, best is not None)


def default_lagtimes(length: int, n_lags: int = 12) -> IntArray:
    """Return lags spaced logarithmically from 1 to a tenth of `length`, at most 1000."""
    longest = max(1, min(length // 10, 1000))
    return np.unique(np.round(np.geomspace(1, longest, n_lags)).astype(np.int64))


def settled(
    lags: IntArray, table: FloatArray, tolerance: float = SETTLED, others: float = SETTLED_OTHERS
) -> int | None:
    """Return the index of the first lag at which timescales (l, k) have settled; None where no lag is reliable.

    A lag is reliable for a process while it is at most half the process's longest timescale (at lags up to half of it).
    Settled is a timescale that differs from its value at the last reliable lag by no more than `tolerance` (the
    slowest) or `others`, relative to that value. (Not the first lag that changes little from the one before: where
    memory is long, every one of them changes little.)
    """
    last = np.full(table.shape[1], -1)
    for k, column in enumerate(table.T):
        known = np.where(np.isfinite(column) & (lags <= column / 2), column, -np.inf)
        reliable = np.flatnonzero(np.isfinite(column) & (lags <= known.max() / 2))
        last[k] = reliable[-1] if len(reliable) else -1
    for i in range(last[0] + 1):
        near = [abs(table[i, k] / table[last[k], k] - 1) for k in range(len(last)) if i <= last[k]]
        if near[0] <= tolerance and all(x <= others for x in near[1:]):
            return i
    return None
