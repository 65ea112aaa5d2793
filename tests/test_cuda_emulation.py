"""The CUDA kernels' code on emulated threads against the float64 forward pass; and what happens without a device."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rollout_models import make_files

from nanomd import _native, kinetics
from nanomd.base.config import ModelConfig
from nanomd.base.errors import BackendUnavailableError, InputError
from nanomd.model.rope import rope_multipliers
from nanomd.rollout.observables import Observables
from nanomd.rollout.sampler import Sampler

_spec = importlib.util.spec_from_file_location("reference_numpy", Path(__file__).with_name("reference_numpy.py"))
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

SMALL = {"n_states": 19, "d_model": 32, "n_layer": 2, "n_head": 2, "context_length": 8, "mlp_ratio": 2}
CASES = {
    "pre-gelu": ("ring", {}),
    "post-relu": ("ring", {"norm": "post", "activation": "relu", "n_layer": 1}),
    "grouped-markov": ("ring", {"d_model": 64, "n_head": 8, "n_kv_head": 2, "n_layer": 1, "markov_head": True}),
    "odd-width": ("ring", {"d_model": 24, "n_head": 1, "n_layer": 1, "context_length": 5, "mlp_ratio": 1}),
    "paper-hop": ("hop", {"norm": "post", "activation": "relu", "mlp_ratio": 1, "position": "learned", "n_head": 4}),
    "paper-crop": ("crop", {"norm": "post", "position": "learned", "n_layer": 1, "context_length": 5}),
}
TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2}


def make_engine(config, tensors, **options):
    multipliers = rope_multipliers(config) if config.position == "rope" else np.zeros(0, np.uint32)
    return _native.NativeCudaEngine(config, tensors, multipliers, emulate=True, **options)


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("name", CASES)
def test_log_probs_equal_the_formula(name, precision):
    mode, extra = CASES[name]
    config = ModelConfig(**{**SMALL, **extra})
    tensors = reference.random_tensors(config, seed=len(name), scale=0.7, head_scale=1.5)
    keep = 3 if mode == "hop" else 0
    tokens = np.random.default_rng(1).integers(0, config.n_states, (2, 3 * config.context_length)).astype(np.uint16)
    log_p = make_engine(config, tensors, precision=precision).log_probs(tokens, mode=mode, hop_keep=keep)
    worst = 0.0
    for row, sequence in zip(log_p, tokens, strict=True):
        expected = reference.log_probs(config, tensors, sequence, mode, hop_keep=keep)
        seen = expected >= np.log(1e-7)
        assert seen.mean() > 0.5
        worst = max(worst, float(np.abs(row - expected)[seen].max()))
    assert worst <= TOLERANCE[precision]
    assert precision == "fp32" or worst > 1e-5, "this cannot have been the 16-bit engine"


def test_positions_far_out():
    config = ModelConfig(**SMALL)
    tensors = reference.random_tensors(config)
    tokens = np.random.default_rng(2).integers(0, config.n_states, (1, 20)).astype(np.uint16)
    far = make_engine(config, tensors, precision="fp32").log_probs(tokens, mode="ring", first_position=10**15 + 7)
    expected = reference.log_probs(config, tensors, tokens[0], "ring", first_position=10**15 + 7)
    seen = expected >= np.log(1e-7)
    assert np.abs(far[0] - expected)[seen].max() < 1e-3


def test_memory_plan_and_description():
    config = ModelConfig(**{**SMALL, "n_states": 100, "d_model": 128, "n_layer": 4, "n_head": 4, "context_length": 128})
    engine = make_engine(config, reference.random_tensors(config))
    plan = engine.memory_plan("ring", 64)
    cache = 4 * 2 * 128 * 128 * 2  # layers, keys and values, window, width, bytes
    assert engine.bytes_per_trajectory == cache
    assert cache < plan["per_trajectory"] < cache + 40_000
    assert plan["total"] == plan["fixed"] + 64 * plan["per_trajectory"]
    assert 64 < plan["largest_n_trajs"] < plan["free"] // cache
    assert engine.describe(1).startswith("latency")
    assert engine.describe(10_000) == "throughput, 16 trajectories a block, fp16"
    small = ModelConfig(**SMALL)
    chosen, streamed = (
        make_engine(small, reference.random_tensors(small), weights=weights).describe(10_000)
        for weights in ("auto", "streamed")
    )
    assert chosen == "throughput, 16 + 16 trajectories a block, weights resident, fp16"
    assert streamed == "throughput, 16 trajectories a block, fp16"
    forced = make_engine(config, reference.random_tensors(config), weights="resident")
    with pytest.raises(BackendUnavailableError, match=r"needs \d+ bytes of shared memory .* weights=.streamed"):
        forced.describe(10_000)


@pytest.mark.parametrize(
    "options", [{"precision": "int8"}, {"regime": "fast"}, {"weights": "near"}, {"tile": 12}, {"ranks": 9}]
)
def test_unknown_options_are_refused(options):
    config = ModelConfig(**SMALL)
    with pytest.raises(InputError, match="must be"):
        make_engine(config, reference.random_tensors(config), **options)


def test_heads_that_are_too_wide_name_the_backend_that_can():
    config = ModelConfig(**{**SMALL, "d_model": 264, "n_head": 1, "n_layer": 1, "mlp_ratio": 1})
    with pytest.raises(BackendUnavailableError, match=r"256 features.*backend=.cpu"):
        make_engine(config, reference.random_tensors(config))


def test_observables_are_the_cpu_engines(tmp_path, monkeypatch):
    """Accumulated by the session, for a rollout in memory and one on disk."""
    files = make_files(d_model=16, n_layer=1, n_head=1, context_length=5, mlp_ratio=1)
    observables = Observables([1, 7], {"A": [5, 8], "B": [20]})
    expected = Sampler(files).generate(60, 3, seed=3, observables=observables)
    sampler = Sampler(files)
    sampler.engine = make_engine(files.config, files.tensors, precision="fp32")
    found = sampler.generate(60, 3, seed=3, observables=observables, store_tokens=False)
    assert found.observables == expected.observables
    assert found.tokens.shape == (3, 0)
    labels = np.array([0 if s in (5, 8) else 1 if s == 20 else -1 for s in files.state_map.symbols])
    stay, exits, _ = kinetics.residence(list(expected.tokens), labels, n_bootstrap=20)  # states in no set between
    assert np.array_equal(found.observables.residence.events, exits) and exits.min() > 0
    assert np.allclose(found.observables.residence.mean, stay.value)
    monkeypatch.setattr(_native.NativeObservables, "add", None)  # it is the session that counts
    stored = sampler.generate(60, 3, seed=3, stride=4, observables=observables, out=tmp_path / "run")
    assert stored.observables == expected.observables
    assert np.array_equal(np.asarray(stored.tokens), expected.tokens[:, ::4])


@pytest.mark.skipif(bool(_native.cuda_info()["devices"]), reason="this machine has a CUDA device")
def test_without_a_device_the_message_says_so():
    config = ModelConfig(**SMALL)
    with pytest.raises(BackendUnavailableError, match=r"cuda engine .*(no device|not available)"):
        _native.NativeCudaEngine(config, reference.random_tensors(config), rope_multipliers(config))
    code = "import nanomd; from nanomd.rollout.engine import resolve_backend; resolve_backend('cuda')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "BackendUnavailableError: backend 'cuda' is not available" in result.stderr
