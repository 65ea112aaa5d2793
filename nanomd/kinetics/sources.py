"""The kinetics of one source: of trajectories, or of a Markov model that never makes any."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd import _native
from nanomd.data.counts import stationary_vector
from nanomd.kinetics import estimates, leakage, markov, paths, processes
from nanomd.kinetics.bootstrap import Bootstrap
from nanomd.kinetics.estimates import Sample, stack
from nanomd.kinetics.markov import MarkovModel
from nanomd.kinetics.results import Interval, SourceKinetics

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_MANY_STATES = 400
_MAX_BLOCK_COUNTS = 3 * 10**7  # numbers in the per-block count matrices behind a Markov model's intervals


@dataclass(frozen=True)
class Frame:
    """What all sources of one validation share."""

    n_states: int
    macrostate: IntArray  # (n,)
    n_macrostates: int
    lagtimes: IntArray  # (l,)
    lagtime: int  # of the Markov models, and the stride at which passages and stays are seen
    n_timescales: int
    match: tuple[FloatArray, FloatArray]  # eigenvectors (n, k) and stationary vector (n,) of the reference
    residence_times: IntArray  # (t,)
    ck_lagtimes: IntArray  # (c,), multiples of lagtime
    seen: IntArray = field(default_factory=lambda: np.zeros((0, 0), np.int64))  # (n, n) counts of the training data
    core: IntArray | None = None  # (n,), between which transition paths run; the macrostates without
    path_times: IntArray = field(default_factory=lambda: np.ones(1, np.int64))  # (p,)
    ends: IntArray | None = None  # (k, n), of the reference's processes
    # Bootstrap replicates (w, m, m) of the passage times by source, kept on the way for errors over all pairs.
    passages: dict[str, FloatArray] = field(default_factory=dict)

    @property
    def cores(self) -> IntArray:
        """(n,)."""
        return self.macrostate if self.core is None else self.core


def trajectory_source(name: str, sample: Sample, frame: Frame) -> SourceKinetics:
    """Estimate everything from trajectories."""
    macro = sample.coarse(frame.macrostate, frame.n_macrostates)
    by_lag = [estimates.timescales(sample, int(lag), frame.n_timescales, frame.match) for lag in frame.lagtimes]
    model = next((m for lag, (_, m) in zip(frame.lagtimes, by_lag, strict=True) if lag == frame.lagtime), None)
    if model is None:
        model = estimates.timescales(sample, frame.lagtime, frame.n_timescales, frame.match)[1]
    mfpt, mfpt_events, frame.passages[name] = estimates.passage_samples(macro, frame.lagtime)
    residence, exits, survival = estimates.residence_times(macro, frame.lagtime, frame.residence_times)
    shape = (len(frame.ck_lagtimes), frame.n_macrostates)
    visits = _native.count_visits(sample.dtrajs, sample.n_states)[0]
    extra: dict[str, Any] = {}
    if len(frame.seen):
        leaks = leakage.measure(sample, frame.seen)
        extra |= {"unseen_fraction": float(leaks.probability.value), "unseen": leaks.probability}
        extra |= {"unseen_events": leaks.n_unseen}
    if frame.ends is not None:
        extra["timescale_events"] = processes.process_events(sample.dtrajs, frame.ends, frame.lagtime)
    found = paths.measure(sample.coarse(frame.cores, frame.n_macrostates), frame.path_times)
    return SourceKinetics(
        name=name,
        n_trajs=len(sample.dtrajs),
        n_frames=sample.n_frames,
        populations=estimates.populations(sample),
        macro_populations=estimates.populations(macro),
        lagtimes=frame.lagtimes,
        timescales=stack([interval for interval, _ in by_lag]),
        mfpt=mfpt,
        mfpt_events=mfpt_events,
        residence=residence,
        residence_events=exits,
        residence_times=frame.residence_times,
        residence_survival=survival,
        ck_lagtimes=frame.ck_lagtimes,
        ck_estimated=estimates.self_transitions(macro, frame.ck_lagtimes),
        ck_predicted=np.full(shape, np.nan)
        if model is None
        else _self_transitions(model.transition, model.stationary, frame),
        unseen_states=np.flatnonzero(visits == 0).astype(np.int64),
        timescale_overlap=_overlap(model, frame),
        path_mean=found.mean,
        path_quantiles=found.quantiles,
        path_events=found.events,
        path_times=frame.path_times,
        path_longer=found.longer,
        **extra,
    )


def _overlap(model: MarkovModel | None, frame: Frame) -> FloatArray:
    """Return the overlaps (k,) of the processes of a model with those of the reference that they are paired with."""
    k = frame.match[0].shape[1]
    if model is None:
        return np.full(k, np.nan)
    _, right, _ = model.eigen(k + estimates.SPARE_PROCESSES)
    return processes.paired_overlap(right, *frame.match)


def markov_source(name: str, sample: Sample, frame: Frame, lagtime: int) -> SourceKinetics:
    """Compute everything from the Markov model of the trajectories at a lag that divides `frame.lagtime`.

    Nothing is generated: passages and stays are those of the chain, seen every `frame.lagtime` frames like the others'.
    Replicates take the row-normalised counts of their blocks.
    """
    n = sample.n_states
    power = frame.lagtime // lagtime
    spread, model = estimates.timescales(sample, lagtime, frame.n_timescales, frame.match)
    if model is None:
        raise ValueError("no transitions")  # not reached: the caller has checked the lag against the data
    per_block = (
        _native.count_transitions(sample.dtrajs, n, lagtime, blocks=sample.blocks)
        if (sample.blocks.n_blocks * n * n <= _MAX_BLOCK_COUNTS)
        else None
    )
    matrix = np.linalg.matrix_power(model.transition, power)
    point = _quantities(matrix, model.stationary, frame)
    path_mean, path_longer = _paths(model.transition, model.stationary, frame, lagtime)
    point["path"] = path_mean
    macro_point = macro_shares(model.stationary, frame)
    replicates: dict[str, list[FloatArray]] = {key: [] for key in (*point, "populations", "macro_populations")}
    boot = sample.bootstrap
    # With many states a replicate takes seconds: then the lag 1 model, a mere warning example, goes without intervals.
    if per_block is not None and (n <= _MANY_STATES or power == 1):
        limit = len(boot.weights) if n <= 150 else max(20, min(len(boot.weights), int(4e8 / n**3)))
        boot = Bootstrap(boot.weights[:limit], boot.confidence)
        for weights in boot.weights:
            counts = np.tensordot(weights, per_block, axes=1)
            transition, stationary = _row_normalised(counts, model)
            values = _quantities(np.linalg.matrix_power(transition, power), stationary, frame)
            values["path"] = _paths(transition, stationary, frame, lagtime, curves=False)[0]
            values |= {"populations": stationary, "macro_populations": macro_shares(stationary, frame)}
            for key, value in values.items():
                replicates[key].append(value)

    def interval(key: str, value: FloatArray, scale: str) -> Interval:
        if not replicates[key]:
            nothing = np.full(value.shape, np.nan)
            return Interval(value, nothing, nothing.copy())
        return boot.interval(value, np.stack(replicates[key]), scale)  # type: ignore[arg-type]

    if replicates["mfpt"]:
        frame.passages[name] = np.stack(replicates["mfpt"])
    events = np.zeros((frame.n_macrostates, frame.n_macrostates), np.int64)
    flat = stack([spread for _ in frame.lagtimes])  # a Markov chain has the same timescales at every lag
    ck = interval("self", point["self"], "logit")
    return SourceKinetics(
        name=name,
        n_trajs=0,
        n_frames=0,
        populations=interval("populations", model.stationary, "logit"),
        macro_populations=interval("macro_populations", macro_point, "logit"),
        lagtimes=frame.lagtimes,
        timescales=flat,
        mfpt=interval("mfpt", point["mfpt"], "log"),
        mfpt_events=events,
        residence=interval("residence", point["residence"], "log"),
        residence_events=np.zeros(frame.n_macrostates, np.int64),
        residence_times=frame.residence_times,
        residence_survival=_survival(matrix, model.stationary, frame),
        ck_lagtimes=frame.ck_lagtimes,
        ck_estimated=ck,
        ck_predicted=point["self"],
        unseen_states=np.flatnonzero(model.stationary == 0).astype(np.int64),
        timescale_overlap=_overlap(model, frame),
        path_mean=interval("path", path_mean, "log"),
        path_events=events,
        path_times=frame.path_times,
        path_longer=path_longer,
        path_resolution=lagtime,
    )


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


def macro_shares(stationary: FloatArray, frame: Frame) -> FloatArray:
    """Return the populations (m,) of the macrostates."""
    inside = frame.macrostate >= 0
    share: FloatArray = np.bincount(frame.macrostate[inside], stationary[inside], frame.n_macrostates).astype(
        np.float64
    )
    return share


def _quantities(matrix: FloatArray, stationary: FloatArray, frame: Frame) -> dict[str, FloatArray]:
    """Passages, stays and self-transitions of a chain that steps `frame.lagtime` frames."""
    m = frame.n_macrostates
    return {
        "mfpt": frame.lagtime * markov.passage_times(matrix, stationary, frame.macrostate, m),
        "residence": frame.lagtime * markov.mean_residence(matrix, stationary, frame.macrostate, m)[0],
        "self": _self_transitions(matrix, stationary, frame),
    }


def _paths(
    transition: FloatArray, stationary: FloatArray, frame: Frame, lagtime: int, curves: bool = True
) -> tuple[FloatArray, FloatArray]:
    """Return mean durations of transition paths in frames, and the shares that are longer, of a chain at a lag."""
    steps = frame.path_times // lagtime if curves else np.zeros(0, np.int64)
    mean, longer = paths.markov_path_times(transition, stationary, frame.cores, frame.n_macrostates, steps)
    return lagtime * mean, longer


def _self_transitions(matrix: FloatArray, stationary: FloatArray, frame: Frame) -> FloatArray:
    """Return the probabilities (c, m) to be in a macrostate a lag after being in it."""
    steps = frame.ck_lagtimes // frame.lagtime
    return markov.self_transitions(matrix, stationary, frame.macrostate, frame.n_macrostates, steps)


def _survival(matrix: FloatArray, stationary: FloatArray, frame: Frame) -> FloatArray:
    """Return the probability (m, t) to stay in a macrostate longer than each of the residence times."""
    _, entries = markov.mean_residence(matrix, stationary, frame.macrostate, frame.n_macrostates)
    out = np.full((frame.n_macrostates, len(frame.residence_times)), np.nan)
    for a, entry in enumerate(entries):
        inside = np.flatnonzero(frame.macrostate == a)
        inner, present, steps = matrix[np.ix_(inside, inside)], entry[inside], 0
        if present.sum() == 0:
            continue
        for t, time in enumerate(frame.residence_times):
            while steps < time // frame.lagtime:
                present = present @ inner
                steps += 1
            out[a, t] = present.sum()
    return out
