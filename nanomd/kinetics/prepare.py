"""What `validate` was handed, checked and brought to one numbering of states and one stride."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd.base.errors import InputError
from nanomd.base.units import FrameInterval
from nanomd.kinetics.inputs import Trajs, at_stride, encode, given_macrostates, number_states, trajectories

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
    stride : int
        Frames between two states of the rollout: the other sources hold as many views of every trajectory.
    notes : list of str
    """

    sources: dict[str, Trajs]
    training: Trajs
    learnt_from: str
    symbols: IntArray
    macrostate: IntArray | None
    names: list[str]
    interval: FrameInterval
    stride: int
    notes: list[str]

    @property
    def n_states(self) -> int:
        """Number of states, n."""
        return len(self.symbols)

    def views(self, name: str) -> int:
        """Return how many trajectories of a source in a row are views of one."""
        return 1 if name == ROLLOUT else self.stride


def prepare(
    dtrajs: Any,
    rollout: Any,
    training: Any,
    others: Mapping[str, Any],
    frame_interval: FrameInterval | str | None,
    macrostate_of_state: ArrayLike | Mapping[int, int | str] | None,
) -> Inputs:
    """Check all trajectories; see `nanomd.kinetics.validate`."""
    interval = FrameInterval.parse(frame_interval)
    kept, step = int(getattr(rollout, "stride", 1) or 1), int(getattr(rollout, "frame_stride", 1))
    stride = kept * step  # frames of the MD between two states of the rollout
    if frame_interval is None and getattr(rollout, "frame_interval", None) is not None:
        interval = FrameInterval(rollout.frame_interval.value / step, rollout.frame_interval.unit)
    raw = {REFERENCE: trajectories("dtrajs", dtrajs)}
    if rollout is not None:
        raw[ROLLOUT] = trajectories("rollout", getattr(rollout, "dtrajs", rollout))
    for name, trajs in others.items():
        if name in TAKEN:
            raise InputError(f"others must not be named {name!r}, which is taken")
        raw[name] = trajectories(f"others[{name!r}]", trajs)
    learnt_from = REFERENCE
    if training is not None:
        seen = trajectories("training", training)
        if not _same(seen, raw[REFERENCE]):
            learnt_from, raw[TRAINING] = TRAINING, seen
    given, names = ({}, []) if macrostate_of_state is None else given_macrostates(macrostate_of_state)
    symbols = number_states([x for trajs in raw.values() for x in trajs], sorted(given))
    notes = []
    if stride > 1:
        interval = FrameInterval(interval.value * stride, interval.unit)
        notes.append(
            f"the states of the rollout are {stride} frames of the MD apart: all sources are compared at this stride, "
            f"a frame is {interval}"
        )
    sources = {}
    for name, trajs in raw.items():
        if macrostate_of_state is not None:
            notes += _unknown(name, trajs, symbols, given)
        sources[name] = encode(trajs if name == ROLLOUT else at_stride(name, trajs, stride), symbols)
    macrostate = np.array([given.get(label, -1) for label in symbols.tolist()], np.int64)
    return Inputs(
        sources=sources,
        training=sources[learnt_from],
        learnt_from=learnt_from,
        symbols=symbols,
        macrostate=None if macrostate_of_state is None else macrostate,
        names=names,
        interval=interval,
        stride=stride,
        notes=notes,
    )


def _same(one: Trajs, other: Trajs) -> bool:
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


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
