r"""PCCA+ from the slow eigenvectors alone, for chains whose matrix is too large to be dense.

Memberships are linear in the eigenvectors, :math:`\chi = X A`, with :math:`\chi \ge 0` and rows of sum one. A is begun
with the vertices of the simplex that the rows of X fill (Weber and Galliat, ZIB report 02-12, 2002), and changed until
:math:`\sum_{ij} A_{ij}^2 / A_{0j}` is largest, which makes memberships as crisp as can be (Roeblitz and Weber, Adv.
Data Anal. Classif. 7, 147, 2013, eq. 29).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def pcca_memberships(slow: FloatArray) -> FloatArray:
    """Return the memberships (n, m) of states in m metastable sets, rows of sum one.

    Parameters
    ----------
    slow : ndarray (n, m - 1)
        Right eigenvectors, slowest first, without the constant one; orthonormal in the weight of the stationary vector.
    """
    from scipy.optimize import fmin

    vectors = np.column_stack([np.ones(len(slow)), slow])
    m = vectors.shape[1]
    begin = np.linalg.inv(vectors[_vertices(vectors)])[1:, 1:]

    def uncrisp(rotation: FloatArray) -> float:
        full = _feasible(rotation.reshape(m - 1, m - 1), slow)
        return -float((full**2 / full[0]).sum())

    best = fmin(uncrisp, begin.ravel(), disp=False)
    found = np.clip(vectors @ _feasible(best.reshape(m - 1, m - 1), slow), 0.0, 1.0)
    return np.asarray(found / found.sum(axis=1, keepdims=True), np.float64)


def _vertices(vectors: FloatArray) -> list[int]:
    """Return the rows of (n, m) that span the largest simplex, each the farthest from the span of those before."""
    chosen = [int(np.argmax((vectors**2).sum(axis=1)))]
    rest = vectors - vectors[chosen[0]]
    while len(chosen) < vectors.shape[1]:
        distance = (rest**2).sum(axis=1)
        distance[chosen] = -1.0
        chosen.append(int(np.argmax(distance)))
        direction = rest[chosen[-1]] / np.sqrt(max(distance[chosen[-1]], 1e-300))
        rest = rest - np.outer(rest @ direction, direction)
    return chosen


def _feasible(rotation: FloatArray, slow: FloatArray) -> FloatArray:
    """Complete the lower right part (m - 1, m - 1) of A such that memberships are at least 0 and of sum 1: (m, m)."""
    lower = np.column_stack([-rotation.sum(axis=1), rotation])
    top = -(slow @ lower).min(axis=0)
    return np.asarray(np.vstack([top, lower]) / top.sum(), np.float64)
