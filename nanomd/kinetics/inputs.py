"""Checks of what callers hand in, and the numbering of states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd import _native
from nanomd.base.errors import InputError
from nanomd.data.counts import MAX_DENSE_STATES

Trajs = list[NDArray[np.integer]]
IntArray = NDArray[np.int64]


def trajectories(name: str, value: Any) -> Trajs:
    """Check a list of discrete trajectories, and leave out empty ones."""
    arrays = [value] if isinstance(value, np.ndarray) and value.ndim == 1 else list(value)
    out: Trajs = []
    for i, item in enumerate(arrays):
        x = np.asarray(item)
        if x.ndim != 1 or (x.size and x.dtype.kind not in "iu"):
            raise InputError(f"{name}[{i}] must be a 1-D array of integers, got {x.dtype} of shape {x.shape}")
        if x.size:
            out.append(x)
    if not out or max(len(x) for x in out) < 2 or max(int(x.max()) for x in out) < 0:
        raise InputError(f"{name} must hold at least one trajectory of two assigned frames")
    return out


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


def usable_length(trajs: Trajs) -> int:
    """Return the length of the shortest trajectory, after leaving out the shortest that hold 5 % of all frames."""
    lengths = np.sort([len(x) for x in trajs])[::-1]
    return int(lengths[np.searchsorted(np.cumsum(lengths), 0.95 * lengths.sum())])


def check_lagtime(lagtime: int, length: int) -> None:
    """Raise `InputError` unless trajectories of `length` frames have pairs at this lag."""
    if not 1 <= lagtime < length:
        raise InputError(f"lagtime must be in [1, {length - 1}] frames (shortest dtraj has {length}), got {lagtime}")


# --- The numbering of states -----------------------------------------------------------------------------------------


def number_states(trajs: Trajs, named: Sequence[int] | IntArray = ()) -> IntArray:
    """Return the label of every state, rising: 0, 1, ... themselves, or those that occur where they are few among them.

    Parameters
    ----------
    trajs : list of arrays
        Negative labels are unassigned.
    named : sequence of int
        Labels that are states whether they occur or not.
    """
    named = np.asarray(named, np.int64)
    highest = max([int(x.max()) for x in trajs if x.size] + named[-1:].tolist())
    if highest < MAX_DENSE_STATES:
        occurs = _native.count_visits(trajs, highest + 1)[0] > 0
        occurs[named] = True
        labels = np.flatnonzero(occurs)
    else:
        labels = np.unique(np.concatenate([named, *(np.unique(x) for x in trajs)]))
        labels = labels[labels >= 0].astype(np.int64)
    return np.arange(highest + 1) if 2 * len(labels) > highest else labels


def encode(trajs: Trajs, symbols: IntArray) -> Trajs:
    """Turn labels, all of them among `symbols` or negative, into states 0, 1, ...; negative ones stay."""
    if symbols[-1] == len(symbols) - 1:
        return trajs
    return [np.where(np.asarray(x) < 0, -1, np.searchsorted(symbols, x)) for x in trajs]


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
