"""Heads that predict several frames ahead: the formula, what they may touch, what is saved, and resuming."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from test_training import MODEL, TRAIN, KillAt, Killed, data

from nanomd.base.codec import dump_toml
from nanomd.base.config import TrainConfig
from nanomd.base.errors import InputError
from nanomd.estimator import GPTEstimator, load_model
from nanomd.model.network import NanoGPT
from nanomd.training.checkpoint import find_checkpoints
from nanomd.training.draws import GeneratorDraws, mix_rate
from nanomd.training.horizon_heads import HorizonHeads
from nanomd.training.loop import train
from nanomd.training.objectives import ExtraTerm, training_loss

CONFIG = TRAIN.replace(lookahead_lags=(2, 5), lookahead_weight=0.3)
LENGTH, BURN_IN = 12, 3


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Frames of two trajectories; the second window is padded from its eighth target on, both have a burn-in."""
    frames = torch.from_numpy(np.random.default_rng(seed).integers(0, 4, (2, LENGTH + 1)))
    weights = torch.rand(2, LENGTH, generator=torch.Generator().manual_seed(seed)) + 0.5
    weights[:, :BURN_IN] = 0.0
    weights[1, 8:] = 0.0
    return frames[:, :-1], frames[:, 1:], weights


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_the_term_is_the_formula(norm: str) -> None:
    model = NanoGPT(MODEL.replace(norm=norm), seed=1)
    heads = HorizonHeads(model.config, CONFIG, LENGTH, BURN_IN)
    tokens, targets, weights = batch()
    hidden = model.hidden(tokens)
    read = model.norm(hidden) if norm == "pre" else hidden
    frames = torch.cat((tokens[:, :1], targets), dim=1)
    means: list[float] = []
    for lag, head in zip((2, 5), heads.heads, strict=True):
        total = scale = 0.0
        for b in range(2):
            for t in range(LENGTH):
                if t + lag > LENGTH or weights[b, t] == 0 or weights[b, t + lag - 1] == 0:
                    continue
                log_q = head(read[b, t]).log_softmax(-1)[frames[b, t + lag]]
                total, scale = total - (weights[b, t] * log_q).item(), scale + weights[b, t].item()
        means.append(total / scale)
    assert heads.loss(model, hidden, targets, weights).item() == pytest.approx(0.3 * np.mean(means), rel=1e-5)


@pytest.mark.parametrize("objective", ["one_pass", "two_pass_token", "two_pass_hidden"])
def test_the_loss_is_the_objective_and_the_term(objective: str) -> None:
    model = NanoGPT(MODEL, seed=1)
    config = CONFIG.replace(objective=objective, mix_max=0.5, hidden_step_base=0.5)
    heads = HorizonHeads(model.config, config, LENGTH, BURN_IN)

    def loss_with(extra: ExtraTerm | None) -> torch.Tensor:
        draws = GeneratorDraws(config, mix_rate(4, config), torch.Generator().manual_seed(0))
        return training_loss(model, *batch(), config=config, draws=draws, extra=extra)

    losses = [loss_with(extra) for extra in (None, partial(heads.loss, model), partial(heads.gradient, model))]
    assert (losses[1] - losses[0]).item() == pytest.approx(heads.latest.item(), rel=1e-4)
    assert losses[2].item() == pytest.approx(losses[0].item(), abs=1e-6)  # the number is the model's own,
    weights = [*model.parameters(), *heads.parameters()]
    grads = [torch.autograd.grad(loss, weights, allow_unused=True) for loss in losses]
    for both, own in zip(grads[1], grads[2], strict=True):  # and the gradient is that of both
        torch.testing.assert_close(both, own)
    assert all(grad is None for grad in grads[0][-4:]) and all(abs(grad).max() > 0 for grad in grads[1][-4:])
    assert not torch.allclose(grads[0][0], grads[1][0])


def test_padding_holds_no_target_and_an_empty_lag_is_nothing() -> None:
    model = NanoGPT(MODEL, seed=1)
    heads = HorizonHeads(model.config, CONFIG, LENGTH, BURN_IN)
    tokens, targets, weights = batch()
    before = heads.loss(model, model.hidden(tokens), targets, weights)
    changed = targets.clone()
    changed[1, 8:] = 3 - changed[1, 8:]  # padding
    assert torch.equal(heads.loss(model, model.hidden(tokens), changed, weights), before)
    nothing = heads.loss(model, model.hidden(tokens), targets, torch.zeros_like(weights))
    assert nothing.item() == 0.0
    nothing.backward()


