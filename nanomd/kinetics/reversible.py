r"""The reversible Markov model of sparse counts, by Newton's method.

The transition matrix of largest likelihood under detailed balance is

.. math:: P_{ij} = \frac{s_{ij}}{c_i}\, \frac{1}{1 + e^{y_j - y_i}}, \qquad s_{ij} = c_{ij} + c_{ji},
          \quad c_i = \sum_j c_{ij}, \quad \pi_i \propto c_i e^{-y_i},

where y is such that rows sum to one (Trendelkamp-Schroer et al., J. Chem. Phys. 143, 174101, 2015, eq. 22, with
:math:`y_i = \ln(c_i / x_i)`). That is the gradient, set to zero, of a convex function, the likelihood of contests
between pairs (Bradley and Terry, Biometrika 39, 324, 1952); its Hessian is the Laplacian of a graph, as sparse as the
counts. The usual fixed-point iteration takes some thousand rounds, as many as the slowest process has steps; Newton's
method takes a handful. At equilibrium y is nearly zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError
from nanomd.base.extras import needs

if TYPE_CHECKING:
    from scipy.sparse import csr_array

FloatArray = NDArray[np.float64]

_STEP = 1e-8  # largest change of y at which it has converged: the next would be a thousandth of it
_PRECISION = 1e-3  # of a Newton step
_ROUNDS, _INNER = 60, 5000
_ELEMENTS = 1 << 20  # that are computed together
_ROWS = 1024  # whose elements are computed together: no second matrix is in memory
_SOLVED = 1e-11  # residual of a linear system, of its right-hand side
_DAMPED = 2.0  # of y in a round, at most: far away the quadratic model promises too much


def balancing_vector(counts: csr_array) -> FloatArray:
    """Return y (n,), of mean zero, of the reversible Markov model of largest likelihood.

    Parameters
    ----------
    counts : sparse matrix (n, n)
        Strongly connected transition counts.

    Raises
    ------
    InputError
        Where it does not converge.
    """
    needs("a Markov model", "scipy")
    pairs, row = _pairs(counts)
    return _newton(pairs, row, np.asarray(counts.sum(axis=1) - counts.diagonal(), np.float64))


def reversible_matrix(counts: csr_array, y: FloatArray) -> tuple[csr_array, FloatArray]:
    """Return the transition matrix (n, n) and the stationary vector (n,) of counts and their balancing vector."""
    from scipy.sparse import csr_array
    from scipy.special import expit

    n = len(y)
    total = np.asarray(counts.sum(axis=1), np.float64)
    transition = csr_array(counts + counts.T.tocsr()).astype(np.float64)
    # The diagonal holds twice the counts, of which a half is right.
    for begin in range(0, n, _ROWS):
        rows = slice(begin, min(begin + _ROWS, n))
        edges = transition.indptr[begin : rows.stop + 1]
        part = slice(int(edges[0]), int(edges[-1]))
        lengths = np.diff(edges)
        share = expit(np.repeat(y[rows], lengths) - y[transition.indices[part]])
        data = transition.data[part] * share / np.repeat(total[rows], lengths)
        sums = np.bincount(np.repeat(np.arange(len(lengths)), lengths), data, len(lengths))
        transition.data[part] = data / np.repeat(sums, lengths)
    stationary = total * np.exp(y.min() - y)
    return transition, stationary / stationary.sum()


def _pairs(counts: csr_array) -> tuple[csr_array, NDArray[Any]]:
    """Return the transitions between states, both ways together, above the diagonal; and the row of each element.

    (Half the memory of the whole matrix.)
    """
    from scipy.sparse import csr_array

    both = csr_array(counts + counts.T.tocsr())
    row = np.repeat(np.arange(both.shape[0], dtype=both.indices.dtype), np.diff(both.indptr))
    above = both.indices > row
    edges = np.append(0, np.cumsum(np.bincount(row[above], minlength=both.shape[0]))).astype(both.indptr.dtype)
    pairs = csr_array((both.data[above].astype(np.float64), both.indices[above], edges), shape=both.shape)
    return pairs, row[above]


def _newton(pairs: csr_array, row: NDArray[Any], leave: FloatArray) -> FloatArray:
    """Return y (n,), of mean zero, at which pairs (above the diagonal) explain how often states are left (n,)."""
    from scipy.sparse import csr_array
    from scipy.sparse.linalg import LinearOperator, cg
    from scipy.special import expit

    n = len(leave)
    ones = np.ones(n)
    won, weights = (csr_array((np.empty(pairs.nnz), pairs.indices, pairs.indptr), shape=(n, n)) for _ in range(2))
    y = np.zeros(n)

    def laplacian(v: FloatArray) -> FloatArray:
        v = v.ravel()
        return np.asarray(degree * v - weights @ v - weights.T @ v)

    for _ in range(_ROUNDS):
        for begin in range(0, pairs.nnz, _ELEMENTS):
            part = slice(begin, begin + _ELEMENTS)
            share = expit(y[row[part]] - y[pairs.indices[part]])
            won.data[part] = pairs.data[part] * share
            weights.data[part] = won.data[part] * (1 - share)
        gradient = won @ ones + pairs.T @ ones - won.T @ ones - leave
        degree = weights @ ones + weights.T @ ones
        system = LinearOperator((n, n), matvec=laplacian)
        jacobi = LinearOperator((n, n), matvec=lambda v, d=degree: v.ravel() / d)
        step, _ = cg(system, -gradient, rtol=_PRECISION, maxiter=_INNER, M=jacobi)
        step -= step.mean()
        largest = float(abs(step).max())
        if not np.isfinite(largest):
            break
        y += step * min(1.0, _DAMPED / max(largest, _DAMPED))
        if largest < _STEP:
            return y
    raise InputError("the reversible transition matrix did not converge; use a shorter lagtime or fewer states")


def solve_within(transition: Any, stationary: FloatArray, states: NDArray[np.int64], right: FloatArray) -> FloatArray:
    """Return x (f, ...) with (1 - T) x = `right` on some states, T the steps among them.

    Dense systems are solved directly. Those of a sparse reversible chain are positive definite in the weight of its
    stationary vector, and solved by conjugate gradients, which need no more memory than the matrix.

    Parameters
    ----------
    transition : array or sparse matrix (n, n)
        Sparse: reversible.
    stationary : ndarray (n,)
    states : ndarray (f,)
    right : ndarray (f,) or (f, k)

    Returns
    -------
    ndarray of the shape of `right`
        NaN where the iteration does not converge.
    """
    if isinstance(transition, np.ndarray):
        inside = transition[states[:, None], states]
        return np.asarray(np.linalg.solve(np.eye(len(states)) - inside, right), np.float64)
    from scipy.sparse.linalg import LinearOperator, cg

    inner, root = transition[states][:, states], np.sqrt(stationary[states])
    diagonal = 1 - inner.diagonal()
    system = LinearOperator(inner.shape, matvec=lambda v: v.ravel() - root * (inner @ (v.ravel() / root)))
    jacobi = LinearOperator(inner.shape, matvec=lambda v: v.ravel() / diagonal)
    columns = right.reshape(len(states), -1)
    out = np.empty(columns.shape)
    for k, column in enumerate(columns.T):
        found, failed = cg(system, root * column, rtol=_SOLVED, maxiter=_INNER, M=jacobi)
        out[:, k] = np.nan if failed else found / root
    return out.reshape(right.shape)
