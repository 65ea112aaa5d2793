"""A second-order Markov chain whose kinetics are known exactly: the yardstick of training, rollouts and statistics.

A walker on four states in a row (two wells of two states, a barrier between the middle ones). At every step it goes,
with probability ``memory``, back to the state that it came from, and otherwise takes a step of an ordinary reversible
Markov chain P:

    p(next = k | previous = i, present = j) = memory [k == i] + (1 - memory) P[j, k]

With P reversible and of stationary vector pi, the pairs (i, j) have the stationary probability pi_i P_ij, the process
is reversible, and its one-step transition matrix is exactly P. A Markov model at lag 1 therefore sees P, and is blind
to the recrossings: its slowest timescale and its passage times are too short by about (1 + memory) / (1 - memory).
(Only between sets that together hold all states is its passage time right: there it is populations over flux.)

>>> chain = default_chain()
>>> dtrajs = chain.sample(n_steps=1000, n_trajs=4, seed=1)     # list of uint8 arrays
>>> chain.entropy_rate                                         # nats per step; no model can do better
>>> chain.implied_timescales(lagtime=20)                       # of an MSM of infinite data at this lag
>>> chain.mfpt([0], [3]), chain.markov_mfpt([0], [3])          # the truth, 289 steps, and what a lag-1 MSM says
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class KnownChain:
    """The chain described above, of P = `markov` (n, n), its stationary vector `stationary` (n,), and `memory`."""

    markov: FloatArray
    stationary: FloatArray
    memory: float

    @property
    def n_states(self) -> int:
        return len(self.stationary)

    @cached_property
    def tensor(self) -> FloatArray:
        """(n, n, n): probability of k after (i, j)."""
        n = self.n_states
        back = np.broadcast_to(np.eye(n)[:, None, :], (n, n, n))
        return self.memory * back + (1 - self.memory) * self.markov[None, :, :]

    @cached_property
    def pair_stationary(self) -> FloatArray:
        """(n, n): probability of the pair (i, j) at successive steps."""
        return self.stationary[:, None] * self.markov

    @cached_property
    def pair_matrix(self) -> FloatArray:
        """(n^2, n^2): transition matrix of the pairs, pair (i, j) at index i n + j."""
        n = self.n_states
        matrix = np.zeros((n, n, n, n))
        for j in range(n):
            matrix[:, j, j, :] = self.tensor[:, j, :]
        return matrix.reshape(n * n, n * n)

    @cached_property
    def entropy_rate(self) -> float:
        """The least possible mean negative log-likelihood of the next state, nats per step."""
        return float(-(self.pair_stationary[:, :, None] * _x_log(self.tensor)).sum())

    @cached_property
    def markov_entropy_rate(self) -> float:
        """The same for a model that knows only the present state."""
        return float(-(self.stationary[:, None] * _x_log(self.markov)).sum())

    @cached_property
    def timescales(self) -> FloatArray:
        """Relaxation times of the process itself, slowest first: -1 / ln of the positive eigenvalues of the pairs."""
        values = np.linalg.eigvals(self.pair_matrix)
        real = np.sort(values[(abs(values.imag) < 1e-12) & (values.real > 1e-9)].real)[::-1][1:]
        return -1 / np.log(real)

    def lagged_matrix(self, lagtime: int) -> FloatArray:
        """(n, n): probability of the state `lagtime` steps later, given the present state alone."""
        n = self.n_states
        power = np.linalg.matrix_power(self.pair_matrix, lagtime).reshape(n, n, n, n)
        joint = np.einsum("ij,ijkl->jl", self.pair_stationary, power)
        return joint / self.stationary[:, None]

    def implied_timescales(self, lagtime: int) -> FloatArray:
        """(n - 1,): what an MSM of infinite data at this lag finds, slowest first."""
        values = np.sort(np.linalg.eigvals(self.lagged_matrix(lagtime)).real)[::-1][1:]
        with np.errstate(invalid="ignore"):
            return -lagtime / np.log(values)

    def mfpt(self, source: Sequence[int], target: Sequence[int], stride: int = 1) -> float:
        """Mean time from the first visit of `source` after `target` to the next visit of `target`, in steps.

        With stride > 1, as seen by someone who looks at every stride-th step only.
        """
        n = self.n_states
        current = np.tile(np.arange(n), n)  # the pair (i, j) is in state j
        matrix = np.linalg.matrix_power(self.pair_matrix, stride)
        return stride * _mfpt(matrix, self.pair_stationary.ravel(), np.isin(current, source), np.isin(current, target))

    def markov_mfpt(self, source: Sequence[int], target: Sequence[int], lagtime: int = 1) -> float:
        """The same from an MSM of infinite data at this lag."""
        states = np.arange(self.n_states)
        matrix = self.lagged_matrix(lagtime)
        return lagtime * _mfpt(matrix, self.stationary, np.isin(states, source), np.isin(states, target))

    def residence(self, states: Sequence[int], stride: int = 1) -> float:
        """Mean number of steps between entering the set and leaving it."""
        n = self.n_states
        inside = np.isin(np.tile(np.arange(n), n), states)
        matrix = np.linalg.matrix_power(self.pair_matrix, stride)
        pi = self.pair_stationary.ravel()
        return float(stride * pi[inside].sum() / (pi[inside] @ matrix[np.ix_(inside, ~inside)].sum(axis=1)))

    def sample(self, n_steps: int, n_trajs: int, seed: int) -> list[NDArray[np.uint8]]:
        """Draw trajectories that start in equilibrium."""
        n = self.n_states
        rng = np.random.default_rng(seed)
        pair = rng.choice(n * n, size=n_trajs, p=self.pair_stationary.ravel())
        cumulative = np.cumsum(self.tensor, axis=2).reshape(n * n, n)
        cumulative[:, -1] = 1.0
        out = np.empty((n_trajs, n_steps), np.uint8)
        for step in range(n_steps):
            out[:, step] = pair % n
            following = (rng.random(n_trajs)[:, None] >= cumulative[pair]).sum(axis=1)
            pair = pair % n * n + following
        return list(out)

    def log_likelihood(self, dtrajs: Sequence[NDArray[np.integer]]) -> float:
        """Mean ln p of the third and later states under the true chain, nats per step."""
        with np.errstate(divide="ignore"):
            logs = np.log(self.tensor)
        parts = [logs[x[:-2], x[1:-1], x[2:]] for x in dtrajs]
        return float(np.concatenate(parts).mean())


def default_chain(memory: float = 0.6) -> KnownChain:
    """Four states, slowest relaxation of 144 steps where the lag-1 MSM says 35."""
    #                 0 -- 1 -- 2 -- 3, symmetric joint probabilities of successive states
    joint = np.array(
        [
            [0.20, 0.06, 0.00, 0.00],
            [0.06, 0.15, 0.008, 0.00],
            [0.00, 0.008, 0.10, 0.04],
            [0.00, 0.00, 0.04, 0.334],
        ]
    )
    joint = joint / joint.sum()
    stationary = joint.sum(axis=1)
    return KnownChain(joint / stationary[:, None], stationary, memory)


def _x_log(p: FloatArray) -> FloatArray:
    return np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0)


def _mfpt(matrix: FloatArray, pi: FloatArray, source: NDArray[np.bool_], target: NDArray[np.bool_]) -> float:
    """Mean first passage time: probability that `source` came last over the rate of its passages."""
    live = pi > 0
    matrix, pi, source, target = matrix[np.ix_(live, live)], pi[live], source[live], target[live]
    backward = pi[None, :] * matrix.T / pi[:, None]
    free = ~(source | target)
    from_source = source.astype(np.float64)
    if free.any():
        known = backward[np.ix_(free, source)].sum(axis=1)
        from_source[free] = np.linalg.solve(np.eye(free.sum()) - backward[np.ix_(free, free)], known)
    flux = (pi * from_source) @ matrix[:, target].sum(axis=1)
    return float((pi * from_source).sum() / flux)
