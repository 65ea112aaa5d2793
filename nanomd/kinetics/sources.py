"""The kinetics of one source, measured with the yardstick that all sources of a validation share."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanomd import _native
from nanomd.kinetics import estimates, leakage, markov, paths, processes
from nanomd.kinetics.estimates import Sample
from nanomd.kinetics.interval import Interval
from nanomd.kinetics.markov import MarkovModel
from nanomd.kinetics.results import SourceKinetics
from nanomd.kinetics.yardstick import Yardstick

FloatArray = NDArray[np.float64]


class Measured(NamedTuple):
    """The kinetics of a source, and bootstrap replicates (w, m, m) of its passage times where it has any."""

    kinetics: SourceKinetics
    passages: FloatArray | None


def trajectory_source(name: str, sample: Sample, yardstick: Yardstick) -> Measured:
    """Estimate everything from trajectories."""
    macro = sample.coarse(yardstick.macrostate, yardstick.n_macrostates)
    timescales, model = _timescales(sample, yardstick)
    mfpt, mfpt_events, passages = estimates.passage_samples(macro, yardstick.lagtime)
    whole = sample.with_rest(yardstick.macrostate, yardstick.n_macrostates)
    residence, exits, survival = estimates.residence_in_macrostates(
        sample, yardstick.macrostate, yardstick.n_macrostates, yardstick.lagtime, yardstick.residence_times
    )
    path = paths.measure(sample, yardstick.cores, yardstick.n_macrostates, yardstick.path_times)
    if model is None:
        predicted = np.full((len(yardstick.ck_lagtimes), yardstick.n_macrostates), np.nan)
    else:
        predicted = self_transitions(model.transition, model.stationary, yardstick)
    more: dict[str, Any] = {}
    if yardstick.training_counts.shape[0]:
        leaks = leakage.measure(sample, yardstick.training_counts)
        more["unseen_fraction"] = float(leaks.probability.value)
        more["unseen"], more["unseen_events"] = leaks.probability, leaks.n_unseen
    if yardstick.ends is not None:
        more["timescale_events"] = processes.process_events(
            sample.dtrajs, yardstick.ends, yardstick.lagtime, sample.views
        )
    if yardstick.outside is not None:
        sets = [sample.coarse(inside.astype(np.int64), 2) for inside in yardstick.outside]
        more["outside"] = Interval.stack([estimates.populations(x)[1] for x in sets])
        more["seen_once"] = estimates.seen_once(sample)
        more["outside_entries"] = np.array([estimates.entries(sample, x) for x in yardstick.outside], np.int64)
    kinetics = SourceKinetics(
        name=name,
        n_trajs=sample.n_trajs,
        n_frames=sample.n_frames,
        populations=estimates.populations(sample),
        macro_populations=estimates.populations(whole)[: yardstick.n_macrostates],
        lagtimes=yardstick.lagtimes,
        timescales=timescales,
        mfpt=mfpt,
        mfpt_events=mfpt_events,
        residence=residence,
        residence_events=exits,
        residence_times=yardstick.residence_times,
        residence_survival=survival,
        ck_lagtimes=yardstick.ck_lagtimes,
        ck_estimated=estimates.self_transitions(whole, yardstick.ck_lagtimes)[:, : yardstick.n_macrostates],
        ck_predicted=predicted,
        unseen_states=np.flatnonzero(_native.count_visits(sample.dtrajs, sample.n_states)[0] == 0).astype(np.int64),
        timescale_overlap=process_overlap(model, yardstick),
        path_mean=path.mean,
        path_quantiles=path.quantiles,
        path_events=path.events,
        path_times=yardstick.path_times,
        path_longer=path.longer,
        **more,
    )
    return Measured(kinetics, passages)


def _timescales(sample: Sample, yardstick: Yardstick) -> tuple[Interval, MarkovModel | None]:
    """Return implied timescales (l, k) at all lags, and the Markov model at the yardstick's lag."""
    match = (yardstick.right, yardstick.stationary)
    model: MarkovModel | None = None
    by_lag: dict[int, Interval] = {}
    for lag in np.unique(np.append(yardstick.lagtimes, yardstick.lagtime)).tolist():
        # No other model is kept: with many states each takes hundreds of megabytes.
        by_lag[lag], found = estimates.timescales(sample, lag, yardstick.n_timescales, match)
        model = found if lag == yardstick.lagtime else model
        del found
    return Interval.stack([by_lag[int(lag)] for lag in yardstick.lagtimes]), model


def process_overlap(model: MarkovModel | None, yardstick: Yardstick) -> FloatArray:
    """Return the overlaps (k,) of the processes of a model with those of the reference that they are paired with."""
    if model is None:
        return np.full(yardstick.n_timescales, np.nan)
    _, right, _ = model.eigen(yardstick.n_timescales + estimates.SPARE_PROCESSES)
    return processes.paired_overlap(right, yardstick.right, yardstick.stationary)


def self_transitions(matrix: Any, stationary: FloatArray, yardstick: Yardstick) -> FloatArray:
    """Return the probabilities (c, m) to be in a macrostate again, of a chain that steps `yardstick.lagtime` frames."""
    steps = yardstick.ck_lagtimes // yardstick.lagtime
    return markov.self_transitions(matrix, stationary, yardstick.macrostate, yardstick.n_macrostates, steps)


def computed_source(name: str, yardstick: Yardstick, **quantities: Any) -> SourceKinetics:
    """Return the kinetics of a model that generates no trajectories: computed, without events."""
    m = yardstick.n_macrostates
    nothing = np.zeros((m, m), np.int64)
    fixed: dict[str, Any] = {
        "n_trajs": 0,
        "n_frames": 0,
        "lagtimes": yardstick.lagtimes,
        "mfpt_events": nothing,
        "residence_events": np.zeros(m, np.int64),
        "residence_times": yardstick.residence_times,
        "ck_lagtimes": yardstick.ck_lagtimes,
        "path_events": nothing.copy(),
        "path_times": yardstick.path_times,
    }
    return SourceKinetics(name=name, **fixed, **quantities)
