"""One quantity at a time, from lists of discrete trajectories of states 0..n-1 (negative: unassigned).

Times are in frames; lags and strides may be times such as ``"10 ns"`` where `frame_interval` gives that of a frame
(``"0.2 ns"``). Intervals are block bootstraps; `timescale`, where a function takes it, is the slowest relaxation
in frames if it is known, so that blocks are made longer than it (see `nanomd.kinetics.bootstrap`). By default it is
estimated at the lag at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd.base.errors import InputError
from nanomd.base.units import Duration, GivenInterval, in_frames
from nanomd.data.counts import model_counts
from nanomd.kinetics import estimates, macrostates, markov
from nanomd.kinetics.estimates import Sample
from nanomd.kinetics.inputs import check_lagtime, lags_in_frames, trajectories, usable_length
from nanomd.kinetics.interval import Interval

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def _sample(dtrajs: Any, n_states: int | None, lagtime: int, timescale: float | None, **settings: Any) -> Sample:
    trajs = trajectories("dtrajs", dtrajs)
    highest = 1 + max(int(x.max()) for x in trajs)
    if n_states is not None and n_states < highest:
        raise InputError(f"n_states must be at least {highest}, the highest state plus one, got {n_states}")
    n = highest if n_states is None else n_states
    check_lagtime(lagtime, usable_length(trajs))
    if timescale is None:
        counts = model_counts(trajs, n, lagtime)
        timescale = float(markov.estimate_markov_model(counts, lagtime).timescales(1)[0]) if counts.sum() else np.nan
    return Sample.make(trajs, n, timescale=timescale, **settings)


def populations(
    dtrajs: Any, *, n_states: int | None = None, timescale: float | None = None, **settings: Any
) -> Interval:
    """Return the share of frames in every state (n,); `settings` are confidence, n_bootstrap and seed."""
    return estimates.populations(_sample(dtrajs, n_states, 1, timescale, **settings))


def free_energies(population: ArrayLike, kT: float = 1.0) -> FloatArray:
    """Return -kT ln(population) above the lowest, infinity for empty states; kT gives the unit."""
    if not kT > 0:
        raise InputError(f"kT must be positive, got {kT}")
    p = np.asarray(population, np.float64)
    if p.size == 0 or not (p >= 0).all() or p.sum() == 0:
        raise InputError("populations must not be negative, and not all zero")
    with np.errstate(divide="ignore"):
        energies: FloatArray = -kT * np.log(p / p.max())
    return energies


def implied_timescales(
    dtrajs: Any,
    lagtimes: Sequence[Duration],
    n_timescales: int = 3,
    *,
    n_states: int | None = None,
    timescale: float | None = None,
    frame_interval: GivenInterval = None,
    **settings: Any,
) -> Interval:
    """Return implied timescales (n_lagtimes, n_timescales) of reversible Markov models, slowest first; NaN for none."""
    lags = lags_in_frames(lagtimes, frame_interval, "lagtimes")
    sample = _sample(dtrajs, n_states, int(lags.max()), np.nan if timescale is None else timescale, **settings)
    if timescale is None:
        slowest = estimates.timescales(sample, int(lags.min()), 1)[0].value[0]
        sample = Sample.make(sample.dtrajs, sample.n_states, timescale=float(slowest), **settings)
    return Interval.stack([estimates.timescales(sample, int(lag), n_timescales)[0] for lag in lags])


def mfpt(
    dtrajs: Any,
    source: Sequence[int],
    target: Sequence[int],
    *,
    stride: Duration = 1,
    timescale: float | None = None,
    frame_interval: GivenInterval = None,
    **settings: Any,
) -> tuple[Interval, int]:
    """Return the empirical mean first passage time from a set of states to another, and the number of passages.

    From the first visit to the source after the target to the next visit to the target, seen every stride-th frame.
    """
    stride = in_frames(stride, frame_interval, "stride", 1)
    sample = _sample(dtrajs, None, stride, timescale, **settings)
    sets = np.full(sample.n_states, -1, np.int64)
    for name, states, label in (("source", source, 0), ("target", target, 1)):
        index = np.asarray(states)
        if index.size == 0 or index.min() < 0 or index.max() >= sample.n_states:
            raise InputError(f"{name} must name states in [0, {sample.n_states - 1}], got {index.tolist()}")
        if (sets[index] >= 0).any():
            raise InputError("source and target must not share states")
        sets[index] = label
    interval, events = estimates.passage_times(sample.coarse(sets, 2), stride)
    return interval[0, 1], int(events[0, 1])


def residence(
    dtrajs: Any,
    macrostate: ArrayLike | None = None,
    *,
    stride: Duration = 1,
    times: ArrayLike | Sequence[Duration] | None = None,
    timescale: float | None = None,
    frame_interval: GivenInterval = None,
    **settings: Any,
) -> tuple[Interval, IntArray, FloatArray]:
    """Return mean residence times (m,), numbers of exits (m,), and survival (m, t) at `times`, multiples of stride.

    `macrostate` (n,) maps states to macrostates, -1 for none; every state is one without it. A stay ends with the first
    frame in another macrostate or in none; an unassigned frame belongs to the state before it.
    """
    stride = in_frames(stride, frame_interval, "stride", 1)
    sample = _sample(dtrajs, None, stride, timescale, **settings)
    at = lags_in_frames([0, stride] if times is None else times, frame_interval, "times")
    labels = np.arange(sample.n_states) if macrostate is None else _labels(sample, macrostate)
    return estimates.residence_in_macrostates(sample, labels, int(labels.max()) + 1, stride, at)


def ck_test(
    dtrajs: Any,
    lagtime: Duration,
    macrostate: ArrayLike | None = None,
    *,
    steps: Sequence[int] = (1, 2, 3, 4, 6, 8),
    timescale: float | None = None,
    frame_interval: GivenInterval = None,
    **settings: Any,
) -> tuple[IntArray, Interval, FloatArray]:
    """Compare a Markov model at `lagtime` with the data at its multiples (Chapman and Kolmogorov).

    Returns
    -------
    lagtimes : ndarray (c,)
    estimated : Interval (c, m)
        Share of frames in a macrostate that find it in the same one a lag later.
    predicted : ndarray (c, m)
        The same from powers of the model's transition matrix.
    """
    lagtime = in_frames(lagtime, frame_interval, "lagtime", 1)
    sample = _sample(dtrajs, None, lagtime * int(max(steps)), np.nan if timescale is None else timescale, **settings)
    model = markov.estimate_markov_model(model_counts(sample.dtrajs, sample.n_states, lagtime), lagtime)
    if timescale is None:
        slowest = float(model.timescales(1)[0])
        sample = Sample.make(sample.dtrajs, sample.n_states, timescale=slowest, **settings)
    lags = lagtime * np.asarray(sorted(steps), np.int64)
    macro = _macro(sample, macrostate)
    labels = np.arange(sample.n_states) if macrostate is None else np.asarray(macrostate, np.int64)
    predicted = markov.self_transitions(model.transition, model.stationary, labels, macro.n_states, lags // lagtime)
    return lags, estimates.self_transitions(macro, lags), predicted


def _macro(sample: Sample, macrostate: ArrayLike | None) -> Sample:
    if macrostate is None:
        return sample
    labels = _labels(sample, macrostate)
    return sample.coarse(labels, int(labels.max()) + 1)


def _labels(sample: Sample, macrostate: ArrayLike) -> IntArray:
    labels = np.asarray(macrostate, np.int64)
    if labels.shape != (sample.n_states,) or labels.max() < 0:
        raise InputError(f"macrostate must give a label for each of {sample.n_states} states, got shape {labels.shape}")
    return labels


def pcca(
    dtrajs: Any,
    lagtime: Duration,
    n_macrostates: int,
    *,
    n_states: int | None = None,
    frame_interval: GivenInterval = None,
) -> IntArray:
    """Return the PCCA+ macrostate of every state (n,), numbered by falling population; -1 for states not connected."""
    lagtime = in_frames(lagtime, frame_interval, "lagtime", 1)
    sample = _sample(dtrajs, n_states, lagtime, np.nan)
    counts = model_counts(sample.dtrajs, sample.n_states, lagtime)
    model = markov.estimate_markov_model(counts, lagtime)
    from nanomd import _native

    visits = _native.count_visits(sample.dtrajs, sample.n_states)[0]
    return macrostates.macrostates(model, counts, visits, n_macrostates)
