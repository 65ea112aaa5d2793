"""The last fit of the output layer: its conditions, its maximum, its priors, and what it does to rates and rollouts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from known_chain import default_chain

from nanomd.base.config import ModelConfig, TrainConfig
from nanomd.base.errors import InputError
from nanomd.data.counts import transition_counts
from nanomd.estimator import GPTEstimator, GPTModel
from nanomd.model.contexts import Contexts, collect_contexts, default_burn_in, find_pieces, iterate_contexts
from nanomd.model.network import NanoGPT
from nanomd.training.refit import refit

SHAPE = ModelConfig(n_states=4, d_model=8, n_layer=2, n_head=1, context_length=6, mlp_ratio=2)
CHAIN = default_chain()
STRONG = {"pseudocount": 1e-3, "ridge": 1e-3}


def chain_data(n_steps: int = 3000, n_trajs: int = 3, seed: int = 1) -> list[np.ndarray]:
    return [d.astype(np.int64) for d in CHAIN.sample(n_steps=n_steps, n_trajs=n_trajs, seed=seed)]


def contexts_of(model: NanoGPT, dtrajs: list[np.ndarray]) -> Contexts:
    burn_in = default_burn_in(model.config, max(len(d) for d in dtrajs))
    return collect_contexts(model, dtrajs, find_pieces(model.config, [len(d) for d in dtrajs], burn_in))


def probabilities(found: object, contexts: Contexts) -> np.ndarray:
    """Of a fitted layer on contexts, in float64, written out once more."""
    x = contexts.features.double().numpy()
    logits = x[:, :-1] @ found.head.T.astype(float) + found.bias + found.table.astype(float)[contexts.current.numpy()]
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def weights_of(dtrajs: list[np.ndarray], current: np.ndarray, following: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights (n, 1) that give contexts the rates of all frames, and the transitions (4, 4) that they then have."""
    counts, own = np.zeros((4, 4)), np.zeros((4, 4))
    for d in dtrajs:
        np.add.at(counts, (d[:-1], d[1:]), 1.0)
    np.add.at(own, (current, following), 1.0)
    assert (own[counts > 0] > 0).all()  # every transition is among the contexts
    target = own.sum(axis=1, keepdims=True) * counts / counts.sum(axis=1, keepdims=True)
    return (target[current, following] / own[current, following])[:, None], target


@pytest.mark.parametrize("markov_head", [False, True])
@pytest.mark.parametrize("length", [3000, 12])  # whole, and pieces of which half is no context
def test_mean_rates_and_features_are_those_of_the_data(markov_head: bool, length: int) -> None:
    model = NanoGPT(SHAPE.replace(markov_head=markov_head), seed=3)
    dtrajs = [d[i : i + length] for d in chain_data() for i in range(0, len(d), length)]
    found = refit(model, dtrajs, **STRONG, max_iterations=300)
    contexts = contexts_of(model, dtrajs)
    p = probabilities(found, contexts)
    current, following = contexts.current.numpy(), contexts.following.numpy()
    weights, target = weights_of(dtrajs, current, following)
    expected = np.zeros((4, 4))
    np.add.at(expected, current, weights * p)
    # A transition that is never seen keeps the pseudocount; the others agree within a tenth of their standard error.
    assert (target == 0).any()
    assert (np.abs(expected - target) <= 0.1 * np.sqrt(target) + 0.05).all()
    x = contexts.features.double().numpy()
    moments = (weights * (p - np.eye(4)[following])).T @ x
    errors = np.sqrt(np.einsum("nj,nk->jk", p * (1 - p), x * x))
    if length < 3000:  # half of the frames are no contexts, and by themselves they have other rates
        assert not np.allclose(weights, 1.0, atol=0.1)
    assert (np.abs(moments) <= 0.3 * errors).all()


