"""The committor of a model of thousands of states: of its most probable steps, without a table of all pairs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd.base.extras import needs

_KEPT = 64  # next states of a context
_PRECONDITIONED = 1e-3  # less probable steps are left to the iterations
_SWEEPS = 200
_DEATH = 1e-12  # a step; a set of states that nothing leaves would make the equations singular

FloatArray = NDArray[np.float64]


def likely_transitions(contexts: Iterable[tuple[NDArray[np.uint16], NDArray[np.float32]]], n: int, beta: float) -> Any:
    """Return the mean probability of the next states after each state, as a sparse (n, n) array, rows of sum 1.

    Of every context the 64 most probable next states count.

    Parameters
    ----------
    contexts : iterable of (m,) uint16 and (m, n) float32
        The present token, and ln p of every next one.
    n : int
        States.
    beta : float
        Inverse temperature of the sampling.
    """
    needs(f"progress of {n} states", "scipy")
    from scipy import sparse

    total, kept = sparse.csr_array((n, n)), min(_KEPT, n)
    for tokens, log_p in contexts:
        least = np.partition(log_p, n - kept, axis=1)[:, n - kept, None]
        context, after = np.divmod(np.flatnonzero(log_p >= least), n)
        p = np.exp(log_p[context, after].astype(np.float64) * beta)
        total = total + sparse.csr_array((p, (tokens[context], after)), shape=(n, n))
    return sparse.diags_array(1 / total.sum(axis=1)).tocsr() @ total


def sparse_committor(matrix: Any, source: NDArray[np.bool_], target: NDArray[np.bool_]) -> FloatArray:
    """Do what `nanomd.rare.committor.committor` does, for a sparse array.

    The equations of the states between are solved by stabilised biconjugate gradients, with an incomplete factorisation
    of all but the least probable steps before them. What is left of an error is taken out of small values by sweeps,
    which know no negative numbers.
    """
    needs(f"progress of {len(source)} states", "scipy")
    from scipy import sparse
    from scipy.sparse import linalg

    value = target.astype(np.float64)
    free = np.flatnonzero(~(source | target))
    if not len(free):
        return value
    rows = matrix[free]
    inner = rows[:, free]
    stay = inner.diagonal()
    leave = 1 / np.maximum(1 - stay, _DEATH)
    moving = (sparse.diags_array(leave) @ (inner - sparse.diags_array(stay))).tocsr()
    into = leave * np.asarray(rows[:, np.flatnonzero(target)].sum(axis=1)).ravel()
    identity = sparse.eye_array(len(free))
    system = ((1 + _DEATH) * identity - moving).tocsr()
    coarse = moving.copy()
    coarse.data[coarse.data < _PRECONDITIONED] = 0
    coarse.eliminate_zeros()
    factors = linalg.spilu(((1 + _DEATH) * identity - coarse).tocsc(), drop_tol=1e-3, fill_factor=5)
    found, failed = linalg.bicgstab(
        system, into, rtol=1e-13, maxiter=400, M=linalg.LinearOperator(system.shape, factors.solve)
    )
    found = np.zeros(len(free)) if failed < 0 or not np.isfinite(found).all() else np.clip(found, 0, 1)
    for _ in range(_SWEEPS):
        found = into + moving @ found
    value[free] = np.clip(found, 1e-300, 1.0)
    return value
