"""The kinetics of a rollout that kept no trajectories, only what it counted while it ran.

Populations and implied timescales are those of the counts. Passages, stays and transition paths are those of the Markov
model of the counts at the lag of the validation, at which the reference's are looked at too. Counts of all trajectories
together do not tell how they scatter from one to the next, but the chain that they make does (`counted_errors`): so
populations and timescales have intervals. Those of passage times are as wide as those of so many passages that come at
random: a stationary process makes one from a to b every MFPT(a, b) + MFPT(b, a). Stays, transition paths and unseen
steps have none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError
from nanomd.base.units import FrameInterval
from nanomd.data.counts import renumbered_counts, submatrix
from nanomd.kinetics import counted_errors, estimates, markov, processes
from nanomd.kinetics.bootstrap import ratio
from nanomd.kinetics.interval import Interval
from nanomd.kinetics.leakage import Known
from nanomd.kinetics.markov import estimate_markov_model
from nanomd.kinetics.markov_source import path_times, point_quantities, survival
from nanomd.kinetics.sources import Measured, computed_source, process_overlap
from nanomd.kinetics.yardstick import Yardstick

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_REPLICATES = 200
_MANY_STATES = 2048  # the errors of more populations, one by one, take longer than all the rest


@dataclass(frozen=True)
class Counted:
    """What a rollout counted.

    Parameters
    ----------
    labels : ndarray (n_tokens,)
        Labels of its states, rising.
    visits : ndarray (n_tokens,)
    counts : dict of ndarray or csr_array (n_tokens, n_tokens)
        Sliding transition counts by lag, in steps.
    stride : int
        Frames of the MD a step.
    interval : FrameInterval, optional
        Of a frame of the MD, where it is known.
    """

    labels: IntArray
    visits: IntArray
    counts: dict[int, Any]
    stride: int = 1
    interval: FrameInterval | None = None

    @classmethod
    def of(cls, value: Any) -> Self | None:
        """Take the counts of a `Rollout` without tokens or of an `ObservablesResult`; None of anything else."""
        step, interval = int(getattr(value, "frame_stride", 1)), getattr(value, "frame_interval", None)
        if hasattr(value, "tokens") and not np.shape(value.tokens)[1]:
            value = value.observables
        if not hasattr(value, "visits") or not hasattr(value, "transition_counts"):
            return None
        return cls(
            labels=value.state_map.symbols,
            visits=value.visits,
            counts={int(lag): value.transition_counts(lag) for lag in value.observables.lagtimes},
            stride=step,
            interval=None if interval is None else FrameInterval(interval.value / step, interval.unit),
        )

    @property
    def occurring(self) -> IntArray:
        """Labels of the states that were visited."""
        return self.labels[self.visits > 0]

    def renumbered(self, symbols: IntArray) -> Self:
        """Return the counts of states 0, 1, ..., those of `symbols` (n,), among which all visited ones are."""
        seen = np.flatnonzero(self.visits > 0)
        place = np.searchsorted(symbols, self.labels[seen])
        visits = np.zeros(len(symbols), np.int64)
        visits[place] = self.visits[seen]
        counts = {}
        for lag, of_tokens in self.counts.items():
            counts[lag] = renumbered_counts(submatrix(of_tokens, seen), place, len(symbols))
        return type(self)(symbols, visits, counts, self.stride, self.interval)


def counted_source(name: str, counted: Counted, yardstick: Yardstick, confidence: float) -> Measured:
    """Return what counts say, in the numbering of the yardstick's states.

    Raises
    ------
    InputError
        Where transitions were not counted at the lag of the yardstick.
    """
    lagtime = yardstick.lagtime
    if lagtime not in counted.counts:
        raise InputError(
            f"{name} has no trajectories, and its observables have no transitions at lagtime {lagtime}, at which all "
            f"sources are compared; generate with Observables(lagtimes=[..., {lagtime}]), or set lagtime to one of "
            f"{sorted(counted.counts)}"
        )
    model = estimate_markov_model(counted.counts[lagtime], lagtime)
    path_mean, path_longer = path_times(model.transition, model.stationary, lagtime, yardstick, yardstick.path_times)
    point = point_quantities(model.transition, model.stationary, lagtime, yardstick, path_mean)
    populations = ratio(counted.visits, counted.visits.sum())
    point |= {
        "populations": populations,
        "macro_populations": yardstick.shares(populations),
        "outside": yardstick.shares_outside(populations),
    }
    none = np.full(yardstick.n_timescales, np.nan)
    found = [
        _timescales(counted.counts[lag], lag, yardstick)
        if lag in counted.counts and counted.counts[lag].sum()
        else (none, none)
        for lag in yardstick.lagtimes.tolist()
    ]
    timescales = counted_errors.of_times(np.stack([t for t, _ in found]), np.stack([e for _, e in found]), confidence)
    unseen: dict[str, Any] = {}
    if 1 in counted.counts and yardstick.training_counts.shape[0]:
        steps = counted.counts[1]
        number = int(Known.of(yardstick.training_counts).without(steps).sum())
        share = number / max(int(steps.sum()), 1)
        unseen = {"unseen_fraction": share, "unseen": Interval.undefined(share), "unseen_events": number}
    error = np.sqrt((point["mfpt"] + point["mfpt"].T) / max(int(counted.visits.sum()), 1))  # of the logarithm
    kinetics = computed_source(
        name,
        yardstick,
        **{key: Interval.undefined(value) for key, value in point.items() if key not in {"mfpt", *_SHARES}},
        **_shares(point, model, yardstick, int(counted.visits.sum()), confidence),
        timescales=timescales,
        residence_survival=survival(model.transition, model.stationary, yardstick),
        ck_predicted=point["ck_estimated"],
        unseen_states=np.flatnonzero(counted.visits == 0).astype(np.int64),
        timescale_overlap=process_overlap(model, yardstick),
        path_longer=path_longer,
        path_resolution=lagtime,
        **unseen | {"mfpt": counted_errors.of_times(point["mfpt"], error, confidence)},
    )
    # One draw for all passages: they may be wrong together.
    draws = np.random.default_rng(0).standard_normal((_REPLICATES, 1, 1))
    return Measured(kinetics, point["mfpt"] * np.exp(draws * error))


_SHARES = ("populations", "macro_populations", "outside")


def _shares(
    point: dict[str, FloatArray], model: markov.MarkovModel, yardstick: Yardstick, n_frames: int, confidence: float
) -> dict[str, Interval]:
    """Return the populations with their intervals; those outside of the chain have none."""
    n = model.n_states
    sets: dict[str, NDArray[np.number]] = {
        "macro_populations": yardstick.macrostate[None, :] == np.arange(yardstick.n_macrostates)[:, None]
    }
    if n <= _MANY_STATES:
        sets["populations"] = np.eye(n)
    out = {key: Interval.undefined(point[key]) for key in _SHARES}
    for key, members in sets.items():
        error = counted_errors.share_errors(model, members, n_frames)
        known = members[:, model.active].any(axis=1)
        out[key] = counted_errors.of_shares(point[key], np.where(known, error, np.nan), confidence)
    return out


def _timescales(counts: Any, lag: int, yardstick: Yardstick) -> tuple[FloatArray, FloatArray]:
    """Return the implied timescales (k,) of counts at a lag, in the order of the yardstick's processes, and errors.

    Errors are of the logarithms.
    """
    model = estimate_markov_model(counts, lag)
    values, right, left = model.eigen(yardstick.n_timescales + estimates.SPARE_PROCESSES)
    order = processes.match_processes(right, yardstick.right, yardstick.stationary)
    out, error = np.full((2, yardstick.n_timescales), np.nan)
    found = np.flatnonzero(order >= 0)
    out[found] = markov.eigenvalue_timescales(values[order[found]], lag)
    spread = counted_errors.eigenvalue_errors(model, counts, right, left)[order[found]]
    with np.errstate(all="ignore"):
        error[found] = np.where(np.isfinite(out[found]), spread * out[found] / (lag * values[order[found]]), np.nan)
    return out, error