def test_the_maximum_is_the_one_that_another_optimiser_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """By automatic differentiation in float64, all parameters in one tensor, unscaled."""
    monkeypatch.setattr("nanomd.training.refit.GRADIENT", 1e-3)
    model, dtrajs = NanoGPT(SHAPE, seed=5), chain_data(800, 2)
    found = refit(model, dtrajs, pseudocount=5.0, ridge=2.0, max_iterations=500)
    contexts = contexts_of(model, dtrajs)
    x, current, following = contexts.features.double(), contexts.current, contexts.following
    start = torch.cat([model.head.weight, model.head.bias[:, None]], dim=1).detach().double()
    counts = torch.zeros(4, 4, dtype=torch.float64)
    counts.index_put_((current, following), torch.ones(len(current), dtype=torch.float64), accumulate=True)
    q = torch.zeros(4, 4, dtype=torch.float64).index_add_(0, current, (x @ start.T).softmax(dim=1))
    q /= counts.sum(dim=1, keepdim=True)
    weights = torch.from_numpy(weights_of(dtrajs, current.numpy(), following.numpy())[0])

    def posterior(change: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        logs = (x @ (start + change).T + table[current]).log_softmax(dim=1)
        prior = 5.0 * (q * (q.log() + table).log_softmax(dim=1)).sum() - 1.0 * (change**2).sum()
        return (weights * logs.gather(1, following[:, None])).sum() + prior

    change = torch.zeros_like(start, requires_grad=True)
    seen = torch.zeros(4, 4, dtype=torch.float64, requires_grad=True)
    others = torch.zeros(4, 1, dtype=torch.float64, requires_grad=True)  # transitions never seen, of a state together
    assert (counts == 0).any()

    def table() -> torch.Tensor:
        return torch.where(counts > 0, seen, others)

    optimiser = torch.optim.LBFGS([change, seen, others], lr=1.0, max_iter=3000, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = -posterior(change, table())
        loss.backward()
        return loss

    optimiser.step(closure)
    own = torch.cat([torch.from_numpy(found.head), torch.from_numpy(found.bias)[:, None]], dim=1).double() - start
    best = posterior(change, table()).item()
    assert posterior(own, torch.from_numpy(found.table).double()).item() == pytest.approx(best, abs=0.05)
    assert found.after < found.before


def test_strong_priors_change_nothing() -> None:
    model, dtrajs = NanoGPT(SHAPE.replace(markov_head=True), seed=7), chain_data(500, 1)
    found = refit(model, dtrajs, pseudocount=1e12, ridge=1e12)
    assert found.head == pytest.approx(model.head.weight.detach().numpy(), abs=1e-5)
    assert found.table == pytest.approx(model.markov.weight.detach().numpy(), abs=1e-5)
    assert found.after == pytest.approx(found.before, abs=1e-6)


def test_a_transition_that_no_context_shows_is_not_lost() -> None:
    """0 goes to 2 in the first frames of short pieces alone; the mean rate of the contexts is that of all frames."""
    rng = np.random.default_rng(0)
    dtrajs = [np.concatenate([[0, 2 if k < 30 else 0], rng.integers(0, 2, 12)]) for k in range(300)]
    model = NanoGPT(SHAPE.replace(n_states=3), seed=1)
    found = refit(model, dtrajs, **STRONG)
    contexts = contexts_of(model, dtrajs)
    p = probabilities(found, contexts)[contexts.current.numpy() == 0]
    assert not ((contexts.current == 0) & (contexts.following == 2)).any()
    leaving = sum(int((d[:-1] == 0).sum()) for d in dtrajs)
    assert p[:, 2].mean() == pytest.approx(30 / leaving, rel=0.1)


def test_rare_transitions_keep_their_digits() -> None:
    """A state that changes once in 3,000 frames, ten times: 1 - p hangs on the last digits of p."""
    dtraj = np.zeros(60_000, np.int64)
    for k in range(10):
        dtraj[6_000 * k + 3_000 : 6_000 * k + 6_000] = 1
    model = NanoGPT(SHAPE.replace(n_states=2), seed=1)
    found = refit(model, [dtraj], **STRONG)
    contexts = contexts_of(model, [dtraj])
    p = probabilities(found, contexts)
    assert p[contexts.current.numpy() == 0, 1].sum() == pytest.approx(10, rel=0.05)
    assert p[contexts.current.numpy() == 1, 0].sum() == pytest.approx(9, rel=0.05)


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 40), min_size=1, max_size=5),
    seed=st.integers(0, 2**20),
    both_ways=st.booleans(),
    position=st.sampled_from(["rope", "learned"]),
    burn_in=st.sampled_from([None, 0]),
)
def test_any_data_give_finite_weights_and_no_lower_likelihood(
    lengths: list[int], seed: int, both_ways: bool, position: str, burn_in: int | None
) -> None:
    rng = np.random.default_rng(seed)
    dtrajs = [rng.integers(0, 4, n) for n in lengths]
    model = NanoGPT(SHAPE.replace(position=position), seed=seed)
    found = refit(model, dtrajs, both_ways=both_ways, max_iterations=20, burn_in=burn_in)
    assert np.isfinite(found.head).all() and np.isfinite(found.bias).all() and np.isfinite(found.table).all()
    if burn_in == 0:  # all transitions belong to contexts, so that their likelihood is what is maximised
        assert found.after <= found.before + 1e-5


