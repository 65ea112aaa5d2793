r"""How long the slow processes of discrete trajectories remember: the lag from which they look Markovian.

At a lag :math:`\tau` the slowest functions of the states, :math:`\psi_k`, are those of the Markov model at that lag,
and

.. math:: t_k(\tau) = -\tau \Big/ \ln \frac{\sum_t \psi_k(x_t)\, \psi_k(x_{t+\tau})}
          {\tfrac12 \sum_t [\psi_k(x_t)^2 + \psi_k(x_{t+\tau})^2]}

its implied timescale. With memory it rises with the lag, and settles where the lag exceeds the memory. Whether it
still rises is judged against its statistical error: numerator and denominator are summed over blocks of frames, the
same at all lags, and the error of :math:`\ln t_k(\tau') - \ln t_k(\tau)` is that of a jackknife over the blocks.
(Errors of single timescales are of no use: both rest on the same few passages, and move together.)

Many states are looked at as a thousand groups of them, cut along the slow processes at lag 1 (`nanomd.data.groups`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from nanomd._native import Blocks, Derived, project_transitions
from nanomd.data.counts import SPARSE_STATES, largest_connected_set, sparse_transition_counts, transition_counts
from nanomd.data.groups import kinetic_groups
from nanomd.kinetics.inputs import Traj, recoded, usable_length

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_GROUPS = 1000  # of more than `SPARSE_STATES` states
_BLOCKS = 20  # of the jackknife
_LAGS = 24  # at most
_DENSE_STATES = 600  # up to here all eigenvectors take no longer than the slowest few
_RISE = 0.1  # of a timescale; a smaller one is no memory that matters
_DOUBT = 0.5  # standard errors of a rise that count for none: memory overlooked costs more than a stride too long
_STILL = 0.05  # rise over the last doubling of the lag that is worth a word
_LARGEST_ERROR = 0.6  # of ln t; a timescale with a larger one says nothing


@dataclass(frozen=True, slots=True)
class TimeScales:
    """Implied timescales against lag, and what they say of memory.

    Parameters
    ----------
    lagtimes : ndarray (l,)
        Frames.
    timescales, errors : ndarray (l, k)
        Frames, slowest process first, NaN where undefined; standard errors of their logarithms.
    memory : int
        Frames: the shortest lag from which on none of the slow timescales rises by more than a tenth and half the
        error of the rise.
    slowest : float
        Frames: the slowest timescale at that lag; NaN where no two states are connected.
    rising : bool
        Whether the slowest still rises over the last doubling of the lag: by more than a twentieth and its error.
    """

    lagtimes: IntArray
    timescales: FloatArray
    errors: FloatArray
    memory: int
    slowest: float
    rising: bool


def slow_time_scales(dtrajs: Sequence[Traj], n_states: int, n_processes: int = 3, views: int = 1) -> TimeScales:
    """Look at the slow timescales of trajectories from lag 1 up to a quarter of their length.

    Parameters
    ----------
    dtrajs : sequence of 1-D integer arrays
        States 0..n_states-1; negative: unassigned.
    n_states : int
    n_processes : int
        How many slow processes are looked at.
    views : int
        So many trajectories in a row are views of one, at every views-th frame from different offsets.
    """
    blocks = _cut([len(x) for x in dtrajs], views)
    if n_states > SPARSE_STATES:
        dtrajs, n_states = _grouped(dtrajs, n_states, views)
    longest = max(1, usable_length(dtrajs) // 4)
    lags = np.unique(np.round(np.geomspace(1, longest, _LAGS)).astype(np.int64))
    used, sums = [], []
    for lag in lags:
        found = _block_sums(dtrajs, n_states, int(lag), n_processes, blocks)
        if found is None:
            break
        used.append(lag)
        sums.append(found)
        total = found.sum(axis=1)
        if _timescale(total[0, :1], total[1, :1], int(lag))[0] < lag:  # nothing is left of the slowest process
            break
    if not sums:
        nothing = np.zeros((0, n_processes))
        return TimeScales(lags[:0], nothing, nothing.copy(), 1, np.nan, rising=False)
    lags, table = np.array(used, np.int64), np.stack(sums)  # (l, 2, blocks, k)
    total = table.sum(axis=2)
    times = np.stack([_timescale(total[i, 0], total[i, 1], int(lag)) for i, lag in enumerate(lags)])
    without = total[:, :, None] - table
    jackknife = np.log(
        np.stack([_timescale(without[i, 0], without[i, 1], int(lag)) for i, lag in enumerate(lags)])
    )  # (l, blocks, k)
    errors = _jackknife_error(jackknife, axis=1)
    curves = [_Curve(lags, times[:, k], errors[:, k], jackknife[:, :, k]) for k in range(times.shape[1])]
    at = max(curve.settled() for curve in curves)
    return TimeScales(lags, times, errors, int(lags[at]), float(times[at, 0]), curves[0].rising())


def _grouped(dtrajs: Sequence[Traj], n_states: int, views: int) -> tuple[list[Derived], int]:
    """Return trajectories of groups of states that exchange slowly, and the number of groups."""
    groups = kinetic_groups(sparse_transition_counts(dtrajs[::views], n_states), _GROUPS)
    table = np.append(groups, -1).astype(np.int32)
    return [Derived(np.asarray(x), partial(recoded, table=table)) for x in dtrajs], _GROUPS


class _Curve:
    """A timescale (l,) against lag; its values with each block left out (l, blocks) give errors of differences."""

    def __init__(self, lags: IntArray, times: FloatArray, errors: FloatArray, jackknife: FloatArray) -> None:
        # As far as shorter lags told: where little is left of a process, the noise of many states looks slower the
        # longer the lag, and would call itself reliable.
        longest = np.fmax.accumulate(np.concatenate((times[:1], times[:-1])))
        self.reliable = np.flatnonzero(np.isfinite(times) & (lags <= longest / 2) & (errors <= _LARGEST_ERROR))
        self.lags, self.logs, self.jackknife = lags, np.log(times), jackknife

    def rise(self, start: int, ends: IntArray) -> tuple[FloatArray, FloatArray]:
        """Return ln of the rise from one lag to others, and its standard error."""
        spread = _jackknife_error(self.jackknife[ends] - self.jackknife[start], axis=1)
        return self.logs[ends] - self.logs[start], spread

    def settled(self) -> int:
        """Return the index of the lag at which the timescale has settled."""
        for i in self.reliable:
            rise, spread = self.rise(int(i), self.reliable[self.reliable > i])
            if (rise <= np.log1p(_RISE) + _DOUBT * spread).all():
                return int(i)
        return 0

    def rising(self) -> bool:
        """Tell whether the timescale rises over the last doubling of the lag."""
        if not len(self.reliable):
            return False
        last = self.reliable[-1]
        before = self.reliable[self.lags[self.reliable] <= self.lags[last] / 2]
        if not len(before):
            return False
        rise, spread = self.rise(int(before[-1]), np.array([last]))
        return bool(rise[0] > np.log1p(_STILL) + spread[0])


def _cut(lengths: Sequence[int], views: int) -> Blocks:
    """Cut trajectories into some twenty blocks of time; views of one trajectory share theirs."""
    own = np.asarray(lengths[::views])
    if len(own) >= _BLOCKS:
        spans = np.stack((np.arange(len(own)) * _BLOCKS // len(own), np.ones(len(own))), axis=1)
    else:
        number = np.maximum(np.round(_BLOCKS * own / max(1, own.sum())), 1)
        spans = np.stack((np.cumsum(number) - number, number), axis=1)
    shared: IntArray = np.repeat(spans.astype(np.int64), views, axis=0)
    return Blocks(shared, int(shared.sum(axis=1).max()))


def _block_sums(dtrajs: Sequence[Traj], n_states: int, lag: int, n_processes: int, blocks: Blocks) -> FloatArray | None:
    """Return numerators and denominators (2, blocks, k) of the autocorrelations of the slow functions at a lag."""
    functions = _slow_functions(dtrajs, n_states, lag, n_processes)
    if functions is None:
        return None
    k = functions.shape[1]
    late, early = project_transitions(
        dtrajs, n_states, lag, np.concatenate((functions, functions**2), axis=1), blocks=blocks
    )
    sums = np.zeros((2, blocks.n_blocks, n_processes))
    sums[0, :, :k] = np.einsum("bnk,nk->bk", late[..., :k], functions)
    sums[1, :, :k] = 0.5 * (early @ functions**2 + late[..., k:].sum(axis=1))
    return sums


def _slow_functions(dtrajs: Sequence[Traj], n_states: int, lag: int, n_processes: int) -> FloatArray | None:
    """Return the slowest functions (n_states, k) of the Markov model at a lag, zero outside its connected states.

    Counts are made symmetric, which needs no iteration; the functions are only a way to look.
    """
    counts = transition_counts(dtrajs, n_states, lag).astype(np.float64)
    members = largest_connected_set(counts)
    if len(members) < 2:
        return None
    inside = counts[np.ix_(members, members)]
    inside = inside + inside.T
    root = np.sqrt(inside.sum(axis=1))
    symmetric = inside / root[:, None] / root[None, :]
    k = min(n_processes, len(members) - 1)
    if len(members) > max(_DENSE_STATES, k + 2):
        from scipy.sparse.linalg import eigsh

        values, vectors = eigsh(symmetric, k + 1, which="LA", v0=root)
    else:
        values, vectors = np.linalg.eigh(symmetric)
    order = np.argsort(values)[::-1][1 : k + 1]
    functions = np.zeros((n_states, k))
    functions[members] = vectors[:, order] / root[:, None]
    return functions


def _timescale(numerator: FloatArray, denominator: FloatArray, lag: int) -> FloatArray:
    """Return the implied timescale of an autocorrelation, NaN where it is not in (0, 1)."""
    ratio = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
    inside = (ratio > 0) & (ratio < 1)
    return np.where(inside, -lag / np.log(np.where(inside, ratio, 0.5)), np.nan)


def _jackknife_error(values: FloatArray, axis: int) -> FloatArray:
    """Return the standard error of what was computed with each of n blocks left out; infinite where it is undefined."""
    n = values.shape[axis]
    error = np.sqrt((n - 1) * np.mean((values - values.mean(axis=axis, keepdims=True)) ** 2, axis=axis))
    return np.where(np.isfinite(error), error, np.inf)
