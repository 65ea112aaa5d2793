"""The compiled engine, with its caches, computes what the PyTorch model computes without any."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nanomd._native import NativeEngine
from nanomd.base.config import ModelConfig
from nanomd.model.network import NanoGPT
from nanomd.model.rope import rope_multipliers
from nanomd.rollout.modes import context_start
from nanomd.rollout.reference import ReferenceEngine

SHAPE = {"n_states": 11, "d_model": 32, "n_layer": 2, "context_length": 8, "mlp_ratio": 2}
LENGTH = 45  # more than five windows
VARIANTS = [
    # norm, activation, (n_head, n_kv_head), markov_head: every value of each, and both norms with each activation
    ("pre", "gelu", (4, 4), False),
    ("pre", "relu", (4, 1), True),
    ("post", "relu", (4, 4), False),
    ("post", "gelu", (4, 2), True),
    ("pre", "gelu", (1, 1), True),
]
MODES = [
    ("rope", "ring", 0),
    ("learned", "hop", 4),
    ("learned", "hop", 1),
    ("learned", "hop", 7),
    ("learned", "crop", 0),
]


def make(position: str, norm: str, activation: str, heads: tuple[int, int], markov_head: bool) -> NanoGPT:
    config = ModelConfig.from_dict(
        SHAPE
        | {"position": position, "norm": norm, "activation": activation, "markov_head": markov_head}
        | {"n_head": heads[0], "n_kv_head": heads[1]}
    )
    model = NanoGPT(config, seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # every bias and table counts, and some states are rare
        for name, parameter in model.named_parameters():
            scale = 1.5 if name.startswith(("head", "markov")) else 0.2
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return model


def engine_of(model: NanoGPT) -> NativeEngine:
    return NativeEngine(model.config, model.to_tensors(), rope_multipliers(model.config))


@torch.no_grad()
def uncached(model: NanoGPT, tokens: np.ndarray, mode: str, hop_keep: int, positions: torch.Tensor | None = None):
    """Return ln p(next) after every position: one pass for ring, one pass per position for the others."""
    frames = torch.from_numpy(tokens.astype(np.int64))
    if mode == "ring":
        return model(frames, positions=positions).log_softmax(-1).double().numpy()
    out = [
        model(frames[:, context_start(model.config, mode, n, hop_keep) : n])[:, -1].log_softmax(-1)
        for n in range(1, frames.shape[1] + 1)
    ]
    return torch.stack(out, dim=1).double().numpy()


@pytest.mark.parametrize(("position", "mode", "hop_keep"), MODES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_engine_equals_the_uncached_model(position: str, mode: str, hop_keep: int, variant) -> None:
    model = make(position, *variant)
    tokens = np.random.default_rng(0).integers(0, 11, (3, LENGTH)).astype(np.uint16)
    got = engine_of(model).log_probs(tokens, mode=mode, hop_keep=hop_keep).astype(np.float64)
    single = uncached(model, tokens, mode, hop_keep)
    double = uncached(model.double(), tokens, mode, hop_keep)
    seen = double > math.log(1e-7)
    assert double.min() < math.log(1e-4)  # rare states are among them
    assert abs(got - double)[seen].max() < 1e-4
    assert abs(got - double)[seen].max() < max(4 * abs(single - double)[seen].max(), 2e-5)


@pytest.mark.parametrize("first", [2**31 - 20, 10**9, 2**32 - 20])
def test_ring_is_exact_at_any_position(first: int) -> None:
    model = make("rope", *VARIANTS[0])
    tokens = np.random.default_rng(0).integers(0, 11, (2, LENGTH)).astype(np.uint16)
    engine = engine_of(model)
    far = engine.log_probs(tokens, mode="ring", first_position=first)
    positions = torch.arange(LENGTH) + first
    np.testing.assert_allclose(far, uncached(model.double(), tokens, "ring", 0, positions), rtol=0, atol=1e-4)
    np.testing.assert_allclose(far, engine.log_probs(tokens, mode="ring"), rtol=0, atol=5e-5)


@pytest.mark.parametrize(("position", "mode", "hop_keep"), MODES)
def test_rollouts_draw_the_states_of_the_eager_reference(position: str, mode: str, hop_keep: int) -> None:
    """State by state; a draw within rounding of a boundary could differ, and with this seed none does."""
    model = make(position, *VARIANTS[1])
    prompts, index = np.array([[1, 2, 3], [4, 0, 10]], dtype=np.uint16), np.array([7, 8], dtype=np.uint64)
    drawn = []
    for engine in (engine_of(model), ReferenceEngine(model.config, model.to_tensors())):
        out = np.empty((2, LENGTH), dtype=np.uint8)
        engine.open(prompts, index, mode=mode, hop_keep=hop_keep, seed=5).advance(LENGTH, out)
        drawn.append(out)
    assert np.array_equal(*drawn)
