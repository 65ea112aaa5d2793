"""Models whose states stand in groups, in the compiled engine: the group is drawn first, then the state in it."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from rollout_models import generate, make_files
from scipy import stats

from nanomd import _native
from nanomd.base.config import ModelConfig
from nanomd.base.errors import BackendUnavailableError, InputError
from nanomd.model.rope import rope_multipliers
from nanomd.rollout.reference import ReferenceEngine
from nanomd.rollout.sampler import Sampler

_spec = importlib.util.spec_from_file_location("reference_numpy", Path(__file__).with_name("reference_numpy.py"))
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

# Groups of one, groups that end within a block of sixteen and beyond, more groups than a block.
SIZES = (1, 20, 3, 16, 1, 7)
MANY = (2, 1, 3, 1, 1, 2, 1, 4, 1, 1, 2, 1, 3, 1, 1, 2, 1, 5, 1, 1, 2, 1)
SMALL = {"d_model": 32, "n_layer": 2, "n_head": 2, "context_length": 8, "mlp_ratio": 2}
SHAPES = {
    "ring": {"group_sizes": SIZES},
    "ring-markov": {"group_sizes": MANY, "markov_head": True, "norm": "post", "activation": "relu"},
    "ring-odd": {"group_sizes": (5, 1), "d_model": 24, "n_head": 3, "context_length": 7, "n_layer": 1},
    "ring-wide": {"group_sizes": SIZES, "d_model": 80, "n_head": 1, "context_length": 19, "markov_head": True},
    "hop": {"group_sizes": MANY, "position": "learned", "norm": "post", "context_length": 20},
    "crop": {"group_sizes": SIZES, "position": "learned", "markov_head": True, "context_length": 5},
}
PRECISIONS = ["fp32", "fp16-cache", "fp16"]


def make_engine(config, tensors, isa="", column_limit=-1, precision="fp32"):
    multipliers = rope_multipliers(config) if config.position == "rope" else np.zeros(0, np.uint32)
    return _native.NativeEngine(config, tensors, multipliers, isa, column_limit, precision)


def case(name, head_scale=1.5):
    shape = {**SMALL, **SHAPES[name]}
    config = ModelConfig(n_states=sum(shape["group_sizes"]), **shape)
    tensors = reference.random_tensors(config, seed=len(name), head_scale=head_scale)
    mode = name.split("-")[0]
    return config, tensors, mode, 3 if mode == "hop" else 0


@pytest.mark.parametrize("isa", _native.available_isas())
@pytest.mark.parametrize("column_limit", [0, 16], ids=["lanes", "columns"])
@pytest.mark.parametrize("name", SHAPES)
def test_probabilities_of_all_states_are_those_of_the_definition(name, column_limit, isa):
    config, tensors, mode, keep = case(name)
    tokens = np.random.default_rng(3).integers(0, config.n_states, (2, 3 * config.context_length + 3))
    log_p = make_engine(config, tensors, isa, column_limit).log_probs(tokens, mode=mode, hop_keep=keep)
    expected = np.array([reference.log_probs(config, tensors, row, mode, keep) for row in tokens])
    seen = expected >= np.log(1e-7)
    assert seen.mean() > 0.5
    assert np.abs(log_p - expected)[seen].max() <= 1e-3


@pytest.mark.parametrize(("precision", "tolerance"), [("fp16-cache", 2e-2), ("fp16", 2e-2)])
@pytest.mark.parametrize("column_limit", [0, 16], ids=["lanes", "columns"])
@pytest.mark.parametrize("name", SHAPES)
def test_sixteen_bits_keep_their_contract(name, column_limit, precision, tolerance):
    config, tensors, mode, keep = case(name)
    tokens = np.random.default_rng(3).integers(0, config.n_states, (1, 3 * config.context_length))
    log_p = make_engine(config, tensors, "", column_limit, precision).log_probs(tokens, mode=mode, hop_keep=keep)[0]
    expected = reference.log_probs(config, tensors, tokens[0], mode, keep)
    error = np.abs(log_p - expected)[expected >= np.log(1e-7)].max()
    assert 1e-5 < error <= tolerance


@pytest.mark.parametrize("isa", _native.available_isas())
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", SHAPES)
def test_kernels_batches_threads_and_drafts_change_no_bit(name, precision, isa):
    config, tensors, mode, keep = case(name)
    lanes, columns = (make_engine(config, tensors, isa, limit, precision) for limit in (0, 16))
    tokens = np.random.default_rng(3).integers(0, config.n_states, (3, 4 * config.context_length + 3))
    expected = lanes.log_probs(tokens, mode=mode, hop_keep=keep)
    assert np.array_equal(columns.log_probs(tokens, mode=mode, hop_keep=keep), expected)
    assert np.array_equal(columns.log_probs(tokens[1:2], mode=mode, hop_keep=keep)[0], expected[1])
    states = generate(lanes, config, mode, keep, 150, 19, n_drafts=0)
    assert len(np.unique(states)) > config.n_states / 2
    for engine in (lanes, columns, make_engine(config, tensors, isa, 5, precision)):
        for n_threads in (1, 3):
            assert np.array_equal(generate(engine, config, mode, keep, 150, 19, (1, 70), n_threads=n_threads), states)
    if mode == "crop":
        return
    for n_drafts in (0, 1, 5, -1):
        drafted = generate(columns, config, mode, keep, 150, 2, (1, 2, 90), n_drafts=n_drafts, n_threads=2)
        assert np.array_equal(drafted, states[:2]), n_drafts


@pytest.mark.parametrize("name", ["ring-wide", "hop"])
def test_drafts_that_are_right_change_no_token_either(name):
    """Most states stay in their group of one or two, so that a draft has something to guess."""
    config, tensors, mode, keep = case(name, head_scale=0.5)
    first = np.concatenate([[0], np.cumsum(config.group_sizes)[:-1]])
    tensors["embedding.weight"] *= 8
    for g, size in enumerate(config.group_sizes):
        members = tensors["embedding.weight"][first[g] : first[g] + size]
        tensors["group.weight"][g] += 0.02 * members.mean(axis=0)
        tensors["head.weight"][first[g] : first[g] + size] += 0.05 * members
    expected = generate(make_engine(config, tensors, "", 0), config, mode, keep, 500, 2, n_drafts=0)
    assert (np.diff(expected.astype(int)) == 0).mean() > 0.2
    for n_drafts in (3, 31, -1):
        assert np.array_equal(
            generate(make_engine(config, tensors, "", 16), config, mode, keep, 500, 2, n_drafts=n_drafts), expected
        )


@pytest.mark.parametrize("name", SHAPES)
def test_states_are_those_of_the_reference_engine(name):
    """The reference draws once among all states, with the same uniform numbers: in exact arithmetic, the same state.

    Its ln p differ by some 1e-6, which decides otherwise about once in as many draws; here there are 400 of each model.
    """
    config, tensors, mode, keep = case(name)
    drawn = [
        generate(engine, config, mode, keep, 100, 4)
        for engine in (ReferenceEngine(config, tensors), make_engine(config, tensors))
    ]
    assert np.array_equal(*drawn)


@pytest.mark.parametrize("column_limit", [0, 16], ids=["lanes", "columns"])
def test_states_come_at_their_rate(column_limit):
    """Chi-square over all states after one prompt; and those of p < 1e-4, in common groups and in rare ones, together.

    320,000 draws. An error of a third in the rare states together would be five standard deviations.
    """
    sizes = (30, 1, 12, 2, 25)
    config = ModelConfig(n_states=70, group_sizes=sizes, d_model=16, n_layer=1, n_head=2, context_length=2)
    tensors = reference.random_tensors(config, seed=4, head_scale=1.8)
    tensors["group.bias"][:] = [0, 1, -6, -3, 1]
    n, prompt, n_seeds = 20_000, 44, 16
    expected = np.exp(reference.log_probs(config, tensors, [prompt], "ring")[0])
    engine = make_engine(config, tensors, "", column_limit)
    history, index = np.full((n, 1), prompt, np.uint16), np.arange(n, dtype=np.uint64)
    counts, out = np.zeros(70), np.empty((n, 1), np.uint16)
    for seed in range(n_seeds):
        engine.open(history, index, mode="ring", seed=seed).advance(1, out)
        counts += np.bincount(out[:, 0], minlength=70)
    expected *= n * n_seeds
    common, rare = expected >= 5, expected < 1e-4 * n * n_seeds
    assert common.sum() > 50 and rare[:30].sum() > 1 and rare[31:43].sum() > 5 and expected[rare].sum() > 230
    wanted = np.append(expected[common], expected[~common].sum())
    assert stats.chisquare(np.append(counts[common], counts[~common].sum()), wanted).pvalue > 1e-5
    assert abs(counts[rare].sum() - expected[rare].sum()) < 4 * np.sqrt(expected[rare].sum())


@pytest.mark.parametrize("mode", ["ring", "hop"])
def test_walkers_draw_what_rollouts_draw(mode):
    config, tensors, mode, keep = case("ring-wide" if mode == "ring" else "hop")
    engine = make_engine(config, tensors)
    history = np.random.default_rng(2).integers(0, config.n_states, (14, 3)).astype(np.uint16)
    expected = generate(engine, config, mode, keep, 60, 14, n_drafts=0)
    walkers = _native.NativeWalkers(engine, mode=mode, hop_keep=keep, seed=0, temperature=1.0, n_threads=2)
    walkers.resize(14)
    walkers.place(np.arange(14), _native.Histories(list(history), np.zeros(14, np.uint64)))
    tokens, taken = walkers.advance(np.arange(7, 21), 0, 60, np.zeros(config.n_states, bool))
    assert (taken == 60).all() and np.array_equal(tokens, expected)


def test_what_a_session_remembers_goes_on_bit_identically():
    config, tensors, mode, keep = case("ring-markov")
    engine = make_engine(config, tensors)
    whole = generate(engine, config, mode, keep, 80, 3)
    history = np.random.default_rng(2).integers(0, config.n_states, (3, 3)).astype(np.uint16)
    index = np.arange(7, 10, dtype=np.uint64)
    session = engine.open(history, index, mode=mode)
    session.advance(33)
    known = session.history()
    out = np.empty((3, 47), np.uint16)
    later = engine.open(known, index, mode=mode, n_before=3 + 33 - known.shape[1], first_step=33)
    later.advance(47, out)
    assert np.array_equal(out, whole[:, 33:])


def test_a_temperature_is_refused():
    config, tensors, mode, _ = case("ring")
    engine = make_engine(config, tensors)
    history, index = np.zeros((1, 1), np.uint16), np.zeros(1, np.uint64)
    with pytest.raises(
        BackendUnavailableError, match=r"sampling_temperature must be 1 for a model with groups of stat"
    ):
        engine.open(history, index, mode=mode, temperature=0.9)
    with pytest.raises(BackendUnavailableError, match=r"got 1\.1.*use backend=\"reference\""):
        _native.NativeWalkers(engine, mode=mode, hop_keep=0, seed=0, temperature=1.1, n_threads=1)
    flat = ModelConfig(n_states=48, **SMALL)
    make_engine(flat, reference.random_tensors(flat)).open(history, index, mode=mode, temperature=0.9)


def test_the_sampler_draws_alike_on_either_engine_and_tempers_on_the_reference():
    files = make_files(n_states=60, group_sizes=(22, 1, 30, 7), markov_head=True)
    compiled, eager = (Sampler(files, backend=name) for name in ("cpu", "reference"))
    expected = eager.generate(150, 3, seed=3).tokens
    assert np.array_equal(compiled.generate(150, 3, seed=3, n_threads=2).tokens, expected)
    assert np.array_equal(compiled.generate(150, 2, seed=3).tokens, expected[:2])
    with pytest.raises(BackendUnavailableError, match="sampling_temperature must be 1"):
        compiled.generate(10, sampling_temperature=0.5)
    cold = eager.generate(150, 3, seed=3, sampling_temperature=0.1).tokens
    assert len(np.unique(cold)) < len(np.unique(expected)) / 2


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([48], "from 2 to n_states = 48 groups, got 1"),
        ([1] * 49, "from 2 to n_states = 48 groups, got 49"),
        ([0, 48], "at least 1 each, got 0"),
        ([-5, 53], "at least 1 each, got -5"),
        ([20, 20], "add up to n_states = 48, got 40"),
        ([2**31 - 1, 2**31 - 1], "add up to n_states = 48, got 4294967294"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, message):
    """By the core itself, whatever checked them before."""
    config, tensors, _, _ = case("ring")
    object.__setattr__(config, "group_sizes", tuple(sizes))
    with pytest.raises(InputError, match=message):
        make_engine(config, tensors)


def test_tensors_that_do_not_fit_are_refused():
    config, tensors, _, _ = case("ring-wide")
    for name, shape in [("group.weight", (5, 80)), ("group.bias", (7,)), ("markov.weight", (48, 48))]:
        with pytest.raises(InputError, match=f"tensor {name} must have shape"):
            make_engine(config, {**tensors, name: np.zeros(shape, np.float32)})
    damaged = {**tensors, "head.weight": tensors["head.weight"].copy()}
    damaged["head.weight"][21, 0] = np.nan  # in a group of one, whose weights are not kept
    with pytest.raises(InputError, match=r"head\.weight holds a value that is not finite"):
        make_engine(config, damaged)
    del damaged["group.bias"]
    with pytest.raises(InputError, match=r"tensor group\.bias is missing"):
        make_engine(config, damaged)


def test_probabilities_that_are_not_finite_are_reported():
    config, tensors, mode, _ = case("ring")
    tensors["head.weight"][1:21] = 3e38  # of one group: only who draws it notices
    engine = make_engine(config, tensors)
    with pytest.raises(InputError, match="probabilities that are not finite for state"):
        generate(engine, config, mode, 0, 2000, 3)
