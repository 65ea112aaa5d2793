"""The judge of an experiment: every source is looked at through the same macrostates, lags and processes.

Two errors are kept apart. The *model error* compares a source with the trajectories that it learnt from; the *total
error* compares it with held-out ones. The training data themselves against the held-out ones show the *sampling error*,
below which no total error means anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd import _native
from nanomd.base.plain import to_plain
from nanomd.data.counts import transition_counts
from nanomd.experiments.case import Case, Data
from nanomd.kinetics import macrostates, markov
from nanomd.kinetics.estimates import Sample
from nanomd.kinetics.interval import Interval
from nanomd.kinetics.markov_source import markov_source
from nanomd.kinetics.passage_error import mfpt_error
from nanomd.kinetics.processes import processes_between
from nanomd.kinetics.results import SourceKinetics
from nanomd.kinetics.sources import trajectory_source
from nanomd.kinetics.yardstick import Yardstick

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

_BOOTSTRAPS = 100


@dataclass(frozen=True)
class Judge:
    """What all sources of one case and data set are measured with.

    Parameters
    ----------
    yardstick : Yardstick
    slowest : float
        Slowest timescale in frames, for the length of bootstrap blocks.
    """

    yardstick: Yardstick
    slowest: float

    @classmethod
    def make(cls, case: Case, data: Data) -> Judge:
        """Define macrostates and processes on all MD of a case together; they are only the way to look."""
        pooled: list[NDArray[np.integer]] = [*data.training, *data.held_out]
        n_states = 1 + max(int(d.max()) for d in pooled)
        counts = transition_counts(pooled, n_states, case.lagtime)
        model = markov.estimate_markov_model(counts, case.lagtime)
        macrostate = data.macrostates
        if macrostate is None:
            visits = _native.count_visits(pooled, n_states)[0]
            macrostate = macrostates.macrostates(model, counts, visits, case.n_macrostates)
        m = int(macrostate.max()) + 1
        values, right, _ = model.eigen(min(4 * m, len(model.active) - 1))
        chosen = processes_between(right, model.stationary, macrostate, m)
        yardstick = Yardstick(
            macrostate=macrostate,
            right=right[:, chosen],
            stationary=model.stationary,
            lagtimes=np.array(case.lagtimes, np.int64),
            lagtime=case.lagtime,
            residence_times=case.lagtime * np.arange(0, 200, 4, dtype=np.int64),
            ck_lagtimes=case.lagtime * np.array([1, 2, 4, 8, 16, 32], np.int64),
            training_counts=transition_counts(list(data.training), n_states, 1),
        )
        slowest = markov.eigenvalue_timescales(values[chosen], case.lagtime)[0]
        return cls(yardstick, float(slowest))

    def sample(self, dtrajs: list[IntArray], seed: int = 0) -> Sample:
        """Cut trajectories into blocks for the bootstrap."""
        return Sample.make(
            list(dtrajs), self.yardstick.n_states, timescale=self.slowest, n_bootstrap=_BOOTSTRAPS, seed=seed
        )

    def trajectories(self, name: str, dtrajs: list[IntArray], *, is_md: bool = False) -> SourceKinetics:
        """Measure trajectories; lags beyond a fifth of the longest are left out."""
        usable = [lag for lag in self.yardstick.lagtimes if 5 * lag <= max(len(d) for d in dtrajs)]
        yardstick = replace(self.yardstick, lagtimes=np.array(usable, np.int64))
        if is_md:  # the MD is not a model of itself
            yardstick = replace(yardstick, training_counts=np.zeros((0, 0), np.int64))
        return trajectory_source(name, self.sample(dtrajs), yardstick).kinetics

    def changes(self, dtrajs: list[IntArray]) -> list[list[float]]:
        """Return how often macrostates follow one another at the case's lag, per 100,000 frames; rows are the first."""
        m, lag = self.yardstick.n_macrostates, self.yardstick.lagtime
        seen = [self.yardstick.macrostate[d[::lag]] for d in dtrajs]
        counts = np.zeros((m, m))
        for d in seen:
            inside = (d[:-1] >= 0) & (d[1:] >= 0)
            np.add.at(counts, (d[:-1][inside], d[1:][inside]), 1.0)
        np.fill_diagonal(counts, 0.0)
        return [[float(x) for x in row] for row in counts * 1e5 / sum(map(len, dtrajs))]

    def markov(self, name: str, training: list[IntArray], lagtime: int) -> SourceKinetics:
        """Measure the Markov model of trajectories at a lag that divides the case's."""
        return markov_source(name, self.sample(training), self.yardstick, lagtime).kinetics


