"""The benchmarks: what is timed computes the same function, floors count right, records can be read and compared."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanomd.base.config import ModelConfig
from nanomd.base.errors import InputError
from nanomd.bench import VerificationError, bench_config, compare, interleaved, random_model, run
from nanomd.bench.engines import eager, our_sampler
from nanomd.bench.floor import (
    cache_elements,
    mean_context,
    measure_bandwidth,
    measure_peak,
    operations_per_token,
    rollout_floor,
    weight_elements,
)
from nanomd.bench.models import largest_error, reference_log_probs, verify
from nanomd.bench.peer import PeerSkippedError
from nanomd.bench.peers import PEERS, missing, peer
from nanomd.bench.rollouts import Plan, cold_start, flatness
from nanomd.bench.timing import FORMAT_VERSION
from nanomd.cli.main import main
from nanomd.model.files import ModelFiles


def tiny(**changes: Any) -> ModelFiles:
    fields = dict(n_states=7, d_model=16, n_layer=2, n_head=2, context_length=8, mlp_ratio=2)
    return random_model(ModelConfig(**{**fields, **changes}))


# What each peer can run of ours: a skip outside this table is a failure.
PEER_CASES = [
    ("Hugging Face", dict(position="learned"), "hop"),
    ("Hugging Face", dict(position="learned", activation="relu"), "hop"),
    ("CTranslate2", dict(position="learned"), "hop"),
    ("CTranslate2", dict(position="learned", norm="post", activation="relu"), "hop"),
    ("CTranslate2", dict(position="rope"), "ring"),
    ("ONNX Runtime", dict(position="learned"), "hop"),
    ("ONNX Runtime", dict(position="learned", norm="post", activation="relu", mlp_ratio=1), "hop"),
    ("ONNX Runtime", dict(position="rope", n_kv_head=1, markov_head=True), "ring"),
]


@pytest.mark.parametrize(("name", "fields", "mode"), PEER_CASES)
def test_peers_sample_from_the_same_probabilities(name: str, fields: dict[str, Any], mode: str) -> None:
    if reason := missing(name):
        pytest.skip(f"{name}: {reason}")
    files = tiny(**fields)
    contender = peer(name, files, mode, 3, 1)
    assert contender.error < 2e-5
    assert contender.run(1) % 3 == 0


@pytest.mark.parametrize("name", list(PEERS))
def test_a_peer_with_other_weights_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := missing(name):
        pytest.skip(f"{name}: {reason}")
    files, (packages, load) = tiny(position="learned"), PEERS[name]
    tensors = {k: v * 1.1 if k == "blocks.1.mlp.up.weight" else v for k, v in files.tensors.items()}
    other = dataclasses.replace(files, tensors=tensors)
    monkeypatch.setitem(PEERS, name, (packages, lambda _, mode, n_threads: load(other, mode, n_threads)))
    with pytest.raises(VerificationError, match="differs from the reference"):
        peer(name, files, "hop", 2, 1)


def test_absent_peers_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, "Nobody", (("a_package_that_nobody_has",), PEERS["CTranslate2"][1]))
    with pytest.raises(
        PeerSkippedError, match=r"a_package_that_nobody_has not installed \(pip install 'nanomd-kinetics\[peers\]'"
    ):
        peer("Nobody", tiny(), "ring", 1, 1)
    with pytest.raises(InputError, match="peer must be one of"):
        missing("Somebody")


@pytest.mark.parametrize(("mode", "position"), [("ring", "rope"), ("hop", "learned"), ("crop", "learned")])
@pytest.mark.parametrize("n_trajs", [1, 5])
def test_our_engine_keeps_its_session_between_timings(mode: str, position: str, n_trajs: int) -> None:
    files = tiny(position=position)
    contender = our_sampler(files, mode, n_trajs, 1)
    assert contender.error < 2e-5
    unit = 5 if mode == "hop" else 1
    assert [contender.run(n) for n in (1, 3)] == [n_trajs * unit, 3 * n_trajs * unit]
    assert eager(files, n_trajs, 1).run(2) == 2 * n_trajs


def test_verification_fails_on_a_small_difference() -> None:
    files = tiny()

    def wrong(tokens: Any) -> Any:
        exact = reference_log_probs(files, tokens, "ring")
        exact[-1, 2] += 2e-3
        return exact

    assert verify(files, lambda tokens: reference_log_probs(files, tokens, "ring"), mode="ring", n_tokens=20) == 0
    with pytest.raises(VerificationError, match=r"0\.002 > 0\.001"):
        verify(files, wrong, mode="ring", n_tokens=20)
    with pytest.raises(VerificationError):
        verify(files, lambda tokens: np.full((20, 7), np.nan), mode="ring", n_tokens=20)


def test_errors_of_states_rarer_than_the_limit_do_not_count() -> None:
    expected = np.log([[0.5, 1e-6, 1e-8]])
    assert largest_error(expected + np.array([0.0, 0.0, 5.0]), expected) == 0
    assert largest_error(expected + np.array([0.0, 0.25, 5.0]), expected) == pytest.approx(0.25)


@pytest.mark.parametrize("mode", ["hop", "crop"])
def test_the_reference_reads_what_the_mode_says(mode: str) -> None:
    files = tiny(position="learned")
    tokens = np.random.default_rng(1).integers(0, 7, 21)
    found = reference_log_probs(files, tokens, mode)
    # W = 8, K = 4: windows begin with 4 known frames at 9, 14, 19 frames, so that at 21 the model reads 6.
    window = tokens[21 - (8 if mode == "crop" else 6) :]
    assert np.allclose(found[-1], reference_log_probs(files, window, "ring")[-1], atol=1e-12)


def test_floor_counts_by_hand() -> None:
    config = bench_config("S")
    # 12 d^2 a layer, 2 d W for attention, d V for the head; two operations each.
    assert operations_per_token(config, 128) == 2 * (4 * (12 * 128**2 + 2 * 128 * 128) + 128 * 100)
    assert cache_elements(config, 128) == 2 * 4 * 128 * 128
    assert 786_432 + 12_800 < weight_elements(config) < 815_000
    assert mean_context(config, "hop") == (64 + 128) / 2
    one, many = rollout_floor(config, "ring", 1, 1), rollout_floor(config, "ring", 64, 1)
    assert one.weight_bytes == 16 * many.weight_bytes
    assert one.tokens_per_second == pytest.approx(
        min(
            1e9 * one.peak_gflops / one.operations,
            1e9 * one.bandwidth_gbytes / (one.cache_bytes + one.weight_bytes),
        )
    )
    half = rollout_floor(config, "ring", 64, 1, "fp16")
    assert (half.cache_bytes, half.weight_bytes) == (many.cache_bytes / 2, many.weight_bytes / 2)
    crop = rollout_floor(config, "crop", 64, 1)
    # All layers but the last at every position; one layer less needs keys and values alone.
    assert 64 < crop.operations / many.operations < 96
    flat = bench_config("paper-four-state")
    assert rollout_floor(flat, "crop", 1, 1).operations == operations_per_token(flat, 100) + 99 * 4 * 64 * 64
    # Of the head, 10 groups of 30 states: 10 rows that trajectories share, and 30 of its own for each of them.
    groups = config.replace(n_states=300, group_sizes=(20, 40) * 5)
    assert operations_per_token(groups, 128) == operations_per_token(config.replace(n_states=40), 128)
    assert weight_elements(groups) == weight_elements(config) - 90 * 129
    shared = weight_elements(groups) * 4 / 16
    assert rollout_floor(groups, "ring", 64, 1).weight_bytes == pytest.approx(shared + 30 * 129 * 4)
    # A processor of this century; and measured once only.
    assert measure_peak(1) > 1e9 and measure_bandwidth(1, 1 << 20) > 1e8
    assert measure_peak(1) == measure_peak(1)


def test_interleaved_counts_what_the_functions_report() -> None:
    calls: list[str] = []

    def work(name: str) -> Any:
        def run_it(n: int) -> int:
            calls.append(name)
            sum(range(20_000 * n))
            return 5 * n

        return run_it

    speeds = interleaved({"a": work("a"), "b": work("b")}, 0.002, 3)
    assert calls[-6:] == ["a", "b"] * 3
    for speed in speeds.values():
        assert 0 < speed["low"] <= speed["median"] <= speed["high"]


def test_quick_suite_writes_a_record_that_compares_with_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.json"
    assert main(["bench", "--quick", "--out", str(out), "--no-peers", "--batch", "2", "--repeats", "1"]) == 0
    printed = capsys.readouterr().out
    assert "floor" in printed and "nanomd ring" in printed and "nanomd crop" in printed
    record = json.loads(out.read_text())
    assert {"versions", "cpu", "cores", "load_average", "load_average_before", "date"} <= set(record["environment"])
    cases = record["results"]["rollout"]["cases"]
    assert [case["mode"] for case in cases] == ["ring", "hop", "crop"]
    for case in cases:
        for entry in case["engines"].values():
            assert 0 <= entry["max_log_prob_error"] < 1e-4
            assert entry["fraction_of_floor"] > 0
    assert main(["bench", "--compare", str(out), str(out)]) == 0
    table = capsys.readouterr().out
    assert table.count("1.00") == 6 and "quick run" in table and "differs" not in table


def test_part_train_shows_our_step_beside_eager_pytorch_and_the_floor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "train.json"
    assert main(["bench", "--quick", "--part", "train", "--out", str(out), "--repeats", "1", "--n-threads", "1"]) == 0
    printed = capsys.readouterr().out
    assert "demo one_pass: " in printed and "of the floor of" in printed and " x PyTorch eager (" in printed
    (case,) = json.loads(out.read_text())["results"]["train"]
    assert {"one_pass nanomd", "one_pass PyTorch eager"} <= set(case["frames_per_second"])
    assert case["errors"]["one_pass nanomd"] < 1e-4 and case["floor"]["one_pass"]["frames_per_second"] > 0


def test_models_have_as_many_states_as_their_names_say() -> None:
    assert bench_config("small:543") == bench_config("small").replace(n_states=543)
    assert (bench_config("demo").n_states, bench_config("demo").context_length) == (20, 32)
    for name in ("small:", "small:x", "small:-3"):
        with pytest.raises(InputError, match="whole number"):
            bench_config(name)


def test_compare_shows_ratios_and_what_differs(tmp_path: Path) -> None:
    def record(name: str, median: float, cpu: str, load: float) -> Path:
        speed = {"median": median, "low": 0.9 * median, "high": 1.1 * median}
        case = {
            "model": "S", "mode": "ring", "n_trajs": 16, "n_threads": 1, "isa": "avx2",
            "config": {"context_length": 128}, "engines": {"nanomd ring": speed, name: speed},
        }  # fmt: skip
        environment = {"cpu": cpu, "load_average_before": [load, 0, 0], "versions": {"numpy": "2.4", "onnx": None}}
        path = tmp_path / f"{name}.json"
        results = {"rollout": {"cases": [case]}}
        path.write_text(
            json.dumps(
                {
                    "benchmark": "rollout", "format_version": FORMAT_VERSION,
                    "environment": environment, "results": results,
                }
            )
        )  # fmt: skip
        return path

    table = compare(record("old", 100.0, "one", 0.1), record("new", 300.0, "other", 3.0))
    assert "cpu differs: one and other" in table
    assert "B was measured on a busy machine: load average 3.0" in table and "A was measured" not in table
    assert "3.00" in table and "~" not in table
    assert "only in A: 1" in table and "only in B: 1" in table
    assert "1.05~" in compare(record("old", 100.0, "one", 0.1), record("new", 105.0, "one", 0.1))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"benchmark": 1, "environment": {}, "results": {}}'])
def test_files_that_are_no_records_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"x\.json"):
        compare(path, path)


def test_bad_choices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="model must be one of S, XS"):
        bench_config("huge")
    with pytest.raises(InputError, match="part must be one of"):
        run(parts=("everything",), quick=True, folder=tmp_path)
    with pytest.raises(InputError, match="mode must be one of"):
        Plan(modes=("rings",))
    with pytest.raises(InputError, match="batch must be at least 1, got 0"):
        Plan(batches=(0, 4))
    with pytest.raises(InputError, match="precision must be one of fp32"):
        our_sampler(tiny(), "ring", 1, 1, precision="fp8")
    assert not list(tmp_path.iterdir())


def test_long_rollouts_and_cold_starts_are_measured() -> None:
    result = flatness("tiny", 2, 10_000)
    assert result["steps"] == [1000, 10_000] and result["ratio"] > 0
    start = cold_start("tiny", repeats=1)
    assert start["load_ms"] > 0 and start["first_token_ms"] > 0


def test_the_other_parts_verify_and_measure(tmp_path: Path) -> None:
    text = run(parts=("tokenizer", "kinetics", "train"), presets=["tiny"], quick=True, folder=tmp_path, repeats=1)
    for word in ("fit", "counts nanomd", "counts numpy", "one_pass", "two_pass_hidden", "frames/s"):
        assert word in text
