"""The kinetics of a Markov model of trajectories: computed from its matrix, nothing is generated."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd import _native
from nanomd.base.errors import InputError
from nanomd.data.counts import stationary_vector, submatrix
from nanomd.kinetics import estimates, markov, paths
from nanomd.kinetics.bootstrap import Bootstrap, Scale
from nanomd.kinetics.estimates import Sample
from nanomd.kinetics.interval import Interval
from nanomd.kinetics.markov import MarkovModel
from nanomd.kinetics.sources import Measured, computed_source, process_overlap, self_transitions
from nanomd.kinetics.yardstick import Yardstick

FloatArray = NDArray[np.float64]

_MANY_STATES = 400
_MAX_BLOCK_COUNTS = 3 * 10**7  # numbers in the per-block count matrices behind the intervals

_SCALES: dict[str, Scale] = {
    "populations": "logit",
    "macro_populations": "logit",
    "mfpt": "log",
    "residence": "log",
    "ck_estimated": "logit",
    "path_mean": "log",
    "outside": "logit",
}


def markov_source(name: str, sample: Sample, yardstick: Yardstick, lagtime: int) -> Measured:
    """Compute everything from the Markov model of the trajectories at a lag that divides `yardstick.lagtime`.

    Passages and stays are those of the chain, seen every `yardstick.lagtime` frames like the others'. Replicates take
    the row-normalised counts of their blocks.
    """
    match = (yardstick.right, yardstick.stationary)
    timescales, model = estimates.timescales(sample, lagtime, yardstick.n_timescales, match)
    if model is None:
        raise InputError(f"there are no transitions at lagtime {lagtime}; use a shorter lagtime or longer trajectories")
    path_mean, path_longer = path_times(model.transition, model.stationary, lagtime, yardstick, yardstick.path_times)
    point = point_quantities(model.transition, model.stationary, lagtime, yardstick, path_mean)
    boot, replicates = _replicates(sample, model, yardstick)
    spread = {key: np.stack([r[key] for r in replicates]) for key in point} if replicates else {}
    intervals = {
        key: boot.interval(value, spread[key], _SCALES[key]) if spread else Interval.undefined(value)
        for key, value in point.items()
    }
    matrix = _power(model.transition, yardstick.lagtime // lagtime)
    kinetics = computed_source(
        name,
        yardstick,
        **intervals,
        timescales=Interval.stack([timescales] * len(yardstick.lagtimes)),  # a Markov chain has the same at every lag
        residence_survival=survival(matrix, model.stationary, yardstick),
        ck_predicted=point["ck_estimated"],
        unseen_states=np.flatnonzero(model.stationary == 0).astype(np.int64),
        timescale_overlap=process_overlap(model, yardstick),
        path_longer=path_longer,
        path_resolution=lagtime,
    )
    return Measured(kinetics, spread.get("mfpt"))


def _power(transition: Any, steps: int) -> Any:
    """Return a power of a matrix; a sparse one, whose powers are dense, is only taken as it is."""
    return transition if steps == 1 else np.linalg.matrix_power(transition, steps)


def point_quantities(
    transition: Any,
    stationary: FloatArray,
    lagtime: int,
    yardstick: Yardstick,
    path_mean: FloatArray | None = None,
) -> dict[str, FloatArray]:
    """Return what a chain that steps `lagtime` frames has by `_SCALES`, times in frames; `path_mean` where known."""
    if path_mean is None:
        path_mean, _ = path_times(transition, stationary, lagtime, yardstick, np.zeros(0, np.int64))
    matrix = _power(transition, yardstick.lagtime // lagtime)
    seen = (matrix, stationary, yardstick.macrostate, yardstick.n_macrostates)
    return {
        "populations": stationary,
        "macro_populations": yardstick.shares(stationary),
        "outside": yardstick.shares_outside(stationary),
        "mfpt": yardstick.lagtime * markov.passage_times(*seen),
        "residence": yardstick.lagtime * markov.mean_residence(*seen)[0],
        "ck_estimated": self_transitions(matrix, stationary, yardstick),
        "path_mean": path_mean,
    }


def path_times(
    transition: Any,
    stationary: FloatArray,
    lagtime: int,
    yardstick: Yardstick,
    times: NDArray[np.int64],
) -> tuple[FloatArray, FloatArray]:
    """Return mean durations (m, m) of transition paths in frames, and the shares (m, m, t) that are longer."""
    mean, longer = paths.markov_path_times(
        transition, stationary, yardstick.cores, yardstick.n_macrostates, times // lagtime
    )
    return lagtime * mean, longer


def _replicates(
    sample: Sample, model: MarkovModel, yardstick: Yardstick
) -> tuple[Bootstrap, list[dict[str, FloatArray]]]:
    """Return the quantities of bootstrap replicates; none where counts by block take too much memory or time.

    With many states a replicate takes seconds: fewer are drawn, and beyond `_MANY_STATES` a model at a shorter lag than
    the yardstick's, a mere warning example, goes without.
    """
    n, boot = model.n_states, sample.bootstrap
    too_slow = n > _MANY_STATES and model.lagtime < yardstick.lagtime
    sparse = not isinstance(model.transition, np.ndarray)
    if sparse or too_slow or sample.blocks.n_blocks * n * n > _MAX_BLOCK_COUNTS:
        return boot, []
    if n > 150:
        boot = Bootstrap(boot.weights[: max(20, int(4e8 / n**3))], boot.confidence)
    per_block = _native.count_transitions(sample.dtrajs, n, model.lagtime, blocks=sample.blocks)
    # Whole numbers, so one product over the transitions that occur has the sums of one product a replicate.
    seen = np.flatnonzero(per_block.any(axis=0))
    drawn_counts = boot.weights @ per_block.reshape(len(per_block), -1)[:, seen].astype(np.float64)
    replicates = []
    for row in drawn_counts:
        counts = np.zeros(n * n)
        counts[seen] = row
        drawn = _row_normalised(counts.reshape(n, n), model)
        replicates.append(point_quantities(*drawn, model.lagtime, yardstick))
    return boot, replicates


def _row_normalised(counts: FloatArray, model: MarkovModel) -> tuple[FloatArray, FloatArray]:
    """Return the transition matrix of counts, and its stationary vector.

    One part in a million of the model's own counts is mixed in, so that a replicate without some rare transition stays
    connected, and a state that it never visits keeps the model's row.
    """
    active = model.active
    inner = counts[np.ix_(active, active)].astype(np.float64)
    inner = inner + 1e-6 * inner.sum() * model.stationary[active, None] * model.transition[np.ix_(active, active)]
    inner /= inner.sum(axis=1, keepdims=True)
    transition, stationary = np.eye(model.n_states), np.zeros(model.n_states)
    transition[np.ix_(active, active)] = inner
    stationary[active] = stationary_vector(inner)
    return transition, stationary


def survival(matrix: Any, stationary: FloatArray, yardstick: Yardstick) -> FloatArray:
    """Return the probability (m, t) to stay in a macrostate longer than each of the residence times.

    NaN where a sparse chain would be followed for more than `nanomd.kinetics.paths.FOLLOWED` steps.
    """
    _, entries = markov.mean_residence(matrix, stationary, yardstick.macrostate, yardstick.n_macrostates)
    out = np.full((yardstick.n_macrostates, len(yardstick.residence_times)), np.nan)
    for a, entry in enumerate(entries):
        inside = np.flatnonzero(yardstick.macrostate == a)
        present, steps = entry[inside], 0
        if present.sum() == 0:
            continue
        inner = submatrix(matrix, inside)
        ahead = inner.T if isinstance(inner, np.ndarray) else inner.T.tocsr()
        for t, time in enumerate(yardstick.residence_times):
            if time // yardstick.lagtime > paths.FOLLOWED and not isinstance(matrix, np.ndarray):
                break
            while steps < time // yardstick.lagtime:
                present = ahead @ present
                steps += 1
            out[a, t] = present.sum()
    return out
