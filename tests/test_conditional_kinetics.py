"""What conditional models learn, against chains whose kinetics are known exactly at every condition.

Tolerances are three standard errors: of data with n passages at the trained conditions together, 1 / sqrt(n) of a
passage time, and of rollouts.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from arrhenius_chain import chain, counted, passage_time, populations, sample
from known_chain import default_chain

from nanomd import ConditionalGPTEstimator
from nanomd.base.config import ModelConfig
from nanomd.conditional.finish import regress
from nanomd.conditional.joint_layer import Change, JointPosterior, JointScaling
from nanomd.conditional.plan import make_plan
from nanomd.conditional.refit import refit
from nanomd.model.contexts import collect_contexts, find_pieces
from nanomd.model.network import NanoGPT
from nanomd.training.output_layer import Evidence, OutputLayer, Posterior

TEMPERATURES, LEFT_OUT = (0.7, 0.85, 1.2), 1.0
SHAPE = ModelConfig(n_states=4, d_model=8, n_layer=1, n_head=1, context_length=6, mlp_ratio=2)
STRONG = {"pseudocount": 1e-3, "ridge": 1e-3}
QUICK = {"context_length": 8, "n_steps": 120, "batch_size": 32, "n_threads": 1, "refit_pseudocount": 1.0}


def standardised(temperatures: tuple[float, ...]) -> np.ndarray:
    scaled = 1 / np.array(temperatures)
    return ((scaled - scaled.mean()) / scaled.std())[:, None]


def joint_posterior(groups: list[list[np.ndarray]], features: np.ndarray) -> JointPosterior:
    posteriors = []
    for seed, tokens in enumerate(groups):
        model = NanoGPT(SHAPE, seed=seed)
        layer = OutputLayer.of_model(model)
        contexts = collect_contexts(model, tokens, find_pieces(SHAPE, [len(t) for t in tokens], 5))
        shown = torch.bincount(contexts.current * 4 + contexts.following, minlength=16).view(4, 4).double()
        assert (shown.sum(dim=1) > 0).all()
        evidence = Evidence.gather(layer, lambda c=contexts: [c], shown, torch.from_numpy(counted(tokens)))
        posteriors.append(Posterior(layer, lambda c=contexts: [c], evidence, 2.0, 0.0, torch.float64))
    design = torch.from_numpy(np.concatenate([np.ones((len(groups), 1)), features], axis=1))
    return JointPosterior(posteriors, design, ridge=3.0)


def test_the_gradient_of_the_posterior_is_that_of_its_value() -> None:
    groups = [sample(t, 900, 3, seed) for seed, t in enumerate(TEMPERATURES)]
    joint = joint_posterior(groups, standardised(TEMPERATURES))
    generator = torch.Generator().manual_seed(0)
    zero = joint.zeros()

    def random() -> Change:
        return Change(*(torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in (zero.heads, zero.tables)))

    at = random()
    _, gradient = joint(at)
    for _ in range(3):
        along, step = random(), 1e-5
        values = [joint(Change(at.heads + s * along.heads, at.tables + s * along.tables))[0] for s in (step, -step)]
        expected = float((gradient.heads * along.heads).sum() + (gradient.tables * along.tables).sum())
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(expected, rel=1e-6)


def test_scaled_gradients_are_the_transpose_of_scaled_changes() -> None:
    groups = [sample(t, 900, 3, seed) for seed, t in enumerate(TEMPERATURES)]
    joint = joint_posterior(groups, standardised(TEMPERATURES))
    scaling, generator = JointScaling(joint), torch.Generator().manual_seed(1)
    x = np.random.default_rng(2).normal(size=sum(scaling.sizes))
    zero = joint.zeros()
    by = Change(*(torch.randn(y.shape, generator=generator, dtype=y.dtype) for y in (zero.heads, zero.tables)))
    change = scaling.change(x)
    expected = float((by.heads * change.heads).sum() + (by.tables * change.tables).sum())
    assert scaling.gradient(by) @ x == pytest.approx(expected, rel=1e-9)


def test_at_the_maximum_mean_rates_are_those_of_the_data_wherever_features_allow() -> None:
    """With two conditions and one feature every rate is free, so the model makes at each as many steps as the data."""
    groups = [sample(t, 2000, 4, seed) for seed, t in enumerate((0.8, 1.2))]
    models = [NanoGPT(SHAPE, seed=3) for _ in groups]
    features = standardised((0.8, 1.2))
    found = refit(models, features, groups, **STRONG, max_iterations=300, burn_in=5)
    assert found.describe()["converged"] and found.loss[1] < found.loss[0]
    for phi, tokens in zip(features[:, 0], groups, strict=True):
        model = NanoGPT(SHAPE.replace(markov_head=True), seed=3)
        with torch.no_grad():
            model.head.weight.copy_(models[0].head.weight + torch.from_numpy(found.head[0] + phi * found.head[1]))
            model.head.bias.copy_(models[0].head.bias + torch.from_numpy(found.bias[0] + phi * found.bias[1]))
            model.markov.weight.copy_(torch.from_numpy(found.table[0] + phi * found.table[1]))
        contexts = collect_contexts(model, tokens, find_pieces(model.config, [len(t) for t in tokens], 5))
        with torch.no_grad():
            p = model.read_out(contexts.features[:, :-1], contexts.current).softmax(-1).double().numpy()
        current = contexts.current.numpy()
        mean = np.stack([p[current == i].mean(axis=0) for i in range(4)])
        data, visits = counted(tokens), np.bincount(np.concatenate(tokens))[:, None]
        # The prior of the tables, a ninth of an observation, moves rates by hundredths of their standard errors.
        assert (abs(mean - data) <= 0.05 * np.sqrt(data * (1 - data) / visits) + 1e-6).all()


def test_a_transition_that_was_not_seen_at_one_condition_is_borrowed_from_the_others() -> None:
    """Cold data that never cross, and warm data that do: the crossing is where Arrhenius' law puts it."""
    temperatures = (0.5, 0.8, 1.0, 1.2)
    groups = [sample(t, 2500, 40, seed) for seed, t in enumerate(temperatures)]
    groups[0] = [x for x in sample(0.5, 100, 40, 9) if not (x[:-1] + x[1:] == 3).any()]  # 1 to 2 was never crossed
    assert len(groups[0]) > 30
    config = SHAPE.replace(markov_head=True)
    found = []
    for features in (standardised(temperatures), np.zeros((4, 1))):
        models = [NanoGPT(config, seed=1) for _ in groups]
        for model in models:
            model.start_at_markov(np.full((4, 4), 1.0), 1.0)  # all states alike: the data alone decide
        one = refit(models, features, groups, pseudocount=0.1, ridge=1e6, burn_in=5)
        table = one.table[0] + features[0, 0] * one.table[1]
        p = np.exp(table - table.max(axis=1, keepdims=True))
        found.append((p / p.sum(axis=1, keepdims=True))[1, 2])
    assert found[0] == pytest.approx(chain(0.5)[1, 2], rel=0.3)
    assert found[1] > 10 * chain(0.5)[1, 2]  # without a feature all conditions have one rate


