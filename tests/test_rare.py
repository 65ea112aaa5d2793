"""Rates far below what rollouts see, against linear algebra on the pairs of states of a second-order chain."""

from __future__ import annotations

import numpy as np
import pytest
from rare_chain import Exact, make_model

from nanomd import InputError, Sampler
from nanomd._native import Histories, NativeWalkers, resample_walkers
from nanomd.base.errors import BackendUnavailableError, CancelledError, NanomdWarning, StoreError
from nanomd.rare import RareEvents, Splitting, WeightedEnsemble
from nanomd.rare.committor import bins_of_states, committor
from nanomd.rare.statistics import mean_of_repeats, student_quantile

# Most samplings here are small; that this is said has a test of its own.
pytestmark = pytest.mark.filterwarnings("ignore:.*of the rate come from one")

SOURCE, TARGET = [10], [21]  # labels of the first and the last of twelve states
QUICK = {
    "weighted_ensemble": {"n_iterations": 120, "walkers_per_bin": 6},
    "splitting": {"n_particles": 200},
}

STOP = {"weighted_ensemble": 40, "splitting": 12}  # calls of `cancel` after which a sampling is under way


def stopping(method):
    """A `cancel` that stops a sampling on the way."""
    calls = iter(range(10_000))
    return lambda: next(calls) > STOP[method]


@pytest.fixture(scope="module")
def files():
    return make_model()


@pytest.fixture(scope="module")
def exact(files):
    return Exact.of(files)


def sample(files, method, seed=0, **options):
    own = {"n_threads": 1, "n_repeats": 4, **QUICK[method], **options}
    return Sampler(files, "cpu").rare_event(SOURCE, TARGET, method=method, seed=seed, **own)


@pytest.mark.parametrize(
    ("method", "options"),
    [("weighted_ensemble", {"n_iterations": 240, "walkers_per_bin": 12}), ("splitting", {"n_particles": 400})],
)
def test_rates_and_populations_are_those_of_the_exact_chain(files, exact, method, options):
    """The mean of 32 repetitions is within four of its standard errors, each less than a tenth of the rate."""
    rate, populations = exact.process([11], (0, 0))
    assert rate == pytest.approx(1.2177e-8, rel=1e-3)
    result = sample(files, method, n_repeats=32, start=[[10, 10]], **options)
    assert result.relative_error < 0.1
    assert abs(np.log(result.rate.value / rate)) < 4 * result.relative_error
    assert result.mfpt.value == pytest.approx(1 / result.rate.value)
    assert result.gain > 1000
    found, error = result.populations.mean(axis=0), result.populations.std(axis=0, ddof=1) / 32**0.5
    assert np.abs(found[:6] / populations[:6] - 1).max() < 0.2
    assert (np.abs(found - populations)[:8] < 5 * error[:8]).all()
    position = result.expectation(np.arange(12))
    assert abs(position.value - populations @ np.arange(12)) < position.high - position.low


