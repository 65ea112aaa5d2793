"""Heads that look further ahead in the compiled training step: their gradients, their term, and a whole training."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from test_training import data
from test_training_native import MODEL, TRAIN, random_batch, random_model
from test_training_native_dropout import FINAL, KEY, kept

from nanomd._native import NativeTrainingStep, available_isas
from nanomd.model.network import NanoGPT
from nanomd.model.rope import rope_tables
from nanomd.training.horizon_heads import HorizonHeads
from nanomd.training.loop import train
from nanomd.training.objectives import training_loss

LENGTH = 37
CONFIG = TRAIN.replace(objective="one_pass", lookahead_lags=(2, 3, 8), lookahead_weight=0.7)


def random_heads(model: NanoGPT) -> HorizonHeads:
    heads = HorizonHeads(model.config, CONFIG, LENGTH, 0)
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    return heads


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("final_dropout", [0.0, 0.3])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_gradients_are_those_of_autograd(norm: str, final_dropout: float, isa: str, monkeypatch) -> None:
    """Of what the heads read and of their own; they read what the output layer reads before its dropout."""
    config = MODEL.replace(norm=norm, final_dropout=final_dropout)
    model, batch = random_model(config), random_batch(20, LENGTH)
    heads = random_heads(model)
    rope = rope_tables(config, np.arange(LENGTH, dtype=np.uint64))
    options = {"lookahead_lags": heads.lags, "lookahead_weight": CONFIG.lookahead_weight}
    step = NativeTrainingStep(config, LENGTH, "one_pass", rope, isa, **options)
    named = dict(model.named_parameters()) | dict(heads.named_parameters(prefix="training_heads"))
    assert set(step.names) == set(named)
    step.bind([named[name].detach().numpy().reshape(-1) for name in step.names])
    loss = step.gradient(*(x.numpy() for x in batch), dropout_key=KEY)

    mask = kept(FINAL, final_dropout, (len(batch[0]), LENGTH, 32))
    monkeypatch.setattr("torch.nn.functional.dropout", lambda x, p, *_: x * mask if p else x)
    exact = NanoGPT(config, backend="reference").double().train()
    exact.load_state_dict(model.state_dict())
    exact_heads = random_heads(model).double()
    tokens, targets, weights = batch[0], batch[1], batch[2].double()
    own = training_loss(exact, tokens, targets, weights, config=CONFIG)
    both = training_loss(exact, tokens, targets, weights, config=CONFIG, extra=partial(exact_heads.loss, exact))
    both.backward()
    assert loss == pytest.approx(float(own.detach()), rel=3e-6)
    assert step.lookahead_loss == pytest.approx(float((both - own).detach()), rel=3e-6)
    gradients = step.gradients()
    wanted = dict(exact.named_parameters()) | dict(exact_heads.named_parameters(prefix="training_heads"))
    for name, parameter in wanted.items():
        expected = parameter.grad.numpy().ravel()
        assert np.linalg.norm(gradients[name] - expected) < 5e-6 * np.linalg.norm(expected), name


def test_a_lag_without_a_target_has_no_gradient() -> None:
    model = random_model(MODEL)
    rope = rope_tables(MODEL, np.arange(LENGTH, dtype=np.uint64))
    step = NativeTrainingStep(MODEL, LENGTH, rope=rope, lookahead_lags=(8,), lookahead_weight=1.0)
    named = dict(model.named_parameters()) | {
        f"training_heads.heads.0.{name}": torch.ones(shape) for name, shape in (("weight", (20, 32)), ("bias", (20,)))
    }
    step.bind([named[name].detach().numpy().reshape(-1) for name in step.names])
    tokens, targets, weights = random_batch(20, LENGTH)
    weights[:, 7:] = 0.0  # seven targets a window
    assert step.gradient(tokens.numpy(), targets.numpy(), weights.numpy()) > 0 and step.lookahead_loss == 0.0
    gradients = step.gradients()
    assert not gradients["training_heads.heads.0.weight"].any() and gradients["head.weight"].any()


@pytest.mark.parametrize("objective", ["one_pass", "two_pass_hidden"])
def test_a_training_is_that_of_pytorch(objective: str) -> None:
    config = CONFIG.replace(objective=objective, lookahead_lags=(2, 5), validation_interval=4)
    runs = [train(MODEL, config.replace(compile=how), data()) for how in ("native", "none")]
    for ours, wanted in zip(*(run.history for run in runs), strict=True):
        assert ours["loss"] == pytest.approx(wanted["loss"], rel=1e-5)
        assert ours["lookahead_loss"] == pytest.approx(wanted["lookahead_loss"], rel=1e-5)
    for name, value in runs[1].last.items():
        torch.testing.assert_close(value, runs[0].last[name], rtol=1e-3, atol=2e-5)