def test_where_there_are_hardly_any_data_the_others_decide() -> None:
    """Two conditions that are alike, one of them of 20 frames; the untrained models know nothing."""
    groups = [sample(1.0, 20, 1, 1), sample(1.0, 4000, 8, 2)]
    assert set(groups[0][0]) <= {0, 1}
    models = [NanoGPT(SHAPE, seed=1) for _ in groups]
    found = refit(models, np.array([[-1.0], [1.0]]), groups, burn_in=5)
    p = []
    for sign in (-1, 1):
        model = NanoGPT(SHAPE.replace(markov_head=True), seed=1)
        with torch.no_grad():
            model.head.weight.copy_(models[0].head.weight + torch.from_numpy(found.head[0] + sign * found.head[1]))
            model.head.bias.copy_(models[0].head.bias + torch.from_numpy(found.bias[0] + sign * found.bias[1]))
            model.markov.weight.copy_(torch.from_numpy(found.table[0] + sign * found.table[1]))
            p.append(model(torch.arange(4).repeat_interleave(6).view(4, 6))[:, -1].softmax(-1).numpy())
    # Never visited: the same but for an eleventh of the weights' change, and that was from one in four to one in 4000.
    np.testing.assert_allclose(p[0][2:], p[1][2:], rtol=0.35)
    assert p[1][2:].min() < 1e-3
    np.testing.assert_allclose(p[0][:2], p[1][:2], atol=0.15)  # visited 20 times
    np.testing.assert_allclose(p[1], chain(1.0), atol=0.05)


