"""The GPU benchmark's own code on a CPU: its peers compute the model, and every part of it runs."""

import importlib
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from nanomd import _native

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def bench():
    folder = str(Path(__file__).resolve().parent.parent / "benchmarks")
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module("bench_cuda_rollout")
    finally:
        sys.path.remove(folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those of other people's libraries
def test_dry_run(bench):
    cases = bench.dry_run()
    assert [case["n_trajs"] for case in cases] == [1, 9]
    names = {"cuda", "cuda, counted", "cuda, no drafts", "cuda, weights streamed", "graph", "eager"}
    names |= {"Hugging Face"} if find_spec("transformers") else set()
    for case in cases:
        assert set(case["tokens_per_second"]) == names
        assert all(error < 1e-2 for error in case["errors"].values())
        assert case["floor"]["operations"] > 0 < case["floor"]["cache_bytes"]


def test_both_places_of_the_weights_are_timed(bench):
    files = bench.random_model(bench.DRY)
    assert bench.other_weights(files, 3000, emulate=True) == ["streamed"]
    assert bench.other_weights(files, 1, emulate=True) == []  # the latency regime
    assert bench.other_weights(bench.random_model(bench.PRESETS["base"]), 3000, emulate=True) == []  # do not fit


def test_a_peer_that_computes_something_else_is_not_timed(bench, monkeypatch):
    found = bench.StaticCacheLoop.log_probs
    monkeypatch.setattr(bench.StaticCacheLoop, "log_probs", lambda self, tokens: found(self, tokens) + 0.1)
    config = bench.ModelConfig(n_states=5, d_model=8, n_layer=1, n_head=1, context_length=3, mlp_ratio=1)
    with pytest.raises(SystemExit, match="graph does not compute the model"):
        bench.verify(bench.random_model(config), "cpu", torch.float32, emulate=True, regime="throughput")


def test_the_race_draws_by_probability(bench):
    from cuda_peers import sample

    torch.manual_seed(0)
    p = np.array([0.7, 0.2, 0.1])
    drawn = sample(torch.log(torch.tensor(p)).expand(20000, 3)).numpy()
    assert np.abs(np.bincount(drawn, minlength=3) / 20000 - p).max() < 0.015


def test_rounding_to_eight_bits(bench):
    import cache_precision as cache

    x = np.random.default_rng(0).normal(size=(50, 16))
    largest = np.abs(x).max(axis=1, keepdims=True)
    assert (np.abs(cache.int8(x) - x) <= largest / 254 * (1 + 1e-12)).all()
    size = np.abs(x) / largest * 448
    error = np.abs(cache.float8(x) - x) / largest * 448
    assert (error <= np.maximum(size / 16, 2.0**-10) * (1 + 1e-12)).all()  # half a unit of three bits, or of the least
    assert (error[size >= 16] / size[size >= 16]).max() > 0.05
    for function in (cache.int8, cache.float8, cache.float16):
        exact = function(np.array([[-448.0, 0.0, 224.0 if function is not cache.int8 else 448.0]]))
        assert np.array_equal(function(exact), exact)


SESSION = Path(__file__).resolve().parent.parent / "benchmarks" / "gpu_session.sh"


def session(tmp_path, *arguments, path="/usr/bin:/bin"):
    environment = {"PATH": path, "PYTHON": sys.executable, "OUT": str(tmp_path), "CUDA_HOME": "/nowhere"}
    done = subprocess.run(
        ["bash", str(SESSION), *arguments], capture_output=True, text=True, env=environment, check=False
    )
    record = tmp_path / "session.jsonl"
    return done, [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []


def test_the_gpu_session_runs_named_stages_and_refuses_others(tmp_path):
    good, rows = session(tmp_path, "--dry-run", "kernels")
    assert good.returncode == 0, good.stderr
    summary = (tmp_path / "session.log").read_text().split("== summary")[1]
    stages = ["bench_attention", "bench_cross_entropy", "bench_sample_mix"]
    assert [line.split()[:2] for line in summary.splitlines()[1:]] == [[stage, "skipped"] for stage in stages]
    assert [(row["stage"], row["outcome"], row["line"]) for row in rows] == [
        (stage, "skipped", "needs a device") for stage in stages
    ]
    bad, _ = session(tmp_path, "nonsense")
    assert bad.returncode == 2
    assert "STAGE" in bad.stderr
    assert "build" in bad.stderr and "WHEELS" in bad.stderr  # the whole of its head


@pytest.mark.skipif(bool(_native.cuda_info()["devices"]), reason="this machine has a CUDA device")
def test_the_gpu_session_says_what_a_build_without_the_engine_leaves_out(tmp_path):
    card = tmp_path / "bin" / "nvidia-smi"  # a machine whose card only its driver's tool shows
    card.parent.mkdir()
    card.write_text("#!/bin/sh\necho a card\n")
    card.chmod(0o755)
    done, rows = session(tmp_path, "parity", "nonsense", path=f"{card.parent}:/usr/bin:/bin")
    assert done.returncode == 2 and not rows
    done, rows = session(tmp_path, "parity", "speed", path=f"{card.parent}:/usr/bin:/bin")
    assert done.returncode == 0, done.stdout
    reason = _native.cuda_info()["reason"]
    assert [(row["stage"], row["outcome"], row["line"], row["card"]) for row in rows] == [
        (stage, "skipped", reason, "a card") for stage in ("parity", "speed")
    ]
