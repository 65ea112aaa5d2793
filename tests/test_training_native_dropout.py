"""Dropout of the compiled training step: which units it drops, and that the gradient knows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_training_native import MODEL, native_step, random_batch, random_model

from nanomd._native import available_isas, philox
from nanomd.base.config import ModelConfig
from nanomd.model.network import NanoGPT
from nanomd.model.scoring import weighted_nll

KEY = 77
FINAL, PASS = 63, 64  # csrc/train/task.h


def kept(site: int, rate: float, shape: tuple[int, int, int]) -> torch.Tensor:
    """Sixteen bits of a block of Philox decide: 0, or one over the probability to be kept."""
    limit = int(rate * 65536 + 0.5)
    mask = torch.empty(shape, dtype=torch.float64)
    for window, t, block in np.ndindex(shape[0], shape[1], shape[2] // 8):
        words = philox(KEY, site << 32 | t, window << 32 | block)
        coins = [word >> shift & 0xFFFF for word in words for shift in (0, 16)]
        mask[window, t, 8 * block : 8 * block + 8] = torch.tensor([float(coin >= limit) for coin in coins])
    return mask * 65536 / (65536 - limit)


def sites(config: ModelConfig, n_passes: int) -> list[int]:
    """In the order in which the model drops: embeddings, the branches of every layer; before the head at last."""
    one = list(range(2 * config.n_layer + 1))
    return [site + PASS * k for k in range(n_passes) for site in one] + [FINAL]


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("objective", ["one_pass", "two_pass_hidden"])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_dropped_units_are_dropped_in_the_gradient_too(norm: str, objective: str, isa: str, monkeypatch) -> None:
    config = MODEL.replace(norm=norm, dropout=0.2, final_dropout=0.3, markov_head=norm == "pre")
    model, (tokens, targets, weights) = random_model(config), random_batch(20, 19, n_windows=3)
    hidden = objective == "two_pass_hidden"
    replaced = torch.rand(3, 19, generator=torch.Generator().manual_seed(0)) < 0.5
    step = native_step(model, 19, objective, isa)
    arrays = [x.numpy() for x in (tokens, targets, weights)]
    options = {"two_passes": True, "replaced": replaced.to(torch.uint8).numpy()} if hidden else {}
    loss = step.gradient(*arrays, dropout_key=KEY, **options)

    masks = [kept(site, 0.3 if site == FINAL else 0.2, (3, 19, 32)) for site in sites(config, 2 if hidden else 1)]
    monkeypatch.setattr("torch.nn.functional.dropout", lambda x, *_: x * masks.pop(0))
    exact = NanoGPT(config, backend="reference").double().train()
    exact.load_state_dict(model.state_dict())
    embedded = exact.embed(tokens)
    if hidden:
        first = exact.hidden(tokens, inputs_embeds=embedded)
        embedded = torch.where(replaced[..., None], first, embedded)
    expected = weighted_nll(
        exact.scores(exact.hidden(tokens, inputs_embeds=embedded)), targets, weights.double(), current=tokens,
        markov=exact.table, backend="reference",
    )  # fmt: skip
    expected.backward()
    assert not masks  # as many as the model asked for
    assert loss == pytest.approx(float(expected.detach()), rel=3e-6)
    gradients = step.gradients()
    for name, parameter in exact.named_parameters():
        wanted = parameter.grad.numpy().ravel()
        assert np.linalg.norm(gradients[name] - wanted) < 5e-6 * np.linalg.norm(wanted), name


def test_the_rate_of_dropout_is_that_asked_for() -> None:
    """20 x 64 x 32 coins: the share dropped is within five standard deviations of the rate."""
    share = float((kept(0, 0.1, (20, 64, 32)) == 0).double().mean())
    assert abs(share - 0.1) < 5 * (0.1 * 0.9 / (20 * 64 * 32)) ** 0.5


def test_another_key_drops_other_units() -> None:
    model = random_model(MODEL.replace(dropout=0.2))
    step = native_step(model, 19)
    batch = [x.numpy() for x in random_batch(20, 19, n_windows=3)]
    losses = [step.gradient(*batch, dropout_key=key) for key in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]
