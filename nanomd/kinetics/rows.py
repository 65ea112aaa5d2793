"""The quantities of the verdict table: what each is called, and where a source keeps it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nanomd.base.units import FrameInterval
from nanomd.kinetics.bootstrap import Scale
from nanomd.kinetics.interval import Interval
from nanomd.kinetics.macrostates import short_names
from nanomd.kinetics.results import SourceKinetics
from nanomd.kinetics.yardstick import Yardstick

LEAST_OVERLAP = 0.5  # of a process with the reference's, to be taken for the same

Read = Callable[[SourceKinetics], tuple[Interval, int | None]]


@dataclass(frozen=True)
class Quantity:
    """A row of the table.

    Parameters
    ----------
    label : str
    scale : "log" or "logit"
        On which it is compared.
    read : callable
        Value and events of a source; a model that generates nothing has no events.
    frame : float, optional
        Of a time: the length of a frame in the unit of the table.
    one_sided : bool
        Only too much of it is wrong.
    of_passages : bool
        Whether it is counted in whole passages, stays or frames, which short trajectories hold a biased sample of.
    of_exits : bool
        Whether its events are exits, which trajectories show however short they are.
    comparable : callable
        Whether a source's number means the same as the reference's.
    """

    label: str
    scale: Scale
    read: Read
    frame: float | None = None
    one_sided: bool = False
    of_passages: bool = True
    of_exits: bool = False
    comparable: Callable[[SourceKinetics], bool] = lambda _: True


def quantities(
    sources: dict[str, SourceKinetics], yardstick: Yardstick, names: list[str], interval: FrameInterval
) -> list[Quantity]:
    """Return the rows: populations, timescales, first passages, stays, transition paths, and what should never be.

    Durations of transition paths are the same both ways in equilibrium: the table has one way only.
    """
    m, name, frame = yardstick.n_macrostates, short_names(names), interval.value
    at = int(np.argmin(abs(yardstick.lagtimes - yardstick.lagtime)))
    pairs = [(a, b) for a in range(m) for b in range(m) if a != b]
    rows = [Quantity(f"population {name[a]}", "logit", _population(a), of_exits=True) for a in range(m)]
    rows += [
        Quantity(f"timescale {k + 1}", "log", _timescale(at, k), frame, of_passages=False, comparable=_has_process(k))
        for k in range(min(m - 1, yardstick.n_timescales))
    ]
    rows += [Quantity(f"MFPT {name[a]} to {name[b]}", "log", _passage(a, b), frame) for a, b in pairs]
    rows += [Quantity(f"residence {name[a]}", "log", _residence(a), frame, of_exits=True) for a in range(m)]
    mean = next(iter(sources.values())).path_mean.value
    rows += [
        # A chain at a longer lag sees neither the same paths nor their lengths.
        Quantity(f"transition path {name[a]} to {name[b]}", "log", _path(a, b), frame, comparable=_sees_every_frame)
        for a, b in pairs
        if a < b and float(mean[a, b]) != 1  # neighbours: every path is one frame long, and says nothing
    ]
    if any(s.unseen_events for s in sources.values()):
        rows.append(Quantity("unseen transitions per step", "log", _unseen, one_sided=True, of_passages=False))
    for k, label in enumerate(("outside the connected set", "never visited by MD")):
        if any(len(s.outside.value) and s.outside.value[k] > 0 for s in sources.values()):
            rows.append(Quantity(label, "logit", _outside(k), one_sided=k == 1))
    return rows


def _population(a: int) -> Read:
    return lambda s: (s.macro_populations[a], int(s.residence_events[a]))


def _timescale(lag: int, k: int) -> Read:
    return lambda s: (s.timescales[lag, k], int(s.timescale_events[k]) if k < len(s.timescale_events) else None)


def _has_process(k: int) -> Callable[[SourceKinetics], bool]:
    """Tell whether a source has a process like the reference's; without any passage it has to answer for its lack."""
    return lambda s: not s.timescale_overlap[k] < LEAST_OVERLAP or (s.n_trajs > 0 and s.timescale_events[k] == 0)


def _passage(a: int, b: int) -> Read:
    return lambda s: (s.mfpt[a, b], int(s.mfpt_events[a, b]))


def _residence(a: int) -> Read:
    return lambda s: (s.residence[a], int(s.residence_events[a]))


def _path(a: int, b: int) -> Read:
    return lambda s: (s.path_mean[a, b], int(s.path_events[a, b]))


def _unseen(source: SourceKinetics) -> tuple[Interval, int | None]:
    return source.unseen, source.unseen_events


def _outside(k: int) -> Read:
    return lambda s: (s.outside[k], int(s.outside_entries[k]) if len(s.outside_entries) else 0)


def _sees_every_frame(source: SourceKinetics) -> bool:
    return source.path_resolution == 1
