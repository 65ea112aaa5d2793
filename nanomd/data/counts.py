"""Transitions of discrete trajectories, counted; their connected states; and the stationary vector of a chain.

Everything here is NumPy, SciPy and the compiled core, so that a rollout may use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd import _native
from nanomd.base.errors import InputError
from nanomd.base.extras import needs

if TYPE_CHECKING:
    from scipy.sparse import csr_array

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

MAX_DENSE_STATES = 8192  # a dense matrix of 64-bit numbers takes 0.5 GiB
SPARSE_STATES = 2048  # beyond, kinetics are computed from sparse counts
_DENSE_SOLVE = 2048  # up to here a dense solve takes no longer than a sparse one
_DIRECT_SOLVE = 4096  # beyond, factors of a sparse matrix may fill gigabytes
_EIGEN_VECTORS, _SMOOTHING = 60, 50  # of the iteration; steps of the chain after it
_ROWS = 4096  # of a sparse matrix that are looked at together
_AT_ONCE = 1 << 22  # transitions that are put into a sparse matrix together


def transition_counts(dtrajs: Sequence[ArrayLike], n_states: int, lagtime: int = 1) -> IntArray:
    """Count transitions (n_states, n_states) at a lag in frames, sliding: every frame starts one.

    Negative labels are unassigned frames: no transition begins or ends there.

    Raises
    ------
    InputError
        For more than `MAX_DENSE_STATES` states (see `sparse_transition_counts`), or a label of n_states or more.
    """
    if n_states > MAX_DENSE_STATES:
        raise InputError(
            f"n_states must be at most {MAX_DENSE_STATES} for a table of all states by all, got {n_states}; use "
            "nanomd.data.counts.sparse_transition_counts, or coarser states"
        )
    counts: IntArray = _native.count_transitions(dtrajs, n_states, lagtime)[0]
    return counts


def sparse_transition_counts(dtrajs: Sequence[ArrayLike], n_states: int, lagtime: int = 1) -> csr_array:
    """Count transitions as `transition_counts` does, into a sparse matrix, for any number of states.

    No more than some four million transitions are in memory besides the matrix.
    """
    from scipy.sparse import csr_array

    if n_states <= _DENSE_SOLVE:
        return csr_array(transition_counts(dtrajs, n_states, lagtime))
    if lagtime < 1:
        raise InputError(f"lagtime must be at least 1, got {lagtime}")
    trajectories: Sequence[Any] = dtrajs
    small = sum(map(len, trajectories)) < 2**31
    total = csr_array((n_states, n_states), dtype=np.int32 if small else np.int64)
    waiting: list[tuple[NDArray[Any], NDArray[Any]]] = []
    number = 0
    for dtraj in dtrajs:
        frames = np.asarray(dtraj)
        if frames.size and frames.max() >= n_states:
            raise InputError(f"states must be below n_states = {n_states}, got {frames.max()}")
        for begin in range(0, max(len(frames) - lagtime, 0), _AT_ONCE):
            source = frames[begin : min(begin + _AT_ONCE, len(frames) - lagtime)]
            target = frames[begin + lagtime : begin + lagtime + len(source)]
            waiting.append((source, target))
            number += len(source)
            if number >= _AT_ONCE:
                total, waiting, number = total + _sparse(waiting, n_states), [], 0
    return csr_array(total + _sparse(waiting, n_states) if waiting else total)


def _sparse(pairs: list[tuple[NDArray[Any], NDArray[Any]]], n_states: int) -> csr_array:
    """Return a sparse matrix of the numbers of pairs of states; a negative one is no state."""
    from scipy.sparse import coo_array

    source, target = (np.concatenate(side).astype(np.int32) for side in zip(*pairs, strict=True))
    inside = (source >= 0) & (target >= 0)
    if not inside.all():
        source, target = source[inside], target[inside]
    return coo_array((np.ones(len(source), np.int32), (source, target)), shape=(n_states, n_states)).tocsr()


def model_counts(dtrajs: Sequence[ArrayLike], n_states: int, lagtime: int = 1) -> Any:
    """Count transitions for a Markov model: an array (n, n) up to `SPARSE_STATES` states, a sparse matrix beyond."""
    if n_states <= SPARSE_STATES:
        return transition_counts(dtrajs, n_states, lagtime)
    return sparse_transition_counts(dtrajs, n_states, lagtime)


def submatrix(matrix: Any, states: IntArray) -> Any:
    """Return rows and columns of some states of a matrix (n, n), dense or sparse."""
    if isinstance(matrix, np.ndarray):
        return matrix[np.ix_(states, states)]
    return matrix[states][:, states]


def renumbered_counts(counts: Any, places: IntArray, n_states: int) -> Any:
    """Return counts (p, p), dense or sparse, among `places` (p,) of n states: as `model_counts` would give them."""
    from scipy.sparse import coo_array

    if n_states <= SPARSE_STATES:
        out = np.zeros((n_states, n_states), np.int64)
        out[np.ix_(places, places)] = counts if isinstance(counts, np.ndarray) else counts.toarray()
        return out
    pairs = coo_array(counts)
    row, column = (places[index] for index in pairs.coords)
    return coo_array((pairs.data, (row, column)), shape=(n_states, n_states)).tocsr()


def count_model(counts: IntArray, lagtime: int, visits: IntArray) -> Any:
    """Return sliding counts (n, n) and visits (n,) as deeptime's TransitionCountModel."""
    needs("deeptime's count model", "deeptime")
    from deeptime.markov import TransitionCountModel

    return TransitionCountModel(
        counts.astype(np.float64), counting_mode="sliding", lagtime=lagtime, state_histogram=visits
    )


