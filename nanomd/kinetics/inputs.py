"""Checks of what callers hand in."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError

Trajs = list[NDArray[np.integer]]


def trajectories(name: str, value: Any, stride: int = 1) -> Trajs:
    """Check a list of discrete trajectories, leave out empty ones, and keep every stride-th frame."""
    arrays = [value] if isinstance(value, np.ndarray) and value.ndim == 1 else list(value)
    out: Trajs = []
    for i, item in enumerate(arrays):
        x = np.asarray(item)
        if x.ndim != 1 or (x.size and x.dtype.kind not in "iu"):
            raise InputError(f"{name}[{i}] must be a 1-D array of integers, got {x.dtype} of shape {x.shape}")
        if x.size:
            out.append(x[::stride])
    if not out or max(len(x) for x in out) < 2 or max(int(x.max()) for x in out) < 0:
        raise InputError(f"{name} must hold at least one trajectory of two assigned frames")
    return out


def usable_length(trajs: Trajs) -> int:
    """Return the length of the shortest trajectory, after leaving out the shortest that hold 5 % of all frames."""
    lengths = np.sort([len(x) for x in trajs])[::-1]
    return int(lengths[np.searchsorted(np.cumsum(lengths), 0.95 * lengths.sum())])


def check_lagtime(lagtime: int, length: int) -> None:
    """Raise `InputError` unless trajectories of `length` frames have pairs at this lag."""
    if not 1 <= lagtime < length:
        raise InputError(f"lagtime must be in [1, {length - 1}] frames (shortest dtraj has {length}), got {lagtime}")
