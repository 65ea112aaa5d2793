r"""Microstates put into groups that exchange slowly: the coarse half of a factorised token.

Which group comes next is a decision among few, each seen often; which state within the group is a decision among
states that interconvert fast. Groups are therefore cut along the slowest processes: every state lies at

.. math:: x_{ik} = \lambda_k \psi_{ik}, \qquad P \psi_k = \lambda_k \psi_k

among the slowest eigenfunctions of the reversible transition matrix (a kinetic map: states that interconvert fast lie
close to each other; Noe and Clementi, J. Chem. Theory Comput. 2015), and the group with the largest variance is cut in
two, at the best place along its widest direction, until there are as many as wanted.

A few hardly seen states that hang together by one transition look like the slowest process of all. A few transitions
to nowhere are added to each state, as in regularised spectral clustering (Qin and Rohe, NeurIPS 2013): what rests on
few counts is then no longer slow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nanomd.base.checks import check_whole
from nanomd.base.errors import InputError
from nanomd.base.extras import needs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scipy.sparse import csr_array

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_PROCESSES = 12  # slow functions that place the states
_NOWHERE = 5.0  # transitions to nowhere of each state
_DENSE_STATES = 600  # up to here all eigenvectors take no longer than the slowest few
_LARGEST_GROUP = 4.0  # of sqrt(V) states
_PRECISION = 1e-5  # of eigenvalues: they only place the states
_VECTORS, _RESTARTS = 60, 300  # of the Lanczos iteration


def kinetic_groups(counts: csr_array, n_groups: int | None = None, *, seed: int = 0) -> IntArray:
    """Put microstates into groups that interconvert slowly.

    Parameters
    ----------
    counts : sparse matrix (V, V)
        Transition counts at one lag, see `nanomd.data.counts.sparse_transition_counts`.
    n_groups : int, optional
        G; about sqrt(V) by default.
    seed : int
        Of the iteration that finds the slow processes. Equal counts and seed give equal groups.

    Returns
    -------
    int64 array, shape (V,)
        The group of every state: 0..G-1, each with at least one state, numbered along the slowest process. No group
        has more than 4 sqrt(V) states, or twice V / G where that is more. States without a transition to or from the
        largest connected set have groups of their own, at the end.

    Raises
    ------
    InputError
        For counts that are not square, not finite or negative, or a number of groups outside [1, V].

    Examples
    --------
    Two pairs of states, with one passage between them:

    >>> from scipy.sparse import csr_array
    >>> counts = csr_array([[90, 40, 0, 0], [39, 80, 1, 0], [0, 0, 70, 30], [0, 0, 30, 60]])
    >>> groups = kinetic_groups(counts, 2)
    >>> bool(groups[0] == groups[1] != groups[2] == groups[3])
    True
    """
    return place_and_group(counts, n_groups, seed=seed)[0]


def place_and_group(counts: csr_array, n_groups: int | None = None, *, seed: int = 0) -> tuple[IntArray, FloatArray]:
    """Return the groups of `kinetic_groups`, and where every state lies among the slow processes.

    Returns
    -------
    groups : int64 array, shape (V,)
    coordinates : float64 array, shape (V, k)
        Slow processes as functions of the states, scaled by their eigenvalues; zero where a state is not connected.
    """
    needs("groups of states", "scipy")
    exchange = _exchange(counts)
    n = exchange.shape[0]
    n_groups = round(n**0.5) if n_groups is None else check_whole("n_groups", n_groups, 1, n)
    limit = int(np.ceil(max(_LARGEST_GROUP * n**0.5, 2 * n / n_groups)))
    inside, elsewhere = _connected(exchange)
    n_own = -(-len(elsewhere) // limit)  # groups of what is not connected
    place, weight = _kinetic_map(exchange[inside][:, inside], seed)
    coordinates = np.zeros((n, max(1, place.shape[1] - 1)))
    coordinates[inside, : place.shape[1] - 1] = place[:, 1:]  # the first is stationary: the same everywhere
    if n_groups == 1:
        return np.zeros(n, np.int64), coordinates
    n_connected = n_groups - n_own
    if n_connected > len(inside):  # more groups than connected states: the rest of them is for the others
        n_connected, n_own = len(inside), n_groups - len(inside)
    groups = np.empty(n, np.int64)
    groups[inside] = _cut(place, weight, n_connected, limit)
    groups[elsewhere] = n_connected + np.arange(len(elsewhere)) * n_own // max(1, len(elsewhere))
    return groups, coordinates


def to_groups(tokens: Sequence[NDArray[Any]], sizes: Sequence[int]) -> list[NDArray[np.int32]]:
    """Return trajectories of groups: that of every token, of groups with the given sizes."""
    group = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    return [group[np.asarray(t)] for t in tokens]


def _exchange(counts: Any) -> csr_array:
    """Return transitions between states in both directions together (V, V), checked."""
    from scipy.sparse import csr_array

    matrix = csr_array(counts).astype(np.float64)
    if matrix.shape[0] != matrix.shape[1]:
        raise InputError(f"counts must be square (states, states), got shape {matrix.shape}")
    if not (np.isfinite(matrix.data).all() and (matrix.data >= 0).all()):
        raise InputError("counts must be finite and at least 0; count transitions with sparse_transition_counts")
    return csr_array(matrix + matrix.T)


def _connected(exchange: csr_array) -> tuple[IntArray, IntArray]:
    """Return the states of the connected set with the most transitions, and the others, set by set."""
    from scipy.sparse.csgraph import connected_components

    _, label = connected_components(exchange, directed=False)
    largest = int(np.argmax(np.bincount(label, exchange.sum(axis=1))))
    order = np.argsort(label, kind="stable")
    return np.flatnonzero(label == largest), order[label[order] != largest].astype(np.int64)


def _kinetic_map(exchange: csr_array, seed: int) -> tuple[FloatArray, FloatArray]:
    """Return where connected states lie among the slow processes (n, k), slowest first, and their weights (n,)."""
    from scipy.sparse import dia_array
    from scipy.sparse.linalg import ArpackNoConvergence, eigsh

    n = exchange.shape[0]
    weight = np.asarray(exchange.sum(axis=1), np.float64) + _NOWHERE
    root = np.sqrt(weight)
    scale = dia_array((1 / root[None, :], [0]), shape=(n, n))
    symmetric = scale @ exchange @ scale
    number = min(_PROCESSES, n)
    if n <= _DENSE_STATES:
        values, vectors = np.linalg.eigh(symmetric.toarray())
    else:
        start = np.random.default_rng(seed).random(n) * root
        try:
            values, vectors = eigsh(
                symmetric, number, which="LA", v0=start, ncv=_VECTORS, maxiter=_RESTARTS, tol=_PRECISION
            )
        except ArpackNoConvergence as stopped:  # the slowest come first: what there is will do
            values, vectors = stopped.eigenvalues, stopped.eigenvectors
    order = np.argsort(-values)[:number]
    vectors = vectors[:, order] * np.sign(vectors[np.argmax(abs(vectors[:, order]), axis=0), order])
    return np.asarray(values[order] * vectors / root[:, None] * np.sqrt(weight.sum()), np.float64), weight


def _cut(place: FloatArray, weight: FloatArray, n_groups: int, limit: int) -> IntArray:
    """Cut states at `place` (n, k) into groups of at most `limit`: labels (n,), numbered along the slowest process.

    Groups of more than the limit will need further cuts. The number of groups needed in the end, the sum of
    ceil(size / limit), never exceeds `n_groups`, so that none is larger than the limit when all cuts are made.
    """
    groups = [np.arange(len(place))]
    spreads = [_spread(place, weight)]
    needed = -(-len(place) // limit)
    while len(groups) < n_groups:
        spare = needed < n_groups
        size = np.array([len(group) for group in groups])
        allowed = np.where(size > (1 if spare else limit), np.array(spreads), -1.0)
        chosen = int(np.argmax(allowed))
        if not allowed[chosen] > 0:  # nothing tells the states apart: the largest group is halved
            chosen = int(np.argmax(size))
        group = groups.pop(chosen)
        del spreads[chosen]
        needed -= -(-len(group) // limit)
        for half in _halves(group, place[group], weight[group], limit, spare):
            groups.append(half)
            spreads.append(_spread(place[half], weight[half]))
            needed += -(-len(half) // limit)
    along = [np.average(place[group, min(1, place.shape[1] - 1)], weights=weight[group]) for group in groups]
    labels = np.empty(len(place), np.int64)
    for number, which in enumerate(np.argsort(along, kind="stable")):
        labels[groups[which]] = number
    return labels


def _spread(place: FloatArray, weight: FloatArray) -> float:
    """Return the weighted variance of a group's places, summed over its states."""
    mean = np.average(place, axis=0, weights=weight)
    return float(weight @ ((place - mean) ** 2).sum(axis=1)) if len(place) > 1 else 0.0


def _halves(
    group: IntArray, place: FloatArray, weight: FloatArray, limit: int, spare: bool
) -> tuple[IntArray, IntArray]:
    """Cut a group in two where the variance between the halves along its widest direction is largest.

    Without a spare group, only where the halves do not need more groups of the limit than the whole.
    """
    centred = place - np.average(place, axis=0, weights=weight)
    widest = np.linalg.eigh(centred.T @ (weight[:, None] * centred))[1][:, -1]
    position = centred @ widest
    order = np.argsort(position, kind="stable")
    left = np.arange(1, len(group))  # states left of the cut
    mass = np.cumsum(weight[order])[:-1]
    moment = np.cumsum((weight * position)[order])[:-1]
    between = moment**2 * (1 / mass + 1 / (weight.sum() - mass))
    fits = -(-left // limit) - (-(len(group) - left) // limit) <= -(-len(group) // limit) + spare
    between = np.where(fits, between, -1.0)
    best = np.flatnonzero(between >= between.max() * (1 - 1e-9))
    cut = left[best[np.argmin(abs(left[best] - len(group) / 2))]]  # of equals the most even
    return group[order[:cut]], group[order[cut:]]
