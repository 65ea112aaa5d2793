"""The training objectives: what is replaced, where, how often, and through what gradients flow."""

from __future__ import annotations

import math

import pytest
import torch

from nanomd.base.config import ModelConfig, TrainConfig
from nanomd.model.network import NanoGPT
from nanomd.model.scoring import weighted_nll
from nanomd.training.draws import GeneratorDraws, draw_uniforms, hidden_probability, mix_rate, sample_states
from nanomd.training.objectives import training_loss

HIDDEN = TrainConfig(objective="two_pass_hidden", hidden_schedule="training")
TOKEN = TrainConfig(objective="two_pass_token")
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def one_pass_loss(model: NanoGPT, *batch: torch.Tensor) -> torch.Tensor:
    return training_loss(model, *batch, config=TrainConfig())


def token_loss(model: NanoGPT, batch: Batch, probability: float) -> torch.Tensor:
    return training_loss(model, *batch, config=TOKEN, draws=GeneratorDraws(TOKEN, probability, generator()))


def mix_sampled_tokens(
    model: NanoGPT, tokens: torch.Tensor, probability: float, numbers: torch.Generator
) -> torch.Tensor:
    return GeneratorDraws(TOKEN, probability, numbers).tokens(model, tokens)


class At(GeneratorDraws):
    """Replace the hidden states at chosen positions (B, T) or (T,)."""

    def __init__(self, chosen: torch.Tensor) -> None:
        object.__setattr__(self, "chosen", chosen)

    def positions(self, model: NanoGPT, tokens: torch.Tensor) -> torch.Tensor:
        return self.chosen.expand(tokens.shape)


def hidden_loss(model: NanoGPT, batch: Batch, chosen: torch.Tensor) -> torch.Tensor:
    return training_loss(model, *batch, config=HIDDEN, draws=At(chosen))


def model_of(seed: int = 0, **changes: object) -> NanoGPT:
    shape = {"n_states": 6, "d_model": 16, "n_layer": 2, "n_head": 2, "context_length": 8, "mlp_ratio": 2}
    return NanoGPT(ModelConfig.from_dict({**shape, **changes}), seed=seed)


def random_tokens(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 6, (batch, length + 1), generator=torch.Generator().manual_seed(seed))


def perfect_successor_model() -> NanoGPT:
    """Predict (x + 1) mod 6 with certainty."""
    model = model_of(markov_head=True)
    with torch.no_grad():
        model.markov.weight.copy_(60.0 * torch.eye(6).roll(1, dims=1))
    return model


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_token_objective_shifts_by_one() -> None:
    """A model that predicts perfectly replaces every state by itself, so both objectives agree."""
    model = perfect_successor_model()
    frames = (torch.arange(6)[:, None] + torch.arange(21)[None, :]) % 6
    tokens, targets, weights = frames[:, :-1], frames[:, 1:], torch.ones(6, 20)
    assert torch.equal(mix_sampled_tokens(model, tokens, 1.0, generator()), tokens)
    loss = token_loss(model, (tokens, targets, weights), 1.0)
    assert torch.equal(loss, one_pass_loss(model, tokens, targets, weights))
    # The check can fail: a model that predicts the present state would replace each state by the one before.
    with torch.no_grad():
        model.markov.weight.copy_(60.0 * torch.eye(6))
    mixed = mix_sampled_tokens(model, tokens, 1.0, generator())
    assert torch.equal(mixed[:, 1:], tokens[:, :-1]) and torch.equal(mixed[:, 0], tokens[:, 0])


