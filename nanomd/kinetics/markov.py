"""Markov models of discrete trajectories, as plain full-length arrays; sparse matrices where states are many."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError
from nanomd.data.counts import largest_connected_set, submatrix
from nanomd.kinetics import deeptime_adapter
from nanomd.kinetics.reversible import balancing_vector, reversible_matrix, solve_within

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_DENSE_STATES = 600  # up to here all eigenvectors take no longer than the slowest few
_KEPT_BYTES = 1 << 28  # of transition matrices
_KEPT_SPARSE = 16  # of which the small parts are kept
_KEPT_BESIDE = 1 << 26  # bytes of matrices while a sparse one is estimated, which takes several times its size
_KEPT_PROCESSES = 12  # of a sparse model: all that a validation asks for, found once
_EIGEN_PRECISION, _EIGEN_VECTORS = 1e-10, 60  # of the Lanczos iteration


@dataclass
class Found:
    """What takes long to find of a sparse model, and is small beside its matrix."""

    balance: FloatArray | None = None  # (a,), of the active states, see `nanomd.kinetics.reversible`
    processes: tuple[FloatArray, FloatArray] | None = None  # values (k,) and symmetric vectors (a, k), unsorted


@dataclass(frozen=True)
class MarkovModel:
    """A reversible Markov state model.

    Parameters
    ----------
    transition : ndarray or csr_array (n, n)
        Row-stochastic; sparse where the counts were. A state outside the active set stays where it is.
    stationary : ndarray (n,)
        Zero outside the active set.
    active : ndarray of int64
        The states of the largest connected set, sorted.
    lagtime : int
        Frames per step of the matrix.
    """

    transition: Any
    stationary: FloatArray
    active: IntArray
    lagtime: int
    found: Found = field(default_factory=Found, repr=False, compare=False)

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
        k = min(n_processes, len(pi) - 1)
        if isinstance(self.transition, np.ndarray):
            symmetric = root[:, None] * self.transition[np.ix_(self.active, self.active)] / root[None, :]
            symmetric = 0.5 * (symmetric + symmetric.T)
            if len(pi) > _DENSE_STATES:
                from scipy.sparse.linalg import eigsh

                values, vectors = eigsh(symmetric, k + 1, which="LA", v0=root)
            else:
                values, vectors = np.linalg.eigh(symmetric)
        else:
            values, vectors = self._sparse_eigen(root, k)
        order = np.argsort(values)[::-1][1 : k + 1]
        right, left = np.zeros((self.n_states, k)), np.zeros((self.n_states, k))
        right[self.active] = vectors[:, order] / root[:, None]
        left[self.active] = vectors[:, order] * root[:, None]
        return values[order], right, left

    def _sparse_eigen(self, root: FloatArray, n_processes: int) -> tuple[FloatArray, FloatArray]:
        """Return at least the slowest eigenvalues and eigenvectors of the symmetric matrix, the stationary one too."""
        from scipy.sparse.linalg import LinearOperator, eigsh

        known = self.found.processes
        if known is not None and len(known[0]) > n_processes:
            return known
        inner, n = submatrix(self.transition, self.active), len(root)
        number = min(max(n_processes, _KEPT_PROCESSES) + 1, n)
        if number >= n - 1:
            self.found.processes = np.linalg.eigh(root[:, None] * inner.toarray() / root)
        else:
            operator = LinearOperator((n, n), matvec=lambda v: root * (inner @ (v.ravel() / root)), dtype=np.float64)
            vectors = min(n, max(_EIGEN_VECTORS, 2 * number + 1))
            self.found.processes = eigsh(operator, number, which="LA", v0=root, ncv=vectors, tol=_EIGEN_PRECISION)
        return self.found.processes

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


def estimate_markov_model(counts: Any, lagtime: int) -> MarkovModel:
    """Estimate a reversible Markov model from transition counts (n, n), on their largest connected set.

    The estimator is the reversible maximum-likelihood one, which needs no equilibrium data: deeptime's, or Newton's
    method where counts are a sparse matrix (`nanomd.kinetics.reversible`).

    Raises
    ------
    InputError
        Without any transition.
    """
    dense = isinstance(counts, np.ndarray) or not hasattr(counts, "tocsr")
    counts = np.asarray(counts) if dense else counts.tocsr()
    if counts.sum() == 0:
        raise InputError(f"there are no transitions at lagtime {lagtime}; use a shorter lagtime or longer trajectories")
    kept = _kept.get()
    if kept is None:
        return _estimate(counts, lagtime) if dense else _estimate_sparse(counts, lagtime, Found())
    parts: list[Any] = [np.asarray(counts, np.float64)] if dense else [counts.indptr, counts.indices, counts.data]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part).data.cast("B"))
    key = (digest.digest(), lagtime)
    if key not in kept.models:
        if dense:
            model = _estimate(counts, lagtime)
        else:
            _forget(kept, _KEPT_BESIDE)
            model = _estimate_sparse(counts, lagtime, kept.small.setdefault(key, Found()))
            while len(kept.small) > _KEPT_SPARSE:
                del kept.small[next(iter(kept.small))]
        for array in (model.stationary, model.active, model.transition if dense else model.transition.data):
            array.flags.writeable = False  # it is handed out again
        kept.models[key] = model
        _forget(kept, max(_KEPT_BYTES, _size(model)))
    return kept.models[key]


def _size(model: MarkovModel) -> int:
    """Return the bytes of a model's matrix."""
    matrix = model.transition
    return int(matrix.nbytes if isinstance(matrix, np.ndarray) else matrix.data.nbytes + matrix.indices.nbytes)


