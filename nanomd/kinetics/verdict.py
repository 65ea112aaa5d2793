"""The verdict table: every quantity of every source beside the reference's, and the warnings.

The rule. A quantity of a source passes when it differs from the reference's by no more than the two half-widths of
their confidence intervals, facing each other, added in quadrature; times are compared as logarithms. Nothing is said
(None) where an interval is undefined, or fewer than five events stand behind either value. At 95 % confidence one true
value in twenty fails by chance, and a source with wide intervals passes easily: look at the intervals too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nanomd.base.units import FrameInterval
from nanomd.kinetics.interval import Interval
from nanomd.kinetics.results import Cell, MfptError, SourceKinetics, VerdictRow
from nanomd.kinetics.yardstick import Yardstick

LEAST_EVENTS = 5
LEAST_OVERLAP = 0.5
FLOOR_FACTOR = 1.2  # how much worse than the noise floor passage times may be


def verdict_rows(
    sources: dict[str, SourceKinetics],
    yardstick: Yardstick,
    names: list[str],
    interval: FrameInterval,
    errors: dict[str, MfptError] | None = None,
    floor: MfptError | None = None,
) -> list[VerdictRow]:
    """Return the table: populations, timescales, first passages, their error as a whole, stays, paths, leakage.

    Durations of transition paths are the same both ways in equilibrium: the table has one way only.
    """
    m = yardstick.n_macrostates
    letters = [name.split()[0] for name in names]
    at = int(np.argmin(abs(yardstick.lagtimes - yardstick.lagtime)))
    rows = [
        _row(f"population {letters[a]}", "", sources, lambda s, a=a: (s.macro_populations[a], None), 1.0)
        for a in range(m)
    ]
    for k in range(min(m - 1, yardstick.n_timescales)):
        label = f"timescale {k + 1}"
        rows.append(
            _row(label, interval.unit, sources, lambda s, k=k: (s.timescales[at, k], _events(s, k)), interval.value)
        )
    for a in range(m):
        for b in range(m):
            if a != b:
                rows.append(
                    _row(
                        f"MFPT {letters[a]} to {letters[b]}",
                        interval.unit,
                        sources,
                        lambda s, a=a, b=b: (s.mfpt[a, b], s.mfpt_events[a, b]),
                        interval.value,
                    )
                )
    rows += [_error_row(sources, errors, floor)] if errors else []
    for a in range(m):
        rows.append(
            _row(
                f"residence {letters[a]}",
                interval.unit,
                sources,
                lambda s, a=a: (s.residence[a], s.residence_events[a]),
                interval.value,
            )
        )
    for a in range(m):
        for b in range(a + 1, m):
            if float(next(iter(sources.values())).path_mean.value[a, b]) == 1:
                continue  # neighbours: every path is one frame long, and says nothing
            rows.append(
                _row(
                    f"transition path {letters[a]} to {letters[b]}",
                    interval.unit,
                    sources,
                    lambda s, a=a, b=b: (s.path_mean[a, b], s.path_events[a, b]),
                    interval.value,
                    # A chain at a longer lag sees neither the same paths nor their lengths.
                    judge=lambda s: s.path_resolution == 1,
                )
            )
    rows += [_leakage_row(sources)] if any(s.unseen_events for s in sources.values()) else []
    return rows


def _events(source: SourceKinetics, process: int) -> int | None:
    return int(source.timescale_events[process]) if process < len(source.timescale_events) else None


def _error_row(sources: dict[str, SourceKinetics], errors: dict[str, MfptError], floor: MfptError | None) -> VerdictRow:
    """Give the geometric-mean factor of all passage times.

    A source passes unless its whole interval lies above 1.2 times the noise floor, that is, the factor of the training
    MD; without training MD apart from the reference there is no floor, and no verdict.
    """
    cells: dict[str, Cell] = {}
    for name in sources:
        error = errors.get(name)
        if error is None:
            cells[name] = Cell(1.0, np.nan, np.nan)
            continue
        passed = None
        if floor is not None and np.isfinite([floor.factor, error.low]).all():
            passed = bool(error.low <= FLOOR_FACTOR * floor.factor)
        cells[name] = Cell(error.factor, error.low, error.high, None, passed)
    return VerdictRow("MFPT off by (mean factor)", "", cells)


def _leakage_row(sources: dict[str, SourceKinetics]) -> VerdictRow:
    """Give the unseen transitions per step; a source passes that leaks no more than the reference, within intervals."""
    row = _row("unseen transitions per step", "", sources, lambda s: (s.unseen, s.unseen_events), 1.0, log=True)
    truth = next(iter(row.cells.values()))
    cells = {
        name: Cell(cell.value, cell.low, cell.high, cell.n_events, True)
        if cell.passed is False and cell.value < truth.value
        else cell
        for name, cell in row.cells.items()
    }
    return VerdictRow(row.quantity, row.unit, cells)


def _row(
    quantity: str,
    unit: str,
    sources: dict[str, SourceKinetics],
    read: Any,
    scale: float,
    *,
    judge: Any = None,
    log: bool | None = None,
) -> VerdictRow:
    cells: dict[str, Cell] = {}
    truth: tuple[Interval, int | None] | None = None
    for name, source in sources.items():
        value, number = read(source)
        events = None if number is None or source.n_trajs == 0 else int(number)
        passed = None
        if truth is None:
            truth = (value, events)
        elif not any(n is not None and n < LEAST_EVENTS for n in (events, truth[1])) and (
            judge is None or judge(source)
        ):
            passed = agrees(value, truth[0], log=unit != "" if log is None else log)
        cells[name] = Cell(
            float(value.value) * scale, float(value.low) * scale, float(value.high) * scale, events, passed
        )
    return VerdictRow(quantity, unit, cells)


def agrees(value: Interval, reference: Interval, log: bool) -> bool | None:
    """Tell whether two estimates differ by no more than their facing half-widths in quadrature; None if undefined."""
    a = [float(x) for x in (value.value, value.low, value.high)]
    b = [float(x) for x in (reference.value, reference.low, reference.high)]
    if not np.isfinite([*a, *b]).all() or (log and min(*a, *b) <= 0):
        return None
    if log:
        a, b = list(np.log(a)), list(np.log(b))
    (upper, lower) = (a, b) if a[0] >= b[0] else (b, a)
    return bool(upper[0] - lower[0] <= np.hypot(upper[0] - upper[1], lower[2] - lower[0]))


def verdict_notes(
    sources: dict[str, SourceKinetics],
    ratios: dict[str, float],
    slowest: float,
    lagtime: int,
    names: list[str],
    described: list[str],
) -> list[str]:
    """Return what a reader must know before believing the table."""
    notes = []
    reference = next(iter(sources.values()))
    judged = list(range(min(len(names) - 1, len(described))))
    for k in list(judged):
        events = int(reference.timescale_events[k])
        if events < LEAST_EVENTS:
            judged.remove(k)
            notes.append(
                f"process {k + 1} of {reference.name}, {described[k]}, rests on {events} passages: it is set apart, "
                "and its timescale is not judged"
            )
    for name, source in sources.items():
        weak = [k for k in judged if source.timescale_overlap[k] < LEAST_OVERLAP]
        for k in weak:
            notes.append(
                f"{name} has no process like process {k + 1} of {reference.name} (overlap "
                f"{source.timescale_overlap[k]:.2f}): its timescale {k + 1} says little"
            )
    if lagtime > slowest / 2:
        notes.append(
            f"lagtime {lagtime} exceeds half the slowest timescale, {slowest:.4g} frames: times are unreliable"
        )
    for name, source in sources.items():
        total = source.n_frames / slowest
        if source.n_trajs and total < 20:
            notes.append(f"{name} holds {total:.3g} slowest timescales in all: too few for sharp intervals")
        if name in ratios and ratios[name] < 5:
            notes.append(
                f"{name}: a trajectory is {ratios[name]:.3g} slowest timescales long, so populations and passages "
                "remember where the trajectories started"
            )
        if source.n_trajs == 0:
            continue
        m = len(names)
        pairs = [(a, b) for a in range(m) for b in range(m) if a != b and source.mfpt_events[a, b] < LEAST_EVENTS]
        if pairs:
            shown = ", ".join(f"{names[a].split()[0]} to {names[b].split()[0]}" for a, b in pairs[:6])
            more = f" and {len(pairs) - 6} more" if len(pairs) > 6 else ""
            notes.append(f"{name} shows fewer than {LEAST_EVENTS} passages {shown}{more}")
    return notes
