"""The verdict table: every quantity of every source beside the reference's, and the warnings.

The rule. A quantity of a source passes when it differs from the reference's by no more than the two half-widths of
their confidence intervals, facing each other, added in quadrature; times are compared as logarithms. Nothing is said
(None) where an interval is undefined, or fewer than five events stand behind either value. At 95 % confidence one true
value in twenty fails by chance, and a source with wide intervals passes easily: look at the intervals too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nanomd.kinetics.results import Cell, Interval, SourceKinetics, VerdictRow
from nanomd.kinetics.sources import Frame
from nanomd.units import FrameInterval

LEAST_EVENTS = 5


def verdict_rows(
    sources: dict[str, SourceKinetics], frame: Frame, names: list[str], interval: FrameInterval
) -> list[VerdictRow]:
    """Return the table: macrostate populations, timescales, first passages, residence times."""
    m = frame.n_macrostates
    letters = [name.split()[0] for name in names]
    at = int(np.argmin(abs(frame.lagtimes - frame.lagtime)))
    rows = [
        _row(f"population {letters[a]}", "", sources, lambda s, a=a: (s.macro_populations[a], None), 1.0)
        for a in range(m)
    ]
    for k in range(min(m - 1, frame.n_timescales)):
        label = f"timescale {k + 1}"
        rows.append(_row(label, interval.unit, sources, lambda s, k=k: (s.timescales[at, k], None), interval.value))
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
    return rows


def _row(quantity: str, unit: str, sources: dict[str, SourceKinetics], read: Any, scale: float) -> VerdictRow:
    cells: dict[str, Cell] = {}
    truth: tuple[Interval, int | None] | None = None
    for name, source in sources.items():
        value, number = read(source)
        events = None if number is None or source.n_trajs == 0 else int(number)
        passed = None
        if truth is None:
            truth = (value, events)
        elif not any(n is not None and n < LEAST_EVENTS for n in (events, truth[1])):
            passed = agrees(value, truth[0], log=unit != "")
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
    sources: dict[str, SourceKinetics], ratios: dict[str, float], slowest: float, lagtime: int, names: list[str]
) -> list[str]:
    """Return what a reader must know before believing the table."""
    notes = []
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
