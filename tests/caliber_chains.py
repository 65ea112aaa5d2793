"""Chains for the tests of constraints: a reversible one of four states in two wells, and models that are a chain."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nanomd import FrameInterval
from nanomd.base.config import ModelConfig
from nanomd.data.states import StateMap
from nanomd.model.files import ModelFiles, Starts
from nanomd.model.network import NanoGPT

FloatArray = NDArray[np.float64]

JOINT = np.array(
    [
        [0.200, 0.060, 0.001, 0.0002],
        [0.060, 0.150, 0.0008, 0.0004],
        [0.001, 0.0008, 0.100, 0.040],
        [0.0002, 0.0004, 0.040, 0.302],
    ]
)
PI = JOINT.sum(axis=1) / JOINT.sum()
CHAIN = JOINT / JOINT.sum(axis=1, keepdims=True)  # wells {0, 1} and {2, 3}, slowest timescale 140


def model_of(chain: FloatArray, labels: NDArray[np.int64] | None = None) -> ModelFiles:
    """A model that is this chain: its transformer adds nothing to the table."""
    n = len(chain)
    config = ModelConfig(n_states=n, d_model=8, n_layer=1, n_head=1, context_length=4, mlp_ratio=2, markov_head=True)
    network = NanoGPT(config)
    network.start_at_markov(chain, 1e-9)
    return ModelFiles(
        config,
        network.to_tensors(),
        StateMap(np.arange(n) if labels is None else labels),
        Starts(stationary(chain), np.zeros((0, 4), np.int32)),
        FrameInterval(0.5, "ns"),
        {"made": "by hand"},
    )


def chain_of(files: ModelFiles) -> FloatArray:
    """The transition matrix of such a model."""
    assert not files.tensors["head.weight"].any()
    p = np.exp(files.tensors["markov.weight"].astype(np.float64))
    return np.asarray(p / p.sum(axis=1, keepdims=True))


def stationary(chain: FloatArray) -> FloatArray:
    values, vectors = np.linalg.eig(chain.T)
    pi = vectors[:, np.argmax(values.real)].real
    return np.asarray(pi / pi.sum())


def entropy_rate(new: FloatArray, old: FloatArray) -> float:
    """Relative entropy of two chains, nats a step."""
    return float(stationary(new) @ (new * np.log(new / old)).sum(axis=1))


def passage(chain: FloatArray, source: list[int], target: list[int]) -> float:
    """Mean first passage time between sets, by equations of its own: (state, last visited) as one state each."""
    n = len(chain)
    paired = np.zeros((2 * n, 2 * n))  # i: source was last, n + i: target was last
    for last in (0, 1):
        for j in range(n):
            now = 0 if j in source else 1 if j in target else last
            paired[last * n : (last + 1) * n, now * n + j] += chain[:, j]
    live = paired.sum(axis=0) > 0  # no state of the source is last visited with the target
    equations = np.vstack([(paired.T - np.eye(2 * n))[live][:, live], np.ones(live.sum())])
    mu = np.zeros(2 * n)
    mu[live] = np.linalg.lstsq(equations, np.append(np.zeros(live.sum()), 1.0), rcond=None)[0]
    return float(mu[:n].sum() / (mu[:n] @ chain[:, target].sum(axis=1)))


def slowest(chain: FloatArray) -> float:
    return float(-1 / np.log(np.sort(np.linalg.eigvals(chain).real)[-2]))


def by_minimisation(old: FloatArray, number: Callable[[FloatArray], float], wanted: float) -> FloatArray:
    """The nearest chain with a number, by brute force over all chains (SLSQP)."""
    from scipy.optimize import minimize

    n = len(old)

    def chain(x: FloatArray) -> FloatArray:
        p = old * np.exp(x.reshape(n, n))
        return np.asarray(p / p.sum(axis=1, keepdims=True))

    found = minimize(
        lambda x: 1000 * entropy_rate(chain(x), old),
        np.zeros(n * n),
        constraints=[{"type": "eq", "fun": lambda x: number(chain(x)) - wanted}],
        method="SLSQP",
        options={"maxiter": 1000, "ftol": 1e-12},
    )
    assert found.success, found.message
    return chain(found.x)