def test_every_frame_after_the_burn_in_is_a_context_once() -> None:
    model = NanoGPT(SHAPE, seed=1)
    dtrajs = [np.arange(900) % 4, np.arange(40) % 3, np.arange(7) % 2]
    burn_in = default_burn_in(SHAPE, 900)
    assert burn_in == SHAPE.context_length - 1
    contexts = contexts_of(model, dtrajs)
    assert len(contexts) == sum(max(0, len(d) - 1 - burn_in) for d in dtrajs)
    expected = np.sort(np.concatenate([d[burn_in:-1] * 4 + d[burn_in + 1 :] for d in dtrajs]))
    assert np.array_equal(np.sort((contexts.current * 4 + contexts.following).numpy()), expected)
    logits = model(torch.from_numpy(dtrajs[0][None, :-1]))[0, burn_in:]
    head = torch.cat([model.head.weight, model.head.bias[:, None]], dim=1)
    ours = torch.sort(torch.logsumexp(contexts_of(model, dtrajs[:1]).features @ head.T, 1)).values
    torch.testing.assert_close(ours, torch.sort(torch.logsumexp(logits, 1)).values, rtol=1e-4, atol=1e-5)


def test_few_features_in_memory_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    model, dtrajs = NanoGPT(SHAPE, seed=2), chain_data(2500, 2)
    whole = refit(model, dtrajs, **STRONG)
    monkeypatch.setattr("nanomd.training.refit._MEMORY", 4 * 9 * 1250)  # a quarter of the contexts
    part = refit(model, dtrajs, **STRONG)
    assert part.n_contexts == whole.n_contexts
    contexts = contexts_of(model, dtrajs)
    expected, current = np.zeros((4, 4)), contexts.current.numpy()
    weights, target = weights_of(dtrajs, current, contexts.following.numpy())
    np.add.at(expected, current, weights * probabilities(part, contexts))
    assert expected == pytest.approx(target, rel=0.02, abs=0.5)  # of all data nevertheless


def test_many_contexts_are_fitted_in_part_first_and_then_all(monkeypatch: pytest.MonkeyPatch) -> None:
    model, dtrajs = NanoGPT(SHAPE, seed=2), chain_data(2500, 2)
    at_once = refit(model, dtrajs)
    monkeypatch.setattr("nanomd.training.refit._NEAR", 700)
    in_two = refit(model, dtrajs)
    assert in_two.sweeps > at_once.sweeps and in_two.converged
    assert in_two.after == pytest.approx(at_once.after, abs=1e-4)
    assert in_two.before == pytest.approx(at_once.before, rel=1e-6)
    p, q = (probabilities(found, contexts_of(model, dtrajs)) for found in (at_once, in_two))
    assert p == pytest.approx(q, abs=0.01)


