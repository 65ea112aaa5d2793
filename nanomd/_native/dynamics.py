"""Langevin dynamics of the four-state potential."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd._native.core import CORE
from nanomd.base.errors import InputError


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
        frames: NDArray[np.float64] = CORE.simulate_four_state(
            beta, friction, time_step, spacing, seed, first_frame, first_trajectory, n_frames, walkers, n_threads
        )
    except CORE.CoreInputError as error:
        raise InputError(str(error)) from None
    return frames


def _check_walkers(walkers: NDArray[np.float64]) -> None:
    if walkers.dtype != np.float64 or walkers.ndim != 2 or walkers.shape[1] != 4 or not walkers.flags.c_contiguous:
        raise InputError(
            f"walkers must be a contiguous float64 array (n_trajs, 4), got {walkers.dtype} {walkers.shape}"
        )


def four_state_potential(x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """Return U(x, y) of the four-state potential."""
    value: NDArray[np.float64] = CORE.four_state_potential(np.asarray(x, np.float64), np.asarray(y, np.float64))
    return value
