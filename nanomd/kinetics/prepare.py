"""What `validate` was handed, checked and brought to one numbering of states and one stride."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd.base.errors import InputError
from nanomd.base.units import FrameInterval
from nanomd.kinetics.counted_source import Counted
from nanomd.kinetics.inputs import Handed, Trajs, at_stride, encode, given_macrostates, handed_in, number_states

IntArray = NDArray[np.int64]

REFERENCE, ROLLOUT, TRAINING = "MD", "GPT", "training MD"
TAKEN = (REFERENCE, ROLLOUT, "MSM", "MSM (lag 1)", "memory kernel")


@dataclass(frozen=True)
class Inputs:
    """What was handed in.

    Parameters
    ----------
    sources : dict of lists of arrays
        Trajectories of states 0..n-1, the reference first.
    training : list of arrays
        What the models learnt from.
    learnt_from : str
        The source that holds it: the reference, or "training MD".
    symbols : ndarray (n,)
        Labels of the states.
    macrostate : ndarray (n,), optional
        Macrostates of the user, -1 for none.
    names : list of str
        Of the macrostates, where the user gave any.
    interval : FrameInterval
        Between two frames as they are compared.
    counted : dict of Counted
        Sources without trajectories, in the same numbering.
    n_views : dict of int
        So many trajectories of a source in a row are views of one, at the stride of all from different offsets.
    notes : list of str
    """

    sources: dict[str, Trajs]
    training: Trajs
    learnt_from: str
    symbols: IntArray
    macrostate: IntArray | None
    names: list[str]
    interval: FrameInterval
    counted: dict[str, Counted]
    n_views: dict[str, int]
    notes: list[str]

    @property
    def n_states(self) -> int:
        """Number of states, n."""
        return len(self.symbols)

    def views(self, name: str) -> int:
        """Return how many trajectories of a source in a row are views of one."""
        return self.n_views[name]


def prepare(
    dtrajs: Any,
    rollout: Any,
    training: Any,
    others: Mapping[str, Any],
    frame_interval: FrameInterval | str | None,
    macrostate_of_state: ArrayLike | Mapping[int, int | str] | None,
) -> Inputs:
    """Check all trajectories; see `nanomd.kinetics.validate`."""
    raw, counted = {REFERENCE: handed_in("dtrajs", dtrajs)}, dict[str, Counted]()

    def take(name: str, argument: str, value: Any) -> None:
        found = Counted.of(value)
        if found is None:
            raw[name] = handed_in(argument, value)
        else:
            counted[name] = found

    if rollout is not None:
        take(ROLLOUT, "rollout", rollout)
    if not isinstance(others, Mapping):
        raise InputError(f"others must map names to trajectories, as in {{'LSTM': ...}}, got {type(others).__name__}")
    for name, trajs in others.items():
        if name in TAKEN:
            raise InputError(f"others must not be named {name!r}, which is taken")
        take(name, f"others[{name!r}]", trajs)
    learnt_from = REFERENCE
    if training is not None:
        seen = handed_in("training", training)
        if not _same(seen, raw[REFERENCE]):
            learnt_from, raw[TRAINING] = TRAINING, seen
    handed: dict[str, Handed | Counted] = {**raw, **counted}
    stride = _common_stride(handed)
    interval = FrameInterval.parse(frame_interval)
    if frame_interval is None:
        interval = next((source.interval for source in handed.values() if source.interval is not None), interval)
    given, names = ({}, []) if macrostate_of_state is None else given_macrostates(macrostate_of_state)
    symbols = number_states(raw.values(), _named(given, counted))
    notes = []
    if stride > 1:
        interval = FrameInterval(interval.value * stride, interval.unit)
        length = "that" if interval.unit == "frame" else str(interval)
        notes.append(
            f"the states of {_widest(handed)} are {stride} frames of the MD apart: all sources are compared at this "
            f"stride, and their frames are {length} long"
        )
    sources, n_views = {}, {}
    for name, source in raw.items():
        if macrostate_of_state is not None:
            notes += _unknown(name, source.as_labels(), symbols, given)
        n_views[name] = stride // source.stride
        sources[name] = at_stride(name, encode(source, symbols), n_views[name])
    macrostate = np.array([given.get(label, -1) for label in symbols.tolist()], np.int64)
    return Inputs(
        sources=sources,
        training=sources[learnt_from],
        learnt_from=learnt_from,
        symbols=symbols,
        macrostate=None if macrostate_of_state is None else macrostate,
        names=names,
        interval=interval,
        counted={name: found.renumbered(symbols) for name, found in counted.items()},
        n_views=n_views,
        notes=notes,
    )


def _same(one: Handed, other: Handed) -> bool:
    if one.trajs is other.trajs:
        return True
    lengths = [[len(x) for x in source.trajs] for source in (one, other)]
    return lengths[0] == lengths[1] and all(
        np.array_equal(a, b) for a, b in zip(one.as_labels(), other.as_labels(), strict=True)
    )


def _named(given: Mapping[int, int], counted: Mapping[str, Counted]) -> IntArray:
    """Return the labels, rising, that are states wherever trajectories lead."""
    parts = [np.array(list(given), np.int64), *(found.occurring for found in counted.values())]
    return np.unique(np.concatenate(parts))


def _widest(handed: Mapping[str, Handed | Counted]) -> str:
    """Name the source whose states are furthest apart."""
    name = max(handed, key=lambda name: handed[name].stride)
    return "the rollout" if name == ROLLOUT else name


def _common_stride(handed: Mapping[str, Handed | Counted]) -> int:
    """Return the stride at which all sources can be looked at: the longest of theirs, of which each is a part."""
    longest = max(source.stride for source in handed.values())
    for name, source in handed.items():
        if longest % source.stride or (isinstance(source, Counted) and source.stride != longest):
            raise InputError(
                f"the states of {name} are {source.stride} frames apart, those of {_widest(handed)} {longest}: the two "
                "cannot be compared; generate one of them with another stride"
            )
    return longest


def _unknown(name: str, trajs: Trajs, symbols: IntArray, given: Mapping[int, int]) -> list[str]:
    """Name the states of a source that the user's macrostates do not mention: they are in none."""
    new = np.array([label for label in symbols.tolist() if label not in given], np.int64)
    if not len(new):
        return []
    inside = [np.isin(x, new) for x in trajs]
    number, total = sum(int(x.sum()) for x in inside), sum(len(x) for x in trajs)
    if number == 0:
        return []
    met = np.unique(np.concatenate([np.asarray(x, np.int64)[i] for x, i in zip(trajs, inside, strict=True)]))
    shown = ", ".join(map(str, met[:6].tolist())) + (f", ... ({len(met)})" if len(met) > 6 else "")
    return [
        f"{number:,} frames ({100 * number / total:.3g} %) of {name} are in states that macrostate_of_state does not "
        f"name, and so in no macrostate: {shown}"
    ]
