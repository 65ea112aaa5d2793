"""Interpretation where the answer is known: chains whose next state depends on two frames, or on one."""

from __future__ import annotations

import numpy as np
import pytest
from known_chain import KnownChain, default_chain

from nanomd.estimator import GPTEstimator, GPTModel
from nanomd.interpret import attention_by_lag, causal_tracing, memory_length

FIRST, SECOND = 0.0, 0.6  # probability to go back to where one came from
OPTIONS = dict(
    objective="one_pass", d_model=16, n_layer=1, context_length=8, train_length=64, n_steps=300, batch_size=16,
    learning_rate=5e-3, validation_interval=1000, seed=0, n_threads=1,
    refit="off",  # it adds a markov head, and the present frame would then speak through two parts
)  # fmt: skip


def learn(chain: KnownChain) -> GPTModel:
    return GPTEstimator("tiny", **OPTIONS).fit(chain.sample(5000, 40, seed=10)).fetch_model()


@pytest.fixture(scope="session")
def first() -> tuple[GPTModel, list[np.ndarray]]:
    chain = default_chain(FIRST)
    return learn(chain), chain.sample(3000, 10, seed=99)


@pytest.fixture(scope="session")
def second() -> tuple[GPTModel, list[np.ndarray]]:
    chain = default_chain(SECOND)
    return learn(chain), chain.sample(3000, 10, seed=99)


def test_memory_is_two_frames_or_one(first, second) -> None:
    two, one = (memory_length(model, data, n_windows=2000, training=data) for model, data in (second, first))
    assert (two.frames, two.low, two.high) == (2, 2, 2)
    assert (one.frames, one.low) == (1, 1) and one.high <= 2
    # The second frame is worth what theory says, and a Markov model cannot have it.
    gain = two.log_likelihood.value[1] - float(two.markov.value)
    chain = default_chain(SECOND)
    assert gain == pytest.approx(chain.markov_entropy_rate - chain.entropy_rate, abs=0.04)
    assert abs(one.log_likelihood.value[0] - float(one.markov.value)) < 0.01
    # Nothing further back is worth anything.
    assert abs(two.loss.value[1:]).max() < 0.004
    assert abs(one.loss.value).max() < 0.005
    # A stated tolerance decides: who accepts any loss needs one frame.
    assert memory_length(*second, n_windows=200, tolerance=5.0).frames == 1


def test_attention_points_at_the_frame_before(first, second) -> None:
    two, one = (attention_by_lag(model, data) for model, data in (second, first))
    mean = two.mean.value.mean(axis=(0, 1))
    assert np.argmax(mean) == 1
    assert mean[:2].sum() > 0.75
    assert two.mean.low[0, :, 1].max() > 0.4  # some head, beyond its interval
    # Without a task, attention goes anywhere: it must not be taken for an explanation.
    assert one.mean.value.mean(axis=(0, 1))[:2].sum() < 0.65


def test_tracing_points_at_the_frames_that_matter(first, second) -> None:
    two, one = (causal_tracing(model, data, n_windows=240, n_draws=3) for model, data in (second, first))
    assert two.clean.value - two.corrupted.value > 0.15
    assert sorted(np.argsort(-two.single.value)[:2]) == [0, 1]
    assert (two.single.low[:2] > 0.02).all()
    assert abs(two.single.value[2:]).max() < 0.015
    assert (two.residual.value[0, :2] > 0.05).all()  # either frame alone brings a part of it back
    assert (two.residual.value[0, :2] > 1.5 * two.residual.value[0, 2:].max()).all()
    assert two.attention.value[0, 0] > 0.05  # what attention fetched for the present frame
    assert one.single.low[0] > 0.05
    assert abs(one.single.value[1:]).max() < 0.015
    assert one.residual.value[0, 0] > 5 * one.residual.value[0, 1:].max()
    assert one.attention.value[0, 0] < 0.6 * two.attention.value[0, 0]