def test_regression_of_offsets_trusts_the_certain_ones() -> None:
    features = standardised(TEMPERATURES)
    values = np.array([0.9, 0.1, 0.1])[:, None, None] * np.ones((1, 2, 2))
    fitted = regress(values, features, np.array([1.0, 0.02, 0.02]))
    at = fitted[0] + features[:, :, None] * fitted[1]
    np.testing.assert_allclose(at[1:], 0.1, atol=0.02)
    assert (at[0] < 0.3).all()
    even = regress(np.full((3, 1), 0.2), features, np.full(3, 0.02))
    np.testing.assert_allclose(even.ravel(), [0.2, 0.0], atol=2e-3)


def test_the_plan_is_that_of_the_condition_that_asks_for_most() -> None:
    chains = [default_chain(0.85), default_chain(0.3)]
    groups = [[d.astype(np.int64) for d in c.sample(4000, 5, seed=s)] for s, c in enumerate(chains)]
    plans = [make_plan([group], 4) for group in groups]
    both = make_plan(groups, 4)
    assert both.scales.memory == max(plan.scales.memory for plan in plans)
    assert both.scales.slowest == min(plan.scales.slowest for plan in plans)
    assert plans[1].stride <= both.stride <= plans[0].stride and both.time_reversal
    driven = [np.arange(4000) % 4] * 5
    assert not make_plan([groups[0], driven], 4, stride=1).time_reversal


def rolled(model: object, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Populations and the transition matrix of a rollout of 1.3 million steps."""
    dtrajs = [d.astype(np.int64) for d in model.generate(20_000, 64, seed=seed, n_threads=1).dtrajs]
    return np.bincount(np.concatenate(dtrajs), minlength=4) / 1.28e6, counted(dtrajs)


@pytest.mark.slow
def test_a_temperature_that_was_never_simulated_has_the_right_kinetics() -> None:
    groups = [sample(t, 2500, 40, seed) for seed, t in enumerate(TEMPERATURES)]
    conditions = [{"temperature": t} for t in TEMPERATURES]
    estimator = ConditionalGPTEstimator("tiny", **QUICK, seed=0, time_reversal=True)
    model = estimator.fit_fetch(groups, conditions)
    # Passages 0 -> 3 in 100,000 frames: some 110, 290 and 920.
    for t, tolerance in ((LEFT_OUT, 0.15), (0.7, 0.3), (1.2, 0.12)):
        shares, p = rolled(model.at(temperature=t))
        exact = chain(t)
        assert shares == pytest.approx(populations(t), rel=tolerance, abs=0.01), t
        for source, target in ((0, 3), (3, 0)):
            expected = passage_time(exact, source, target)
            assert passage_time(p, source, target) == pytest.approx(expected, rel=tolerance), (t, source)
    nearest = min(passage_time(chain(t), 0, 3) / passage_time(chain(LEFT_OUT), 0, 3) for t in (0.85, 1.2))
    assert nearest < 0.65 and passage_time(chain(0.85), 0, 3) > 1.9 * passage_time(chain(LEFT_OUT), 0, 3)  # the power


@pytest.mark.slow
def test_memory_may_differ_between_categories() -> None:
    """One chain has no memory, the other goes back three times out of five; both have the same one-step matrix."""
    chains = {"wild type": default_chain(0.0), "mutant": default_chain(0.6)}
    groups = [[d.astype(np.int64) for d in c.sample(2500, 60, seed=s)] for s, c in enumerate(chains.values())]
    estimator = ConditionalGPTEstimator("tiny", **{**QUICK, "n_steps": 300}, seed=0, time_reversal=True)
    model = estimator.fit_fetch(groups, [{"protein": name} for name in chains])
    for name, exact in chains.items():
        one = model.at(protein=name)
        assert one.log_likelihood(exact.sample(2000, 5, seed=9)) == pytest.approx(-exact.entropy_rate, abs=0.015)
        dtrajs = [d.astype(np.int64) for d in one.generate(20_000, 64, seed=1, n_threads=1).dtrajs]
        slow = -20 / np.log(np.sort(np.linalg.eigvals(lagged(dtrajs, 20)).real)[-2])
        assert slow == pytest.approx(exact.implied_timescales(20)[0], rel=0.15), name
    fast, slow = (c.implied_timescales(20)[0] for c in chains.values())
    assert slow > 3 * fast  # the power: a model that knows no condition is far from both


def lagged(dtrajs: list[np.ndarray], lagtime: int) -> np.ndarray:
    counts = np.zeros((4, 4))
    for x in dtrajs:
        np.add.at(counts, (x[:-lagtime], x[lagtime:]), 1.0)
    return counts / counts.sum(axis=1, keepdims=True)
