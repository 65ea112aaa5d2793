"""What an experiment says: averages, populations, rates and relaxation times, each with its error."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd import _native
from nanomd.base.checks import check_finite
from nanomd.base.errors import InputError, shown
from nanomd.base.units import FrameInterval
from nanomd.caliber.chain import Functional, PassageTime, SetShare, SlowestTimescale, StateAverage
from nanomd.caliber.rolled import Slow
from nanomd.data.states import StateMap
from nanomd.kinetics.bootstrap import Scale, ratio
from nanomd.kinetics.estimates import Sample, passage_times, populations
from nanomd.kinetics.interval import Interval

FloatArray = NDArray[np.float64]
Error: TypeAlias = float | str  # in the unit of the value, or "5 %" of it


@dataclass(frozen=True, slots=True)
class Average:
    """The average of an observable that has a value in every state.

    Parameters
    ----------
    values : array or mapping
        By label: ``values[label]``. Every state of the model needs one; see `nanomd.caliber.state_averages`.
    wanted : float
    error : float or str
        Standard error of the experiment, or ``"5 %"``; zero asks for the value itself.
    name : str
    """

    values: ArrayLike | Mapping[int, float]
    wanted: float
    error: Error = 0.0
    name: str = ""


@dataclass(frozen=True, slots=True)
class Population:
    """The share of time in a set of states.

    Parameters
    ----------
    states : sequence of int
        Labels.
    wanted : float
        In (0, 1).
    error : float or str
    name : str
    """

    states: Sequence[int]
    wanted: float
    error: Error = 0.0
    name: str = ""


@dataclass(frozen=True, slots=True)
class Rate:
    """The mean first passage time from one set of states to another, or its inverse.

    A passage begins with the first visit to the source after the target and ends with the next visit to the target, as
    in `nanomd.validate`, but seen at every step of the model: give cores where frames graze a boundary.

    Parameters
    ----------
    source, target : sequence of int
        Labels; no state is in both.
    mfpt : float or str, optional
        Steps of the model, or a time such as ``"1.4 ns"``.
    rate : float or str, optional
        Its inverse in place of it: a step, or such as ``"0.7 /ns"``.
    error : float or str
        Of what is given: a number of the same unit, such as ``"0.2 ns"``, or ``"10 %"``.
    name : str
    """

    source: Sequence[int]
    target: Sequence[int]
    mfpt: float | str | None = None
    rate: float | str | None = None
    error: Error = 0.0
    name: str = ""


@dataclass(frozen=True, slots=True)
class Relaxation:
    """The implied timescale of the slowest process.

    Parameters
    ----------
    timescale : float or str
        Steps of the model, or a time such as ``"1.4 ns"``.
    error : float or str
    name : str
    """

    timescale: float | str
    error: Error = 0.0
    name: str = "slowest timescale"


@dataclass(frozen=True, slots=True)
class Wish:
    """A wish that was checked, on the scale on which its error is taken for Gaussian.

    Parameters
    ----------
    name : str
    scale : str
        ``"linear"`` (averages), ``"logit"`` (populations) or ``"log"`` (times, in steps).
    wanted, error : float
        On that scale.
    functional : Functional
        Of a Markov chain.
    measure : callable
        Of rollouts: an interval of the value itself.
    values : ndarray (n,), optional
        Of the states, for averages.
    """

    name: str
    scale: Scale
    wanted: float
    error: float
    functional: Functional
    measure: Callable[[Sample, Slow], Interval]
    values: FloatArray | None = field(default=None, repr=False)


def check_wishes(
    state_map: StateMap,
    interval: FrameInterval,
    averages: Sequence[Average] = (),
    populations: Sequence[Population] = (),
    rates: Sequence[Rate] = (),
    relaxation: Relaxation | None = None,
    reversible: bool = True,
) -> list[Wish]:
    """Return the wishes for a model with these states, and this time a step.

    Raises
    ------
    InputError
        Naming the wish, what is wrong with it, and the remedy.
    """
    wishes = [_average(wish, k, state_map) for k, wish in enumerate(averages, 1)]
    wishes += [_population(wish, k, state_map) for k, wish in enumerate(populations, 1)]
    wishes += [_rate(wish, k, state_map, interval, reversible) for k, wish in enumerate(rates, 1)]
    if relaxation is not None:
        wishes.append(_relaxation(relaxation, interval, reversible))
    if not wishes:
        raise InputError("nothing is wished for: give averages, populations, rates or a relaxation")
    return wishes


def _average(wish: Average, number: int, states: StateMap) -> Wish:
    name = wish.name or f"average {number}"
    values = _by_state(name, wish.values, states)
    check_finite(f"wanted of {name}", wish.wanted)
    error = _error(name, wish.error, wish.wanted)
    if np.ptp(values) == 0:
        raise InputError(f"{name}: all states have the value {values[0]:g}, so its average cannot change")

    def measure(sample: Sample, _: Slow) -> Interval:
        visits = _native.count_visits(sample.dtrajs, sample.n_states, sample.blocks)
        sums = sample.bootstrap.sums(visits)
        value = ratio(visits.sum(axis=0) @ values, np.asarray(visits.sum()))
        return sample.bootstrap.interval(value, ratio(sums @ values, sums.sum(axis=-1)), "linear")

    return Wish(name, "linear", float(wish.wanted), error, StateAverage(values), measure, values)


def _population(wish: Population, number: int, states: StateMap) -> Wish:
    name = wish.name or f"population {number}"
    inside = _set(name, wish.states, states)
    if not 0 < wish.wanted < 1:
        raise InputError(f"wanted of {name} must be a share between 0 and 1, got {wish.wanted}")
    if inside.all():
        raise InputError(f"{name} holds every state of the model, so its population is 1; leave states out")
    share = float(wish.wanted)
    error = _error(name, wish.error, share) / (share * (1 - share))

    def measure(sample: Sample, _: Slow) -> Interval:
        return populations(sample.coarse(inside.astype(np.int64), 2))[1]

    return Wish(name, "logit", math.log(share / (1 - share)), error, SetShare(inside), measure)


def _rate(wish: Rate, number: int, states: StateMap, interval: FrameInterval, reversible: bool) -> Wish:
    name = wish.name or f"mfpt {number}"
    source, target = _set(f"source of {name}", wish.source, states), _set(f"target of {name}", wish.target, states)
    both = np.flatnonzero(source & target)
    if len(both):
        raise InputError(f"{name}: state {states.symbols[both[0]]} is in source and target; no passage leads there")
    if (wish.mfpt is None) == (wish.rate is None):
        raise InputError(f"{name} needs either mfpt or rate, got {'neither' if wish.mfpt is None else 'both'}")
    if wish.mfpt is not None:
        steps = _time(f"mfpt of {name}", wish.mfpt, interval)
        error = _time_error(name, wish.error, steps, interval)
    else:
        assert wish.rate is not None
        rate = _per_step(f"rate of {name}", wish.rate, interval)
        if not rate > 0:
            raise InputError(f"rate of {name} must be positive, got {wish.rate}")
        steps = 1 / rate
        relative = _percent(wish.error)
        error = _per_step(f"error of {name}", wish.error, interval) / rate if relative is None else relative
    _check_error(name, error)
    label = np.where(source, 0, np.where(target, 1, -1))

    def measure(sample: Sample, _: Slow) -> Interval:
        times, _events = passage_times(sample.coarse(label, 2), 1)
        return times[0, 1]

    return Wish(name, "log", math.log(steps), error, PassageTime(source, target, reversible), measure)


def _relaxation(wish: Relaxation, interval: FrameInterval, reversible: bool) -> Wish:
    steps = _time(f"timescale of {wish.name}", wish.timescale, interval)
    error = _time_error(wish.name, wish.error, steps, interval)

    def measure(sample: Sample, slow: Slow) -> Interval:
        return slow.relaxation([np.asarray(x) for x in sample.dtrajs])

    return Wish(wish.name, "log", math.log(steps), error, SlowestTimescale(reversible), measure)


def _by_state(name: str, values: ArrayLike | Mapping[int, float], states: StateMap) -> FloatArray:
    if isinstance(values, Mapping):
        found = np.array([float(values.get(int(label), math.nan)) for label in states.symbols])
    else:
        given = np.asarray(values, np.float64)
        if given.ndim != 1:
            raise InputError(f"values of {name} must be one number a state, got shape {given.shape}")
        known = states.symbols < len(given)
        found = np.where(known, given[np.where(known, states.symbols, 0)] if len(given) else math.nan, math.nan)
    missing = states.symbols[~np.isfinite(found)]
    if len(missing):
        raise InputError(
            f"values of {name} must be finite for every state of the model, but state {missing[0]}"
            f"{f' and {len(missing) - 1} others' if len(missing) > 1 else ''} has none; "
            "average over more frames, or give it by hand"
        )
    return found


def _set(name: str, labels: Sequence[int], states: StateMap) -> NDArray[np.bool_]:
    given = np.unique(np.asarray(labels))
    if given.size == 0:
        raise InputError(f"{name} holds no state; give labels of states")
    return np.isin(np.arange(states.n_states), states.encode_labels(given))


def _percent(error: Error) -> float | None:
    """Return a relative error, None for any other."""
    if not (isinstance(error, str) and error.strip().endswith("%")):
        return None
    try:
        return float(error.strip()[:-1]) / 100
    except ValueError:
        return math.nan


def _check_error(name: str, error: float) -> None:
    if not (error >= 0 and math.isfinite(error)):
        raise InputError(f"error of {name} must be zero or a positive number, got {error:g}")


def _error(name: str, error: Error, wanted: float) -> float:
    relative = _percent(error)
    if relative is None and isinstance(error, str):
        raise InputError(f"error of {name} must be a number or a share such as '5 %', got {shown(error)}")
    value = float(error) if relative is None else relative * abs(wanted)
    _check_error(name, value)
    return value


def _time(name: str, given: float | str, interval: FrameInterval) -> float:
    steps = interval.real_frames(given, name)
    if not steps > 0:
        raise InputError(f"{name} must be positive, got {given}")
    return steps


def _time_error(name: str, error: Error, steps: float, interval: FrameInterval) -> float:
    relative = _percent(error)
    value = interval.real_frames(error, f"error of {name}") / steps if relative is None else relative
    _check_error(name, value)
    return value


def _per_step(name: str, rate: Any, interval: FrameInterval) -> float:
    """Return a rate a step: a number itself, or such as ``"0.7 /ns"``."""
    if not isinstance(rate, str):
        return interval.real_frames(rate, name)
    number, slash, unit = rate.partition("/")
    try:
        value = float(number) if slash else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{name} must be a number a step or such as '0.7 /ns', got {shown(rate)}")
    return value / interval.real_frames(f"1 {unit.strip()}", name)
