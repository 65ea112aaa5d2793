"""Lag times: which ones are looked at, and where implied timescales have settled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError
from nanomd.base.units import Duration, FrameInterval
from nanomd.data.counts import SPARSE_STATES, largest_connected_set, model_counts
from nanomd.kinetics import markov
from nanomd.kinetics.inputs import Trajs, check_lagtime, usable_length
from nanomd.kinetics.time_scales import slow_time_scales

IntArray = NDArray[np.int64]

_FRAMES = FrameInterval()
_LAGS, _LAGS_OF_MANY = 12, 6  # by default; with many states each takes some ten seconds a source


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
    views: int = 1,
) -> Lags:
    """Return the lags of a validation; what is not given is chosen.

    The lag is the shortest from which on the slow timescales rise no more (`nanomd.kinetics.time_scales`); among
    `lagtimes`, where those are given, the first that is no shorter.

    Parameters
    ----------
    reference : list of arrays (n_frames,)
        States 0..n_states-1.
    n_states : int
    lagtimes, lagtime : see `nanomd.kinetics.validate`
    interval : FrameInterval
        Of a frame of the reference, for lags with units.
    views : int
        So many trajectories in a row are one, seen from different offsets.

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
    scales = slow_time_scales(reference, n_states, views=views) if lagtime is None else None
    if given is None:
        wanted = [] if scales is None else [scales.memory]
        number = _LAGS if n_states <= SPARSE_STATES else _LAGS_OF_MANY
        lags = np.union1d(default_lagtimes(length, number), np.array(wanted, np.int64))
    else:
        lags = np.unique(np.asarray(given, np.int64))
    if len(lags) == 0:
        raise InputError("lagtimes must not be empty")
    slowest = np.full(len(lags), np.nan)
    for i, lag in enumerate(lags):
        counts = model_counts(reference, n_states, int(lag))
        if len(largest_connected_set(counts)) > 1:
            slowest[i] = markov.estimate_markov_model(counts, int(lag)).timescales(1)[0]
    if not np.isfinite(slowest).any():
        raise InputError(
            "the reference has no two states with transitions to and fro at any lagtime: its kinetics cannot be "
            "judged; use longer trajectories or other states"
        )
    known = np.flatnonzero(np.isfinite(slowest))
    settled = True
    if scales is None:
        assert lagtime is not None
        best, chosen = int(known[np.argmin(abs(lags[known] - lagtime))]), lagtime
    else:
        reliable = known[lags[known] <= slowest[known] / 2]
        settled = bool(len(reliable))
        later = reliable[lags[reliable] >= scales.memory]
        best = int(later[0] if len(later) else reliable[-1] if settled else known[0])
        chosen = int(lags[best])
    times = float(slowest[best])
    if lagtimes is None:  # later ones show only noise
        lags = lags[lags <= max(2 * times, chosen)]
    return Lags(lags, int(chosen), times, settled)


def default_lagtimes(length: int, n_lags: int = _LAGS) -> IntArray:
    """Return lags spaced logarithmically from 1 to a quarter of `length`, at most 1000."""
    longest = max(1, min(length // 4, 1000))
    return np.unique(np.round(np.geomspace(1, longest, n_lags)).astype(np.int64))
