"""What `validate` takes as a source: rollouts, deeptime's datasets, files, counts; and how much memory that takes."""

import tracemalloc

import numpy as np
import pytest
from deeptime.util.data import TimeLaggedDataset, TrajectoriesDataset, TrajectoryDataset
from markov_walk import MATRIX, STATIONARY, slowed, walks
from rollout_models import make_files

from nanomd import FrameInterval, InputError, Observables, load_dtrajs, validate
from nanomd.baselines.msm import MSMEstimator
from nanomd.data.states import StateMap
from nanomd.kinetics.inputs import encode, handed_in, number_states
from nanomd.rollout.sampler import Rollout, Sampler

FAST = {"lagtimes": [1, 5], "lagtime": 5, "n_bootstrap": 40}


class _Model:
    """A `Rollout` of a Markov chain, made of trajectories that were drawn elsewhere."""

    def __init__(self, labels=(0, 1, 2)):
        self.labels = np.array(labels)

    def rollout(self, n_steps, n_trajs, seed, *, frame_stride=1, interval=None):
        files = make_files(n_states=3)
        made = Sampler(files).generate(n_steps, n_trajs)
        tokens = np.array(walks(n_steps, n_trajs, seed)).astype(np.uint8)
        fields = {name: getattr(made, name) for name in Rollout.__slots__}
        fields |= {"tokens": tokens, "state_map": StateMap(self.labels), "frame_stride": frame_stride}
        return Rollout(**(fields | {"frame_interval": interval or FrameInterval()}))


def values(result, name):
    source = result.sources[name]
    return source.timescales.value, source.mfpt.value, source.macro_populations.value


def test_every_source_may_be_a_rollout_a_dataset_or_a_list():
    md, made = walks(4000, 4, 1), _Model().rollout(4000, 4, 2)
    plain = validate(md, made.dtrajs, others={"x": made.dtrajs}, training=walks(4000, 4, 3), **FAST)
    dataset = TrajectoriesDataset.from_numpy(1, md)
    other = validate(
        dataset, made, others={"x": made}, training=TrajectoriesDataset.from_numpy(7, walks(4000, 4, 3)), **FAST
    )
    assert list(plain.sources) == list(other.sources)
    assert other.sources["MD"].n_trajs == 4
    for name in plain.sources:
        for a, b in zip(values(plain, name), values(other, name), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_dataset_of_deeptime_is_its_trajectories():
    md = walks(100, 3, 1)
    found = load_dtrajs(TrajectoriesDataset.from_numpy(2, md))
    assert [x.tolist() for x in found] == [x.tolist() for x in md]
    assert len(load_dtrajs(TrajectoryDataset(2, md[0]))) == 1
    with pytest.raises(InputError, match="pairs of frames"):
        load_dtrajs(TimeLaggedDataset(md[0][:-1], md[0][1:]))


def test_files_are_read(tmp_path):
    for k, x in enumerate(walks(3000, 2, 1)):
        np.save(tmp_path / f"md_{k}.npy", x)
    assert validate(str(tmp_path / "md_*.npy"), **FAST).sources["MD"].n_frames == 6000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"lagtimes": 10}, "lagtimes must be a list"),
        ({"lagtimes": "10"}, "lagtimes must be a list"),
        ({"lagtimes": ["1 ns"]}, "the time of a frame is not known"),
        ({"lagtime": 2.5}, "lagtime must be a whole number"),
        ({"lagtime": "soon"}, "lagtime must be a whole number of frames or a time"),
        ({"lagtime": "1 parsec"}, "unknown unit 'parsec'"),
        ({"lagtimes": ["0.3 ns"], "frame_interval": "0.2 ns"}, "use '0.2 ns' or '0.4 ns'"),
        ({"lagtime": "1e300 s", "frame_interval": "1 fs"}, "finite time"),
        ({"others": {"x": None}}, r"others\['x'\] must be a list"),
        ({"others": [1]}, "others must map names"),
        ({"rollout": 5}, "rollout must be a list"),
        ({"n_macrostates": "3"}, "n_macrostates must be a whole number"),
        ({"n_bootstrap": 30.5}, "n_bootstrap must be a whole number"),
        ({"memory_kernel": "3"}, "memory_kernel must be a whole number"),
        ({"training": "nowhere.npy"}, "does not exist"),
    ],
)
def test_what_cannot_be_used_is_one_line(arguments, says):
    with pytest.raises(InputError, match=says):
        validate(walks(500, 2, 1), **arguments)


