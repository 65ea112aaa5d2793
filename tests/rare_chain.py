"""A model that is exactly a second-order Markov chain with a rare event, and what linear algebra says of it.

One layer and a window of two frames: the next state depends on the last two alone, whatever the weights. A walk on a
row of states with a drift away from the target; the transformer, with random weights, gives it memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rollout_models import reference

from nanomd import Sampler
from nanomd.base.config import ModelConfig
from nanomd.base.units import FrameInterval
from nanomd.data.states import StateMap
from nanomd.model.files import ModelFiles, Starts


def make_model(n_states: int = 12, up: float = 0.12, stay: float = 0.3, memory: float = 0.6, seed: int = 1):
    """Return the files of a model; `memory` scales the part that depends on the state before."""
    config = ModelConfig(
        n_states=n_states, d_model=16, n_layer=1, n_head=2, context_length=2, mlp_ratio=1, markov_head=True
    )
    tensors = reference.random_tensors(config, seed)
    tensors["head.weight"] *= np.float32(memory / np.abs(tensors["head.weight"]).mean() / 16)
    tensors["head.bias"][:] = 0
    table = np.full((n_states, n_states), -60.0)
    for j in range(n_states):
        table[j, j] = np.log(stay)
        if j:
            table[j, j - 1] = np.log(1 - up - stay)
        if j + 1 < n_states:
            table[j, j + 1] = np.log(up)
    tensors["markov.weight"] = table.astype(np.float32)
    stationary = (up / (1 - up - stay)) ** np.arange(n_states)
    return ModelFiles(
        config,
        tensors,
        StateMap(10 + np.arange(n_states)),
        Starts(stationary / stationary.sum(), np.zeros((0, 2), np.int32)),
        FrameInterval(0.2, "ns"),
    )


@dataclass(frozen=True)
class Exact:
    """The chain of pairs (i, j) of the model: index i V + j, V states."""

    matrix: np.ndarray  # (V^2, V^2)
    present: np.ndarray  # (V^2,) the state j

    @classmethod
    def of(cls, files: ModelFiles, temperature: float = 1.0) -> Exact:
        n = files.config.n_states
        pairs = np.stack(np.divmod(np.arange(n * n), n), axis=1)
        log_p = np.array(Sampler(files, "cpu").log_probs(list(files.state_map.decode(pairs)), n_threads=1))[:, 1]
        p = np.exp(log_p.astype(np.float64) / temperature)
        p /= p.sum(axis=1, keepdims=True)
        matrix = np.zeros((n * n, n * n))
        for index, (_, j) in enumerate(pairs.tolist()):
            matrix[index, j * n : (j + 1) * n] = p[index]
        return cls(matrix, pairs[:, 1])

    def process(self, target: list[int], start: tuple[int, int]) -> tuple[float, np.ndarray]:
        """Return the rate of the process that is put back to the pair `start`, and its populations (V,)."""
        free = ~np.isin(self.present, target)
        n = len(self.matrix)
        begin = np.zeros(n)
        begin[start[0] * round(n**0.5) + start[1]] = 1
        visits = np.linalg.solve((np.eye(n) - self.matrix)[np.ix_(free, free)].T, begin[free])
        populations = np.bincount(self.present[free], visits, minlength=round(n**0.5))
        return 1 / visits.sum(), populations / visits.sum()

    def reactive(self, source: list[int], target: list[int], start: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Return what transition path theory says of the process that is put back to the pair `start`.

        The reactive density (V,) of every state: the probability to be there and on the way from source to target. And
        the reactive current (V, V): steps a step between two states on that way. (Every visit came from the source.)
        """
        n, v = len(self.matrix), round(len(self.matrix) ** 0.5)
        free = ~np.isin(self.present, target)
        begin = np.zeros(n)
        begin[start[0] * v + start[1]] = 1
        visits = np.zeros(n)
        visits[free] = np.linalg.solve((np.eye(n) - self.matrix)[np.ix_(free, free)].T, begin[free])
        visits /= visits.sum()
        pairs = np.stack(np.divmod(np.arange(n), v), axis=1)
        forward = np.array([self.splitting(source, target, pair) for pair in pairs.tolist()])
        way = ~np.isin(self.present, [*source, *target])
        density = np.bincount(self.present[way], (visits * forward)[way], minlength=v)
        current = np.zeros((v, v))
        steps = visits[:, None] * self.matrix * forward
        np.add.at(current, (self.present[:, None].repeat(n, 1), self.present[None, :].repeat(n, 0)), steps)
        return density, current

    def durations(self, source: list[int], target: list[int], start: tuple[int, int], n_steps: int) -> np.ndarray:
        """Return the probability that a passage takes 0, 1, ... n_steps - 1 steps, (n_steps,)."""
        n, v = len(self.matrix), round(len(self.matrix) ** 0.5)
        free = ~np.isin(self.present, target)
        begin = np.zeros(n)
        begin[start[0] * v + start[1]] = 1
        visits = np.zeros(n)
        visits[free] = np.linalg.solve((np.eye(n) - self.matrix)[np.ix_(free, free)].T, begin[free])
        way, there = ~np.isin(self.present, [*source, *target]), np.isin(self.present, target)
        present = np.where(np.isin(self.present, source), visits, 0) @ self.matrix
        found = np.zeros(n_steps)
        for step in range(1, n_steps):
            found[step] = present[there].sum()
            present = np.where(way, present, 0) @ self.matrix
        return found  # of all passages, of which there is one a start

    def splitting(self, source: list[int], target: list[int], pair: tuple[int, int]) -> float:
        """Return the probability to reach the target before the source from a pair."""
        n = len(self.matrix)
        free = ~np.isin(self.present, [*source, *target])
        hit = np.isin(self.present, target).astype(float)
        inner = np.eye(int(free.sum())) - self.matrix[np.ix_(free, free)]
        value = hit.copy()
        value[free] = np.linalg.solve(inner, self.matrix[free] @ hit - self.matrix[np.ix_(free, free)] @ hit[free])
        return float(value[pair[0] * round(n**0.5) + pair[1]])
