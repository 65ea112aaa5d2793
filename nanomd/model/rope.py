"""Rotary phases that are exact at any position.

Every frequency is an integer multiple of 2 pi / 2^32, so the phase of position p is the exact integer
``p m_i mod 2^32``. Relative rotations are then the same at step 10^9 as at step 1, on every backend.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from nanomd.base.config import ModelConfig

_TURN = 2.0**32


def rope_multipliers(config: ModelConfig) -> NDArray[np.uint32]:
    """Return the phase increments per frame of each rotated pair, in units of 2 pi / 2^32.

    ``m_i = round(2^32 / (2 pi) * rope_base^(-i / (d_head / 2)))`` for pair i, that is features i and i + d_head / 2.

    Returns
    -------
    multipliers : (d_head / 2,) uint32
    """
    half = config.d_head // 2
    return np.array(
        [round(_TURN / (2.0 * math.pi) * config.rope_base ** (-i / half)) for i in range(half)], dtype=np.uint32
    )


def rope_tables(
    config: ModelConfig, positions: NDArray[np.uint64] | NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return cosines and sines of the rotary angles at the given positions.

    The phase is read as a signed 32-bit integer, so angles lie in [-pi, pi); they are computed in double precision and
    the cosines and sines rounded to single.

    Parameters
    ----------
    config : ModelConfig
        Gives d_head and rope_base.
    positions : (n,) unsigned integers
        Frame indices, up to 2^64 - 1.

    Returns
    -------
    cos, sin : (n, d_head / 2) float32
    """
    wrapped = (np.asarray(positions).astype(np.uint64) & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    phase = wrapped[:, None] * rope_multipliers(config)[None, :]  # uint32 arithmetic wraps, which is the modulus
    angle = phase.view(np.int32).astype(np.float64) * (2.0 * math.pi / _TURN)
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
