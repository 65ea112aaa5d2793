"""What a reader must know before believing the table."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nanomd.kinetics.comparison import LEAST_EVENTS
from nanomd.kinetics.lags import Lags
from nanomd.kinetics.macrostates import short_names
from nanomd.kinetics.results import SourceKinetics
from nanomd.kinetics.rows import LEAST_OVERLAP
from nanomd.kinetics.yardstick import Yardstick

IntArray = NDArray[np.int64]

_SHOWN = 6


def verdict_notes(
    sources: dict[str, SourceKinetics],
    training: str | None,
    lags: Lags,
    yardstick: Yardstick,
    symbols: IntArray,
    names: list[str],
    described: list[str],
) -> list[str]:
    """Return the warnings of a validation.

    Parameters
    ----------
    sources : dict of SourceKinetics
        The reference first.
    training : str, optional
        Name of the source that the models learnt from, where that is not the reference.
    lags : Lags
    yardstick : Yardstick
    symbols : ndarray (n,)
        Labels of the states.
    names, described : list of str
        Macrostates, and processes in words.
    """
    notes = []
    if not lags.settled:
        notes.append("every lagtime exceeds half the slowest timescale: timescales are unreliable")
    reference = next(iter(sources.values()))
    at = int(np.argmin(abs(reference.lagtimes - lags.lagtime)))
    longest = np.fmax(lags.slowest, reference.timescales.high[at, 0])  # as far as its interval reaches
    if lags.lagtime > longest / 2:
        notes.append(
            f"lagtime {lags.lagtime} exceeds half the slowest timescale, {lags.slowest:.4g} frames: times are "
            "unreliable"
        )
    notes += _states(sources, training, yardstick, symbols)
    notes += _processes(sources, described[: len(names) - 1])
    for source in sources.values():
        if source.n_trajs:
            notes += _lengths(source, lags.slowest) + _passages(source, short_names(names))
    return notes


def _states(
    sources: dict[str, SourceKinetics], training: str | None, yardstick: Yardstick, symbols: IntArray
) -> list[str]:
    """Say who is where Markov models do not reach, and where the reference or the training data have never been."""
    notes, reference = [], next(iter(sources.values()))
    words = (
        f"outside the largest connected set of {reference.name}, of which Markov models and timescales know nothing",
        f"in states that {reference.name} never visits",
    )
    for k, where in enumerate(words):
        shares = [(s.name, float(s.outside.value[k])) for s in sources.values() if s.n_trajs and len(s.outside.value)]
        shown = [f"{100 * share:.3g} % of {name}" for name, share in shares if share > 0]
        if shown and yardstick.outside is not None:
            notes.append(f"{' and '.join(shown)} lie {where}: states {_some(symbols[yardstick.outside[k]])}")
    if training is not None:
        new = np.setdiff1d(sources[training].unseen_states, reference.unseen_states)
        share = float(reference.populations.value[new].sum())
        if share > 0:
            notes.append(
                f"{100 * share:.3g} % of {reference.name} lie in states that the training data never visit, and no "
                f"model can know: states {_some(symbols[new])}"
            )
    return notes


def _some(labels: IntArray) -> str:
    return ", ".join(map(str, labels[:_SHOWN].tolist())) + (f", ... ({len(labels)})" if len(labels) > _SHOWN else "")


def _processes(sources: dict[str, SourceKinetics], described: list[str]) -> list[str]:
    """Name the processes that rest on too few events, and the sources without one that is like the reference's."""
    notes, reference = [], next(iter(sources.values()))
    for k, words in enumerate(described):
        events = int(reference.timescale_events[k])
        if events < LEAST_EVENTS:
            notes.append(
                f"process {k + 1} of {reference.name}, {words}, rests on {events} passages: it is set apart, "
                "and its timescale is not judged"
            )
            continue
        notes += [
            f"{source.name} has no process like process {k + 1} of {reference.name} (overlap "
            f"{source.timescale_overlap[k]:.2f}): its timescale {k + 1} says little"
            for source in sources.values()
            if source.timescale_overlap[k] < LEAST_OVERLAP
        ]
    return notes


def _lengths(source: SourceKinetics, slowest: float) -> list[str]:
    notes, total = [], source.n_frames / slowest
    each = total / source.n_trajs
    if total < 20:
        notes.append(f"{source.name} holds {total:.3g} slowest timescales in all: too few for sharp intervals")
    if each < 5:
        notes.append(
            f"{source.name}: a trajectory is {each:.3g} slowest timescales long, so populations and passages "
            "remember where the trajectories started"
        )
    return notes


def _passages(source: SourceKinetics, names: list[str]) -> list[str]:
    few = [(a, b) for a, b in zip(*np.nonzero(source.mfpt_events < LEAST_EVENTS), strict=True) if a != b]
    if not few:
        return []
    shown = ", ".join(f"{names[a]} to {names[b]}" for a, b in few[:_SHOWN])
    more = f" and {len(few) - _SHOWN} more" if len(few) > _SHOWN else ""
    return [f"{source.name} shows fewer than {LEAST_EVENTS} passages {shown}{more}"]