def test_tokens_are_replaced_at_the_stated_rate_and_drawn_from_the_prediction() -> None:
    model = model_of(markov_head=True)
    table = torch.tensor([[5.0, 3.0, 1.0, 0.5, 0.4, 0.1]]).log()
    with torch.no_grad():
        model.markov.weight.copy_(torch.stack([table[0].roll(k) for k in range(6)]))
    frames = torch.zeros(200, 400, dtype=torch.int64)
    mixed = mix_sampled_tokens(model, frames, 0.3, generator(4))
    # From state 0, state 0 is drawn half the time, which changes nothing: 0.3 * 0.5 of the frames change.
    number = frames[:, 1:].numel()
    observed = torch.bincount(mixed[:, 1:].flatten(), minlength=6) / number
    expected = 0.3 * torch.tensor([5.0, 3.0, 1.0, 0.5, 0.4, 0.1]) / 10
    expected[0] += 0.7
    error = (observed - expected).abs() / (expected * (1 - expected) / number).sqrt()
    assert error.max() < 4.5
    assert (mixed[:, 0] == 0).all()


def test_sampling_follows_the_softmax_including_rare_states() -> None:
    p = torch.tensor([0.6, 0.0, 0.3, 0.0997, 0.0003, 0.0])
    draws = sample_states(p.log().expand(400_000, 6), draw_uniforms(400_000, generator(1)))
    counts = torch.bincount(draws, minlength=6)
    assert counts[1] == 0 and counts[5] == 0
    keep = p > 0
    chi2 = ((counts[keep] - 400_000 * p[keep]) ** 2 / (400_000 * p[keep])).sum().item()
    assert chi2 < 16.3  # 3 degrees of freedom, p = 0.001


def test_hidden_objective_without_replacement_is_one_pass() -> None:
    for changes in ({"position": "rope"}, {"position": "learned"}, {"norm": "post", "markov_head": True}):
        model = model_of(**changes)
        torch.nn.init.normal_(model.head.weight)  # the head reads the hidden state also where it starts at zero
        frames = random_tokens(3, 8)
        batch = frames[:, :-1], frames[:, 1:], torch.ones(3, 8)
        expected = one_pass_loss(model, *batch)
        assert torch.equal(training_loss(model, *batch, config=HIDDEN), expected)
        nowhere = torch.zeros(8, dtype=torch.bool)  # pass 1 runs, nothing is chosen
        assert torch.equal(hidden_loss(model, batch, nowhere), expected)
        assert not torch.equal(hidden_loss(model, batch, ~nowhere), expected)


def test_hidden_objective_replaces_at_the_same_position() -> None:
    model = model_of()
    frames = random_tokens(2, 8)
    tokens, targets, weights = frames[:, :-1], frames[:, 1:], torch.ones(2, 8)
    at_five = torch.arange(8) == 5
    mixed = model.embed(tokens).clone()
    mixed[:, 5] = model.hidden(tokens)[:, 5]
    expected = weighted_nll(model(tokens, inputs_embeds=mixed), targets, weights)
    assert torch.equal(hidden_loss(model, (tokens, targets, weights), at_five), expected)


def test_gradients_flow_through_pass_one_of_the_hidden_objective() -> None:
    """With every embedding replaced, the embedding table is reached through pass 1 only."""
    model = model_of()
    frames = random_tokens(2, 8)
    everywhere = torch.ones(8, dtype=torch.bool)
    hidden_loss(model, (frames[:, :-1], frames[:, 1:], torch.ones(2, 8)), everywhere).backward()
    used = frames[:, :-1].unique()
    assert (model.embedding.weight.grad[used].abs().amax(dim=1) > 0).all()


def test_no_gradient_reaches_pass_one_of_the_token_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    passes: list[bool] = []
    forward = NanoGPT.hidden

    def spy(self, *args, **kwargs):
        out = forward(self, *args, **kwargs)
        passes.append(out.requires_grad)
        return out

    monkeypatch.setattr(NanoGPT, "hidden", spy)
    frames = random_tokens(2, 8)
    tokens, targets, weights = frames[:, :-1], frames[:, 1:], torch.ones(2, 8)
    token_loss(model, (tokens, targets, weights), 1.0).backward()
    assert passes == [False, True]
    # The gradient is exactly that of one pass over the mixture.
    got = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    one_pass_loss(model, mix_sampled_tokens(model, tokens, 1.0, generator()), targets, weights).backward()
    assert all(torch.equal(got[name], parameter.grad) for name, parameter in model.named_parameters())


