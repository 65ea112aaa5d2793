"""The explicit path against the model, and every statistic of `nanomd.interpret` on planted cases without training."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from rollout_models import make_files

from nanomd.base.errors import InputError
from nanomd.data.counts import transition_counts
from nanomd.estimator import GPTModel
from nanomd.interpret import (
    AttentionByLag,
    Interpretation,
    attention_by_lag,
    attention_maps,
    causal_tracing,
    interpret_model,
    kinetic_distances,
    memory_length,
)
from nanomd.interpret.distances import rank_correlation, vector_distances
from nanomd.interpret.explicit import Record, Restore, explicit_logits, read_out, run_blocks
from nanomd.interpret.sampling import block_interval, spread_integers, spread_windows, usable_length
from nanomd.kinetics.markov import estimate_markov_model

VARIANTS = [
    {"norm": "pre", "position": "rope"},
    {"norm": "post", "position": "rope", "n_kv_head": 1, "activation": "relu", "markov_head": True},
    {"norm": "pre", "position": "learned", "n_kv_head": 1, "markov_head": True},
    {"norm": "post", "position": "learned", "n_layer": 3},
]


def make(**changes: object) -> GPTModel:
    return GPTModel(make_files(seed=3, **changes))


def labels(n: int, length: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 11, length) * 3 + 5 for _ in range(n)]


# --- the explicit path -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("changes", VARIANTS)
def test_explicit_logits_are_the_models(changes: dict[str, object]) -> None:
    model = make(**changes)
    tokens = torch.from_numpy(np.random.default_rng(1).integers(0, 11, (4, 6 if "learned" in changes.values() else 17)))
    logits, record = explicit_logits(model.module, tokens)
    with torch.no_grad():
        torch.testing.assert_close(logits, model.module(tokens), rtol=1e-5, atol=1e-5)
        assert logits.std() > 0.1
        # Intervening is consistent: to restore what is there already changes nothing, wherever one starts.
        for layer in range(model.config.n_layer):
            for part in ("residual", "attention", "mlp"):
                value = record.part(part)[layer][:, 2]
                restore = Restore(part, layer, torch.full((4,), 2), value)
                x = run_blocks(model.module, record.residual[layer], first=layer, restore=restore)
                torch.testing.assert_close(x, record.residual[-1])
                restore = Restore(part, layer, torch.full((4,), 2), value + 1.0)
                x = run_blocks(model.module, record.residual[layer], first=layer, restore=restore)
                assert (x[:, :2] == record.residual[-1][:, :2]).all()  # the past cannot change
                if not (model.config.norm == "post" and part != "residual"):  # which a LayerNorm does not take away
                    assert (x[:, 2] - record.residual[-1][:, 2]).abs().max() > 1e-3


@pytest.mark.parametrize("changes", VARIANTS)
def test_maps_are_causal_windowed_and_add_up_to_one(changes: dict[str, object]) -> None:
    model = make(**changes)
    length = 6 if "learned" in changes.values() else 15
    maps = attention_maps(model, labels(3, length))
    assert maps.shape == (3, model.config.n_layer, 2, length, length)
    np.testing.assert_allclose(maps.sum(-1), 1, atol=1e-5)
    lag = np.subtract.outer(np.arange(length), np.arange(length))
    inside = (lag >= 0) & (lag < 6)
    assert (maps[..., ~inside] == 0).all()
    assert (maps[..., inside] > 0).all()


def test_a_planted_head_is_seen_by_attention_tracing_and_memory() -> None:
    """One head whose queries turn by three frames looks at lag 3, and only that frame reaches the logits."""
    files = make_files(d_model=16, n_head=2, n_layer=1, context_length=8, position="rope", rope_base=1.0, n_states=16)
    tensors = {name: np.zeros_like(value) for name, value in files.tensors.items()}
    angle = 3.0  # every pair turns by 1 rad a frame; a query ahead by -3 frames points at lag 3
    tensors["embedding.weight"] = np.eye(16, dtype=np.float32)
    for norm in ("blocks.0.norm1", "blocks.0.norm2", "norm"):
        tensors[f"{norm}.weight"] = np.ones(16, np.float32)
    bias = tensors["blocks.0.attention.qkv.bias"]
    for head in range(2):
        bias[8 * head : 8 * head + 4] = 12.0 * np.cos(-angle)
        bias[8 * head + 4 : 8 * head + 8] = 12.0 * np.sin(-angle)
        bias[16 + 8 * head : 16 + 8 * head + 4] = 12.0
    tensors["blocks.0.attention.qkv.weight"][32:] = np.eye(16)
    tensors["blocks.0.attention.proj.weight"] = 40 * np.eye(16, dtype=np.float32)
    tensors["head.weight"] = 4 * np.eye(16, dtype=np.float32)
    from nanomd.data.states import StateMap
    from nanomd.model.files import ModelFiles, Starts

    model = GPTModel(
        ModelFiles(
            files.config, tensors, StateMap(np.arange(16)), Starts(np.full(16, 1 / 16), np.zeros((0, 8), np.int32)),
            files.frame_interval, {},
        )
    )  # fmt: skip
    # The next state is the one of three frames before the present one.
    rng = np.random.default_rng(0)
    data = [np.tile(rng.permutation(16)[:4], 30) for _ in range(8)]  # period 4: x[t + 1] = x[t - 3]
    data = [np.concatenate([d, [d[-4]]]) for d in data]
    attention = attention_by_lag(model, data)
    assert attention.mean.value.shape == (1, 2, 8)
    assert (attention.mean.value[..., 3] > 0.9).all()
    np.testing.assert_allclose(attention.mean.value.sum(-1), 1, atol=1e-5)
    tracing = causal_tracing(model, data, n_windows=20, n_draws=2)
    assert tracing.clean.value > 0.9
    assert tracing.lags[np.argmax(tracing.single.value)] == 3
    assert tracing.single.value[3] > 0.4
    assert abs(np.delete(tracing.single.value, 3)).max() < 0.1
    assert tracing.lags[np.argmax(tracing.residual.value[0])] == 3
    assert tracing.attention.value[0, 0] > 0.4  # at the present frame, where the head writes what it read
    assert abs(tracing.mlp.value).max() < 1e-6  # an MLP of zeros
    memory = memory_length(model, data, tolerance=0.05)
    assert (memory.frames, memory.low, memory.high) == (4, 4, 4)


# --- tracing and memory: exact cases ---------------------------------------------------------------------------------
@pytest.mark.parametrize("changes", VARIANTS)
def test_tracing_limits(changes: dict[str, object]) -> None:
    model, data = make(**changes), labels(5, 40)
    got = causal_tracing(model, data, n_windows=10, n_draws=2, length=6, lags=range(6))
    n_layer = model.config.n_layer
    assert got.residual.value.shape == (n_layer + 1, 6)
    # After the last block only the present frame counts, and there everything is restored but the Markov head's row.
    assert (got.residual.value[-1, 1:] == 0).all()
    if model.config.markov_head:
        assert np.isfinite(got.markov.value)
        assert got.residual.value[-1, 0] < got.clean.value - got.corrupted.value + 1
    else:
        assert np.isnan(got.markov.value)
        np.testing.assert_allclose(got.residual.value[-1, 0], got.clean.value - got.corrupted.value, atol=1e-6)
    # One corrupted frame, restored: everything is as it was, whatever the model.
    one = causal_tracing(model, data, n_windows=10, n_draws=2, length=6, corrupt=[2], lags=[1, 2])
    np.testing.assert_allclose(one.residual.value[0], [0, one.clean.value - one.corrupted.value], atol=1e-6)
    assert abs(one.single.value[1] - (one.clean.value - one.corrupted.value)) < 1e-6
    # Less noise, less effect; and the seed decides.
    little = causal_tracing(model, data, n_windows=10, n_draws=2, length=6, noise=1e-4, lags=[0])
    assert abs(little.clean.value - little.corrupted.value) < 1e-3
    again = causal_tracing(model, data, n_windows=10, n_draws=2, length=6, corrupt=[2], lags=[1, 2], seed=1)
    assert not np.array_equal(again.single.value, one.single.value)
    same = causal_tracing(model, data, n_windows=10, n_draws=2, length=6, corrupt=[2], lags=[1, 2])
    assert np.array_equal(same.single.value, one.single.value)


def test_restored_probabilities_by_hand() -> None:
    """The embedding restored at one lag is a pass in which that frame alone is clean."""
    from nanomd.interpret.tracing import _Tracer, embedding_std

    model = make()
    windows = np.random.default_rng(5).integers(0, 11, (3, 7))
    with torch.no_grad():
        tracer = _Tracer(model.module, windows, 2.0)
        drawn = tracer.draw(torch.Generator().manual_seed(0))
        record, markov = tracer.corrupt(drawn, np.arange(6))
        got = tracer.restored(record, markov, "residual", 0, 4)
        mixed = tracer.embedding + drawn[0]
        mixed[:, 1] = tracer.embedding[:, 1]  # lag 4 of frames 0..5
        want = model.module(torch.from_numpy(windows[:, :-1]), inputs_embeds=mixed)[:, -1].double().softmax(-1)
    np.testing.assert_allclose(got, want[np.arange(3), windows[:, -1]], atol=1e-6)
    weight = model.module.embedding.weight.detach().numpy().astype(float)
    assert embedding_std(model.module.embedding.weight) == pytest.approx(np.sqrt(weight.var(axis=0).mean()))


@pytest.mark.parametrize("changes", VARIANTS)
def test_likelihood_at_full_context_is_the_models(changes: dict[str, object]) -> None:
    model, data = make(**changes), labels(6, 60)
    got = memory_length(model, data, n_windows=40, training=data)
    longest = 6 if "learned" in changes.values() else model.config.receptive_field
    assert got.contexts[0] == 1 and got.contexts[-1] == longest
    windows = spread_windows(model.state_map.encode(data), longest + 1, 40)
    with torch.no_grad():
        logits = model.module(torch.from_numpy(windows[:, :-1]))[:, -1].double().log_softmax(-1)
    want = logits[torch.arange(40), torch.from_numpy(windows[:, -1])].mean()
    assert got.log_likelihood.value[-1] == pytest.approx(float(want), abs=1e-6)
    assert np.isfinite(got.markov.value)
    assert got.loss.value.min() == 0
    assert got.low <= got.frames <= got.high


# --- distances -------------------------------------------------------------------------------------------------------
def test_planted_embeddings_are_recognised() -> None:
    data = [walk(4000, seed) for seed in range(4)]
    files = make_files(n_states=11, d_model=16, markov_head=False)
    tokens = [np.asarray(t, np.int64) for t in files.state_map.encode(data)]
    msm = estimate_markov_model(transition_counts(tokens, 11, 10), 10)
    values, right, _ = msm.eigen(10)
    psi = right * np.sqrt(-10 / np.log(np.clip(values, 1e-9, 1 - 1e-9)) / 2)
    files.tensors["embedding.weight"][:, :10] = psi[:, :10]
    files.tensors["embedding.weight"][:, 10:] = 0
    found = kinetic_distances(GPTModel(files), data, metric="euclidean")
    assert found.correlation.value[1] > 0.999
    assert found.p_value[1] < 0.01
    assert found.commute.shape == (11, 11)
    np.testing.assert_allclose(found.commute, found.commute.T, atol=1e-9)
    # Commute distances of a walk in a row grow with the separation.
    assert (np.diff(found.commute[0]) > 0).all()
    files.tensors["embedding.weight"][:] = np.random.default_rng(1).normal(size=(11, 16))
    noise = kinetic_distances(GPTModel(files), data)
    assert abs(noise.correlation.value[1]) < 0.6
    assert noise.p_value[1] > 0.01
    assert noise.correlation.low[1] < noise.correlation.value[1] < noise.correlation.high[1]
    assert kinetic_distances(GPTModel(files), data, of="head").of == "head"


def walk(n: int, seed: int) -> np.ndarray:
    steps = np.random.default_rng(seed).integers(-1, 2, n)
    out, x = np.empty(n, np.int64), 5
    for t, step in enumerate(steps):
        x = min(10, max(0, x + step))
        out[t] = x
    return out * 3 + 5


def test_distances_and_rank_correlation_by_hand() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(6, 3))
    expected = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)
    np.testing.assert_allclose(vector_distances(vectors, "euclidean"), expected, atol=1e-7)
    centred = vectors - vectors.mean(0)
    cosine = centred @ centred.T / np.outer(*[np.linalg.norm(centred, axis=1)] * 2)
    np.testing.assert_allclose(vector_distances(vectors, "cosine"), 1 - cosine, atol=1e-9)
    assert rank_correlation(expected, expected**3) == pytest.approx(1)
    assert rank_correlation(expected, -expected) == pytest.approx(-1)


# --- windows and intervals -------------------------------------------------------------------------------------------
def test_windows_are_spread_and_refused_when_too_long() -> None:
    data = [np.arange(10), np.arange(100, 104), np.arange(200, 300)]
    windows = spread_windows(data, 5, 20)
    assert windows.shape == (20, 5)
    assert (np.diff(windows, axis=1) == 1).all()  # none crosses from one trajectory to another
    assert windows[0, 0] < 10 and windows[-1, -1] > 290
    assert len(spread_windows(data, 5, 1000)) == 6 + 96
    with pytest.raises(InputError, match="windows of 101 frames"):
        spread_windows(data, 101, 3)
    same = np.array([1, 1, 1, 2, 2, 1])
    changes = spread_windows([same], 2, 9, changes_only=True)
    assert sorted(map(tuple, changes.tolist())) == [(1, 2), (2, 1)]
    with pytest.raises(InputError, match="change of state"):
        spread_windows([np.zeros(9, int)], 3, 9, changes_only=True)
    assert usable_length(data, 64) == 64
    assert usable_length([np.zeros(40)] * 5, 64) == 30
    assert spread_integers(1, 20).tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20]
    assert spread_integers(0, 0).tolist() == [0]


def test_intervals_cover_what_they_say_also_for_correlated_windows() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        slow = np.repeat(rng.normal(size=40), 10) + 0.3 * rng.normal(size=400)  # neighbours share most of the noise
        found = block_interval(slow, 0.9)
        covered.append(found.low < 0 < found.high)
    assert 0.85 < np.mean(covered) < 0.95
    assert np.isnan(block_interval(np.ones((1, 3))).low).all()
    mean = block_interval(np.arange(25.0))
    assert mean.value == 12
    with pytest.raises(InputError, match="confidence"):
        block_interval(np.ones(5), 1.5)


# --- input and output ------------------------------------------------------------------------------------------------
def test_bad_input_is_refused_in_one_sentence() -> None:
    model, data = make(), labels(3, 40)
    cases = [
        (lambda: attention_maps(model, [[5, 8, 11], [5, 8]]), "one length"),
        (lambda: attention_maps(model, [5, -1, 8]), "unassigned"),
        (lambda: attention_maps(model, [0.5, 1.5]), "whole-number"),
        (lambda: attention_maps(model, [5, 6, 8]), "6"),
        (lambda: attention_by_lag(model, data, length=100), "windows of 100 frames"),
        (lambda: causal_tracing(model, data, corrupt=[99]), "corrupt must be whole numbers"),
        (lambda: causal_tracing(model, data, corrupt="none"), "corrupt must be 'all'"),
        (lambda: causal_tracing(model, data, lags=[-1]), "lags must be whole numbers"),
        (lambda: causal_tracing(model, data, noise=0.0), "noise"),
        (lambda: memory_length(model, data, contexts=[0, 3]), "contexts must be"),
        (lambda: memory_length(model, data, contexts=[1, 99]), "contexts must be"),
        (lambda: memory_length(model, data, tolerance=-1.0), "tolerance"),
        (lambda: kinetic_distances(model, data, lagtime=0), "lagtime"),
        (lambda: kinetic_distances(model, [np.tile([5, 8], 30)], lagtime=1), "at least 3 states"),
        (lambda: kinetic_distances(model, data, of="tail"), "of must be one of"),
        (lambda: memory_length(model, [np.array([5, -1, 8])]), "nothing to interpret"),
        (lambda: attention_by_lag(make(position="learned"), data, length=7), "length must be in"),
    ]
    for call, words in cases:
        with pytest.raises(InputError, match=words):
            call()


def test_short_trajectories_shorten_what_is_looked_at() -> None:
    model, data = make(), labels(30, 8)  # as long as W + 2
    got = interpret_model(model, data, distances={"lagtime": 1}, tracing={"n_windows": 5, "n_draws": 1})
    assert got.memory.contexts[-1] == 5
    assert got.attention.window_length == 6
    assert got.tracing.window_length == 5
    assert np.isnan(got.tracing.draw_std)


def test_results_survive_json_and_damage_is_seen(tmp_path) -> None:
    model, data = make(), labels(4, 60)
    result = interpret_model(model, data, distances={"lagtime": 1}, tracing={"n_windows": 5, "n_draws": 1})
    result.save(tmp_path / "interpret")
    back = Interpretation.load(tmp_path / "interpret")
    np.testing.assert_allclose(back.attention.mean.high, result.attention.mean.high, rtol=1e-6)
    np.testing.assert_allclose(back.tracing.residual.value, result.tracing.residual.value, rtol=1e-6)
    assert np.isnan(back.tracing.markov.value) and np.isnan(back.tracing.draw_std)
    assert back.memory.frames == result.memory.frames and back.distances.metric == "cosine"
    np.testing.assert_array_equal(back.attention.map_labels, result.attention.map_labels)
    file = tmp_path / "interpret" / "attention.json"
    text = file.read_text()
    assert json.loads(text)["format"] == "nanomd-interpretation"
    for damaged in (text[: len(text) // 2], "[]", text.replace('"lags"', '"lag"'), text.replace("AttentionByLag", "x")):
        file.write_text(damaged)
        with pytest.raises(InputError, match="interpret again"):
            AttentionByLag.load(file)


def test_the_package_is_light() -> None:
    script = (
        "import sys, nanomd; nanomd.interpret.__all__; dir(nanomd.interpret); nanomd.interpret.Interpretation; "
        "print('torch' in sys.modules, 'scipy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "False"]
    import nanomd.interpret

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        nanomd.interpret.nothing  # noqa: B018


def test_record_holds_every_part() -> None:
    model = make(n_layer=2)
    record = Record()
    with torch.no_grad():
        x = run_blocks(model.module, model.module.embed(torch.zeros((1, 4), dtype=torch.int64)), record=record)
        assert len(record.residual) == 3 and len(record.attention) == len(record.mlp) == len(record.weights) == 2
        torch.testing.assert_close(record.residual[1], record.residual[0] + record.attention[0] + record.mlp[0])
        assert read_out(model.module, x, None).shape == (1, 4, 11)
