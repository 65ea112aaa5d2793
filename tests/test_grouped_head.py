"""States in groups: the next group first, then the state among its members; held to one softmax over all states."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from nanomd import ConditionalGPTEstimator, GPTEstimator, constrain
from nanomd.base.config import ModelConfig, TrainConfig
from nanomd.base.errors import InputError
from nanomd.data.counts import transition_counts
from nanomd.data.groups import to_groups
from nanomd.data.states import StateMap
from nanomd.interpret.explicit import explicit_logits
from nanomd.model import grouped_head
from nanomd.model.network import NanoGPT
from nanomd.model.scoring import loss_of, mean_log_likelihood
from nanomd.training.grouping import group_states, resolve_n_groups
from nanomd.training.setup import untrained_model

SIZES = (3, 1, 5, 2)


def make_model(markov_head: bool = True, seed: int = 3) -> NanoGPT:
    config = ModelConfig(
        n_states=sum(SIZES), group_sizes=SIZES, d_model=16, n_head=2, context_length=8, markov_head=markov_head
    )
    model = NanoGPT(config, backend="reference", seed=seed).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():  # far from uniform, biases and table as well
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model.eval()


def some_tokens(*shape: int) -> torch.Tensor:
    return torch.randint(0, sum(SIZES), shape, generator=torch.Generator().manual_seed(8))


@pytest.mark.parametrize("markov_head", [False, True])
def test_probabilities_are_those_of_the_definition(markov_head):
    model, tokens = make_model(markov_head), some_tokens(2, 6)
    found = model(tokens).exp()
    x = model.normalise(model.hidden(tokens))
    groups = x @ model.group.weight.T + model.group.bias + (model.markov.weight[tokens] if markov_head else 0.0)
    starts = np.cumsum([0, *SIZES])
    for g, (first, last) in enumerate(pairwise(starts)):
        members = (x @ model.head.weight[first:last].T + model.head.bias[first:last]).softmax(dim=-1)
        torch.testing.assert_close(found[..., first:last], groups.softmax(dim=-1)[..., g, None] * members)
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(2, 6, dtype=torch.float64))


def test_the_loss_and_its_gradient_are_those_of_all_states_at_once():
    model = make_model()
    tokens, targets = some_tokens(4, 9), some_tokens(4, 10)[:, 1:]
    weights = torch.ones(4, 9, dtype=torch.float64)
    weights[:, :2] = 0.0
    weights[3, 5:] = 0.0
    names, parameters = zip(*model.named_parameters(), strict=True)
    ours = loss_of(model, model.hidden(tokens), tokens, targets, weights)
    nll = -model(tokens).gather(-1, targets[..., None])[..., 0]
    plain = (nll * weights).sum() / weights.sum()
    torch.testing.assert_close(ours, plain)
    gradients = (torch.autograd.grad(loss, parameters) for loss in (ours, plain))
    for name, a, b in zip(names, *gradients, strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")


def test_groups_that_never_come_have_no_gradient_but_are_trained_away():
    model, tokens = make_model(), some_tokens(2, 5)
    targets = torch.zeros(2, 5, dtype=torch.int64)  # group 0 alone
    loss_of(model, model.hidden(tokens), tokens, targets, torch.ones(2, 5, dtype=torch.float64)).backward()
    assert not model.head.weight.grad[3:].any()
    assert (model.group.bias.grad[1:] > 0).all()


def test_one_number_draws_what_the_flat_softmax_would():
    model, n = make_model(), 20_000
    tokens = some_tokens(n, 1)
    features = model.features(model.hidden(tokens))[:, 0]
    uniform = torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    uniform[:3] = torch.tensor([0.0, 1 - 2**-53, 0.5])
    drawn = grouped_head.draw(model, features, tokens[:, 0], uniform)
    cumulative = grouped_head.log_probs(model, features, tokens[:, 0]).exp().cumsum(dim=-1)
    flat = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)[:, 0]
    # Both are the same inversion; only u within 1e-12 of an edge may fall on the other side of it.
    edge = (cumulative - uniform[:, None]).abs().min(dim=1).values < 1e-12
    assert torch.equal(drawn[~edge], flat.clamp(max=10)[~edge])
    assert edge.sum() <= 3


def test_scores_of_trajectories_are_those_of_all_states_at_once():
    model = make_model().float()
    trajectories = [some_tokens(60).numpy(), some_tokens(33).numpy()]
    plain = mean_log_likelihood(model, trajectories, forward=model.forward)
    assert mean_log_likelihood(model, trajectories) == pytest.approx(plain, abs=1e-6)


def test_a_markov_head_starts_at_the_counts_to_groups():
    rng = np.random.default_rng(0)
    tokens = [rng.integers(0, sum(SIZES), 5000)]
    config = ModelConfig(
        n_states=sum(SIZES), group_sizes=SIZES, d_model=16, n_head=2, context_length=8, markov_head=True
    )
    model = untrained_model(config, TrainConfig(markov_pseudocount=1e-9), tokens)
    counts = transition_counts(tokens, sum(SIZES))
    to_group = np.add.reduceat(counts, np.cumsum([0, *SIZES[:-1]]), axis=1)
    found = grouped_head.group_logits(model, torch.zeros(sum(SIZES), 16), torch.arange(sum(SIZES))).softmax(dim=-1)
    np.testing.assert_allclose(
        found.detach().numpy(), to_group / counts.sum(axis=1, keepdims=True), rtol=1e-5, atol=1e-8
    )


def test_tokens_are_numbered_group_by_group():
    # Labels 10, 30, 50 exchange quickly, and 20, 40, 60 do; one passage between them.
    rng = np.random.default_rng(1)
    one, other = np.array([10, 30, 50]), np.array([20, 40, 60])
    labels = np.concatenate([one[rng.integers(0, 3, 400)], other[rng.integers(0, 3, 400)]])
    states = StateMap.fit([labels])
    grouped = group_states(states, states.encode([labels]), 2)
    assert grouped.sizes == (3, 3)
    assert {frozenset(grouped.state_map.symbols[:3]), frozenset(grouped.state_map.symbols[3:])} == {
        frozenset(one.tolist()), frozenset(other.tolist())
    }  # fmt: skip
    np.testing.assert_array_equal(grouped.state_map.decode(grouped.tokens[0]), labels)
    np.testing.assert_array_equal(grouped.state_map.encode([labels])[0], grouped.tokens[0])
    assert np.abs(np.diff(to_groups(grouped.tokens, grouped.sizes)[0])).sum() == 1
    assert StateMap.from_dict(grouped.state_map.to_dict()) == grouped.state_map


@pytest.mark.parametrize("n_groups", [1, 8])
def test_numbers_of_groups_that_cannot_be(n_groups):
    with pytest.raises(InputError, match=r"n_groups must be 0 \(none\) or in \[2, 7\]"):
        resolve_n_groups(7, n_groups)


def test_many_states_are_grouped_unasked():
    assert resolve_n_groups(4096, None) == 0
    assert resolve_n_groups(10_000, None) == 100
    assert resolve_n_groups(10_000, 0) == 0


@pytest.mark.parametrize("sizes", [(11,), (3, 3), (0, 11), (-1, 12)])
def test_sizes_that_cannot_be(sizes):
    with pytest.raises(InputError, match="group_sizes must"):
        ModelConfig(n_states=11, group_sizes=sizes)


@pytest.mark.parametrize("objective", ["one_pass", "two_pass_token", "two_pass_hidden"])
def test_objectives_train_a_grouped_model(objective):
    """Six states in three pairs: the loss comes near the entropy of the chain that the data were drawn from."""
    rng = np.random.default_rng(2)
    transition = 0.02 * np.ones((6, 6)) / 6 + 0.98 * np.kron(np.eye(3), [[0.3, 0.7], [0.6, 0.4]])
    cumulative, states = transition.cumsum(axis=1), [0]
    for u in rng.random(20_000):
        states.append(min(int(np.searchsorted(cumulative[states[-1]], u)), 5))
    data = np.array(states)
    pi = np.bincount(data, minlength=6) / len(data)
    entropy = -float((pi[:, None] * transition * np.log(transition)).sum())
    model = GPTEstimator(
        "tiny", n_steps=150, n_groups=3, objective=objective, seed=1, refit="off", learning_rate=5e-3
    ).fit_fetch(data)  # fmt: skip
    assert model.config.group_sizes == (2, 2, 2)
    loss = -model.log_likelihood(data)
    assert entropy - 0.02 < loss < entropy + 0.03  # 0.01 is the sampling error of the mean over 20,000 steps


@pytest.mark.parametrize("markov_head", [False, True])
def test_interpretation_reads_the_same_probabilities(markov_head):
    model, tokens = make_model(markov_head), some_tokens(2, 7)
    torch.testing.assert_close(explicit_logits(model, tokens)[0], model(tokens))


@pytest.mark.parametrize(("n_frames", "few"), [(600, False), (120, True)])
def test_few_frames_a_state_are_said_to_be_few(n_frames, few):
    labels = np.random.default_rng(3).permutation(np.tile(np.arange(20), n_frames // 20))
    model = GPTEstimator("tiny", n_steps=2, n_groups=4, seed=1, refit="off").fit_fetch(labels)
    assert any("6 frames a state are few" in line for line in model.provenance["choices"]) is few


def test_what_depends_on_the_grouping_is_refused():
    model = GPTEstimator("tiny", n_steps=2, n_groups=2, seed=1, refit="off").fit_fetch(np.tile([0, 1, 1, 2, 3], 60))
    with pytest.raises(InputError, match="mask_unseen needs a table of all states by all"):
        model.mask_unseen(np.tile([0, 1, 1, 2, 3], 60))
    with pytest.raises(InputError, match="must be trained with n_groups=0"):
        constrain(model, populations={"rare": ([0], 0.4, 0.01)})
    with pytest.raises(InputError, match="n_groups must be None for a training at several conditions"):
        ConditionalGPTEstimator("tiny", n_steps=2, n_groups=2).fit(
            [np.tile([0, 1], 60), np.tile([0, 1, 1], 60)], [{"ligand": "a"}, {"ligand": "b"}]
        )
