"""Standard errors of what is only counted: those of a stationary Markov chain with as many frames.

Counts of all trajectories together do not tell how they scatter, but a chain does that steps as they say. Its share of
frames in a set varies with the correlation time of the set (Kemeny and Snell, *Finite Markov Chains*, 1960, 4.6); its
eigenvalues with the scatter of the steps of their eigenvectors. The chain is that at the lag of the counts, and counts
from neighbouring frames are taken to be as good as one a lag: both make errors too large rather than too small.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd.data.counts import submatrix
from nanomd.kinetics.interval import Interval
from nanomd.kinetics.markov import MarkovModel
from nanomd.kinetics.reversible import solve_within

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def share_errors(model: MarkovModel, sets: NDArray[np.number], n_frames: int) -> FloatArray:
    """Return the standard error (g,) of the share of `n_frames` frames in sets of states (g, n) of ones and zeros."""
    active = model.active
    pi, step = model.stationary[active], submatrix(model.transition, active)
    inside = np.asarray(sets, np.float64)[:, active]
    centred = (inside - (inside @ pi)[:, None]).T
    # The sum of step^k @ centred over all k >= 0.
    if isinstance(step, np.ndarray):
        summed = np.linalg.solve(np.eye(len(pi)) - step + pi[None, :], centred)
    else:  # singular, for constants stay what they are, but `centred` has none
        summed = solve_within(step, pi, np.arange(len(pi)), centred)
        summed -= pi @ summed
    variance = (pi[:, None] * centred * (2 * summed - centred)).sum(axis=0)
    return np.asarray(np.sqrt(model.lagtime * np.maximum(variance, 0) / max(n_frames, 1)), np.float64)


def eigenvalue_errors(model: MarkovModel, counts: Any, right: FloatArray, left: FloatArray) -> FloatArray:
    """Return the standard error (k,) of eigenvalues with vectors (n, k), `left` @ `right` = 1, of counts (n, n)."""
    row = counts.sum(axis=1)
    seen = row > 0
    mean = model.transition @ right
    scatter = np.maximum(model.transition @ right**2 - mean**2, 0)[seen]
    variance = (left[seen] ** 2 * scatter / row[seen, None]).sum(axis=0)
    return np.asarray(np.sqrt(model.lagtime * variance), np.float64)


def of_times(value: FloatArray, error: FloatArray, confidence: float) -> Interval:
    """Return the interval of times whose logarithm has this standard error."""
    reach = np.exp(_quantile(confidence) * error)
    return Interval(value, value / reach, value * reach, error)


def of_shares(value: FloatArray, error: FloatArray, confidence: float) -> Interval:
    """Return the interval of shares in (0, 1) with this standard error; none for the others."""
    with np.errstate(all="ignore"):
        inside = (value > 0) & (value < 1)
        logit = np.where(inside, np.log(value / (1 - value)), np.nan)
        spread = np.where(inside, error / (value * (1 - value)), np.nan)
    reach = _quantile(confidence) * spread
    return Interval(value, 1 / (1 + np.exp(reach - logit)), 1 / (1 + np.exp(-reach - logit)), spread)


def _quantile(confidence: float) -> float:
    from scipy.stats import norm

    return float(norm.ppf(0.5 + 0.5 * confidence))
