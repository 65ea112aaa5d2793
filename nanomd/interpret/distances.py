r"""Distances between states as the model has learnt them, beside the kinetic distances of a Markov model.

With the right eigenvectors psi_k of a reversible Markov model at lag tau, normalised in the stationary distribution,
its eigenvalues lambda_k and timescales t_k,

.. math::

    D_{kin}(i, j)^2 = \sum_{k > 1} \lambda_k^2 (\psi_k(i) - \psi_k(j))^2, \qquad
    D_{com}(i, j)^2 = \sum_{k > 1} \frac{t_k}{2} (\psi_k(i) - \psi_k(j))^2

the kinetic distance (Noe and Clementi, J. Chem. Theory Comput. 2015) and the commute distance (Noe, Banisch and
Clementi, ibid. 2016), over the positive eigenvalues.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from nanomd.base.checks import check_choice, check_range
from nanomd.base.errors import InputError
from nanomd.base.units import Duration
from nanomd.data.counts import transition_counts
from nanomd.data.dtrajs import DtrajsLike
from nanomd.interpret.explicit import prepare
from nanomd.interpret.results import KineticDistances
from nanomd.kinetics.interval import Interval

if TYPE_CHECKING:
    from nanomd.estimator import GPTModel

FloatArray = NDArray[np.float64]
Of = Literal["embedding", "head"]
Metric = Literal["euclidean", "cosine"]
MAX_PROCESSES = 200
N_GROUPS = 20


def kinetic_distances(
    model: GPTModel,
    dtrajs: DtrajsLike,
    *,
    lagtime: Duration = 10,
    of: Of = "embedding",
    metric: Metric = "cosine",
    n_permutations: int = 500,
    confidence: float = 0.95,
    seed: int = 0,
) -> KineticDistances:
    """Compare distances between states in the learnt embedding with those of a Markov model, by rank correlation.

    Parameters
    ----------
    model : GPTModel
    dtrajs : arrays or paths
        Raw labels for the Markov model; all there are.
    lagtime : int or str
        Frames, of the Markov model.
    of : str
        ``"embedding"``, the input vectors of the states, or ``"head"``, the output vectors.
    metric : str
        ``"cosine"``, 1 - cosine of the angle about the mean state, or ``"euclidean"``. The length of a vector depends
        on how often its state was seen, and the first LayerNorm takes it away.
    n_permutations : int
        Random relabellings of the states behind the p-values.
    confidence : float
        Of the intervals, from leaving out groups of states in turn.
    seed : int
        Of relabellings and groups.

    Raises
    ------
    InputError
        For unknown states, or fewer than 3 states that are connected at this lag time.
    """
    from nanomd.kinetics.markov import estimate_markov_model

    check_choice("of", of, Of)
    check_choice("metric", metric, Metric)
    lagtime = model.frame_interval.frames(lagtime, "lagtime")
    check_range("lagtime", lagtime, 1)
    check_range("n_permutations", n_permutations, 1)
    module, tokens = prepare(model, dtrajs)
    msm = estimate_markov_model(transition_counts(list(tokens), model.config.n_states, lagtime), lagtime)
    active = msm.active
    if len(active) < 3:
        raise InputError(
            f"distances need at least 3 states connected at lagtime {lagtime}, got {len(active)}; use more data"
        )
    values, right, _ = msm.eigen(min(len(active) - 1, MAX_PROCESSES))
    keep = (values > 1e-12) & (values < 1)
    values, psi = values[keep], right[active][:, keep]
    weights = module.embedding.weight if of == "embedding" else module.head.weight
    vectors = weights.detach().double().cpu().numpy()[active]
    learnt = vector_distances(vectors, metric)
    kinetic = vector_distances(psi * values, "euclidean")
    commute = vector_distances(psi * np.sqrt(-lagtime / np.log(values) / 2), "euclidean")
    rng = np.random.default_rng(seed)
    found = [_compare(learnt, other, n_permutations, confidence, rng) for other in (kinetic, commute)]
    return KineticDistances(
        states=model.state_map.symbols[active].astype(np.int64),
        embedding=learnt,
        kinetic=kinetic,
        commute=commute,
        correlation=Interval(*(np.array([row[0][end] for row in found]) for end in range(3))),
        p_value=np.array([row[1] for row in found]),
        of=of,
        metric=metric,
        lagtime=lagtime,
        confidence=confidence,
    )


def vector_distances(vectors: FloatArray, metric: Metric) -> FloatArray:
    """Return distances (n, n) between vectors (n, d)."""
    vectors = vectors - vectors.mean(axis=0)
    if metric == "cosine":
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = vectors / np.where(length > 0, length, 1.0)
        out = 1 - unit @ unit.T
    else:
        square = (vectors**2).sum(axis=1)
        out = np.sqrt(np.maximum(square[:, None] + square[None, :] - 2 * vectors @ vectors.T, 0.0))
    np.fill_diagonal(out, 0.0)
    return np.asarray(out, np.float64)


def rank_correlation(a: FloatArray, b: FloatArray) -> float:
    """Return Spearman's rank correlation of two distance matrices (n, n), over pairs i < j; NaN if one is constant."""
    from scipy.stats import rankdata

    upper = np.triu_indices(len(a), 1)
    return _pearson(rankdata(a[upper]), rankdata(b[upper]))


def _pearson(x: FloatArray, y: FloatArray) -> float:
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / scale) if scale > 0 else float("nan")


def _compare(
    a: FloatArray, b: FloatArray, n_permutations: int, confidence: float, rng: np.random.Generator
) -> tuple[tuple[float, float, float], float]:
    """Return (value, low, high) of the rank correlation, and its p-value.

    Pairs share states, so they are not independent: the interval is the jackknife's over groups of states, on Fisher's
    scale, and the p-value that of Mantel's test, which relabels states.
    """
    from scipy.stats import rankdata
    from scipy.stats import t as student

    n = len(a)
    upper = np.triu_indices(n, 1)
    ranks = np.zeros((n, n))
    ranks[upper] = rankdata(a[upper])
    ranks += ranks.T
    other = rankdata(b[upper])
    value = _pearson(ranks[upper], other)
    larger = 0
    for _ in range(n_permutations):
        order = rng.permutation(n)
        larger += _pearson(ranks[np.ix_(order, order)][upper], other) >= value - 1e-12
    p_value = (1 + larger) / (1 + n_permutations)
    groups = np.array_split(rng.permutation(n), min(n, N_GROUPS))
    if n - len(groups[0]) < 3:
        return (value, float("nan"), float("nan")), p_value
    left_out = np.array([rank_correlation(*(m[np.ix_(k, k)] for m in (a, b))) for k in _without(groups, n)])
    with np.errstate(divide="ignore"):
        z, center = np.arctanh(np.clip(left_out, -1 + 1e-9, 1 - 1e-9)), np.arctanh(np.clip(value, -1 + 1e-9, 1 - 1e-9))
    error = np.sqrt((len(z) - 1) / len(z) * ((z - z.mean()) ** 2).sum())
    half = student.ppf(0.5 + 0.5 * confidence, len(z) - 1) * error
    return (value, float(np.tanh(center - half)), float(np.tanh(center + half))), p_value


def _without(groups: list[NDArray[np.int64]], n: int) -> list[NDArray[np.int64]]:
    return [np.setdiff1d(np.arange(n), group) for group in groups]