def test_pass_one_of_the_token_objective_has_no_dropout() -> None:
    model = model_of(dropout=0.5, final_dropout=0.5).train()
    frames = random_tokens(4, 8)
    dropping: list[bool] = []

    class Spy(GeneratorDraws):
        def tokens(self, model: NanoGPT, tokens: torch.Tensor) -> torch.Tensor:
            dropping.append(model.training)
            return GeneratorDraws.tokens(self, model, tokens)

    batch = frames[:, :-1], frames[:, 1:], torch.ones(4, 8)
    losses = [training_loss(model, *batch, config=TOKEN, draws=Spy(TOKEN, 1.0, generator(2))) for _ in range(2)]
    assert dropping == [False, False] and model.training
    assert losses[0] != losses[1]  # pass 2 has it


def test_hidden_probabilities_follow_the_formula() -> None:
    p = hidden_probability(mix_rate(3000, HIDDEN), 12, model_of(), HIDDEN)
    for t in range(12):
        assert p[t].item() == pytest.approx(1 - 0.95 ** (min(t, 7) * (1 - 0.99995**3000)), rel=1e-12)
    assert mix_rate(0, HIDDEN) == 0.0


def test_hidden_replacement_rate_is_the_stated_one() -> None:
    """Count replacements through a model whose pass 1 marks every position."""
    model = model_of()
    chosen = torch.zeros(8)

    def hidden(tokens, positions=None, inputs_embeds=None):
        chosen.add_((inputs_embeds == 1000.0).all(-1).sum(0).float())
        return torch.full_like(inputs_embeds, 1000.0)

    tokens, rate = torch.zeros(500, 8, dtype=torch.int64), mix_rate(20000, HIDDEN)
    p = hidden_probability(rate, 8, model, HIDDEN)
    model.hidden = hidden  # type: ignore[method-assign]
    with torch.no_grad():
        for seed in range(10):
            draws = GeneratorDraws(HIDDEN, rate, generator(seed))
            training_loss(model, tokens, tokens, torch.ones(500, 8), config=HIDDEN, draws=draws)
    error = (chosen / 5000 - p).abs() / (p * (1 - p) / 5000).sqrt().clamp(min=1e-9)
    assert chosen[0] == 0 and error[1:].max() < 4


def test_token_probability_rises_and_anneals() -> None:
    config = TOKEN.replace(n_steps=1000, mix_max=0.2)
    assert mix_rate(0, config) == 0
    assert mix_rate(200, config) == pytest.approx(0.12)
    assert mix_rate(500, config) == pytest.approx(0.1)
    assert mix_rate(700, config) == mix_rate(999, config) == 0
    assert mix_rate(999, config.replace(mix_anneal=False)) == pytest.approx(0.2)
    assert mix_rate(999, TrainConfig()) == 0


def test_padding_counts_for_nothing() -> None:
    frames = random_tokens(3, 8)
    weights = torch.ones(3, 8)
    weights[1, 5:] = 0
    for objective in ("one_pass", "two_pass_token", "two_pass_hidden"):
        losses = []
        for value in (0, 3):
            frames[1, 6:] = value
            model = model_of()
            config = TrainConfig(objective=objective, n_steps=10, mix_max=1.0)
            draws = None if objective == "one_pass" else GeneratorDraws(config, mix_rate(5, config), generator(1))
            losses.append(training_loss(model, frames[:, :-1], frames[:, 1:], weights, config=config, draws=draws))
            losses[-1].backward()
            losses.append(model.embedding.weight.grad.clone())
        # The numbers drawn are the same in both, and what is drawn on padding feeds nothing that counts.
        assert torch.equal(losses[0], losses[2])
        torch.testing.assert_close(losses[1], losses[3], rtol=0, atol=0)


def test_loss_is_in_nats_per_frame() -> None:
    logits = torch.zeros(2, 5, 6)
    targets = torch.zeros(2, 5, dtype=torch.int64)
    assert weighted_nll(logits, targets, torch.rand(2, 5)).item() == pytest.approx(math.log(6), rel=1e-6)
