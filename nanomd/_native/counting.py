"""Counting in discrete trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd._native.core import CORE
from nanomd.base.errors import InputError

_TOKEN_TYPES = (np.uint8, np.uint16, np.int32, np.int64)


def _tokens(dtrajs: Sequence[ArrayLike]) -> list[NDArray[Any]]:
    """Give all trajectories one type that the core reads, copying only where it must."""
    arrays = [np.asarray(x) for x in dtrajs]
    for i, x in enumerate(arrays):
        if x.ndim != 1 or (x.size and x.dtype.kind not in "iu"):
            raise InputError(f"dtrajs[{i}] must be a 1-D array of integers, got {x.dtype} of shape {x.shape}")
    types = {x.dtype for x in arrays if x.size}
    dtype = types.pop() if len(types) == 1 else np.dtype(np.int64)
    if dtype not in _TOKEN_TYPES:
        dtype = np.dtype(np.int64)
    return [np.ascontiguousarray(x, dtype) for x in arrays]


class Blocks(NamedTuple):
    """How trajectories are cut into blocks of time: rows of `spans` are (first block, number of equal blocks)."""

    spans: NDArray[np.int64]  # (n_trajs, 2)
    n_blocks: int


def _count(function: str, dtrajs: Sequence[ArrayLike], blocks: Blocks | None, *arguments: Any) -> Any:
    tokens = _tokens(dtrajs)
    if blocks is None:
        blocks = Blocks(np.tile(np.array([[0, 1]], np.int64), (len(tokens), 1)), 1)
    try:
        return getattr(CORE, function)(tokens, blocks.spans, blocks.n_blocks, *arguments)
    except CORE.CoreInputError as error:
        raise InputError(str(error)) from None


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