def _forget(kept: _Kept, most: int) -> None:
    """Forget the oldest models until the rest take no more than so many bytes."""
    while kept.models and sum(map(_size, kept.models.values())) > most:
        del kept.models[next(iter(kept.models))]


_Key = tuple[bytes, int]


@dataclass
class _Kept:
    """Models by their counts; and of many sparse ones what took long to find, but is small beside the matrix."""

    models: dict[_Key, MarkovModel] = field(default_factory=dict)
    small: dict[_Key, Found] = field(default_factory=dict)


_kept: ContextVar[_Kept | None] = ContextVar("kept", default=None)


@contextmanager
def kept_models() -> Iterator[None]:
    """Estimate each Markov model once: lags, yardstick and every source ask for the same ones. A decorator, too."""
    token = _kept.set(_Kept())
    try:
        yield
    finally:
        _kept.reset(token)


def _estimate(counts: NDArray[Any], lagtime: int) -> MarkovModel:
    active = largest_connected_set(counts)
    transition, stationary = np.eye(len(counts)), np.zeros(len(counts))
    inner = counts[np.ix_(active, active)]
    if len(active) > _DENSE_STATES:  # the same model, a hundred times faster
        from scipy.sparse import csr_array

        sparse = csr_array(inner)
        found, stationary[active] = reversible_matrix(sparse, balancing_vector(sparse))
        transition[np.ix_(active, active)] = found.toarray()
    else:
        found, stationary[active] = deeptime_adapter.reversible_transition_matrix(inner)
        transition[np.ix_(active, active)] = found
    return MarkovModel(transition, stationary, active, lagtime)


def _estimate_sparse(counts: Any, lagtime: int, found: Found) -> MarkovModel:
    active = largest_connected_set(counts)
    inner = submatrix(counts, active)
    if found.balance is None:
        found.balance = balancing_vector(inner)
    stationary = np.zeros(counts.shape[0])
    transition, stationary[active] = reversible_matrix(inner, found.balance)
    return MarkovModel(_spread(transition, active, counts.shape[0]), stationary, active, lagtime, found)


def _spread(inner: Any, active: IntArray, n_states: int) -> Any:
    """Return a sparse matrix (n, n) with the rows and columns of `inner` (a, a) at some states; others stay."""
    from scipy.sparse import csr_array

    if len(active) == n_states:
        return inner
    lengths = np.ones(n_states, np.int64)
    lengths[active] = np.diff(inner.indptr)
    starts = np.append(0, np.cumsum(lengths)).astype(inner.indptr.dtype)
    alone = np.setdiff1d(np.arange(n_states), active)
    data, columns = np.ones(starts[-1]), np.empty(starts[-1], inner.indices.dtype)
    elsewhere = np.ones(len(data), np.bool_)
    elsewhere[starts[alone]] = False
    data[elsewhere], columns[elsewhere] = inner.data, active.astype(columns.dtype)[inner.indices]
    columns[starts[alone]] = alone
    return csr_array((data, columns, starts), shape=(n_states, n_states))


# --- Passage times of a Markov chain ---------------------------------------------------------------------------------


def passage_times(transition: Any, stationary: FloatArray, macrostate: IntArray, n_macrostates: int) -> FloatArray:
    """Return mean first passage times (m, m) between macrostates in steps, NaN on the diagonal.

    From the first visit to the source after the target, to the next visit to the target: the share of time in which the
    source was visited last, over the rate of arrivals at the target from there.
    """
    live = np.flatnonzero(stationary > 0)
    T, pi, macro = submatrix(transition, live), stationary[live], macrostate[live]
    # Of a reversible chain, such as those of sparse matrices are, the time-reversed one is the same.
    backward = pi[None, :] * T.T / pi[:, None] if isinstance(T, np.ndarray) else T
    out = np.full((n_macrostates, n_macrostates), np.nan)
    for a in range(n_macrostates):
        for b in range(a + 1, n_macrostates):
            in_a, in_b = macro == a, macro == b
            if not (in_a.any() and in_b.any()):
                continue
            free = np.flatnonzero(~(in_a | in_b))
            last_a = in_a.astype(np.float64)
            if len(free):
                last_a[free] = solve_within(backward, pi, free, (backward @ last_a)[free])
            # In a stationary chain passages to and fro are equally frequent.
            flux = float((pi * last_a) @ (T @ in_b.astype(np.float64)))
            if flux > 0:
                out[a, b] = float(pi @ last_a) / flux
                out[b, a] = float(pi @ (1 - last_a)) / flux
    return out


def mean_residence(
    transition: Any, stationary: FloatArray, macrostate: IntArray, n_macrostates: int
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
    transition: Any, stationary: FloatArray, macrostate: IntArray, n_macrostates: int, steps: IntArray
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