def test_any_progress_gives_the_same_rate(files, exact):
    """A poor choice costs effort, not truth: rising in steps of three states, and shuffled between neighbours."""
    rate, _ = exact.process([11], (0, 0))
    for progress in (np.arange(12) // 3, np.arange(12) ^ 1):
        result = sample(files, "splitting", n_repeats=24, n_particles=400, progress=progress, seed=3)
        assert abs(np.log(result.rate.value / rate)) < 4 * result.relative_error < 2


def test_common_events_have_the_rate_that_rollouts_show(files, exact):
    """Where the target is near, an ordinary rollout counts the same passages."""
    rate, _ = exact.process([3], (0, 0))
    walk = Sampler(files, "cpu").generate(200_000, start=[[10, 10]], n_threads=1).dtrajs[0]
    ends = walk[(walk == 10) | (walk == 13)]
    passages, since = (ends[1:] == 13) & (ends[:-1] == 10), (walk < 13).mean()
    assert passages.sum() / len(walk) / since == pytest.approx(
        rate, rel=0.2
    )  # near: some time it comes from the target
    for method in QUICK:
        result = Sampler(files, "cpu").rare_event(
            SOURCE, [13], method=method, n_threads=1, n_repeats=16, start=[[10, 10]], **QUICK[method]
        )
        assert abs(np.log(result.rate.value / rate)) < 4 * result.relative_error < 0.5


def test_threads_and_interruptions_change_nothing(files, tmp_path, monkeypatch):
    from nanomd.rare import files as rare_files

    monkeypatch.setattr(rare_files, "EVERY", 0.0)  # a checkpoint after every iteration
    for method in QUICK:
        whole = sample(files, method)
        assert whole.rates.tolist() == sample(files, method, n_threads=3).rates.tolist()
        assert whole.rates.tolist() != sample(files, method, seed=1).rates.tolist()
        folder = tmp_path / method
        with pytest.raises(CancelledError):
            sample(files, method, out=folder, cancel=stopping(method))
        assert (folder / "checkpoint.npz").exists()
        with pytest.raises(StoreError, match="resume=True"):
            sample(files, method, out=folder)
        with pytest.raises(StoreError, match="other settings"):
            sample(files, method, out=folder, resume=True, seed=5)
        again = sample(files, method, out=folder, resume=True)
        assert again.rates.tolist() == whole.rates.tolist()
        assert again.populations.tolist() == whole.populations.tolist()
        assert again.steps >= whole.steps and not (folder / "checkpoint.npz").exists()
        assert RareEvents.load(folder / "result.npz").rates.tolist() == whole.rates.tolist()
        assert sample(files, method, out=folder).rates.tolist() == whole.rates.tolist()  # it is there


def test_a_damaged_checkpoint_or_result_is_refused(files, tmp_path, monkeypatch):
    from nanomd.rare import files as rare_files

    monkeypatch.setattr(rare_files, "EVERY", 0.0)
    for method, names in (
        ("weighted_ensemble", ("tokens", "length", "n_before", "weight", "repeat", "flux", "counts")),
        ("splitting", ("past", "past_length", "path", "path_length", "n_before", "n_particles", "levels", "counts")),
    ):
        with pytest.raises(CancelledError):
            sample(files, method, out=tmp_path / method, cancel=stopping(method))
        file = tmp_path / method / "checkpoint.npz"
        header, arrays = rare_files.read_file(file)
        for name in names:
            for bad in (arrays[name][:-1], arrays[name].astype(np.float32), -1.0 - arrays[name]):
                rare_files.write_file(file, header, {**arrays, name: bad})
                with pytest.raises((StoreError, InputError)):
                    sample(files, method, out=tmp_path / method, resume=True)
        file.write_bytes(file.read_bytes()[:-30])
        with pytest.raises(StoreError, match="cannot be read"):
            sample(files, method, out=tmp_path / method, resume=True)
    result = sample(files, "splitting")
    result.save(tmp_path / "result.npz")
    header, arrays = rare_files.read_file(tmp_path / "result.npz")
    for name in arrays:
        rare_files.write_file(tmp_path / "result.npz", header, {**arrays, name: arrays[name][None]})
        with pytest.raises(StoreError):
            RareEvents.load(tmp_path / "result.npz")


def test_bad_arguments_are_refused(files):
    sampler = Sampler(files, "cpu")
    for changes, words in (
        ({"source": []}, "source must be state labels"),
        ({"target": [10, 21]}, "disjoint"),
        ({"target": [99]}, "unknown state 99"),
        ({"progress": [1.0, 2.0]}, "12 finite numbers"),
        ({"method": "brute"}, "weighted_ensemble, splitting"),
        ({"n_particles": 10}, "no option n_particles"),
        ({"n_iterations": 1}, "n_iterations must be in"),
        ({"n_iterations": 10, "burn_in": 10}, "burn_in must be less"),
        ({"start": [[10, 11]]}, "ends in 11"),
        ({"confidence": 1.0}, "confidence"),
        ({"resume": True}, "needs out="),
        ({"method": Splitting(), "n_particles": 5}, "options"),
    ):
        with pytest.raises(InputError, match=words):
            sampler.rare_event(**{"source": SOURCE, "target": TARGET, "n_threads": 1, **changes})
    with pytest.raises(InputError, match="n_killed"):
        Splitting(n_particles=10, n_killed=10)
    assert WeightedEnsemble(n_iterations=30).burnt == 10


def test_other_backends_say_what_to_do(files):
    pytest.importorskip("torch")
    with pytest.raises(BackendUnavailableError, match="backend='cpu'"):
        Sampler(files, "reference").rare_event(SOURCE, TARGET)


def test_a_flux_that_is_not_steady_is_said(files):
    with pytest.warns(NanomdWarning, match="still changes"):
        Sampler(files, "cpu").rare_event(
            SOURCE, [15], n_threads=1, n_repeats=64, n_iterations=20, tau=1, burn_in=0, walkers_per_bin=16
        )


def test_a_rate_that_one_repetition_carries_is_said(files):
    with pytest.warns(NanomdWarning, match="few events carry it"):
        result = sample(files, "weighted_ensemble")
    assert result.largest_share == result.rates.max() / result.rates.sum() > 0.5


def test_an_event_that_was_not_reached_is_no_rate(files):
    result = sample(files, "weighted_ensemble", n_iterations=2)
    assert result.rate.value == 0 and np.isnan(result.rate.high) and result.mfpt_time == "not reached"
    assert "not reached" in repr(result)


def test_tables_and_pictures(files):
    pytest.importorskip("pandas")
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from nanomd import plots

    result = sample(files, "weighted_ensemble")
    table = result.to_dataframe()
    assert table[table.counted].groupby("repeat").flux.mean().to_numpy() == pytest.approx(result.rates)
    levels = sample(files, "splitting").to_dataframe()
    assert (levels.groupby("repeat").probability.diff().dropna() < 0).all()
    for some in (result, sample(files, "splitting")):
        axes = plots.rare_event(some)
        assert axes.lines
        matplotlib.pyplot.close(axes.figure)


# --- the parts -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("mode", "position"), [("ring", "rope"), ("hop", "learned"), ("crop", "learned")])
def test_walkers_draw_what_rollouts_draw(mode, position):
    """The same history, stream and steps give the states of `generate`, also for a copy and for one put back."""
    from rollout_models import make_files

    sampler = Sampler(make_files(position=position), "cpu")
    hop = 3 if mode == "hop" else 0
    walkers = NativeWalkers(sampler.engine, mode=mode, hop_keep=hop, seed=7, temperature=1.0, n_threads=1)
    walkers.resize(3)
    prompts = [np.array(p, np.uint16) for p in ([4], [1, 2, 3], [5, 6])]
    walkers.place(range(3), Histories(prompts, np.zeros(3, np.uint64)))
    nowhere = np.zeros(11, bool)
    tokens, _ = walkers.advance([0, 1, 2], 0, [12, 9, 15], nowhere)
    walkers.select([1, 1, 2, 0])
    kept = walkers.histories()
    walkers.place([3], kept.take([2]))
    more, taken = walkers.advance([1, 50, 2, 2], [9, 9, 15, 15], [8, 8, 5, 5], nowhere)
    assert taken.tolist() == [8, 8, 5, 5]
    assert more[0].tolist() != more[1].tolist() and more[2, :5].tolist() == more[3, :5].tolist()
    for row, prompt, drawn in ((1, [1, 2, 3], [*tokens[1, :9], *more[0]]), (2, [5, 6], [*tokens[2], *more[2, :5]])):
        labels = sampler.files.state_map.decode([prompt])
        rollout = sampler.generate(
            len(drawn), 1, start=labels, seed=7, mode=mode, hop_keep=hop or None, first_trajectory=row, n_threads=1
        )
        assert rollout.tokens[0].tolist() == [int(x) for x in drawn]


def test_resampling_keeps_weights_and_numbers():
    rng = np.random.default_rng(1)
    weights = rng.exponential(size=40) ** 4
    bins = rng.integers(0, 5, 40)
    parents, shared, _ = resample_walkers(weights, bins, 7, 3, 1)
    assert np.bincount(bins[parents]).tolist() == [7] * 5
    np.testing.assert_allclose(np.bincount(bins[parents], shared), np.bincount(bins, weights), rtol=1e-12)
    heaviest = np.bincount(bins, weights) / 7
    assert (shared <= 2 * heaviest[bins[parents]] * (1 + 1e-12)).all()


def test_the_committor_and_its_bins():
    up = 0.3
    matrix = np.diag(np.full(5, up), 1) + np.diag(np.full(5, 1 - up), -1)
    matrix[0, 0] += 1 - matrix[0].sum()
    matrix[5, 5] += 1 - matrix[5].sum()
    source, target = (np.arange(6) == k for k in (0, 5))
    value = committor(matrix, source, target)
    ratio = (1 - up) / up
    np.testing.assert_allclose(value, (ratio ** np.arange(6) - 1) / (ratio**5 - 1), rtol=1e-12)
    assert bins_of_states(value, source, target, 10).tolist() == [0, 1, 2, 3, 4, 5]
    assert bins_of_states(np.array([0.0, 1, 1.1, 5, 9, 9]), source, target, 2).tolist() == [0, 1, 1, 2, 2, 3]


def test_intervals_of_repetitions():
    scipy_stats = pytest.importorskip("scipy.stats")
    for freedom in (1, 2, 3, 4, 7, 30, 61):
        for confidence in (0.5, 0.95, 0.999):
            expected = scipy_stats.t.ppf(0.5 + confidence / 2, freedom)
            assert student_quantile(confidence, freedom) == pytest.approx(expected, rel=1e-9)
    interval = mean_of_repeats([1.0, 2.0, 3.0], 0.95)
    assert interval.low < 2.0 < interval.high and interval.low * interval.high == pytest.approx(4.0)
    assert np.isnan(mean_of_repeats([1.0], 0.95).low)
