"""A reversible Markov chain of three states in a row, for the tests of the judge: 0 - 1 - 2, slowest timescale 30."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MATRIX = np.array([[0.97, 0.03, 0.0], [0.02, 0.96, 0.02], [0.0, 0.04, 0.96]])
STATIONARY = np.array([4.0, 6.0, 3.0]) / 13.0


def walks(n_steps: int, n_trajs: int, seed: int, matrix: NDArray[np.float64] = MATRIX) -> list[NDArray[np.int64]]:
    """Draw trajectories that start in the stationary distribution of the default chain."""
    rng = np.random.default_rng(seed)
    cumulative = np.cumsum(matrix, axis=1)
    cumulative[:, -1] = 1.0
    present = rng.choice(len(matrix), size=n_trajs, p=STATIONARY if len(matrix) == 3 else None)
    out = np.empty((n_trajs, n_steps), np.int64)
    for step in range(n_steps):
        out[:, step] = present
        present = (rng.random(n_trajs)[:, None] >= cumulative[present]).sum(axis=1)
    return list(out)


def slowed(dtrajs: list[NDArray[np.int64]], factor: float, seed: int = 0) -> list[NDArray[np.int64]]:
    """Repeat every state so that all times are `factor` (1 to 2) times as long."""
    rng = np.random.default_rng(seed)
    return [np.repeat(x, 1 + (rng.random(len(x)) < factor - 1)) for x in dtrajs]