def test_contexts_of_a_state_stand_together_and_can_be_thinned() -> None:
    model, dtrajs = NanoGPT(SHAPE, seed=2), chain_data(400, 2)
    contexts = contexts_of(model, dtrajs)
    assert (contexts.current.diff() >= 0).all()
    seen = [(one.state, len(one.following)) for one in contexts.by_state(50)]
    assert max(number for _, number in seen) == 50
    totals = np.bincount([state for state, _ in seen], weights=[number for _, number in seen], minlength=4)
    assert totals.tolist() == np.bincount(contexts.current.numpy(), minlength=4).tolist()
    thin = contexts.every(4)
    assert np.bincount(thin.current.numpy(), minlength=4) == pytest.approx(totals / 4, abs=1)
    streamed = list(iterate_contexts(model, dtrajs, find_pieces(SHAPE, [400, 400], 5)))
    assert sum(map(len, streamed)) == len(contexts)
    total = sum(float(part.features.double().sum()) for part in streamed)
    assert total == pytest.approx(float(contexts.features.double().sum()), rel=1e-5)


def test_errors_name_the_remedy() -> None:
    model = NanoGPT(SHAPE, seed=1)
    with pytest.raises(InputError, match="nothing to fit"):
        refit(model, [np.array([1])])
    with pytest.raises(InputError, match="at most 4096"):
        refit(NanoGPT(ModelConfig(n_states=4097, d_model=8, n_layer=1, n_head=1, context_length=4)), [np.arange(9)])
    with pytest.raises(InputError, match="pseudocount"):
        refit(model, chain_data(50, 1), pseudocount=0.0)
    with pytest.raises(InputError, match="refit"):
        TrainConfig(refit="yes")  # type: ignore[arg-type]


def fit(**options: object) -> GPTModel:
    chosen = {"n_steps": 150, "batch_size": 8, "learning_rate": 5e-3, "context_length": 8, "n_threads": 1, **options}
    return GPTEstimator("tiny", **chosen).fit(chain_data(20_000, 2)).fetch_model()


@pytest.fixture(scope="module")
def pair() -> tuple[GPTModel, GPTModel]:
    """The same training without the refit, and with it."""
    return fit(refit="off"), fit()


def test_a_training_ends_with_it_and_rollouts_have_the_rates_of_the_data(pair: tuple[GPTModel, GPTModel]) -> None:
    plain, refitted = pair
    assert not plain.config.markov_head and refitted.config.markov_head
    assert refitted.provenance["refit"]["nll_after"] < refitted.provenance["refit"]["nll_before"]
    trunk = {k: v for k, v in plain.to_files().tensors.items() if not k.startswith("head")}
    for name, value in trunk.items():
        assert np.array_equal(refitted.to_files().tensors[name], value)
    counts = transition_counts(chain_data(20_000, 2), 4, 1)
    wanted = counts / counts.sum(axis=1, keepdims=True)
    rare = (wanted < 0.05) & (counts > 0)
    assert rare.any()

    def rates(model: GPTModel) -> np.ndarray:
        rollout = model.generate(200_000, 8, seed=1, n_threads=1, backend="cpu")
        counted = transition_counts(list(rollout.dtrajs), 4, 1)
        return counted / counted.sum(axis=1, keepdims=True)

    before, after = (np.abs(np.log(rates(m)[rare] / wanted[rare])).max() for m in (plain, refitted))
    assert after < 0.5 * before


def test_it_can_be_done_later_and_on_its_own(pair: tuple[GPTModel, GPTModel]) -> None:
    plain, refitted = pair
    # The training holds a part back for validation, the refit reads all: the same data, the same result.
    later = plain.refit(chain_data(20_000, 2), n_threads=1)
    for name, value in refitted.to_files().tensors.items():
        assert np.array_equal(later.to_files().tensors[name], value), name
