"""Markov models of discrete trajectories, as plain full-length arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError
from nanomd.data.counts import largest_connected_set
from nanomd.kinetics import deeptime_adapter

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_DENSE_EIGEN_STATES = 600
_KEPT_BYTES = 1 << 28  # of transition matrices


@dataclass(frozen=True)
class MarkovModel:
    """A reversible Markov state model.

    Parameters
    ----------
    transition : ndarray (n, n)
        Row-stochastic. A state outside the active set stays where it is.
    stationary : ndarray (n,)
        Zero outside the active set.
    active : ndarray of int64
        The states of the largest connected set, sorted.
    lagtime : int
        Frames per step of the matrix.
    """

    transition: FloatArray
    stationary: FloatArray
    active: IntArray
    lagtime: int

    @property
    def n_states(self) -> int:
        """Number of states, active or not."""
        return len(self.stationary)

    def eigen(self, n_processes: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return the slowest relaxation processes, slowest first, the stationary one left out.

        Returns
        -------
        values : ndarray (k,)
            Eigenvalues, k = min(n_processes, active states - 1).
        right, left : ndarray (n, k)
            Right and left eigenvectors with left^T right = 1; zero outside the active set.
        """
        pi = self.stationary[self.active]
        root = np.sqrt(pi)
        symmetric = root[:, None] * self.transition[np.ix_(self.active, self.active)] / root[None, :]
        symmetric = 0.5 * (symmetric + symmetric.T)
        k = min(n_processes, len(pi) - 1)
        if len(pi) > _DENSE_EIGEN_STATES:
            from scipy.sparse.linalg import eigsh

            values, vectors = eigsh(symmetric, k + 1, which="LA", v0=root)
        else:
            values, vectors = np.linalg.eigh(symmetric)
        order = np.argsort(values)[::-1][1 : k + 1]
        right, left = np.zeros((self.n_states, k)), np.zeros((self.n_states, k))
        right[self.active] = vectors[:, order] / root[:, None]
        left[self.active] = vectors[:, order] * root[:, None]
        return values[order], right, left

    def timescales(self, n_timescales: int) -> FloatArray:
        """Return implied timescales (n_timescales,) in frames, slowest first; NaN where there are no more."""
        values, _, _ = self.eigen(n_timescales)
        out = np.full(n_timescales, np.nan)
        out[: len(values)] = eigenvalue_timescales(values, self.lagtime)
        return out


def eigenvalue_timescales(values: FloatArray, lagtime: int) -> FloatArray:
    """Return -lagtime / ln(values), and NaN where a value is not in (0, 1)."""
    inside = (values > 0) & (values < 1)
    return np.where(inside, -lagtime / np.log(np.where(inside, values, 0.5)), np.nan)


def estimate_markov_model(counts: NDArray[np.integer] | FloatArray, lagtime: int) -> MarkovModel:
    """Estimate a reversible Markov model from transition counts (n, n), on their largest connected set.

    The estimator is the reversible maximum-likelihood one of deeptime, which needs no equilibrium data.

    Raises
    ------
    InputError
        Without any transition.
    """
    counts = np.asarray(counts)
    if counts.sum() == 0:
        raise InputError(f"there are no transitions at lagtime {lagtime}; use a shorter lagtime or longer trajectories")
    kept = _kept.get()
    if kept is None:
        return _estimate(counts, lagtime)
    key = (hashlib.sha256(np.asarray(counts, np.float64).tobytes()).digest(), lagtime)
    if key not in kept:
        model = _estimate(counts, lagtime)
        for array in (model.transition, model.stationary, model.active):
            array.flags.writeable = False  # it is handed out again
        while kept and 8 * counts.size * (len(kept) + 1) > _KEPT_BYTES:
            del kept[next(iter(kept))]
        kept[key] = model
    return kept[key]


_kept: ContextVar[dict[tuple[bytes, int], MarkovModel] | None] = ContextVar("kept", default=None)


@contextmanager
def kept_models() -> Iterator[None]:
    """Estimate each Markov model once: lags, yardstick and every source ask for the same ones. A decorator, too."""
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def _estimate(counts: NDArray[np.integer] | FloatArray, lagtime: int) -> MarkovModel:
    active = largest_connected_set(counts)
    transition, stationary = np.eye(len(counts)), np.zeros(len(counts))
    inner, pi = deeptime_adapter.reversible_transition_matrix(counts[np.ix_(active, active)])
    transition[np.ix_(active, active)] = inner
    stationary[active] = pi
    return MarkovModel(transition, stationary, active, lagtime)


# --- Passage times of a Markov chain ---------------------------------------------------------------------------------


def passage_times(
    transition: FloatArray, stationary: FloatArray, macrostate: IntArray, n_macrostates: int
) -> FloatArray:
    """Return mean first passage times (m, m) between macrostates in steps, NaN on the diagonal.

    From the first visit to the source after the target, to the next visit to the target: the share of time in which the
    source was visited last, over the rate of arrivals at the target from there.
    """
    live = stationary > 0
    T, pi, macro = transition[np.ix_(live, live)], stationary[live], macrostate[live]
    backward = pi[None, :] * T.T / pi[:, None]
    out = np.full((n_macrostates, n_macrostates), np.nan)
    for a in range(n_macrostates):
        for b in range(a + 1, n_macrostates):
            in_a, in_b = macro == a, macro == b
            if not (in_a.any() and in_b.any()):
                continue
            free = ~(in_a | in_b)
            last_a = in_a.astype(np.float64)
            if free.any():
                step = np.eye(int(free.sum())) - backward[np.ix_(free, free)]
                last_a[free] = np.linalg.solve(step, backward[np.ix_(free, in_a)].sum(axis=1))
            # In a stationary chain passages to and fro are equally frequent.
            flux = float((pi * last_a) @ T[:, in_b].sum(axis=1))
            if flux > 0:
                out[a, b] = float(pi @ last_a) / flux
                out[b, a] = float(pi @ (1 - last_a)) / flux
    return out


def mean_residence(
    transition: FloatArray, stationary: FloatArray, macrostate: IntArray, n_macrostates: int
) -> tuple[FloatArray, list[FloatArray]]:
    """Return mean residence times (m,) in steps, and for each macrostate the distribution of entered states (n,)."""
    times, entries = np.full(n_macrostates, np.nan), []
    for a in range(n_macrostates):
        inside = macrostate == a
        entry = np.where(inside, (stationary * ~inside) @ transition, 0.0)
        flux = entry.sum()
        entries.append(entry / flux if flux > 0 else entry)
        if flux > 0:
            times[a] = stationary[inside].sum() / flux
    return times, entries


def self_transitions(
    transition: FloatArray, stationary: FloatArray, macrostate: IntArray, n_macrostates: int, steps: IntArray
) -> FloatArray:
    """Return the probabilities (c, m) to be in a macrostate `steps` (c,), rising, after being in it."""
    member = (macrostate[:, None] == np.arange(n_macrostates)).astype(np.float64)
    start = member * stationary[:, None]
    with np.errstate(all="ignore"):
        start /= start.sum(axis=0)
    out, ahead, done = np.empty((len(steps), n_macrostates)), member, 0
    for c, wanted in enumerate(steps):
        while done < wanted:
            ahead = transition @ ahead
            done += 1
        out[c] = (start * ahead).sum(axis=0)
    return out
