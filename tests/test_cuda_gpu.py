"""The CUDA engine on a device: the same contracts as the CPU engine's, and agreement with it."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from nanomd import _native
from nanomd.base.config import ModelConfig, model_preset
from nanomd.model.rope import rope_multipliers
from nanomd.rollout import self_check

_spec = importlib.util.spec_from_file_location("reference_numpy", Path(__file__).with_name("reference_numpy.py"))
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not _native.cuda_info()["devices"], reason=f"no CUDA device: {_native.cuda_info()['reason']}"),
]

SHAPES = {
    "xs": model_preset("xs", 20),
    "s": model_preset("base", 100),
    "s-one-kv-head": model_preset("base", 100, n_kv_head=1),
    "paper": model_preset("paper-alanine-dipeptide", 100),
    "wide-vocabulary": ModelConfig(n_states=5000, d_model=64, n_layer=1, n_head=2, context_length=32, markov_head=True),
    "odd": ModelConfig(n_states=37, d_model=40, n_layer=2, n_head=5, n_kv_head=1, context_length=33, norm="post"),
}


def engines(config, **options):
    tensors = reference.random_tensors(config, scale=0.7, head_scale=1.5)
    multipliers = rope_multipliers(config) if config.position == "rope" else np.zeros(0, np.uint32)
    cuda = _native.NativeCudaEngine(config, tensors, multipliers, **options)
    return cuda, _native.NativeEngine(config, tensors, multipliers)


def mode_of(config):
    return "ring" if config.position == "rope" else "hop"


def rollout(engine, config, n, n_steps, first=0, seed=5, **options):
    keep = config.context_length // 2 if mode_of(config) == "hop" else 0
    index = np.arange(first, first + n, dtype=np.uint64)
    starts = (index % config.n_states).astype(np.uint16)[:, None]
    session = engine.open(starts, index, mode=mode_of(config), hop_keep=keep, seed=seed, **options)
    out = np.full((n, n_steps), 0xFFFF, np.uint16)  # poisoned: every element must be written
    assert session.advance(n_steps, out)
    assert (out < config.n_states).all()
    return out


@pytest.mark.parametrize(
    "options",
    [{"regime": "throughput"}, {"regime": "throughput", "weights": "streamed"}, {"regime": "latency"}],
    ids=["throughput", "streamed", "latency"],
)
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("name", SHAPES)
def test_log_probs_equal_the_cpu_engine(name, precision, options, record_property):
    config = SHAPES[name]
    cuda, cpu = engines(config, precision=precision, **options)
    keep = config.context_length // 2 if mode_of(config) == "hop" else 0
    length = 2 * config.context_length + 5 if config.n_states < 1000 else 40
    tokens = np.random.default_rng(0).integers(0, config.n_states, (5, length)).astype(np.uint16)
    found = cuda.log_probs(tokens, mode=mode_of(config), hop_keep=keep)
    expected = cpu.log_probs(tokens, mode=mode_of(config), hop_keep=keep)
    seen = expected >= np.log(1e-7)
    error = float(np.abs(found - expected)[seen].max())
    record_property("ln_p_error", error)
    assert error <= {"fp32": 1e-3, "fp16": 2e-2}[precision]


@pytest.mark.parametrize("name", ["xs", "s", "paper"])
def test_tokens_equal_the_cpu_engine_until_a_draw_at_a_boundary(name, record_property):
    """In single precision the engines differ by about 1e-6 in p, so draws differ about that often, per state."""
    config = SHAPES[name]
    cuda, cpu = engines(config, precision="fp32")
    found, expected = rollout(cuda, config, 32, 2000), rollout(cpu, config, 32, 2000)
    same = np.cumprod(found == expected, axis=1).sum(axis=1)  # steps until the first difference
    record_property("steps_equal", same.tolist())
    print(f"steps until the first difference: least {same.min()}, median {np.median(same)}, of 2000")
    assert np.median(same) == 2000
    assert same.sum() > 0.7 * found.size


@pytest.mark.parametrize("name", SHAPES)
def test_a_trajectory_does_not_depend_on_its_company(name):
    config = SHAPES[name]
    n_steps = 300 if config.n_states < 1000 else 40
    many = rollout(engines(config, regime="throughput", tile=16)[0], config, 501, n_steps)
    for options in ({"regime": "throughput", "tile": 8}, {"regime": "latency"}, {"regime": "latency", "ranks": 2}):
        engine, _ = engines(config, **options)
        assert np.array_equal(rollout(engine, config, 3, n_steps, first=498), many[498:])
        assert np.array_equal(rollout(engine, config, 9, n_steps), many[:9])


@pytest.mark.parametrize("name", ["xs", "odd"])
@pytest.mark.parametrize("tile", [8, 16])
def test_resident_weights_change_no_state(name, tile):
    config = SHAPES[name]
    n = 300 * tile + 3  # more tiles than multiprocessors, so that blocks take two
    resident, streamed = (
        engines(config, regime="throughput", tile=tile, weights=weights)[0] for weights in ("resident", "streamed")
    )
    assert "weights resident" in resident.describe(n) and "resident" not in streamed.describe(n)
    assert np.array_equal(rollout(resident, config, n, 300), rollout(streamed, config, n, 300))
    assert np.array_equal(rollout(resident, config, 5, 300), rollout(streamed, config, 5, 300))


@pytest.mark.parametrize("name", ["xs", "s-one-kv-head", "paper", "odd"])
def test_lookahead_changes_no_state(name):
    config = SHAPES[name]
    plain = rollout(engines(config, regime="throughput")[0], config, 3, 700)
    engine = engines(config, regime="latency")[0]
    assert "states ahead" in engine.describe(3)
    for n_drafts in (-1, 0, 1, 4):
        assert np.array_equal(rollout(engine, config, 3, 700, n_drafts=n_drafts), plain)
    keep = config.context_length // 2 if mode_of(config) == "hop" else 0
    tokens = np.random.default_rng(3).integers(0, config.n_states, (1, 3 * config.context_length)).astype(np.uint16)
    known = [
        engines(config, regime=regime)[0].log_probs(tokens, mode=mode_of(config), hop_keep=keep)
        for regime in ("throughput", "latency")
    ]
    assert np.array_equal(*known)


def test_two_runs_are_equal():
    cuda, _ = engines(SHAPES["s"])
    first = rollout(cuda, SHAPES["s"], 2000, 400)
    assert np.array_equal(first, rollout(cuda, SHAPES["s"], 2000, 400))


def test_a_resumed_session_continues_bit_for_bit():
    config = SHAPES["s"]
    cuda, _ = engines(config)
    whole = rollout(cuda, config, 20, 900)
    index = np.arange(20, dtype=np.uint64)
    session = cuda.open((index % config.n_states).astype(np.uint16)[:, None], index, mode="ring", seed=5)
    first, second = np.empty((20, 700), np.uint16), np.empty((20, 200), np.uint16)
    session.advance(700, first)
    tail = session.history()
    again = cuda.open(tail, index, mode="ring", n_before=701 - tail.shape[1], first_step=700, seed=5)
    again.advance(200, second)
    assert np.array_equal(np.concatenate([first, second], axis=1), whole)


def test_frequencies_follow_the_probabilities():
    """Chi-square of the first states of many trajectories from one start, and of what follows each of them."""
    from scipy.stats import chi2

    config = SHAPES["xs"]
    cuda, cpu = engines(config)
    n = 100_000
    index = np.arange(n, dtype=np.uint64)
    session = cuda.open(np.full((n, 1), 3, np.uint16), index, mode="ring", seed=17)
    out = np.empty((n, 2), np.uint16)
    session.advance(2, out)
    contexts = np.stack([np.full(20, 3), np.arange(20)], axis=1).astype(np.uint16)
    p = np.exp(cpu.log_probs(contexts, mode="ring").astype(np.float64))

    def significance(counts, probability):
        expected = counts.sum() * probability / probability.sum()
        common = expected >= 5
        statistic = ((counts - expected)[common] ** 2 / expected[common]).sum()
        return chi2.sf(statistic, common.sum() - 1)

    values = [significance(np.bincount(out[:, 0], minlength=20), p[0, 0])]
    values += [
        significance(np.bincount(out[out[:, 0] == k, 1], minlength=20), p[k, 1]) for k in np.flatnonzero(p[0, 0] > 1e-3)
    ]
    assert min(values) > 1e-4 / len(values)


def test_a_known_chain():
    """A model whose logits are a Markov table alone must reproduce the chain, rare transitions too."""
    V = 4
    transition = np.full((V, V), 1e-4)
    np.fill_diagonal(transition, 1.0 - 3e-4)
    config = ModelConfig(n_states=V, d_model=16, n_layer=1, n_head=1, context_length=8, mlp_ratio=1, markov_head=True)
    tensors = {name: np.zeros(shape, np.float32) for name, shape in config.tensor_shapes().items()}
    tensors["markov.weight"] = np.log(transition).astype(np.float32)
    for name in tensors:
        if "norm" in name and name.endswith("weight"):
            tensors[name][:] = 1.0
    cuda = _native.NativeCudaEngine(config, tensors, rope_multipliers(config))
    out = rollout(cuda, config, 4000, 5000)
    jumps = (out[:, 1:] != out[:, :-1]).sum()
    expected = out[:, 1:].size * 3e-4
    assert abs(jumps - expected) < 5 * np.sqrt(expected)


@pytest.mark.parametrize("n", [1, 300])
@pytest.mark.parametrize("pieces", [(3000,), (1, 999, 2000)])
def test_observables_equal_counting_the_tokens(n, pieces):
    config = SHAPES["xs"]
    cuda, _ = engines(config)
    sets = tuple(k % 4 - 1 for k in range(config.n_states))
    spec = _native.ObservablesSpec(config.n_states, (1, 5, 700), 3, sets, (0, 1, 2, 3, 10, 100))
    index = np.arange(n, dtype=np.uint64)
    writer, expected = _native.NativeObservables(spec, n), _native.NativeObservables(spec, n)
    session = cuda.open((index % config.n_states).astype(np.uint16)[:, None], index, mode="ring", observables=writer)
    assert session.observes
    for steps in pieces:
        tokens = np.empty((n, steps), np.uint8)
        session.advance(steps, tokens)
        expected.add(tokens)
    session.collect(writer)
    for part in ("totals", "counters", "recent"):
        assert np.array_equal(getattr(writer, part)(), getattr(expected, part)())


def test_memory_is_refused_before_it_is_taken():
    from nanomd.base.errors import InputError

    config = SHAPES["s"]
    cuda, _ = engines(config)
    fits = cuda.memory_plan("ring", 1000)["largest_n_trajs"]
    n = 2 * fits
    with pytest.raises(InputError, match=r"fit at a time"):
        cuda.open(np.zeros((n, 1), np.uint16), np.arange(n, dtype=np.uint64), mode="ring")


def test_auto_trusts_the_card():
    assert self_check.disagreement(_native.NativeCudaEngine) == ""
