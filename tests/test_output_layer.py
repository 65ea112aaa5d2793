"""The posterior of the output layer: its gradient, its flat directions, and data that are too many to be kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_refit import SHAPE, chain_data, contexts_of, probabilities, weights_of

from nanomd.base.config import TrainConfig
from nanomd.data.counts import transition_counts
from nanomd.model.contexts import default_burn_in, find_pieces
from nanomd.model.network import NanoGPT
from nanomd.training.output_layer import Evidence, OutputLayer, Posterior
from nanomd.training.preconditioner import Scaling, scatter_of
from nanomd.training.refit import Refit, refit

DEFAULT = {"pseudocount": TrainConfig().refit_pseudocount, "ridge": TrainConfig().refit_ridge}


def short_pieces() -> list[np.ndarray]:
    """Transitions 0 -> 2 only in the first frames, which are no contexts, and a state 3 that has none at all."""
    rng = np.random.default_rng(0)
    pieces = [np.concatenate([[0, 2 if k < 30 else 0], rng.integers(0, 2, 12)]) for k in range(300)]
    return [*pieces, np.array([0, 1, 0, 0, 1, 3])]


def posterior_of(dtrajs: list[np.ndarray], **strength: float) -> Posterior:
    model = NanoGPT(SHAPE, seed=3)
    contexts, trained = contexts_of(model, dtrajs), OutputLayer.of_model(model)
    counts = transition_counts(dtrajs, 4)
    rates = torch.from_numpy(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0))
    shown = torch.zeros(4, 4, dtype=torch.float64)
    shown.index_put_((contexts.current, contexts.following), torch.tensor(1.0).double(), accumulate=True)
    chunks = lambda: [contexts]  # noqa: E731
    evidence = Evidence.gather(trained, chunks, shown, rates)
    return Posterior(trained, chunks, evidence, **(DEFAULT | strength), dtype=torch.float64)


def random_change(seed: int) -> OutputLayer:
    rng = np.random.default_rng(seed)
    return OutputLayer(*(torch.from_numpy(rng.normal(size=shape)) for shape in ((4, 9), (4, 4))))


@pytest.mark.parametrize("dtrajs", [chain_data(400, 2), short_pieces()], ids=["long", "pieces"])
def test_the_gradient_is_that_of_the_value(dtrajs: list[np.ndarray]) -> None:
    posterior = posterior_of(dtrajs)
    assert bool((posterior.evidence.extra > 0).any()) == (len(dtrajs) == 301)
    at = random_change(0)
    _, gradient = posterior(at)
    for seed in range(1, 6):
        way, step = random_change(seed), 1e-5
        sides = [posterior(at + OutputLayer(s * way.head, s * way.table))[0] for s in (step, -step)]
        slope = float((gradient.head * way.head).sum() + (gradient.table * way.table).sum())
        assert (sides[0] - sides[1]) / (2 * step) == pytest.approx(slope, rel=1e-6, abs=1e-4)


@pytest.mark.parametrize("pseudocount", [1e-3, 10.0, 1e4])
def test_where_the_posterior_is_flat_its_gradient_is_zero(pseudocount: float) -> None:
    """A constant added to a row of the table changes nothing, also where contexts are only a part of the data."""
    posterior = posterior_of(short_pieces(), pseudocount=pseudocount)
    value, gradient = posterior(random_change(0))
    assert gradient.table.sum(dim=1).abs().max() < 1e-8 * float(posterior.evidence.target.sum())
    flat = OutputLayer(torch.zeros(4, 9).double(), torch.tensor([[3.0], [-2.0], [1.0], [0.0]]).double().expand(4, 4))
    assert posterior(random_change(0) + flat)[0] == pytest.approx(value, rel=1e-12)
    rows = posterior.evidence.prior.sum(dim=1)
    assert rows[posterior.evidence.visited[:, 0]] == pytest.approx(1.0, abs=1e-12) and float(rows.min()) == 0.0


def test_scaled_parameters_are_a_linear_map_and_its_transpose() -> None:
    posterior = posterior_of(short_pieces())
    scaling = Scaling(posterior.evidence, scatter_of(posterior.chunks, posterior.evidence), 10.0, 30.0)
    rng = np.random.default_rng(1)
    x, by_layer = rng.normal(size=sum(scaling.sizes)), random_change(2)
    change = scaling.change(x)
    product = float((change.head * by_layer.head).sum() + (change.table * by_layer.table).sum())
    assert scaling.gradient(by_layer) @ x == pytest.approx(product, rel=1e-6)


def gradient_of(found: Refit, posterior: Posterior) -> np.ndarray:
    """In standard errors, at a result."""
    head = torch.from_numpy(np.column_stack([found.head, found.bias])).double()
    change = OutputLayer(head - posterior.trained.head, torch.from_numpy(found.table) - posterior.trained.table)
    moments = scatter_of(posterior.chunks, posterior.evidence)
    return Scaling(posterior.evidence, moments, **DEFAULT).gradient(posterior(change)[1])


@pytest.mark.parametrize("dtrajs", [chain_data(2000, 2), short_pieces()], ids=["long", "pieces"])
def test_it_ends_at_the_maximum_or_says_that_it_did_not(dtrajs: list[np.ndarray]) -> None:
    model, posterior = NanoGPT(SHAPE, seed=3), posterior_of(dtrajs)
    found, early = refit(model, dtrajs), refit(model, dtrajs, max_iterations=2)
    assert found.converged and found.describe()["converged"] is True
    assert np.abs(gradient_of(found, posterior)).max() < 0.15
    assert (
        np.abs(gradient_of(early, posterior)).max() == pytest.approx(early.gradient, rel=0.1) and early.gradient > 0.3
    )
    assert not early.converged and early.describe()["gradient"] == early.gradient


def test_states_outside_the_pieces_that_are_kept_have_the_rates_of_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """States 2 and 3 are left out of what is kept; their rows, and the loss that is reported, are those of all."""
    rng = np.random.default_rng(3)
    dtrajs = [np.concatenate([2 + (rng.random(1000) < 0.1), rng.integers(0, 2, 4000)])]
    model = NanoGPT(SHAPE, seed=2)
    pieces = find_pieces(SHAPE, [5000], default_burn_in(SHAPE, 5000))
    share = -(-4994 // 300)
    assert all(p.start > 1000 for p in pieces[share // 2 :: share])
    monkeypatch.setattr("nanomd.training.refit._MEMORY", 4 * 9 * 300)
    found = refit(model, dtrajs, pseudocount=1e-3, ridge=1e-3)
    contexts = contexts_of(model, dtrajs)
    p, current, following = probabilities(found, contexts), contexts.current.numpy(), contexts.following.numpy()
    weights, target = weights_of(dtrajs, current, following)
    expected = np.zeros((4, 4))
    np.add.at(expected, current, weights * p)
    assert expected[2:] == pytest.approx(target[2:], rel=0.01, abs=0.1)
    loss = -(weights[:, 0] * np.log(p[np.arange(len(p)), following])).mean()
    assert found.after == pytest.approx(loss, abs=1e-5) and found.after < found.before
    assert len(contexts) == found.n_contexts == 4994
