"""What a rollout is asked for: NumPy's numbers are numbers, and what cannot be is refused at once, in one line."""

import dataclasses

import numpy as np
import pytest
from rollout_models import make_files

from nanomd import _native
from nanomd.base.errors import InputError
from nanomd.model.starts import _DOMAIN, start_prompts, uniforms
from nanomd.rollout.observables import Observables
from nanomd.rollout.parts import Part
from nanomd.rollout.sampler import Rollout, Sampler


@pytest.fixture(scope="module")
def sampler():
    return Sampler(make_files())


@pytest.mark.parametrize("kind", [np.int32, np.uint64, np.array])
def test_numpy_integers_are_numbers(sampler, tmp_path, kind):
    """Everywhere, and as what is stored: a rollout made with them resumes one that was made without."""
    plain = {"n_steps": 40, "n_trajs": 6, "seed": 3, "stride": 2, "n_threads": 1, "first_trajectory": 5, "lookahead": 2}
    numpy = {name: kind(value) for name, value in plain.items()}
    expected = sampler.generate(**plain, shard=(1, 2), observables=Observables([1, 5], {"A": [5]}, 20), start=8)
    observables = Observables(np.array([1, 5]), {"A": np.array([5])}, kind(20))
    assert observables == Observables([1, 5], {"A": [5]}, 20)
    more = {"shard": (kind(1), kind(2)), "observables": observables, "start": kind(8)}
    found = sampler.generate(**numpy, **more)
    assert np.array_equal(found.tokens, expected.tokens) and found.observables == expected.observables
    stored = sampler.generate(**numpy, **more, out=tmp_path / "a")
    again = sampler.generate(**plain, shard=(1, 2), observables=observables, start=8, out=tmp_path / "a", resume=True)
    assert np.array_equal(np.asarray(stored.tokens), np.asarray(again.tokens))
    assert Rollout.load(tmp_path / "a/part_0001_of_0002").config == expected.config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_trajs": 1e9}, "n_trajs must be a whole number, got 1000000000.0; write 1000000000"),
        ({"n_steps": 5.5}, "n_steps must be a whole number, got 5.5"),
        ({"n_steps": "5"}, "n_steps must be a whole number of frames or a time such as '1 ns', got '5'"),
        ({"seed": True}, "seed must be a whole number, got True"),
        ({"seed": -1}, r"seed must be in \[0, "),
        ({"stride": 0}, r"stride must be in \[1, "),
        ({"stride": 41}, r"stride must be in \[1, 40\], got 41"),
        ({"n_threads": 0}, r"n_threads must be in \[1, "),
        ({"n_threads": 2**40}, r"n_threads must be in \[1, 65536\]"),
        ({"first_trajectory": 2**62 + 1}, "first_trajectory must be in"),
        ({"sampling_temperature": float("nan")}, "sampling_temperature"),
        ({"sampling_temperature": float("inf")}, "sampling_temperature"),
        ({"lookahead": "two"}, 'lookahead must be "auto" or a number of states'),
        ({"lookahead": 2.0}, "lookahead must be a whole number, got 2.0; write 2"),
        ({"lookahead": 32}, r"lookahead must be in \[0, 31\], got 32"),
        ({"shard": "1/2"}, r"shard must be two numbers \(i, n\), got '1/2'"),
        ({"shard": (0, 1, 2)}, "shard must be two numbers"),
        ({"shard": (0.5, 2)}, "shard must be a whole number, got 0.5"),
        ({"start": [[5, 8], [5]]}, "rows of different lengths"),
        ({"start": 5.0}, "start must hold integer state labels, got float64"),
        ({"start": []}, "start must hold integer"),
        ({"start": np.zeros((3, 0), int)}, "start must have shape"),
    ],
)
def test_what_cannot_be_is_refused(sampler, options, message):
    with pytest.raises(InputError, match=message):
        sampler.generate(**{"n_steps": 40, "n_trajs": 3, **options})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lagtimes": 5}, "lagtimes must be a sequence of whole numbers or times, got 5"),
        ({"lagtimes": [1.5]}, "lagtimes must be a whole number, got 1.5"),
        ({"lagtimes": "15"}, "lagtimes must be a sequence"),
        ({"sets": {"A": [1.5]}}, "set 'A' must be a whole number, got 1.5"),
        ({"sets": {"A": "12"}}, "set 'A' must be a sequence of whole numbers, got '12'"),
        ({"sets": {"A": 5}}, "set 'A' must be a sequence of whole numbers, got 5"),
        ({"bins": 2.5}, "bins must be a whole number, got 2.5"),
        ({"bins": [0, 1.5]}, "bins must be a whole number, got 1.5"),
        ({"bins": True}, "bins must be a whole number, got True"),
        ({"bins": []}, "bins must be increasing edges"),
        ({"bins": [0, 2**63]}, r"bins must be in \[0, "),
        ({"sets": {"A": [2**70]}}, r"set 'A' must be in \[0, "),
        ({"sets": {"A": [-1]}}, r"set 'A' must be in \[0, "),
    ],
)
def test_observables_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Observables(**arguments)


