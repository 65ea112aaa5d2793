"""Counting in discrete trajectories."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd._native.core import CORE
from nanomd.base.errors import InputError

_TOKEN_TYPES = (np.uint8, np.uint16, np.int32, np.int64)
_BATCH = 1 << 24  # frames that are looked at together: no more of what is derived from trajectories is in memory


@dataclass(frozen=True, slots=True)
class Derived:
    """What `function` makes of a trajectory, frame by frame: made when it is read, and given up again.

    Parameters
    ----------
    frames : ndarray (n_frames,)
    function : callable
        From the frames to an array (n_frames,) of integers.
    """

    frames: NDArray[Any]
    function: Callable[[NDArray[Any]], NDArray[Any]]

    def __len__(self) -> int:
        return len(self.frames)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("a derived trajectory is made anew whenever it is read")
        made = self.function(self.frames)
        return made if dtype is None else made.astype(dtype, copy=False)


def _batches(dtrajs: Sequence[Any]) -> Iterator[tuple[list[NDArray[Any]], slice]]:
    """Yield trajectories of one type that the core reads, a batch at a time, copying only where it must."""
    batch: list[NDArray[Any]] = []
    begin = frames = 0
    for i, item in enumerate(dtrajs):
        x = np.asarray(item)
        if x.ndim != 1 or (x.size and x.dtype.kind not in "iu"):
            raise InputError(f"dtrajs[{i}] must be a 1-D array of integers, got {x.dtype} of shape {x.shape}")
        x = np.ascontiguousarray(x, x.dtype if x.dtype in _TOKEN_TYPES else np.int64)
        if batch and (x.dtype != batch[0].dtype or frames + len(x) > _BATCH):
            yield batch, slice(begin, i)
            batch, begin, frames = [], i, 0
        batch.append(x)
        frames += len(x)
    yield batch, slice(begin, len(dtrajs))


class Blocks(NamedTuple):
    """How trajectories are cut into blocks of time: rows of `spans` are (first block, number of equal blocks)."""

    spans: NDArray[np.int64]  # (n_trajs, 2)
    n_blocks: int


def _count(function: str, dtrajs: Sequence[ArrayLike], blocks: Blocks | None, *arguments: Any) -> Any:
    if blocks is None:
        blocks = Blocks(np.tile(np.array([[0, 1]], np.int64), (len(dtrajs), 1)), 1)
    total: Any = None
    for tokens, batch in _batches(dtrajs):
        try:
            counted = getattr(CORE, function)(tokens, blocks.spans[batch], blocks.n_blocks, *arguments)
        except CORE.CoreInputError as error:
            raise InputError(str(error)) from None
        if total is None:
            total = counted
        else:
            for sums, more in zip(_arrays(total), _arrays(counted), strict=True):
                sums += more
    return total


def _arrays(counted: Any) -> tuple[NDArray[Any], ...]:
    return counted if isinstance(counted, tuple) else (counted,)


def count_visits(dtrajs: Sequence[ArrayLike], n_states: int, blocks: Blocks | None = None) -> NDArray[np.int64]:
    """Count frames by state: int64 (n_blocks, n_states).

    Here and below, `blocks` splits the result over blocks of time. Without it there is one row for all.
    """
    visits: NDArray[np.int64] = _count("count_visits", dtrajs, blocks, n_states)
    return visits


def count_transitions(
    dtrajs: Sequence[ArrayLike], n_states: int, lagtime: int, *, sliding: bool = True, blocks: Blocks | None = None
) -> NDArray[np.int64]:
    """Count transitions at a lag: int64 (n_blocks, n_states, n_states); every frame starts one, or every lag-th."""
    counts: NDArray[np.int64] = _count(
        "count_transitions", dtrajs, blocks, n_states, lagtime, 1 if sliding else max(lagtime, 1)
    )
    return counts


def project_transitions(
    dtrajs: Sequence[ArrayLike],
    n_states: int,
    lagtime: int,
    matrix: NDArray[np.float64],
    *,
    blocks: Blocks | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return sliding counts @ matrix, (n_blocks, n_states, n_columns), and the row sums of the counts."""
    matrix = np.ascontiguousarray(matrix, np.float64)
    product, rows = _count("project_transitions", dtrajs, blocks, n_states, lagtime, matrix)
    return product, rows


def count_passages(
    dtrajs: Sequence[ArrayLike], n_states: int, stride: int = 1, *, blocks: Blocks | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return exposure (frames) and number of first passages between all pairs: int64 (n_blocks, n_states, n_states).

    A passage i -> j runs from the first visit to i after j to the next visit to j; `csrc/include/nanomd/counts.h`.
    """
    exposure, passages = _count("count_passages", dtrajs, blocks, n_states, stride)
    return exposure, passages


def count_stays(
    dtrajs: Sequence[ArrayLike], n_states: int, stride: int = 1, *, n_bins: int = 2, blocks: Blocks | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return exposure and exits (n_blocks, n_states), and lengths of completed and cut stays (n_states, n_bins)."""
    exposure, exits, completed, cut = _count("count_stays", dtrajs, blocks, n_states, stride, n_bins)
    return exposure, exits, completed, cut