def test_lags_in_time_units_are_those_in_frames():
    md = walks(4000, 2, 1)
    frames = validate(md, lagtimes=[1, 5], lagtime=5, n_bootstrap=40, frame_interval="0.2 ns")
    times = validate(md, lagtimes=["200 ps", "1 ns"], lagtime="0.001 us", n_bootstrap=40, frame_interval="0.2 ns")
    assert times.lagtime == 5
    assert times.sources["MD"].lagtimes.tolist() == [1, 5]
    np.testing.assert_array_equal(times.sources["MD"].timescales.value, frames.sources["MD"].timescales.value)


def test_lags_of_a_strided_rollout_are_times_of_the_md():
    rollout = _Model().rollout(4000, 2, 2, frame_stride=2, interval=FrameInterval(0.4, "ns"))
    result = validate(walks(8000, 2, 1), rollout, lagtime="2 ns", lagtimes=["0.4 ns", "2 ns"], n_bootstrap=40)
    assert str(result.frame_interval) == "0.4 ns"
    assert result.lagtime == 5


def test_sources_at_different_strides_are_brought_to_the_longest():
    slow, fast = _Model().rollout(2000, 2, 2, frame_stride=4), _Model().rollout(2000, 2, 3, frame_stride=2)
    result = validate(walks(8000, 2, 1), slow, others={"x": fast}, **FAST)
    assert result.sources["x"].n_frames == 2000, "a view of each of two offsets, counted once"
    with pytest.raises(InputError, match="cannot be compared"):
        validate(walks(8000, 2, 1), slow, others={"x": _Model().rollout(2000, 2, 3, frame_stride=3)}, **FAST)


# --- A rollout that kept only its counts ---
def counted(dtrajs, labels=(0, 1, 2), lagtimes=(1, 5)):
    return Observables(lagtimes=lagtimes).count([np.array(labels)[x] for x in dtrajs])


def markov_passage(start, end, lag=5):
    """Mean passage time of the chain, seen every `lag` frames."""
    seen = np.linalg.matrix_power(MATRIX, lag)
    rest = [k for k in range(3) if k != end]
    return lag * np.linalg.solve(np.eye(2) - seen[np.ix_(rest, rest)], np.ones(2))[rest.index(start)]


def test_counts_stand_for_trajectories():
    md, made = walks(20_000, 4, 1), walks(20_000, 4, 2)
    of_trajectories = validate(md, made, **FAST)
    result = validate(md, counted(made), **FAST)
    assert list(result.sources)[:2] == ["MD", "GPT"]
    for name in ("macro_populations", "timescales"):
        a, b = (getattr(r.sources["GPT"], name).value for r in (result, of_trajectories))
        np.testing.assert_allclose(a, b, rtol=1e-9, err_msg=name)
    mfpt, truth = result.sources["GPT"].mfpt.value, of_trajectories.sources["GPT"].mfpt.value
    np.testing.assert_allclose(mfpt, truth, rtol=0.1)  # the chain is Markovian: that of the counts is the same
    slow = validate(md, counted(slowed(made, 1.5)), **FAST)
    assert (result.verdict, slow.verdict) == ("pass", "fail")
    few = validate(md, counted([x[:400] for x in made[:1]]), **FAST)
    assert few.verdict == "undecided"


def test_intervals_of_counts_are_wide_enough_and_not_idle():
    """At 95 %, 38 of 40 rollouts hold the true value; fewer than 34 have a probability of 1 %."""
    md, seen = walks(20_000, 4, 1), []
    slow = np.sort(np.linalg.eigvals(MATRIX).real)[-2]
    exact = np.array([markov_passage(0, 2), *STATIONARY, *STATIONARY, *(2 * [-1 / np.log(slow)])])
    for seed in range(40):
        found = validate(md, counted(walks(5000, 1, 100 + seed)), macrostate_of_state=[0, 1, 2], **FAST).sources["GPT"]
        times, shares = [found.mfpt[0, 2], *found.timescales[:, 0]], [*found.macro_populations, *found.populations]
        values = [times[0], *shares, *times[1:]]
        seen.append([(float(x.value), float(x.low), float(x.high), float(x.error)) for x in values])
    value, low, high, error = np.moveaxis(np.array(seen), 2, 0)  # (40 rollouts, 9 quantities) each
    assert ((low <= exact) & (exact <= high)).sum(axis=0).min() >= 34
    natural = np.where(exact < 1, np.log(value / np.abs(1 - value)), np.log(value))
    off, claimed = natural.std(axis=0), np.median(error, axis=0)
    # A passage over a middle state counts as one at random. The error of a standard deviation of 40 is 11 %.
    assert (claimed > 0.75 * off).all() and (claimed < 3 * off).all(), claimed / off


