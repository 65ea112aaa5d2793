"""Means of weights: what the formula says, in validation, in what is saved, and across an interruption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_training import MODEL, TRAIN, KillAt, Killed, data
from torch import nn

from nanomd.base.config import TrainConfig
from nanomd.base.errors import InputError
from nanomd.estimator import GPTEstimator
from nanomd.model.scoring import mean_log_likelihood
from nanomd.training.averaging import WeightAverage, averaged_steps, averaging_count
from nanomd.training.checkpoint import find_checkpoints
from nanomd.training.loop import train

N_STEPS = 40


def walk(config: TrainConfig) -> tuple[np.ndarray, np.ndarray]:
    """Weights (n_steps,) of a random walk, and their running mean."""
    model = nn.Linear(1, 1, bias=False).double()
    mean = WeightAverage(model, config)
    weights, means = [], []
    rng = np.random.default_rng(0)
    for step in range(1, config.n_steps + 1):
        with torch.no_grad():
            model.weight += rng.normal()
        mean.update(step)
        weights.append(model.weight.item())
        means.append(mean.weights()["weight"].item())
    return np.array(weights), np.array(means)


def test_the_tail_is_the_plain_mean_of_the_last_steps() -> None:
    config = TrainConfig(n_steps=N_STEPS, average="tail", average_span=0.25)
    weights, means = walk(config)
    assert averaged_steps(config) == 10
    np.testing.assert_allclose(means[:30], weights[:30], rtol=1e-12)
    np.testing.assert_allclose(means[30:], [weights[30 : s + 1].mean() for s in range(30, 40)], rtol=1e-12)


def test_the_exponential_mean_begins_as_a_plain_one() -> None:
    weights, means = walk(TrainConfig(n_steps=N_STEPS, average="ema", average_span=0.25))
    np.testing.assert_allclose(means[:10], [weights[: s + 1].mean() for s in range(10)], rtol=1e-12)
    expected = means[9]
    for s in range(10, N_STEPS):
        expected = 0.9 * expected + 0.1 * weights[s]
        assert means[s] == pytest.approx(expected, rel=1e-12)


def test_without_averaging_the_weights_are_the_weights() -> None:
    weights, means = walk(TrainConfig(n_steps=5, average="none"))
    assert (weights == means).all() and averaging_count(3, TrainConfig(average="none")) == 1
    assert WeightAverage(nn.Linear(2, 2), TrainConfig(average="none")).state() == {}


def test_applied_gives_back_the_weights_even_after_an_error() -> None:
    model = nn.Linear(1, 1)
    mean = WeightAverage(model, TrainConfig(average="tail"))
    kept = model.weight.item()
    with torch.no_grad():
        model.weight += 1.0
    seen = []

    def fail() -> None:
        with mean.applied():
            seen.append(model.weight.item())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == [kept]
    assert model.weight.item() == pytest.approx(kept + 1.0)


def test_models_with_buffers_are_refused() -> None:
    with pytest.raises(InputError, match="with buffers"):
        WeightAverage(nn.BatchNorm1d(2), TrainConfig(average="ema"))


@pytest.mark.parametrize("average", ["ema", "tail"])
def test_resume_is_bit_identical(tmp_path: Path, average: str) -> None:
    config = TRAIN.replace(average=average, average_span=0.6)
    held_out = data(60, 1, seed=9)
    whole = train(MODEL, config, data(), held_out)
    with pytest.raises(Killed):
        train(MODEL, config, data(), held_out, run_dir=tmp_path, progress=KillAt(8))
    last = find_checkpoints(tmp_path / "checkpoints")[-1]
    assert last.name == "step_000005" and (last / "average.safetensors").is_file()
    resumed = train(MODEL, config, data(), held_out, run_dir=tmp_path, resume=True)
    for name, value in whole.last.items():
        assert torch.equal(value, resumed.last[name]), name
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert [r.get("validation_loss") for r in whole.history] == [r.get("validation_loss") for r in resumed.history]


@pytest.mark.parametrize("file", ["average.safetensors"])
def test_a_damaged_mean_is_named(tmp_path: Path, file: str) -> None:
    config = TRAIN.replace(average="ema")
    train(MODEL, config, data(), run_dir=tmp_path)
    (find_checkpoints(tmp_path / "checkpoints")[-1] / file).write_bytes(b"\xff" * 64)
    with pytest.raises(InputError, match="step_000012"):
        train(MODEL, config, data(), run_dir=tmp_path, resume=True)


def test_the_mean_is_what_is_validated_and_kept_and_the_steps_are_untouched() -> None:
    held_out = data(60, 1, seed=9)
    plain, tail = (
        train(MODEL, TRAIN.replace(average=kind, average_span=0.5), data(), held_out) for kind in ("none", "tail")
    )
    # The training itself does not see the mean; the first validation, before the tail begins, is of the same weights.
    assert [r["loss"] for r in plain.history] == [r["loss"] for r in tail.history]
    scores = [[r["validation_loss"] for r in x.history if "validation_loss" in r] for x in (plain, tail)]
    assert scores[0][0] == scores[1][0] and scores[0][-1] != scores[1][-1]
    assert not torch.equal(plain.last["head.weight"], tail.last["head.weight"])
    if tail.best_step == TRAIN.n_steps:
        assert torch.equal(tail.model.head.weight, tail.last["head.weight"])
    tail.model.load_state_dict(tail.last)
    score = -mean_log_likelihood(tail.model, held_out, length=16, context=3, max_targets=32768, batch_size=4)
    assert score == pytest.approx(scores[1][-1], rel=1e-6)


def test_the_estimator_saves_the_mean(tmp_path: Path) -> None:
    options = {"n_steps": 6, "batch_size": 4, "validation_fraction": 0.0, "seed": 1}
    plain = GPTEstimator("tiny", **options).fit(data()[0]).fetch_model()
    mean = GPTEstimator("tiny", average="tail", average_span=1.0, **options).fit(data()[0]).fetch_model()
    weights = [model.to_files().tensors["head.weight"] for model in (plain, mean)]
    assert abs(weights[0] - weights[1]).max() > 1e-5
    assert mean.provenance["train"]["average"] == "tail"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"average": "mean"}, "average must be one of none, ema, tail"),
        ({"average_span": 0.0}, "average_span must be in"),
        ({"average_span": 1.5}, "average_span must be in"),
    ],
)
def test_bad_options_are_named(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainConfig(**changes)
