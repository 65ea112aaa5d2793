"""The eager reference of generation, and the LSTM baseline."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nanomd._native import rollout_uniform
from nanomd.base.config import ModelConfig
from nanomd.base.errors import InputError
from nanomd.baselines.lstm import LSTMEstimator
from nanomd.model.network import NanoGPT
from nanomd.rollout.modes import context_start
from nanomd.rollout.reference import ReferenceEngine, draw_state


def make(**changes: object) -> NanoGPT:
    shape = {"n_states": 5, "d_model": 16, "n_layer": 2, "n_head": 2, "context_length": 4, "mlp_ratio": 2}
    model = NanoGPT(ModelConfig.from_dict({**shape, **changes}), seed=0).eval()
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(1))
    return model


def generate(
    model: NanoGPT, prompts: object, n_steps: int, *, first_trajectory: int = 0, **options: object
) -> np.ndarray:
    history = np.asarray(prompts, dtype=np.uint16)
    index = np.arange(first_trajectory, first_trajectory + len(history), dtype=np.uint64)
    out = np.empty((len(history), n_steps), dtype=np.uint8)
    engine = ReferenceEngine(model.config, model.to_tensors())
    engine.open(history, index, **{"mode": "auto", **options}).advance(n_steps, out)
    return out


def test_drawing_is_inversion_in_index_order() -> None:
    p = np.array([0.0, 0.25, 0.0, 0.5, 0.25, 0.0])
    assert [draw_state(p, u) for u in (0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 2**-53)] == [1, 1, 3, 3, 4, 4]
    assert draw_state(np.array([0.5, 0.5 - 1e-9, 0.0]), 1 - 1e-12) == 1  # on rounding, the last state with p > 0


def test_what_each_mode_reads() -> None:
    rope = make().config
    assert [context_start(rope, "ring", n, 2) for n in (1, 7, 8, 20)] == [0, 0, 1, 13]
    learned = make(position="learned").config
    assert [context_start(learned, "crop", n, 2) for n in (1, 4, 5, 9)] == [0, 0, 1, 5]
    assert [context_start(learned, "hop", n, 2) for n in range(1, 10)] == [0, 0, 0, 0, 3, 3, 3, 6, 6]
    assert [context_start(learned, "hop", n, 1) for n in range(3, 10)] == [0, 0, 4, 4, 4, 4, 8]
    assert [context_start(learned, "hop", n, 3) for n in range(3, 8)] == [0, 0, 2, 2, 4]
    with pytest.raises(InputError, match="ring needs rotary positions"):
        generate(make(position="learned"), np.zeros((1, 1)), 1, mode="ring")


def test_ring_equals_the_parallel_pass_over_the_whole_sequence() -> None:
    model = make()
    prompts = np.array([[0, 1], [3, 2], [4, 4]])
    out = generate(model, prompts, 40, seed=7, first_trajectory=10)
    frames = torch.from_numpy(np.concatenate((prompts, out), axis=1))
    with torch.no_grad():
        p = model(frames)[:, 1:-1].double().softmax(-1).numpy()
    for row in range(3):
        assert out[row].tolist() == [draw_state(p[row, s], rollout_uniform(7, s, 10 + row)) for s in range(40)]


def test_trajectories_depend_on_their_global_index_alone() -> None:
    model = make(position="learned")
    prompts = np.array([[0], [1], [2]])
    together = generate(model, prompts, 15, mode="crop", seed=3)
    alone = generate(model, prompts[2:], 15, mode="crop", seed=3, first_trajectory=2)
    assert np.array_equal(together[2:], alone)
    assert not np.array_equal(together, generate(model, prompts, 15, mode="crop", seed=4))


def test_temperature_sharpens() -> None:
    model = make()
    cold = generate(model, np.zeros((1, 1)), 30, temperature=1e-6)
    warm = generate(model, np.zeros((1, 1)), 30, seed=1, temperature=1e-6)
    assert np.array_equal(cold, warm)  # argmax, whatever the random numbers


QUICK = {
    "embedding_dim": 8,
    "hidden_dim": 16,
    "train_length": 20,
    "batch_size": 8,
    "n_steps": 150,
    "learning_rate": 0.02,
}


def alternation(n: int = 1200, seed: int = 0) -> np.ndarray:
    """Labels 10 10 20 20 30 30 ..., with a random pause: the state before the present one decides."""
    return np.repeat(np.tile([10, 20, 30], n // 6), 2)


def test_lstm_learns_memory_and_generates_it() -> None:
    model = LSTMEstimator(**QUICK).fit(alternation()).fetch_model()
    assert model.log_likelihood(alternation()) > -0.1 > -math.log(2)  # a Markov model has ln 2
    dtrajs = model.generate(60, 3, seed=5, start=np.array([10, 20, 30]))
    for dtraj in dtrajs:
        runs = np.diff(np.flatnonzero(np.diff(dtraj)))
        assert (runs == 2).mean() > 0.9
    assert all(
        np.array_equal(a, b) for a, b in zip(dtrajs, model.generate(60, 3, seed=5, start=[10, 20, 30]), strict=True)
    )


def test_lstm_is_decided_by_its_seed() -> None:
    options = QUICK | {"n_steps": 5}
    one, two = (LSTMEstimator(seed=1, **options).fit(alternation()).fetch_model() for _ in range(2))
    assert one.log_likelihood(alternation()) == two.log_likelihood(alternation())
    assert all(
        np.array_equal(a, b) for a, b in zip(one.generate(20, 2, seed=1), two.generate(20, 2, seed=1), strict=True)
    )
    other = LSTMEstimator(seed=2, **options).fit(alternation()).fetch_model()
    assert one.log_likelihood(alternation()) != other.log_likelihood(alternation())


def test_lstm_scores_long_and_short_trajectories_together() -> None:
    model = LSTMEstimator(**QUICK | {"n_steps": 5}).fit(alternation()).fetch_model()
    x, y = alternation(1200), alternation(60)[:31]
    both = model.log_likelihood([y, x])
    weights = (len(x) - 1) * model.log_likelihood(x) + (len(y) - 1) * model.log_likelihood(y)
    assert both == pytest.approx(weights / (len(x) + len(y) - 2), rel=1e-6)
    tokens = torch.from_numpy(model.state_map.encode([x])[0].astype(np.int64))[None]
    with torch.no_grad():
        scores = model.network(tokens[:, :-1])[0].log_softmax(-1).gather(-1, tokens[:, 1:, None])
    assert model.log_likelihood(x) == pytest.approx(scores.mean().item(), rel=1e-5)


def test_lstm_refuses_bad_input() -> None:
    with pytest.raises(InputError, match="no option hiden_dim"):
        LSTMEstimator(hiden_dim=3)
    with pytest.raises(InputError, match="hidden_dim must be at least 1"):
        LSTMEstimator(hidden_dim=0)
    with pytest.raises(InputError, match="at least two states"):
        LSTMEstimator(**QUICK).fit(np.zeros(50, dtype=int))
    with pytest.raises(InputError, match="call fit"):
        LSTMEstimator().fetch_model()
    model = LSTMEstimator(**QUICK | {"n_steps": 1}).fit(alternation()).fetch_model()
    with pytest.raises(InputError, match="start must hold 2 states"):
        model.generate(5, 2, start=np.array([10]))
    with pytest.raises(InputError, match="unknown state 11"):
        model.generate(5, 1, start=np.array([11]))