def largest_connected_set(counts: Any) -> IntArray:
    """Return the states of the strongly connected set with the most transitions, sorted.

    Parameters
    ----------
    counts : array or sparse matrix (n, n)
        Transition counts. Only transitions between different states weigh: a state in which a trajectory stays for long
        is no large set. Where there are none, the state with the most transitions to itself.
    """
    needs("a Markov model", "scipy")
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    matrix = csr_array(counts)
    n_sets, label = connected_components(matrix, directed=True, connection="strong")
    if n_sets == 1:
        return np.arange(len(label))
    between, staying = np.zeros(n_sets), np.zeros(n_sets)
    for begin in range(0, len(label), _ROWS):
        edges = matrix.indptr[begin : begin + _ROWS + 1]
        target, number = matrix.indices[edges[0] : edges[-1]], matrix.data[edges[0] : edges[-1]]
        source = begin + np.repeat(np.arange(len(edges) - 1), np.diff(edges))
        within = label[source] == label[target]
        staying += np.bincount(label[source[within]], number[within], minlength=n_sets)
        within &= source != target
        between += np.bincount(label[source[within]], number[within], minlength=n_sets)
    largest = int(np.argmax(between if between.any() else staying))
    return np.flatnonzero(label == largest).astype(np.int64)


def stationary_vector(transition: Any) -> FloatArray:
    """Return the vector (n,) of sum 1 that a connected transition matrix (n, n), dense or sparse, leaves unchanged.

    Rows of the matrix sum to one. It may hold slightly negative elements, as sums of transfer tensors do; a stochastic
    matrix gives no negative element.
    """
    n = transition.shape[0]
    if n == 1:
        return np.ones(1)
    # pi (T - 1) = 0 with the first element fixed to 1: the rest is a regular linear system.
    if isinstance(transition, np.ndarray) or n <= _DENSE_SOLVE:
        dense = transition if isinstance(transition, np.ndarray) else transition.toarray()
        system = (dense.T - np.eye(n))[1:]
        rest = np.linalg.solve(system[:, 1:], -system[:, 0])
        stochastic = bool(dense.min() >= 0)
    elif n > _DIRECT_SOLVE:
        return _iterated_vector(transition)
    else:
        from scipy.sparse import csc_array, eye_array
        from scipy.sparse.linalg import spsolve

        system = csc_array(transition.T - eye_array(n))[1:]
        rest = spsolve(csc_array(system[:, 1:]), -system[:, [0]].toarray().ravel())
        stochastic = bool(transition.data.min() >= 0)
    vector = np.append(1.0, rest)
    if stochastic:
        vector = np.maximum(vector, 0.0)  # below zero by rounding
    return np.asarray(vector / vector.sum(), np.float64)


def _iterated_vector(transition: Any) -> FloatArray:
    """Return the stationary vector of a large sparse chain, by Arnoldi's iteration; NaN where it does not converge."""
    from scipy.sparse.linalg import ArpackNoConvergence, eigs

    n = transition.shape[0]
    back = transition.T.tocsr()
    start = np.full(n, 1.0 / n)
    for _ in range(_SMOOTHING):
        start = back @ start
    try:
        _, vectors = eigs(back, 1, which="LR", v0=start, ncv=_EIGEN_VECTORS, tol=1e-10)
    except ArpackNoConvergence:
        return np.full(n, np.nan)
    vector = vectors[:, 0].real
    vector = np.maximum(vector / vector.sum(), 0.0)  # below zero by what is left of the error
    for _ in range(_SMOOTHING):  # rare states get theirs from their neighbours
        vector = back @ vector
    return np.asarray(vector / vector.sum(), np.float64)
