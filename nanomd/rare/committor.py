"""Progress from source to target: the committor of a Markov model of the model's own states, and bins of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd._native import Histories
from nanomd.rare.many_states import likely_transitions, sparse_committor
from nanomd.rare.propagator import STREAM_CONTEXT, Propagator

DENSE_STATES = 2048  # beyond, the matrix is sparse
_WALKERS_PER_STATE = 2
_LENGTH = 64  # steps of each
_PROBABILITIES = (
    1 << 31
)  # of all contexts, which bounds the time; fewer and shorter walkers where there are many states
_AT_ONCE = 1 << 24  # probabilities, which bounds the memory on the way

FloatArray = NDArray[np.float64]


def _contexts(propagator: Propagator) -> Iterator[tuple[NDArray[np.uint16], NDArray[np.float32]]]:
    """Yield the present token (m,) and ln p of the next (m, V) in every context of short rollouts from every state."""
    task = propagator.task
    n = task.n_states
    n_walkers = min(_WALKERS_PER_STATE, max(1, _PROBABILITIES // n**2))
    length = min(_LENGTH, max(1, _PROBABILITIES // (n_walkers * n**2)))
    starts = np.tile(np.arange(n, dtype=np.uint16), n_walkers)
    nowhere = np.zeros(n, bool)
    batch = max(1, _AT_ONCE // (length * n))
    for first in range(0, len(starts), batch):
        some = starts[first : first + batch]
        tokens = some[:, None]
        if length > 1:
            propagator.restart(Histories(list(tokens), np.zeros(len(some), np.uint64)))
            streams = STREAM_CONTEXT + first + np.arange(len(some))
            drawn, _ = propagator.advance(streams, 0, length - 1, nowhere)
            tokens = np.concatenate((tokens, drawn), axis=1)
        log_p = task.engine.log_probs(tokens, mode=task.mode, hop_keep=task.hop_keep, n_threads=task.n_threads)
        propagator.steps += tokens.size
        yield tokens.ravel(), log_p.reshape(-1, n)


def mean_transitions(propagator: Propagator) -> FloatArray:
    """Return the model's mean probability of the next state after each state, (V, V), rows of sum 1.

    The mean is over the contexts of short rollouts that start once and again in every state. Probabilities are
    averaged, not drawn states counted, so that a transition of probability 1e-8 is known after some hundred steps.
    """
    n = propagator.task.n_states
    sums = np.zeros((n, n))
    for tokens, log_p in _contexts(propagator):
        order = np.argsort(tokens, kind="stable")
        present, begins = np.unique(tokens[order], return_index=True)
        rows = np.exp(log_p.astype(np.float64) / propagator.task.temperature)
        sums[present] += np.add.reduceat(rows[order], begins, axis=0)
    mean: FloatArray = sums / sums.sum(axis=1, keepdims=True)
    return mean


def committor(matrix: FloatArray, source: NDArray[np.bool_], target: NDArray[np.bool_]) -> FloatArray:
    """Return the probability (V,) to reach the target before the source: 0 in the source, 1 in the target."""
    free = ~(source | target)
    value = target.astype(np.float64)
    if free.any():
        inner = np.eye(int(free.sum())) - matrix[np.ix_(free, free)]
        value[free] = np.clip(np.linalg.solve(inner, matrix[np.ix_(free, target)].sum(axis=1)), 1e-300, 1.0)
    return value


def model_progress(propagator: Propagator) -> FloatArray:
    """Return ln(committor) of every state, (V,), of the Markov model that `mean_transitions` gives.

    It starts at the mean committor of those that leave the source: less promising states are as good as back.
    """
    task = propagator.task
    matrix: Any
    if task.n_states > DENSE_STATES:
        matrix = likely_transitions(_contexts(propagator), task.n_states, 1 / task.temperature)
        value = sparse_committor(matrix, task.source, task.target)
    else:
        matrix = mean_transitions(propagator)
        value = committor(matrix, task.source, task.target)
    weight = task.files.starts.stationary[task.source]
    outside = np.flatnonzero(~task.source)
    leaving = (weight if weight.any() else np.ones(len(weight))) @ matrix[np.flatnonzero(task.source)][:, outside]
    floor = float(leaving @ value[outside] / leaving.sum())
    return np.log(np.maximum(value, floor))


def bins_of_states(
    progress: FloatArray, source: NDArray[np.bool_], target: NDArray[np.bool_], n_bins: int
) -> NDArray[np.int64]:
    """Return the bin of every state, (V,): 0 for the source, then by rising progress.

    Every value has a bin of its own where there are at most `n_bins`; else bins are of equal width.
    """
    free = ~(source | target)
    bins = np.zeros(len(progress), np.int64)
    if free.any():
        values, index = np.unique(progress[free], return_inverse=True)
        if len(values) > n_bins:
            edges = np.linspace(values[0], values[-1], n_bins + 1)[1:-1]
            index = np.searchsorted(edges, progress[free], side="right")
            index = np.unique(index, return_inverse=True)[1]
        bins[free] = 1 + index
    bins[target] = bins.max() + 1
    return bins
