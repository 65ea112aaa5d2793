"""Cached decoding against the float64 forward pass, for every mode, norm, activation, position and head layout."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from nanomd import _native
from nanomd.base.config import ModelConfig, model_preset
from nanomd.base.errors import InputError
from nanomd.model.rope import rope_multipliers, rope_tables

_spec = importlib.util.spec_from_file_location("reference_numpy", Path(__file__).with_name("reference_numpy.py"))
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

SMALL = {"n_states": 37, "d_model": 32, "n_layer": 2, "n_head": 2, "context_length": 8, "mlp_ratio": 2}
ROPE = {
    "pre-gelu": {},
    "post-relu": {"norm": "post", "activation": "relu"},
    "post-gelu-markov": {"norm": "post", "markov_head": True},
    "grouped": {"n_head": 4, "n_kv_head": 2, "n_layer": 3},
    "one-kv-head": {"d_model": 64, "n_head": 8, "n_kv_head": 1, "n_states": 5},
    "odd-width": {"d_model": 24, "n_head": 3, "n_layer": 1, "context_length": 7, "mlp_ratio": 1, "n_states": 16},
    "wide-head": {"d_model": 80, "n_head": 1, "context_length": 19},
    "two-states": {"n_states": 2, "context_length": 2},
    "window-over-16": {"context_length": 33, "n_layer": 1},
}
LEARNED = {
    "paper": {"norm": "post", "activation": "relu", "mlp_ratio": 1, "position": "learned", "n_head": 4},
    "pre": {"position": "learned", "n_kv_head": 1, "markov_head": True, "context_length": 9},
}


def make_engine(config, tensors, isa="", column_limit=-1):
    multipliers = rope_multipliers(config) if config.position == "rope" else np.zeros(0, np.uint32)
    return _native.NativeEngine(config, tensors, multipliers, isa, column_limit)


def assert_close(log_p, expected, tolerance=1e-3):
    """|ln p - ln p_ref| <= tolerance wherever p_ref >= 1e-7, and the check looks at rare states too."""
    seen = expected >= np.log(1e-7)
    assert seen.mean() > 0.5
    assert np.abs(log_p - expected)[seen].max() <= tolerance


def case(name, extra):
    config = ModelConfig(**{**SMALL, **extra})
    tensors = reference.random_tensors(config, seed=len(name))
    rng = np.random.default_rng(3)
    tokens = rng.integers(0, config.n_states, (3, 6 * config.context_length + 3)).astype(np.uint16)
    return config, tensors, tokens


@pytest.mark.parametrize("isa", _native.available_isas())
@pytest.mark.parametrize("column_limit", [0, 16], ids=["lanes", "single"])
@pytest.mark.parametrize("name", ROPE)
def test_ring_equals_the_parallel_forward_pass(name, isa, column_limit):
    config, tensors, tokens = case(name, ROPE[name])
    log_p = make_engine(config, tensors, isa, column_limit).log_probs(tokens, mode="ring")
    for row, sequence in zip(log_p, tokens, strict=True):
        assert_close(row, reference.log_probs(config, tensors, sequence, "ring"))


@pytest.mark.parametrize("column_limit", [0, 16], ids=["lanes", "single"])
@pytest.mark.parametrize("first", [1, 5, 10**9, 10**9 + 3, 2**32 - 20, 10**15 + 7])
def test_ring_far_out(first, column_limit):
    """The window mask and rotary phases hold at any position, and log-probabilities depend on differences alone."""
    config, tensors, tokens = case("grouped", ROPE["grouped"])
    engine = make_engine(config, tensors, column_limit=column_limit)
    log_p = engine.log_probs(tokens[:1], mode="ring", first_position=first)[0]
    assert_close(log_p, reference.log_probs(config, tensors, tokens[0], "ring", first_position=first))
    assert np.abs(log_p - engine.log_probs(tokens[:1], mode="ring")[0]).max() < 1e-3


@pytest.mark.parametrize("column_limit", [0, 16], ids=["lanes", "single"])
@pytest.mark.parametrize("mode", ["hop", "crop"])
@pytest.mark.parametrize("name", [*LEARNED, "pre-gelu"])
def test_hop_and_crop_equal_their_windows_recomputed(name, mode, column_limit):
    config, tensors, tokens = case(name, {**LEARNED, **ROPE}[name])
    engine = make_engine(config, tensors, column_limit=column_limit)
    for keep in [1, config.context_length // 2, config.context_length - 1] if mode == "hop" else [0]:
        log_p = engine.log_probs(tokens, mode=mode, hop_keep=keep)
        for row, sequence in zip(log_p, tokens, strict=True):
            assert_close(row, reference.log_probs(config, tensors, sequence, mode, keep))


def test_reference_sees_the_window_mask():
    """A token beyond the window changes the present, one beyond the receptive field does not."""
    config, tensors, tokens = case("pre-gelu", {})
    other = tokens[0].copy()
    other[-config.context_length - 2] = (other[-config.context_length - 2] + 1) % config.n_states
    base, changed = (reference.log_probs(config, tensors, row, "ring")[-1] for row in (tokens[0], other))
    assert np.abs(base - changed).max() > 1e-3
    other = tokens[0].copy()
    beyond = -config.receptive_field - 1
    other[beyond] = (other[beyond] + 1) % config.n_states
    assert np.array_equal(reference.log_probs(config, tensors, other, "ring")[-1], base)


@pytest.mark.parametrize("isa", _native.available_isas())
def test_lanes_and_single_kernels_agree_bit_for_bit(isa):
    for name, extra in {**ROPE, **LEARNED}.items():
        config, tensors, tokens = case(name, extra)
        mode = "ring" if config.position == "rope" else "hop"
        results = [
            make_engine(config, tensors, isa, single).log_probs(tokens, mode=mode, hop_keep=3 if mode == "hop" else 0)
            for single in (0, 16)
        ]
        assert np.array_equal(*results), name


def test_fused_instruction_sets_agree_bit_for_bit():
    fused = [isa for isa in _native.available_isas() if isa != "sse2"]
    config, tensors, tokens = case("grouped", ROPE["grouped"])
    results = [make_engine(config, tensors, isa).log_probs(tokens, mode="ring") for isa in fused]
    assert all(np.array_equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("isa", _native.available_isas())
def test_exponential(isa):
    x = np.concatenate([np.linspace(-87, 88, 400_000), np.linspace(-1, 1, 100_000)]).astype(np.float32)
    y = _native.exp_array(x, isa)
    exact = np.exp(x.astype(np.float64))
    ulp = np.spacing(exact.astype(np.float32)).astype(np.float64)
    assert (np.abs(y - exact) / ulp).max() < 2.0
    assert np.array_equal(
        _native.exp_array(np.float32([-88, -np.inf, -1e30, 0] * 4), isa), np.float32([0, 0, 0, 1] * 4)
    )


def test_rope_tables_are_exact():
    config = ModelConfig(**SMALL)
    m = rope_multipliers(config)
    positions = np.array([0, 1, 2**31, 10**9, 2**63 + 12345], dtype=np.uint64)
    cos, sin = rope_tables(config, positions)
    for row, p in enumerate(positions):
        angles = [2 * np.pi * ((int(p) * int(k)) % 2**32) / 2**32 for k in m]
        np.testing.assert_allclose(cos[row], np.cos(angles), atol=6e-8)
        np.testing.assert_allclose(sin[row], np.sin(angles), atol=6e-8)
    assert m[0] == round(2**32 / (2 * np.pi))


def test_refusals():
    config, tensors, tokens = case("paper", LEARNED["paper"])
    engine = make_engine(config, tensors)
    with pytest.raises(InputError, match="ring needs rotary positions"):
        engine.log_probs(tokens, mode="ring")
    with pytest.raises(InputError, match="hop_keep must be in"):
        engine.log_probs(tokens, mode="hop", hop_keep=config.context_length)
    with pytest.raises(InputError, match=r"tokens must be in \[0, 36\], got 40"):
        engine.log_probs(np.full((1, 3), 40, np.uint16), mode="crop")
    with pytest.raises(InputError, match="one of avx512, avx2, sse2, got mmx"):
        make_engine(config, tensors, "mmx")
    broken = dict(tensors)
    broken.pop("head.bias")
    with pytest.raises(InputError, match=r"head\.bias is missing"):
        make_engine(config, broken)
    with pytest.raises(InputError, match=r"head.bias must have shape \(37\), got \(36\)"):
        make_engine(config, {**tensors, "head.bias": tensors["head.bias"][:-1]})
    with pytest.raises(InputError, match="not finite"):
        make_engine(config, {**tensors, "head.bias": np.full(37, np.nan, np.float32)})


@pytest.mark.parametrize("column_limit", [0, 16], ids=["lanes", "single"])
def test_benchmark_configuration(column_limit):
    """The base preset at full width, past its window."""
    config = model_preset("base", 100)
    tensors = reference.random_tensors(config)
    tokens = np.random.default_rng(0).integers(0, 100, (1, 5 * 128 + 10)).astype(np.uint16)
    log_p = make_engine(config, tensors, column_limit=column_limit).log_probs(tokens, mode="ring")
    assert_close(log_p[0], reference.log_probs(config, tensors, tokens[0], "ring"), 2e-4)
