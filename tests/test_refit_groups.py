"""The last fit of grouped models: rates to groups, and populations of members, are those of the data."""

import numpy as np
import pytest
import torch

from nanomd import GPTEstimator
from nanomd.base.config import ModelConfig
from nanomd.data.counts import transition_counts
from nanomd.model.grouped_head import group_logits, group_of, log_probs
from nanomd.model.network import NanoGPT
from nanomd.training.refit import read_data, refit
from nanomd.training.refit_groups import fit_members, refit_groups

SIZES = (3, 4, 2)
N = sum(SIZES)
STRONG = {"pseudocount": 1e-3, "ridge": 1e-3}


def chain_data(n_frames: int, seed: int) -> list[np.ndarray]:
    """Draw from a chain with rare steps between groups, from single states of each, 300 times rarer than within."""
    rng = np.random.default_rng(7)
    transition = rng.random((N, N)) + 0.1
    group = np.repeat(np.arange(3), SIZES)
    transition *= np.where(group[:, None] == group[None, :], 1.0, 0.003 * rng.random((N, N)))
    cumulative = (transition / transition.sum(axis=1, keepdims=True)).cumsum(axis=1)
    rng, states = np.random.default_rng(seed), [0]
    for u in rng.random(n_frames - 1):
        states.append(min(int(np.searchsorted(cumulative[states[-1]], u)), N - 1))
    return [np.array(states)]


def make_model(seed: int = 1) -> NanoGPT:
    config = ModelConfig(n_states=N, group_sizes=SIZES, d_model=16, n_head=2, context_length=6)
    return NanoGPT(config, seed=seed).eval()


def refitted(model: NanoGPT, tensors: dict[str, np.ndarray]) -> NanoGPT:
    out = NanoGPT(model.config.replace(markov_head=True))
    out.load_tensors(model.to_tensors() | tensors)
    return out.eval()


@torch.no_grad()
def test_rates_to_groups_are_those_of_the_data_from_every_state():
    model, data = make_model(), chain_data(40_000, 1)
    tensors, record = refit_groups(model, data, max_iterations=200, **STRONG)
    found, contexts = refitted(model, tensors), read_data(model, data, False).contexts
    group = group_of(model.config)
    expected = torch.zeros(N, 3)
    p = group_logits(found, contexts.features[:, :-1], contexts.current).softmax(dim=-1)
    expected.index_add_(0, contexts.current, p)
    counts = transition_counts(data, N).astype(float)
    rates = np.add.reduceat(counts, np.cumsum([0, *SIZES[:-1]]), axis=1) / counts.sum(axis=1, keepdims=True)
    visits = torch.bincount(contexts.current, minlength=N).numpy()
    wanted = visits[:, None] * rates
    # Iterative scaling ends within a tenth of a standard error of every rate, rare ones included.
    assert (wanted > 0).sum() > 20 and wanted[wanted > 0].min() < 10
    np.testing.assert_allclose(expected.numpy(), wanted, atol=0.1, rtol=0.01)
    assert record["nll_after"] < record["nll_before"] and record["converged"]
    assert group.tolist() == np.repeat([0, 1, 2], SIZES).tolist()


@torch.no_grad()
def test_members_are_entered_as_often_as_in_the_data():
    model, data = make_model(), chain_data(20_000, 2)
    tensors, record = refit_groups(model, data, **STRONG)
    found, contexts = refitted(model, tensors), read_data(model, data, False).contexts
    p = log_probs(found, contexts.features[:, :-1], contexts.current).exp()
    entered = torch.bincount(contexts.following, minlength=N).double()
    # At the maximum every member is expected as often as it came, given the group; groups are right by the test above.
    np.testing.assert_allclose(p.double().sum(dim=0).numpy(), entered.numpy(), rtol=0.01)
    assert record["nll_members_after"] < record["nll_members_before"]