@pytest.mark.parametrize("more", [{}, {"out": "folder"}, {"shard": (0, 2)}, {"start": "uniform"}])
def test_more_than_memory_holds_is_refused_before_anything_is_begun(sampler, tmp_path, monkeypatch, more):
    monkeypatch.setattr("nanomd.rollout.beginning.start_prompts", None)  # nothing is drawn
    options = {**more, "out": tmp_path / "run"} if "out" in more else more
    with pytest.raises(InputError, match=r"a rollout of .* steps takes [0-9.,]+ GiB, but this machine has .*shard="):
        sampler.generate(10, 10**12, **options)
    assert not list(tmp_path.iterdir())
    if "out" not in more:
        with pytest.raises(InputError, match=r"1,000,000,000,000,000 steps takes .* GiB"):
            sampler.generate(10**15, 4, **more)


def test_starts_are_those_of_numpys_generator(sampler):
    """All at once what NumPy's Philox gives one by one, at every edge of the counters."""
    for seed in (0, 7, 2**63 - 1):
        for first in (0, 2**32 - 3, 2**62):
            key = np.array([seed, _DOMAIN], np.uint64)
            one_by_one = [
                np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, i, 0], np.uint64))).random()
                for i in range(first, first + 6)
            ]
            assert uniforms(seed, first, 6).tolist() == one_by_one
    many = start_prompts(sampler.files, "stationary", (1 << 18) + 50, 0, 1)  # more than are drawn at a time
    assert np.array_equal(many[-100:], start_prompts(sampler.files, "stationary", 100, (1 << 18) - 50, 1))


def test_parts_are_compared_and_shown_as_they_are_written():
    assert str(Part.parse(" 3/16 ")) == "3/16" and sorted([Part(2, 3), Part(0, 3)])[0] == Part(0, 3)


def test_a_sampler_is_made_from_a_model():
    class Model:
        def to_files(self):
            return make_files()

    assert np.array_equal(Sampler(Model()).generate(9, 2).tokens, Sampler(make_files()).generate(9, 2).tokens)
    with pytest.raises(InputError, match=r"made from a model, got 'run/model'; use Sampler\.load"):
        Sampler("run/model")
    with pytest.raises(InputError, match=r"column_limit must be a whole number, got 1\.5"):
        Sampler(make_files(), column_limit=1.5)


def test_what_would_be_ignored_is_refused(sampler):
    with pytest.raises(InputError, match="hop_keep is for mode hop, but the mode is ring"):
        sampler.generate(5, hop_keep=3)
    learned = Sampler(make_files(position="learned"))
    with pytest.raises(
        InputError, match=r"first_position must be in \[0, 0\] \(other positions than 0 are for mode ring"
    ):
        learned.log_probs([[5, 8]], first_position=5)
    for bad in (
        {"n_threads": 1.5},
        {"first_position": -1},
        {"first_position": 1.5},
        {"hop_keep": 2.5},
        {"n_threads": 0},
    ):
        with pytest.raises(InputError, match=next(iter(bad))):
            (learned if "hop_keep" in bad else sampler).log_probs([[5, 8]], **bad)
    for bad in ({"observables": [1]}, {"cancel": True}, {"progress": 3}):
        with pytest.raises(InputError, match=f"{next(iter(bad))} must "):
            sampler.generate(5, **bad)
    for sets in (None, [1, 2]):
        with pytest.raises(InputError, match="sets must map names to states"):
            Observables([1], sets)


def test_progress_true_shows_a_bar(sampler, capsys):
    sampler.generate(5000, 3, progress=True)
    assert "generate: 100%" in capsys.readouterr().err
    sampler.generate(5000, 3, progress=False)
    assert not capsys.readouterr().err


