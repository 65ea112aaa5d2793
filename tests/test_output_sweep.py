"""The compiled sweep of the last fit, and the compiled forward pass that reads its features."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nanomd._native import available_isas, sweep_output
from nanomd.base.config import ModelConfig
from nanomd.base.errors import InputError
from nanomd.model.contexts import Contexts
from nanomd.model.features import read_features
from nanomd.model.network import NanoGPT
from nanomd.training.output_layer import OutputLayer, sweep


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize(("n_states", "width", "n"), [(3, 9, 40), (21, 33, 9000), (130, 17, 700)])
def test_compiled_sweeps_are_those_of_float64(n_states: int, width: int, n: int, isa: str) -> None:
    """Loss, transitions and features err less than PyTorch in float32 may, on any number of threads."""
    rng = np.random.default_rng(n)
    current = np.sort(rng.integers(0, n_states, n)) if n_states > 3 else np.zeros(n, dtype=np.int64)
    part = Contexts(*map(torch.from_numpy, (
        rng.normal(size=(n, width)).astype(np.float32), current, rng.integers(0, n_states, n),
    )))  # fmt: skip
    layer = OutputLayer(torch.from_numpy(rng.normal(size=(n_states, width))), torch.from_numpy(
        6.0 * np.eye(n_states) + rng.normal(size=(n_states, n_states))
    ))  # fmt: skip
    weights = torch.from_numpy(rng.random((n_states, n_states)))
    exact = sweep(layer, [part], weights, dtype=torch.float64)
    arrays = [x.float().numpy() for x in (layer.head, layer.table, weights)]
    found = []
    for n_threads in (1, 3):
        transitions, moments = np.zeros((n_states, n_states)), np.zeros((n_states, width))
        loss = sweep_output(
            *arrays, part.features.numpy(), part.current.numpy(), part.following.numpy(),
            transitions=transitions, moments=moments, n_threads=n_threads, isa=isa,
        )  # fmt: skip
        found.append((loss, transitions, moments))
        assert loss == pytest.approx(exact.loss, rel=1e-6)
        for mine, wanted in ((transitions, exact.transitions), (moments, exact.features)):
            assert np.abs(mine - wanted.numpy()).max() < 3e-6 * np.abs(wanted.numpy()).max() + 1e-6
    assert found[0][0] == found[1][0] and all(
        np.array_equal(a, b) for a, b in zip(found[0][1:], found[1][1:], strict=True)
    )


def test_compiled_sweeps_keep_the_digits_of_rare_transitions() -> None:
    """A state that leaves once in 10^8 frames: 1 - p in float32 would be zero."""
    n = 1000
    head, table = np.zeros((2, 3), np.float32), np.array([[0.0, -18.0], [0.0, 0.0]], np.float32)
    transitions = np.zeros((2, 2))
    loss = sweep_output(
        head, table, np.ones((2, 2), np.float32), np.ones((n, 3), np.float32), np.zeros(n, np.int64),
        np.zeros(n, np.int64), transitions=transitions,
    )  # fmt: skip
    assert loss == pytest.approx(n * np.log1p(np.exp(-18.0)), rel=1e-5)
    assert transitions[0] == pytest.approx([-n / (1 + np.exp(18.0)), n / (1 + np.exp(18.0))], rel=1e-5)


def test_sweeps_refuse_what_is_not_sorted() -> None:
    square = np.zeros((3, 3), np.float32)
    states = np.array([1, 0])
    with pytest.raises(InputError, match="contexts must be sorted by their state"):
        sweep_output(
            np.zeros((3, 2), np.float32), square, square, np.zeros((2, 2), np.float32), states, states,
            transitions=np.zeros((3, 3)),
        )  # fmt: skip


SMALL = ModelConfig(n_states=12, d_model=24, n_head=3, context_length=5, mlp_ratio=2, dropout=0.2, final_dropout=0.2)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("position", ["rope", "learned"])
def test_features_are_those_of_pytorch(norm: str, position: str) -> None:
    """In training mode too, which drops nothing here; frames before the first wanted one are context alone."""
    window = 60 if position == "learned" else 5
    model = NanoGPT(SMALL.replace(norm=norm, position=position, context_length=window), seed=2)
    reference = NanoGPT(model.config, backend="reference")
    reference.load_state_dict(model.state_dict())
    for length in (41, 7, 41):  # memory is as long as the windows: the last length is kept
        tokens = torch.randint(0, 12, (3, length), generator=torch.Generator().manual_seed(length))
        wanted = read_features(reference, tokens)
        torch.testing.assert_close(read_features(model, tokens), wanted, rtol=1e-5, atol=2e-6)
        torch.testing.assert_close(read_features(model, tokens, 5)[:, 5:], wanted[:, 5:], rtol=1e-5, atol=2e-6)
    assert model.training and reference.training


def test_features_follow_the_weights() -> None:
    model, tokens = NanoGPT(SMALL), torch.zeros((1, 9), dtype=torch.int64)
    before = read_features(model, tokens)
    with torch.no_grad():
        model.embedding.weight.mul_(2)
        model.blocks[0].mlp.up.weight = torch.nn.Parameter(0.5 * model.blocks[0].mlp.up.weight)  # other memory
    reference = NanoGPT(SMALL, backend="reference")
    reference.load_state_dict(model.state_dict())
    after = read_features(model, tokens)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, read_features(reference, tokens), rtol=1e-5, atol=2e-6)
