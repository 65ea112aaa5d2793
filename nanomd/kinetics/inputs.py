"""Checks of what callers hand in, and the numbering of states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd import _native
from nanomd._native import Derived
from nanomd.base.errors import InputError, shown
from nanomd.base.units import FrameInterval, GivenInterval, in_frames
from nanomd.data.counts import MAX_DENSE_STATES
from nanomd.data.dtrajs import load_dtrajs, unwrapped

Trajs = list[NDArray[np.integer]]
Traj = NDArray[np.integer] | Derived
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Handed:
    """The trajectories of a source as they were handed in.

    Parameters
    ----------
    trajs : list of arrays (n_frames,)
        Whole numbers of any type; memory maps stay what they are. None is empty.
    labels : ndarray (n_tokens,), optional
        The label that each number stands for, of the tokens of a rollout; without, they are labels themselves.
    stride : int
        Frames of the MD between two states.
    interval : FrameInterval, optional
        Of a frame of the MD, where the source knows it.
    """

    trajs: Trajs
    labels: IntArray | None = None
    stride: int = 1
    interval: FrameInterval | None = None

    def as_labels(self) -> Trajs:
        """Return labels."""
        return self.trajs if self.labels is None else [self.labels[x] for x in self.trajs]


def handed_in(name: str, value: Any) -> Handed:
    """Check what stands for a list of discrete trajectories, and leave out empty ones.

    Parameters
    ----------
    name : str
        Of the argument, for the errors.
    value : list of arrays, array, path, pattern, Rollout, or deeptime's TrajectoriesDataset
        One 1-D array is one trajectory; the rows of one with two dimensions are several.
    """
    if hasattr(value, "tokens") and hasattr(value, "state_map"):
        if not np.shape(value.tokens)[1]:
            raise InputError(f"{name} has no trajectories, only observables: generate with store_tokens=True")
        trajs, labels = _checked(name, value.tokens), value.state_map.symbols
    else:
        trajs, labels = _checked(name, unwrapped(value)), None
    step = int(getattr(value, "frame_stride", 1))
    interval = getattr(value, "frame_interval", None)
    if interval is not None:
        interval = FrameInterval(interval.value / step, interval.unit)
    return Handed(trajs, labels, int(getattr(value, "stride", 1) or 1) * step, interval)


def _checked(name: str, value: Any) -> Trajs:
    if isinstance(value, str | Path) or (
        isinstance(value, list | tuple) and value and all(isinstance(x, str | Path) for x in value)
    ):
        value = load_dtrajs(value)
    if not isinstance(value, Iterable) or isinstance(value, Mapping):
        raise InputError(
            f"{name} must be a list of 1-D arrays of integers, a Rollout or a TrajectoriesDataset, "
            f"got {type(value).__name__}"
        )
    out: Trajs = []
    for i, item in enumerate([value] if isinstance(value, np.ndarray) and value.ndim == 1 else value):
        x = np.asarray(item)
        if x.ndim != 1 or (x.size and x.dtype.kind not in "iu"):
            raise InputError(f"{name}[{i}] must be a 1-D array of integers, got {x.dtype} of shape {x.shape}")
        if x.size:
            out.append(x)
    if not out or max(len(x) for x in out) < 2 or max(int(x.max()) for x in out) < 0:
        raise InputError(f"{name} must hold at least one trajectory of two assigned frames")
    return out


def trajectories(name: str, value: Any) -> Trajs:
    """Return what `handed_in` takes as a list of trajectories of labels."""
    return handed_in(name, value).as_labels()


def recoded(frames: NDArray[np.integer], table: NDArray[np.integer]) -> NDArray[np.integer]:
    """Map states by a table (n_states + 1,), whose last element is for unassigned frames (negative)."""
    found: NDArray[np.integer] = table[
        np.where(frames < 0, len(table) - 1, frames) if frames.dtype.kind == "i" else frames
    ]
    return found


def at_stride(name: str, trajs: Trajs, stride: int) -> Trajs:
    """Return every stride-th frame of trajectories from all offsets, so that no frame is left out.

    Returns
    -------
    list of arrays
        `stride` for each trajectory, one after the other; some may be empty.
    """
    if stride == 1:
        return trajs
    if max(len(x) for x in trajs) <= stride:
        raise InputError(f"{name} must hold a trajectory longer than the rollout's stride, {stride} frames")
    return [np.ascontiguousarray(x[offset::stride]) for x in trajs for offset in range(stride)]


def usable_length(trajs: Sequence[Traj]) -> int:
    """Return the length of the shortest trajectory, after leaving out the shortest that hold 5 % of all frames."""
    lengths = np.sort([len(x) for x in trajs])[::-1]
    return int(lengths[np.searchsorted(np.cumsum(lengths), 0.95 * lengths.sum())])


def check_lagtime(lagtime: int, length: int) -> None:
    """Raise `InputError` unless trajectories of `length` frames have pairs at this lag."""
    if not 1 <= lagtime < length:
        raise InputError(f"lagtime must be in [1, {length - 1}] frames (shortest dtraj has {length}), got {lagtime}")


def lags_in_frames(lags: Any, interval: GivenInterval, name: str) -> IntArray:
    """Return lags, each in frames or a time, as frames (n,); raise `InputError` for none, and what is no list."""
    if isinstance(lags, str) or np.ndim(lags) != 1 or len(lags) == 0:
        raise InputError(f"{name} must be a list of whole numbers of frames or of times, got {shown(lags)}")
    return np.array([in_frames(lag, interval, name) for lag in lags], np.int64)


# --- The numbering of states -----------------------------------------------------------------------------------------


def number_states(sources: Iterable[Handed], named: Sequence[int] | IntArray = ()) -> IntArray:
    """Return the label of every state, rising: 0, 1, ... themselves, or those that occur where they are few among them.

    Parameters
    ----------
    sources : of Handed
        Negative labels are unassigned.
    named : sequence of int
        Labels that are states whether they occur or not.
    """
    labels = np.unique(np.concatenate([np.asarray(named, np.int64), *(_occurring(source) for source in sources)]))
    highest = int(labels[-1])
    return np.arange(highest + 1) if 2 * len(labels) > highest else labels


def _occurring(source: Handed) -> IntArray:
    """Return the labels of a source, rising."""
    highest = max(int(x.max()) for x in source.trajs)
    if highest < MAX_DENSE_STATES:
        found = np.flatnonzero(_native.count_visits(source.trajs, highest + 1)[0])
    else:
        found = np.unique(np.concatenate([np.unique(x) for x in source.trajs]))
    found = found[found >= 0].astype(np.int64)
    return found if source.labels is None else source.labels[found]


def encode(source: Handed, symbols: IntArray) -> Trajs:
    """Turn what was handed in, all of it among `symbols` or negative, into states 0, 1, ...; negative ones stay.

    Tokens that are the states already, and labels, are returned as they are.
    """
    if source.labels is not None:
        # A label that the source never shows may be no symbol: its place is never looked up.
        table = np.append(np.searchsorted(symbols, source.labels), 0)
        if np.array_equal(table[:-1], np.arange(len(table) - 1)):
            return source.trajs
        table = table.astype(np.uint8 if len(symbols) <= 256 else np.uint16 if len(symbols) <= 65536 else np.int32)
        return [recoded(x, table) for x in source.trajs]
    if symbols[-1] == len(symbols) - 1:
        return source.trajs
    kind = np.int16 if len(symbols) < 2**15 else np.int32
    return [np.where(x < 0, -1, np.searchsorted(symbols, x)).astype(kind) for x in source.trajs]


def given_macrostates(given: ArrayLike | Mapping[int, int | str]) -> tuple[dict[int, int], list[str]]:
    """Return the macrostate of every label that a user named (negative: none), and names where there are any.

    Parameters
    ----------
    given : array (n_labels,) of int, or mapping from labels to numbers or names
    """
    if not isinstance(given, Mapping):
        array = np.asarray(given)
        if array.dtype.kind not in "iu" or array.ndim != 1:
            raise InputError(
                f"macrostate_of_state must give a whole number for each state, got {array.dtype} of shape {array.shape}"
            )
        return dict(enumerate(array.tolist())), []
    labels: list[Any] = list(given)
    if any(isinstance(label, bool) or not isinstance(label, int | np.integer) or label < 0 for label in labels):
        raise InputError("macrostate_of_state must map states, whole numbers from 0, to macrostates")
    values = list(given.values())
    if all(isinstance(value, str) and value.strip() for value in values):
        names = list(dict.fromkeys(str(value) for value in values))
        return {int(label): names.index(str(value)) for label, value in given.items()}, names
    if all(isinstance(value, int | np.integer) and not isinstance(value, bool) for value in values):
        return {int(label): int(value) for label, value in given.items()}, []
    raise InputError("macrostate_of_state must map states to whole numbers, or all to names")