def test_slow_states_are_predicted_far_ahead() -> None:
    """A state lasts ten frames and then the next one of four comes, always: five ahead is as sure as one ahead."""
    cycle = np.tile(np.repeat(np.arange(4, dtype=np.uint8), 10), 30)
    model = MODEL.replace(context_length=12)
    config = TRAIN.replace(
        n_steps=250, learning_rate=1e-2, objective="one_pass", lookahead_lags=(5,), lookahead_weight=1.0, batch_size=8
    )
    result = train(model, config, [cycle])
    term = [r["lookahead_loss"] for r in result.history]
    assert term[-1] < 0.1  # ln 2 is the best without memory
    assert result.history[-1]["loss"] < 0.1  # and `loss` is the model's own


def test_resume_is_bit_identical_and_carries_the_heads(tmp_path: Path) -> None:
    config = CONFIG.replace(objective="two_pass_token", mix_max=0.5, average="ema", average_span=0.5)
    held_out = data(60, 1, seed=9)
    whole = train(MODEL, config, data(), held_out)
    with pytest.raises(Killed):
        train(MODEL, config, data(), held_out, run_dir=tmp_path, progress=KillAt(8))
    assert (find_checkpoints(tmp_path / "checkpoints")[-1] / "heads.safetensors").is_file()
    resumed = train(MODEL, config, data(), held_out, run_dir=tmp_path, resume=True)
    for name, value in whole.last.items():
        assert torch.equal(value, resumed.last[name]), name
    for key in ("lookahead_loss", "validation_loss"):
        assert [r.get(key) for r in whole.history] == [r.get(key) for r in resumed.history]
    with pytest.raises(InputError, match=r"lookahead_lags was \[2, 5\], now \[2, 6\]"):
        train(MODEL, config.replace(lookahead_lags=(2, 6)), data(), held_out, run_dir=tmp_path, resume=True)


def test_heads_change_the_training_and_are_not_saved(tmp_path: Path) -> None:
    options = {"n_steps": 4, "batch_size": 4, "seed": 1}
    models = [
        GPTEstimator("tiny", lookahead_lags=lags, **options).fit(data()[0]).fetch_model() for lags in ((), [2, 5])
    ]
    weights = [model.to_files().tensors for model in models]
    assert set(weights[0]) == set(weights[1])
    assert not np.array_equal(weights[0]["blocks.0.mlp.up.weight"], weights[1]["blocks.0.mlp.up.weight"])
    loaded = load_model(models[1].save(tmp_path / "model"))
    assert loaded.log_likelihood(data()[0]) == models[1].log_likelihood(data()[0])
    assert loaded.provenance["train"]["lookahead_lags"] == [2, 5]


def test_a_weight_of_zero_leaves_the_model_alone() -> None:
    plain = train(MODEL, TRAIN.replace(gradient_clip=1e6), data())
    heads = train(MODEL, CONFIG.replace(gradient_clip=1e6, lookahead_weight=0.0), data())
    for name, value in plain.last.items():
        torch.testing.assert_close(value, heads.last[name], rtol=1e-6, atol=1e-7)


def test_options_round_trip_and_bad_ones_are_named() -> None:
    import tomllib

    values = tomllib.loads(dump_toml({"train": CONFIG.to_dict()}))["train"]
    assert TrainConfig.from_dict(values) == CONFIG
    for lags in ([1, 2], [5, 2], [2.5], 3.0, [True]):
        with pytest.raises(InputError, match="lookahead_lags must be"):
            TrainConfig.from_dict({"lookahead_lags": lags})
    with pytest.raises(InputError, match="lookahead_weight must be at least 0"):
        TrainConfig(lookahead_weight=-1.0)
    with pytest.raises(InputError, match=r"at most 13 \(train_length 16 less burn_in 3\), got 14"):
        train(MODEL, TRAIN.replace(lookahead_lags=(14,)), data())
    assert not math.isnan(train(MODEL, TRAIN.replace(lookahead_lags=(13,)), data()).history[-1]["lookahead_loss"])
