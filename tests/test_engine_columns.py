"""16-bit precision, drafts, and the split over threads: same tokens, known errors."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from rollout_models import generate

from nanomd import _native
from nanomd.base.config import ModelConfig, model_preset
from nanomd.base.errors import BackendUnavailableError, InputError
from nanomd.model.rope import rope_multipliers

_spec = importlib.util.spec_from_file_location("reference_numpy", Path(__file__).with_name("reference_numpy.py"))
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

SMALL = {"n_states": 37, "d_model": 32, "n_layer": 2, "n_head": 2, "context_length": 8, "mlp_ratio": 2}
SHAPES = {
    "ring": {},
    "ring-post-markov": {"norm": "post", "markov_head": True, "activation": "relu"},
    "ring-grouped": {"n_head": 4, "n_kv_head": 2, "n_layer": 3, "context_length": 19},
    "ring-odd": {"d_model": 24, "n_head": 3, "n_layer": 1, "context_length": 7, "n_states": 5},
    "ring-wide-head": {"d_model": 80, "n_head": 1, "context_length": 40},
    "ring-short": {"context_length": 2},
    "hop": {"position": "learned", "norm": "post", "mlp_ratio": 1, "n_head": 4, "context_length": 40},
    "hop-small": {"position": "learned", "context_length": 5},
}
PRECISIONS = ["fp32", "fp16-cache", "fp16"]


def make_engine(config, tensors, isa="", column_limit=-1, precision="fp32"):
    multipliers = rope_multipliers(config) if config.position == "rope" else np.zeros(0, np.uint32)
    return _native.NativeEngine(config, tensors, multipliers, isa, column_limit, precision)


def case(name, metastable=False):
    config = ModelConfig(**{**SMALL, **SHAPES[name]})
    tensors = reference.random_tensors(config, seed=len(name), head_scale=1.0)
    if metastable and config.markov_head:
        tensors["markov.weight"] += 6 * np.eye(config.n_states, dtype=np.float32)
    elif metastable:  # a head that reads the present state off its embedding
        tensors["embedding.weight"] *= 8
        tensors["head.weight"] += 0.05 * tensors["embedding.weight"]
    mode = name.split("-")[0]
    return config, tensors, mode, 3 if mode == "hop" else 0


@pytest.mark.parametrize("isa", _native.available_isas())
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", SHAPES)
def test_runs_of_positions_agree_bit_for_bit_with_lanes(name, precision, isa):
    """A single sequence goes through many positions at once, three together through lanes or columns."""
    config, tensors, mode, keep = case(name)
    tokens = np.random.default_rng(3).integers(0, config.n_states, (3, 4 * config.context_length + 3))
    tokens = tokens.astype(np.uint16)
    lanes, columns = (make_engine(config, tensors, isa, limit, precision) for limit in (0, 16))
    expected = lanes.log_probs(tokens, mode=mode, hop_keep=keep)
    assert np.array_equal(columns.log_probs(tokens, mode=mode, hop_keep=keep), expected)
    assert np.array_equal(columns.log_probs(tokens[1:2], mode=mode, hop_keep=keep)[0], expected[1])


def test_crop_agrees_bit_for_bit():
    config, tensors, _, _ = case("hop")
    tokens = np.random.default_rng(3).integers(0, config.n_states, (1, 100)).astype(np.uint16)
    lanes, columns = (make_engine(config, tensors, "", limit).log_probs(tokens, mode="crop") for limit in (0, 16))
    assert np.array_equal(lanes, columns)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("metastable", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_drafts_change_no_token(name, metastable, precision):
    config, tensors, mode, keep = case(name, metastable)
    engine = make_engine(config, tensors, "", 16, precision)
    expected = generate(make_engine(config, tensors, "", 0, precision), config, mode, keep, 400, 2, n_drafts=0)
    for n_drafts in (0, 1, 3, 31, -1):
        tokens = generate(engine, config, mode, keep, 400, 2, cuts=(1, 2, 90, 91), n_drafts=n_drafts, n_threads=2)
        assert np.array_equal(tokens, expected), n_drafts
    if metastable and name == "ring-post-markov":
        assert (np.diff(expected.astype(int)) == 0).mean() > 0.5  # drafts had something to guess


@pytest.mark.parametrize("n_trajs", [1, 2, 5, 13, 16, 33, 50])
def test_threads_and_pieces_change_no_token(n_trajs):
    config, tensors, mode, keep = case("ring-grouped")
    expected = generate(make_engine(config, tensors, "", 0), config, mode, keep, 60, n_trajs, n_drafts=0)
    for limit in (-1, 3, 16):
        for n_threads in (1, 2, 3, 16):
            engine = make_engine(config, tensors, "", limit)
            tokens = generate(engine, config, mode, keep, 60, n_trajs, n_threads=n_threads)
            assert np.array_equal(tokens, expected), (limit, n_threads)


@pytest.mark.parametrize("isa", _native.available_isas())
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("fp16-cache", 2e-2), ("fp16", 2e-2)])
@pytest.mark.parametrize("name", ["ring-post-markov", "ring-grouped", "hop"])
def test_precision_contract(name, precision, tolerance, isa):
    config, tensors, mode, keep = case(name)
    tokens = np.random.default_rng(4).integers(0, config.n_states, (1, 3 * config.context_length)).astype(np.uint16)
    log_p = make_engine(config, tensors, isa, precision=precision).log_probs(tokens, mode=mode, hop_keep=keep)[0]
    expected = reference.log_probs(config, tensors, tokens[0], mode, keep)
    seen = expected >= np.log(1e-7)
    error = np.abs(log_p - expected)[seen].max()
    assert error <= tolerance
    if precision != "fp32":
        assert error > 1e-5  # something is rounded


@pytest.mark.parametrize("precision", ["fp16-cache", "fp16"])
def test_precision_contract_at_full_size(precision):
    config = model_preset("base", 100)
    tensors = reference.random_tensors(config)
    tokens = np.random.default_rng(0).integers(0, 100, (1, 300)).astype(np.uint16)
    log_p = make_engine(config, tensors, precision=precision).log_probs(tokens, mode="ring")[0]
    expected = reference.log_probs(config, tensors, tokens[0], "ring")
    assert np.abs(log_p - expected)[expected >= np.log(1e-7)].max() <= 2e-2


def test_overflow_is_refused_at_load():
    config, tensors, _, _ = case("ring")
    large = {**tensors, "blocks.1.mlp.up.weight": tensors["blocks.1.mlp.up.weight"] * np.float32(1e6)}
    make_engine(config, large, precision="fp16-cache")
    with pytest.raises(BackendUnavailableError, match=r"blocks\.1\.mlp\.up\.weight holds .* too large for 16 bits"):
        make_engine(config, large, precision="fp16")
    large = {**tensors, "blocks.1.attention.qkv.weight": tensors["blocks.1.attention.qkv.weight"] * np.float32(1e4)}
    make_engine(config, large)
    with pytest.raises(BackendUnavailableError, match="keys or values of layer 1 could reach"):
        make_engine(config, large, precision="fp16-cache")
    config, tensors, _, _ = case("hop")
    large = {**tensors, "position.weight": tensors["position.weight"] * np.float32(1e5)}
    with pytest.raises(BackendUnavailableError, match="keys or values of layer 0 could reach"):
        make_engine(config, large, precision="fp16-cache")
    with pytest.raises(InputError, match="precision must be one of fp32, fp16-cache, fp16, got bf16"):
        make_engine(config, tensors, precision="bf16")


def test_cache_bytes_halve():
    config, tensors, _, _ = case("ring")
    whole, half = (make_engine(config, tensors, precision=p).bytes_per_trajectory for p in ("fp32", "fp16-cache"))
    assert whole == 2 * half


def test_lookahead_is_checked():
    config, tensors, mode, keep = case("ring")
    with pytest.raises(InputError, match=r"lookahead must be auto or in \[0, 31\], got 32"):
        generate(make_engine(config, tensors), config, mode, keep, 4, n_drafts=32)