def test_rollouts_are_compared_by_what_they_hold(sampler, tmp_path):
    options = {"seed": 2, "observables": Observables([1], {"A": [5]})}
    rollout = sampler.generate(90, 5, **options)
    assert rollout == sampler.generate(90, 5, **options, out=tmp_path / "a", n_threads=1)
    rollout.save(tmp_path / "b", shard_trajs=np.int64(2))
    assert rollout == Rollout.load(tmp_path / "b")
    for changes in ({"seed": 3}, {"stride": 2}, {"first_trajectory": 1}, {"observables": None}):
        assert rollout != sampler.generate(90, 5, **{**options, **changes})
    assert rollout != 5
    with pytest.raises(InputError, match=r"shard_trajs must be a whole number, got 1\.5"):
        rollout.save(tmp_path / "c", shard_trajs=1.5)
    with pytest.raises(TypeError, match="unsupported operand"):
        rollout.observables + 1


@pytest.mark.parametrize(
    "index",
    [1, -1, slice(1, 4), slice(9, 20), [], [3, 0, 0], np.array([True, False] * 2 + [True]), ..., (), (1, 2),
     (1, slice(3, 9)), (slice(1, 3), slice(None, None, 2)), (..., 0), (slice(None), np.arange(50) > 40), ([0, 4], 7)],
)  # fmt: skip
def test_sharded_tokens_are_indexed_as_an_array(sampler, tmp_path, index):
    rollout = sampler.generate(50, 5)
    rollout.save(tmp_path / "a", shard_trajs=2)
    tokens = Rollout.load(tmp_path / "a").tokens
    assert len(tokens.shards) == 3
    assert np.array_equal(tokens[index], rollout.tokens[index])
    for bad in (5, -6, None, 1.5, True, ([0, 1], [2, 3]), rollout.tokens > 3, (1, 2, 3)):
        with pytest.raises(IndexError):
            tokens[bad]


def test_resuming_something_else_says_what_differs(sampler, tmp_path):
    sampler.generate(50, 5, start=5, out=tmp_path)
    for changes, text in (
        ({"n_trajs": 6}, "n_trajs = 5, so it cannot be resumed with 6"),
        ({"start": 8}, "with other starts, so"),
        ({"seed": 1}, "seed = 0"),
    ):
        with pytest.raises(InputError, match=text):
            sampler.generate(**{"n_steps": 50, "n_trajs": 5, "start": 5, **changes}, out=tmp_path, resume=True)
    with pytest.raises(InputError, match="the weights of another model"):
        Sampler(make_files(seed=1)).generate(50, 5, start=5, out=tmp_path, resume=True)


@pytest.mark.parametrize("isa", ["", *_native.available_isas()])
@pytest.mark.parametrize(("limit", "n_trajs", "drafts"), [(0, 17, 0), (16, 3, 0), (16, 1, 4), (-1, 1, "auto")])
def test_a_model_that_overflows_is_no_rollout(sampler, isa, limit, n_trajs, drafts):
    """Finite weights, and activations beyond float32: not the first state for ever, but an error that names it."""
    tensors = {name: x * np.float32(1e30 if "mlp" in name else 1) for name, x in sampler.files.tensors.items()}
    bad = Sampler(dataclasses.replace(sampler.files, tensors=tensors), column_limit=limit, isa=isa)
    with pytest.raises(InputError, match=r"not finite for state 0 of trajectory [0-9]+: its weights are too large"):
        bad.generate(20, n_trajs, lookahead=drafts)
    with pytest.raises(InputError, match="probabilities that are not finite"):
        bad.log_probs([[5, 8]])


def test_the_reference_refuses_what_is_not_finite(sampler):
    tensors = dict(sampler.files.tensors)
    tensors["head.bias"] = tensors["head.bias"] * np.float32("nan")
    with pytest.raises(InputError, match="not finite for state 0 of trajectory 7"):
        Sampler(dataclasses.replace(sampler.files, tensors=tensors), "reference").generate(5, 2, first_trajectory=7)


def test_no_stationary_distribution(sampler):
    starts = dataclasses.replace(sampler.files.starts, stationary=np.zeros(11))
    with pytest.raises(InputError, match="stationary distribution of the model is empty"):
        Sampler(dataclasses.replace(sampler.files, starts=starts)).generate(5)