def test_members_are_the_maximum_of_their_posterior():
    model, data = make_model(), chain_data(5_000, 3)
    contexts, group = read_data(model, data, False).contexts, group_of(model.config)
    start = torch.cat([model.head.weight, model.head.bias[:, None]], dim=1).detach()
    ridge, head = 2.0, start.clone()
    fit_members(head, contexts, model.config.group_starts, group, ridge)
    moved = head.double().requires_grad_()
    value = 0.5 * ridge * ((moved - start.double()) ** 2).sum()
    for g, (first, last) in enumerate(((0, 3), (3, 7), (7, 9))):
        rows = group[contexts.following] == g
        log_p = (contexts.features[rows].double() @ moved[first:last].T).log_softmax(dim=1)
        value = value - log_p.gather(1, contexts.following[rows, None] - first).sum()
    (gradient,) = torch.autograd.grad(value, moved)
    # In standard errors: the curvature of a row is at most the number of contexts that enter its group.
    scale = torch.bincount(group[contexts.following], minlength=3)[group].double().sqrt()[:, None]
    assert float((gradient / scale).abs().max()) < 0.2


def test_one_member_a_group_is_the_fit_without_groups():
    """Groups of one state each: the coarse decision is the whole decision, and must be what `refit` finds."""
    data = [np.minimum(d, 4) for d in chain_data(4_000, 4)]
    flat = NanoGPT(ModelConfig(n_states=5, d_model=16, n_head=2, context_length=6), seed=2).eval()
    config = flat.config.replace(group_sizes=(1,) * 5)
    grouped = NanoGPT(config, seed=2).eval()
    tensors = flat.to_tensors()
    own = {"group.weight": tensors["head.weight"], "group.bias": tensors["head.bias"]}
    grouped.load_tensors(tensors | own)
    wanted, (found, _) = refit(flat, data, **STRONG), refit_groups(grouped, data, **STRONG)
    np.testing.assert_array_equal(found["group.weight"], wanted.head)
    # Rows of single states add only what the first fit's tolerance left over.
    ours, theirs = (torch.from_numpy(table).softmax(dim=1) for table in (found["markov.weight"], wanted.table))
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_few_data_leave_the_layer_as_trained():
    model, data = make_model(), chain_data(300, 5)
    tensors, _ = refit_groups(model, data, pseudocount=1e9, ridge=1e9)
    before, after = model, refitted(model, tensors)
    tokens = torch.from_numpy(data[0][None, :50])
    torch.testing.assert_close(after(tokens), before(tokens), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("both_ways", [False, True])
@torch.no_grad()
def test_of_more_contexts_than_memory_a_part_is_fitted_to_the_rates_of_all(monkeypatch, both_ways):
    model, data = make_model(), chain_data(8_000, 6)
    monkeypatch.setattr("nanomd.training.refit_groups._MEMORY", 2_000 * 4 * 17)
    tensors, _ = refit_groups(model, data, both_ways=both_ways, **STRONG)
    part = read_data(model, data, both_ways, memory=2_000 * 4 * 17)
    assert part.share > 3 and len(part.contexts) < 3_000
    found, contexts = refitted(model, tensors), part.contexts
    expected = torch.zeros(N, 3)
    p = group_logits(found, contexts.features[:, :-1], contexts.current).softmax(dim=-1)
    expected.index_add_(0, contexts.current, p)
    counts = transition_counts(part.labels, N).astype(float)
    rates = np.add.reduceat(counts, np.cumsum([0, *SIZES[:-1]]), axis=1) / counts.sum(axis=1, keepdims=True)
    wanted = torch.bincount(contexts.current, minlength=N).numpy()[:, None] * rates
    np.testing.assert_allclose(expected.numpy(), wanted, atol=0.1, rtol=0.01)


def test_a_training_of_many_states_ends_with_it():
    model = GPTEstimator("tiny", n_steps=20, n_groups=3, seed=1, n_threads=1).fit_fetch(chain_data(3_000, 8))
    assert model.config.markov_head and model.config.n_groups == 3
    assert model.provenance["refit"]["nll_members_after"] < model.provenance["refit"]["nll_members_before"]
    again = model.refit(chain_data(3_000, 9), n_threads=1)
    assert again.config == model.config
    assert again.log_likelihood(chain_data(3_000, 9)) > model.log_likelihood(chain_data(3_000, 9))
