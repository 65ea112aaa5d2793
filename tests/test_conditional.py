"""Models of several conditions: what a condition is in numbers, folding, gradients, files, resuming, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from arrhenius_chain import sample

from nanomd import ConditionalGPTEstimator, ConditionalModel, InputError
from nanomd.base.config import ModelConfig, TrainConfig
from nanomd.conditional.conditions import Conditions
from nanomd.conditional.network import ConditionalNet
from nanomd.conditional.step import ConditionalStep
from nanomd.conditional.training import make_optimiser
from nanomd.training.windows import WindowSampler

SHAPE = ModelConfig(n_states=4, d_model=16, n_layer=2, n_head=2, context_length=6, mlp_ratio=2)
TEMPERATURES = (0.7, 0.85, 1.2)
QUICK = {"n_steps": 12, "batch_size": 8, "context_length": 6, "n_threads": 1, "validation_interval": 6}


def small_data() -> tuple[list[list[np.ndarray]], list[dict[str, float]]]:
    groups = [sample(t, 300, 3, seed) for seed, t in enumerate(TEMPERATURES)]
    return groups, [{"temperature": t} for t in TEMPERATURES]


@pytest.fixture(scope="module")
def trained() -> ConditionalModel:
    estimator = ConditionalGPTEstimator("tiny", **QUICK, seed=1, frame_interval="0.2 ns")
    return estimator.fit_fetch(*small_data())


def moved(conditions: Conditions, shape: ModelConfig, seed: int = 0) -> ConditionalNet:
    """A network whose every parameter depends on the condition, categories' rows of the embedding as well."""
    net = ConditionalNet(shape, conditions.categories, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
            if name == "dependence.embedding_weight":
                parameter[~torch.from_numpy(conditions.categories)] = 0.0
    return net


def mixed() -> Conditions:
    given = [{"temperature": 300, "ligand": "none"}, {"temperature": 330, "ligand": "atp"},
             {"temperature": 360, "ligand": "none"}]  # fmt: skip
    return Conditions.of(given)[0]


def test_features_are_scaled_inverse_temperatures_and_ones_of_categories() -> None:
    given = [{"temperature": 300, "ligand": "b"}, {"temperature": 400, "ligand": "a"}]
    conditions, places = Conditions.of([*given, {"ligand": "b", "temperature": 300.0}])
    assert places == [0, 1, 0] and len(conditions.trained) == 2
    np.testing.assert_allclose(conditions.table(), [[1, 0, 1], [-1, 1, 0]])
    assert conditions.categories.tolist() == [False, True, True]
    middle = conditions.features({"ligand": "a", "temperature": 2 / (1 / 300 + 1 / 400)})
    np.testing.assert_allclose(middle, [0, 1, 0], atol=1e-12)


@pytest.mark.parametrize(("kind", "function"), [("linear", lambda x: x), ("log", np.log), ("inverse", lambda x: 1 / x)])
def test_numbers_are_straight_in_the_scale_that_is_asked_for(kind: str, function) -> None:
    conditions, _ = Conditions.of([{"c": x} for x in (1.0, 2.0, 8.0)], {"c": kind})
    phi = conditions.table()[:, 0]
    assert phi.mean() == pytest.approx(0, abs=1e-12) and phi.std() == pytest.approx(1)
    ratio = (phi[1] - phi[0]) / (phi[2] - phi[0])
    assert ratio == pytest.approx((function(2.0) - function(1.0)) / (function(8.0) - function(1.0)))


@pytest.mark.parametrize(
    ("given", "kinds", "words"),
    [
        ([{"t": 1.0}, {"t": 1.0}], None, "everywhere"),
        ([{"t": 1.0}, {"u": 2.0}], None, "must name t"),
        ([{"t": 1.0}, {"t": "x"}], None, "finite number, got 'x'"),
        ([{"t": 1.0}, {"t": float("nan")}], None, "finite number, got nan"),
        ([{"t": 1.0}, {"t": True}], None, "finite number, got True"),
        ([{"t": 1.0}, {"t": 10**400}], None, "finite number, got 1000"),
        ([{"temperature": 1.0}, {"temperature": -1.0}], None, "positive, got -1"),
        ([{"t": 1.0}, {"t": 2.0}], {"t": "cubic"}, "must be one of inverse"),
        ([{"t": 1.0}, {"t": 2.0}], {"u": "linear"}, "unknown condition 'u'"),
        ([{"t": 1.0}, {"t": 2.0}], {"t": "category"}, "values are texts"),
        ([{"t": "a"}, {"t": "a"}], None, "everywhere"),
        ([{}, {}], None, "mapping of names"),
        ([3, 4], None, "mapping of names"),
    ],
)
def test_conditions_that_cannot_be_are_refused(given: list, kinds: dict | None, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Conditions.of(given, kinds)


@pytest.mark.parametrize(
    "shape", [SHAPE, SHAPE.replace(markov_head=True), SHAPE.replace(position="learned", norm="post")]
)
def test_the_folded_model_is_the_network_at_its_condition(shape: ModelConfig) -> None:
    conditions = mixed()
    net = moved(conditions, shape).double().eval()
    tokens = torch.randint(0, 4, (3, 6), generator=torch.Generator().manual_seed(2))
    table = conditions.table()
    with torch.no_grad():
        logits = net(tokens, torch.from_numpy(table))
        for row, phi in enumerate(table):
            folded = net.at(phi).double()
            np.testing.assert_allclose(folded(tokens[row : row + 1])[0], logits[row], atol=1e-5)
    assert float((logits[0] - logits[1]).abs().max()) > 0.1  # the conditions differ


@pytest.mark.parametrize("shape", [SHAPE, SHAPE.replace(markov_head=True)])
def test_the_compiled_gradient_is_the_one_of_pytorch(shape: ModelConfig) -> None:
    conditions, losses, gradients = mixed(), [], []
    trajectories = [x for seed, t in enumerate((0.7, 0.9, 1.2)) for x in sample(t, 60, 2, seed)]
    place = np.repeat([0, 1, 2], 2)
    for compiled in ("native", "none"):
        config = TrainConfig(compile=compiled, batch_size=7, gradient_clip=1e6, learning_rate=0.0)
        net = moved(conditions, shape)
        windows = WindowSampler(trajectories, length=20, batch_size=7, context=5, reverse=True)
        step = ConditionalStep(
            net, make_optimiser(net, config), windows, place, conditions.table(), config, lambda _: 0.0
        )
        losses.append(float(step(0)))
        gradients.append({name: p.grad.clone() for name, p in net.named_parameters()})
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, expected in gradients[1].items():
        got = gradients[0][name]
        if name == "dependence.embedding_weight":  # PyTorch's has the numeric rows too, as zeros
            assert not got[0].any() and got[1:].any()
        np.testing.assert_allclose(got, expected, atol=1e-5 * float(expected.abs().max()) + 1e-7, err_msg=name)


def test_a_saved_model_is_the_same_model(trained: ConditionalModel, tmp_path: Path) -> None:
    trained.save(tmp_path / "model")
    loaded = ConditionalModel.load(tmp_path / "model")
    assert repr(loaded) == repr(trained)
    for t in (0.7, 1.0):
        old, new = trained.at(temperature=t).to_files(), loaded.at(temperature=t).to_files()
        assert all(np.array_equal(x, new.tensors[name]) for name, x in old.tensors.items())
        assert np.array_equal(old.starts.stationary, new.starts.stationary)
        assert np.array_equal(old.starts.windows, new.starts.windows)
        assert old.provenance == new.provenance and old.frame_interval == new.frame_interval
    dtrajs = loaded.at(temperature=1.0).generate(200, 3, seed=1, n_threads=1).dtrajs
    assert {int(x) for d in dtrajs for x in d} <= {0, 1, 2, 3}
    loaded.at({"temperature": 1.0}).save(tmp_path / "one")  # an ordinary model
    loaded.save(tmp_path / "model")  # in its own place
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("x")
    with pytest.raises(InputError, match="choose another path"):
        loaded.save(tmp_path / "other")


def test_the_start_between_two_conditions_is_between_theirs(trained: ConditionalModel) -> None:
    at = {t: trained.at(temperature=t).to_files().starts.stationary for t in (0.85, 1.0, 1.2)}
    assert at[1.0].sum() == pytest.approx(1)
    nearer = [abs(at[1.0] - at[t]).sum() for t in (0.85, 1.2)]
    assert max(nearer) < abs(at[0.85] - at[1.2]).sum()
    phi = trained.conditions.features({"temperature": 1.0}) - trained.conditions.table()
    assert trained.conditions.shares({"temperature": 1.0}) == pytest.approx((phi[:, 0] ** -2) / (phi**-2.0).sum())
    assert trained.conditions.shares({"temperature": 0.85}) == pytest.approx([0, 1, 0], abs=1e-12)


def test_the_provenance_says_whether_a_condition_was_trained(trained: ConditionalModel) -> None:
    def last(t: float) -> str:
        return str(trained.at(temperature=t).provenance["choices"][-1])

    assert last(0.85) == "at temperature = 0.85, which was trained"
    assert "interpolated" in last(1.0)
    assert last(1.5).startswith(
        "warning: extrapolated: temperature = 1.5 lies outside of the trained range, 0.7 to 1.2"
    )
    assert trained.at(temperature=1.5).provenance["condition"] == {"temperature": 1.5}


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ({}, "a value for each of temperature; got nothing"),
        ({"ligand": "atp"}, "got ligand='atp'"),
        ({"temperature": "warm"}, "finite number, got 'warm'"),
        ({"temperature": 0.0}, "positive"),
        ({"temperature": float("inf")}, "finite"),
        ({"temperature": 1e-300}, "temperature = 1e-300 is too far from the range that was trained, 0.7 to 1.2"),
        (310, "a value for each of temperature; got 310"),
        ([("temperature", 1.0)], "a value for each of temperature; got .*1.0"),
    ],
)
def test_unknown_conditions_are_refused(trained: ConditionalModel, condition: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        trained.at(condition)


def test_an_unknown_category_is_refused() -> None:
    with pytest.raises(InputError, match="ligand must be one of atp, none, which were trained; got 'gtp'"):
        mixed().features({"temperature": 310, "ligand": "gtp"})


class _InterruptedError(Exception):
    pass


class _StopAt:
    """Progress that ends a training after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left, self.total = steps, None

    def update(self, n: int = 1) -> None:
        self.left -= n
        if self.left <= 0:
            raise _InterruptedError

    def note(self, text: str) -> None:
        """Hear nothing."""

    def close(self) -> None:
        """Nothing is open."""


def test_a_resumed_training_is_the_same_training(trained: ConditionalModel, tmp_path: Path) -> None:
    options = {**QUICK, "seed": 1, "frame_interval": "0.2 ns", "checkpoint_interval": 5, "run_dir": tmp_path}
    with pytest.raises(_InterruptedError):
        ConditionalGPTEstimator("tiny", **options, progress=_StopAt(8)).fit(*small_data())
    with pytest.raises(InputError, match="already holds a training"):
        ConditionalGPTEstimator("tiny", **options).fit(*small_data())
    groups, conditions = small_data()
    with pytest.raises(InputError, match="cannot be resumed: trained was"):
        ConditionalGPTEstimator("tiny", **options, resume=True).fit(
            groups, [{"temperature": t} for t in (1.0, 2.0, 3.0)]
        )
    again = ConditionalGPTEstimator("tiny", **options, resume=True).fit_fetch(groups, conditions)
    old, new = trained.to_files(), again.to_files()
    for name, x in {**old.shared.tensors, **old.dependence}.items():
        np.testing.assert_array_equal(x, {**new.shared.tensors, **new.dependence}[name], err_msg=name)
    records = [json.loads(line) for line in (tmp_path / "logs" / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == sorted({r["step"] for r in records}) and records[-1]["step"] == 12


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"objective": "two_pass_token"}, "objective must be 'one_pass'"),
        ({"select": "kinetics"}, "select must be 'loss'"),
        ({"lookahead_lags": (2, 5)}, "lookahead_lags must be"),
        ({"n_groups": 8}, "n_groups must be None"),
        ({"group_sizes": (2, 2)}, "has no option group_sizes"),
        ({"wdth": 3}, "has no option wdth"),
        ({"preset": "huge"}, "preset must be one of"),
    ],
)
def test_options_that_it_does_not_have_are_refused(options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        ConditionalGPTEstimator(**options).fit(*small_data())


def test_data_that_do_not_fit_their_conditions_are_refused() -> None:
    groups, conditions = small_data()
    estimator = ConditionalGPTEstimator("tiny", **QUICK)
    with pytest.raises(InputError, match="lists of one length, a condition for each, got 3 and 2"):
        estimator.fit(groups, conditions[:2])
    with pytest.raises(InputError, match="one state only"):
        estimator.fit([np.zeros(50, int)] * 3, conditions)
    with pytest.raises(InputError, match="no two successive assigned frames"):
        estimator.fit([groups[0], groups[1], np.array([-1, 2, -1])], conditions)
    with pytest.raises(InputError, match="call fit"):
        estimator.fetch_model()
