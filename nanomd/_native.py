"""The only importer of the compiled core.

Arrays are checked here once, with friendly errors; `_core` checks again defensively.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd.errors import InputError

try:
    from nanomd import _core
except ImportError as error:  # pragma: no cover
    raise ImportError(
        "the compiled core nanomd._core is missing: install the package (`pip install .`), not its source tree"
    ) from error


def cuda_info() -> dict[str, Any]:
    """Return ``{"built": bool, "devices": [...], "reason": str}``: what CUDA this build and machine offer."""
    info: dict[str, Any] = _core.cuda_info()
    return info


def rollout_uniform(seed: int, step: int, trajectory: int) -> float:
    """Return the uniform number in [0, 1) of (seed, step, trajectory)."""
    return float(_core.rollout_uniform(seed, step, trajectory))


# --- Langevin dynamics of the four-state potential -------------------------------------------------------------------


def simulate_four_state(
    walkers: NDArray[np.float64],
    n_frames: int,
    *,
    beta: float,
    friction: float,
    time_step: float,
    spacing: int,
    seed: int,
    first_frame: int = 0,
    first_trajectory: int = 0,
    n_threads: int = 1,
) -> NDArray[np.float64]:
    """Advance walkers (n_trajs, 4: x, y, vx, vy; updated in place) and return frames (n_trajs, n_frames, 2)."""
    _check_walkers(walkers)
    try:
        frames: NDArray[np.float64] = _core.simulate_four_state(
            beta, friction, time_step, spacing, seed, first_frame, first_trajectory, n_frames, walkers, n_threads
        )
    except _core.CoreInputError as error:
        raise InputError(str(error)) from None
    return frames


def _check_walkers(walkers: NDArray[np.float64]) -> None:
    if walkers.dtype != np.float64 or walkers.ndim != 2 or walkers.shape[1] != 4 or not walkers.flags.c_contiguous:
        raise InputError(
            f"walkers must be a contiguous float64 array (n_trajs, 4), got {walkers.dtype} {walkers.shape}"
        )


def four_state_potential(x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """Return U(x, y) of the four-state potential."""
    value: NDArray[np.float64] = _core.four_state_potential(np.asarray(x, np.float64), np.asarray(y, np.float64))
    return value


# --- Counting in discrete trajectories -------------------------------------------------------------------------------

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
        return getattr(_core, function)(tokens, blocks.spans, blocks.n_blocks, *arguments)
    except _core.CoreInputError as error:
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
