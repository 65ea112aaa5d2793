"""The only place that talks to deeptime: plain arrays in, full-length plain arrays out.

deeptime takes seconds to import, so it is imported inside functions. It drops states outside the largest connected set
and shifts the others; here every array keeps the length of the state space.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError
from nanomd.base.extras import needs

FloatArray = NDArray[np.float64]


def reversible_transition_matrix(counts: NDArray[np.integer] | FloatArray) -> tuple[FloatArray, FloatArray]:
    """Estimate a reversible transition matrix of connected counts by maximum likelihood.

    Parameters
    ----------
    counts : array (n, n)
        Strongly connected transition counts. Sliding counts give the same estimate as effective ones; errors must
        not be taken from them, and are not.

    Returns
    -------
    transition : ndarray (n, n)
    stationary : ndarray (n,)
    """
    needs("a Markov model", "deeptime")
    from deeptime.markov.tools.estimation import transition_matrix

    matrix = np.asarray(counts, np.float64)
    if len(matrix) == 1:
        return np.ones((1, 1)), np.ones(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # convergence is judged below
        transition, stationary = transition_matrix(
            matrix, reversible=True, return_statdist=True, maxiter=100_000, maxerr=1e-9
        )
    transition, stationary = np.asarray(transition, np.float64), np.asarray(stationary, np.float64)
    if not (np.isfinite(transition).all() and abs(transition.sum(axis=1) - 1).max() < 1e-6):
        raise InputError("the reversible transition matrix did not converge; use a shorter lagtime or fewer states")
    return transition, stationary / stationary.sum()


def pcca_memberships(transition: FloatArray, stationary: FloatArray, n_macrostates: int) -> FloatArray:
    """Return the PCCA+ memberships (n, n_macrostates) of the states of a connected reversible matrix."""
    needs("PCCA+", "deeptime")
    from deeptime.markov import pcca

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(pcca(transition, n_macrostates, stationary_distribution=stationary).memberships, np.float64)
