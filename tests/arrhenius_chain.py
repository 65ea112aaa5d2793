"""A Markov chain in a row of four states, whose rates obey Arrhenius' law exactly: what conditional models are held to.

From i to its neighbour j over the barrier b between them, at temperature T (in units of energy),

    p(j | i) = A exp(-(b - e_i) / T)

It obeys detailed balance with populations exp(-e_i / T), and the odds p(j | i) / p(i | i) are straight in 1/T but for
the share of steps that leave: to 2 % here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

ENERGY = np.array([0.0, 1.0, 0.5, 1.6])
BARRIER = np.array([3.0, 4.5, 3.2])
PREFACTOR = 1.5


def chain(temperature: float) -> FloatArray:
    """Return the transition matrix (4, 4)."""
    p = np.zeros((4, 4))
    for i, barrier in enumerate(BARRIER):
        p[i, i + 1] = PREFACTOR * np.exp(-(barrier - ENERGY[i]) / temperature)
        p[i + 1, i] = PREFACTOR * np.exp(-(barrier - ENERGY[i + 1]) / temperature)
    np.fill_diagonal(p, 1.0 - p.sum(axis=1))
    return p


def populations(temperature: float) -> FloatArray:
    """Return the stationary vector (4,)."""
    weights = np.exp(-ENERGY / temperature)
    return weights / weights.sum()


def sample(temperature: float, n_steps: int, n_trajs: int, seed: int) -> list[NDArray[np.int64]]:
    """Draw trajectories that start in equilibrium."""
    rng = np.random.default_rng(seed)
    cumulative = chain(temperature).cumsum(axis=1)
    cumulative[:, -1] = 1.0
    x = rng.choice(4, size=n_trajs, p=populations(temperature))
    out = np.empty((n_trajs, n_steps), np.int64)
    for step in range(n_steps):
        out[:, step] = x
        x = (rng.random(n_trajs)[:, None] >= cumulative[x]).sum(axis=1)
    return list(out)


def passage_time(p: FloatArray, source: int, target: int) -> float:
    """Return the mean first passage time, in steps, of a chain (n, n)."""
    others = [i for i in range(len(p)) if i != target]
    times = np.linalg.solve(np.eye(len(others)) - p[np.ix_(others, others)], np.ones(len(others)))
    return float(times[others.index(source)])


def counted(dtrajs: list[NDArray[np.integer]], n: int = 4) -> FloatArray:
    """Return the transition matrix (n, n) of trajectories by counting."""
    counts = np.zeros((n, n))
    for x in dtrajs:
        np.add.at(counts, (x[:-1], x[1:]), 1.0)
    return counts / counts.sum(axis=1, keepdims=True)