def test_counts_in_labels_of_their_own():
    labels = np.array([0, 70, 90_000])
    md = [labels[x] for x in walks(20_000, 2, 1)]
    result = validate(md, counted(walks(20_000, 2, 2), labels), **FAST)
    np.testing.assert_allclose(result.sources["GPT"].populations.value, STATIONARY, rtol=0.1)


def test_counts_lack_a_lag():
    with pytest.raises(InputError, match=r"no transitions at lagtime 5.*lagtimes=\[..., 5\]"):
        validate(walks(4000, 2, 1), counted(walks(4000, 2, 2), lagtimes=[1, 2]), **FAST)


def test_a_rollout_without_tokens_is_its_observables():
    files = make_files()
    rollout = Sampler(files).generate(4000, 2, observables=Observables(lagtimes=[1, 5]), store_tokens=False)
    kept = Sampler(files).generate(4000, 2)
    result = validate(kept, rollout, **FAST)
    np.testing.assert_allclose(result.sources["GPT"].populations.value, result.sources["MD"].populations.value)
    bare = Sampler(files).generate(50, 2, store_tokens=False, observables=Observables(lagtimes=[1]))
    with pytest.raises(InputError, match="no trajectories, only observables"):
        validate(bare, kept)


# --- deeptime ---
def test_markov_models_and_counts_for_deeptime():
    md = [np.array([5, 6, 8])[x] for x in walks(20_000, 2, 1)]
    msm = MSMEstimator(5).fit_fetch(md)
    theirs = msm.to_deeptime()
    assert theirs.lagtime == 5
    np.testing.assert_allclose(theirs.timescales(2), msm.timescales(2))
    np.testing.assert_allclose(theirs.stationary_distribution, msm.stationary_distribution[[5, 6, 8]])
    counts = counted(md, np.arange(9)).to_count_model(5)
    from deeptime.markov import TransitionCountEstimator

    truth = TransitionCountEstimator(5, "sliding").fit_fetch([x.astype(int) for x in walks(20_000, 2, 1)])
    np.testing.assert_array_equal(counts.count_matrix, truth.count_matrix)
    np.testing.assert_array_equal(counts.state_histogram, truth.state_histogram)


def test_transition_counts_of_a_rollout():
    rollout = _Model((5, 6, 8)).rollout(1000, 2, 2, interval=FrameInterval(0.2, "ns"))
    expected = np.zeros((3, 3), np.int64)
    for row in rollout.tokens:
        np.add.at(expected, (row[:-5], row[5:]), 1)
    np.testing.assert_array_equal(rollout.transition_counts(5), expected)
    np.testing.assert_array_equal(rollout.transition_counts("1 ns"), expected)
    np.testing.assert_array_equal(rollout.to_count_model("1 ns").count_matrix, expected)
    with pytest.raises(InputError, match=r"lagtime must be in \[1, 999\]"):
        rollout.transition_counts(1000)


# --- Memory ---
def test_tokens_of_a_rollout_are_read_where_they_lie():
    rollout = _Model((0, 1, 2)).rollout(1000, 2, 2)
    handed = handed_in("rollout", rollout)
    assert all(np.shares_memory(x, rollout.tokens) for x in encode(handed, number_states([handed])))
    other = handed_in("rollout", _Model((5, 6, 900)).rollout(1000, 2, 2))
    assert {x.dtype for x in encode(other, number_states([other]))} == {np.dtype(np.uint8)}


def peak_bytes(n_trajs):
    made = _Model().rollout(100_000, n_trajs, 2)
    md = walks(10_000, 2, 1)
    tracemalloc.start()
    validate(md, made, **FAST)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.slow
def test_a_frame_takes_less_than_two_bytes(monkeypatch):
    """27 bytes a frame made a thousand trajectories of a million steps 27 GB."""
    monkeypatch.setattr("nanomd._native.counting._BATCH", 1 << 18)
    few, many = peak_bytes(5), peak_bytes(20)
    assert (many - few) / (15 * 100_000) < 2.0