def memory_kernel(judge: Judge, training: list[IntArray]) -> dict[str, Any]:
    """Return the record of a memory-kernel model of the microstates, learnt frame by frame; it has no intervals."""
    from nanomd.baselines.memory_kernel import MemoryKernelEstimator
    from nanomd.kinetics.processes import match_processes

    yardstick = judge.yardstick
    model = MemoryKernelEstimator(1).fit(training, n_states=yardstick.n_states).fetch_model()
    stationary = model.stationary_distribution
    share = yardstick.shares(stationary)
    values, vectors = np.linalg.eig(model.transition_matrix(yardstick.lagtime))
    order = np.argsort(-values.real)[1 : 1 + 4 * yardstick.n_macrostates]
    matched = match_processes(vectors[:, order].real, yardstick.right, yardstick.stationary)
    slow = np.where(matched >= 0, values.real[order][matched], np.nan)
    return {
        "n_trajs": 0,
        "n_frames": 0,
        "populations": _values(share),
        "timescales": _values(markov.eigenvalue_timescales(slow, yardstick.lagtime)),
        "mfpt": _values(model.mfpts(yardstick.macrostate, stride=yardstick.lagtime)),
        "leakage": None,
        "memory": model.memory,
        "growth": model.growth,
    }


def _values(value: FloatArray) -> dict[str, Any]:
    return _interval(Interval.undefined(value))


def record(source: SourceKinetics, lagtime: int) -> dict[str, Any]:
    """Return the numbers of a source that tables and figures need, ready for JSON (NaN becomes None)."""
    at = np.flatnonzero(source.lagtimes == lagtime)
    spread = source.timescales
    chosen = spread[int(at[0])] if len(at) else spread[0] if len(spread.value) else None
    return {
        "n_trajs": source.n_trajs,
        "n_frames": source.n_frames,
        "populations": _interval(source.macro_populations),
        "timescales": None if chosen is None else _interval(chosen),
        "lagtimes": source.lagtimes.tolist(),
        "timescales_by_lag": to_plain(spread.value),
        "mfpt": _interval(source.mfpt),
        "mfpt_events": source.mfpt_events.tolist(),
        "residence": _interval(source.residence),
        "ck_lagtimes": source.ck_lagtimes.tolist(),
        "ck_estimated": to_plain(source.ck_estimated.value),
        "microstate_populations": to_plain(source.populations.value),
        "leakage": None if math.isnan(source.unseen_fraction) else source.unseen_fraction,
        "states_never_visited": len(source.unseen_states),
    }


def _interval(interval: Interval) -> dict[str, Any]:
    return {key: to_plain(getattr(interval, key)) for key in ("value", "low", "high")}


def array(value: Any) -> FloatArray:
    """Return a float array from plain lists in which None stands for NaN."""
    return np.array(value, dtype=object).astype(np.float64) if value is not None else np.array(np.nan)


def errors(source: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, float]:
    """Compare two records.

    Returns
    -------
    dict
        ``mfpt_factor``: geometric mean over pairs of macrostates of max(a/b, b/a), of those passages that the reference
        shows at least five times, infinite where the source lacks one (`nanomd.kinetics.mfpt_error`); ``mfpt_worst``:
        the largest such factor; ``mfpt_pairs``: how many pairs; ``timescale_factor``: the same over processes, matched
        by eigenvectors; ``population_factor``: the same over macrostates; ``population_error``: largest difference of a
        macrostate's population.
    """
    events = np.array(reference["mfpt_events"]) if reference["n_trajs"] else None  # a computed table has none
    passage = mfpt_error(array(reference["mfpt"]["value"]), array(source["mfpt"]["value"]), events=events)
    with np.errstate(all="ignore"):
        slow = np.abs(np.log(array(source["timescales"]["value"]) / array(reference["timescales"]["value"])))
        here, there = array(source["populations"]["value"]), array(reference["populations"]["value"])
        share = np.abs(np.log(here / there))
    return {
        "mfpt_factor": passage.factor,
        "mfpt_worst": passage.worst_factor,
        "mfpt_pairs": float(passage.n_pairs + passage.n_missing),
        "timescale_factor": _factor(slow[np.isfinite(slow)]),
        "slowest_ratio": float(array(source["timescales"]["value"])[0] / array(reference["timescales"]["value"])[0]),
        "population_factor": _factor(share),
        "population_error": float(np.abs(here - there).max()),
    }


def _factor(logs: FloatArray) -> float:
    return float(np.exp(logs.mean())) if len(logs) else math.nan
