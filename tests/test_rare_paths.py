"""Reactive trajectories against transition path theory on the pairs of a second-order chain, and against rollouts."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from rare_chain import Exact, make_model

from nanomd import InputError, Sampler
from nanomd.base.errors import CancelledError, StoreError
from nanomd.data.dtrajs import load_dtrajs, save_dtrajs
from nanomd.rare import RareEvents
from nanomd.rare import files as rare_files

pytestmark = pytest.mark.filterwarnings("ignore:.*of the rate come from one")

SOURCE, TARGET = [10], [21]
QUICK = {
    "weighted_ensemble": {"n_iterations": 120, "walkers_per_bin": 6},
    "splitting": {"n_particles": 200},
}


@pytest.fixture(scope="module")
def files():
    return make_model()


@pytest.fixture(scope="module")
def exact(files):
    return Exact.of(files)


def sample(files, method="weighted_ensemble", target=TARGET, **options):
    own = {"n_threads": 1, "n_repeats": 4, "record": True, **QUICK[method], **options}
    return Sampler(files, "cpu").rare_event(SOURCE, target, method=method, **own)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("weighted_ensemble", {"n_iterations": 240, "walkers_per_bin": 12}),
        ("weighted_ensemble", {"n_iterations": 240, "walkers_per_bin": 12, "tau": 2, "seed": 1}),
        ("splitting", {"n_particles": 400}),
    ],
)
def test_paths_are_those_of_transition_path_theory(files, exact, method, options):
    """Density, current and mean duration are within five standard errors, which are less than 15 % of them.

    The event has a rate of 1e-8; the mean duration, of some twenty steps, has an error of less than 5 %.
    """
    density, current = exact.reactive([0], [11], (0, 0))
    rate, _ = exact.process([11], (0, 0))
    assert current[0].sum() == pytest.approx(rate) and current[:, 11].sum() == pytest.approx(rate)
    paths = sample(files, method, n_repeats=32, start=[[10, 10]], **options).paths()
    duration = paths.duration
    assert duration.error < 0.05 * duration.value
    assert abs(duration.value - (density.sum() / rate + 1)) < 4 * duration.error
    exactly = exact.durations([0], [11], (0, 0), 400)
    assert exactly.sum() == pytest.approx(1) and exactly @ np.arange(400) == pytest.approx(density.sum() / rate + 1)
    share, edges = (
        paths.duration_distribution(bounds := [11, 16, 20, 24, 30, 60]),
        np.concatenate(([0], exactly.cumsum())),
    )
    assert (share.error < 0.06).all()
    assert (np.abs(share.value - np.diff(edges[bounds])) < 5 * share.error).all()
    visits = paths.density
    assert visits.value[0] == visits.value[11] == 0
    assert (visits.error[1:11] < 0.15 * visits.value[1:11]).all()
    assert (np.abs(visits.value - density / rate) <= 5 * visits.error).all()
    assert visits.value.sum() + 1 == pytest.approx(duration.value)
    steps = paths.current
    expected = (current / rate)[steps.origin - 10, steps.destination - 10]
    often = expected > 0.05
    assert often.sum() == 30 and (steps.flux.error[often] < 0.1).all()
    assert (np.abs(steps.flux.value - expected)[often] <= 5 * steps.flux.error[often] + 1e-8).all()
    assert steps.flux.value.sum() == pytest.approx(duration.value)


@pytest.mark.parametrize("method", list(QUICK))
def test_their_weights_are_the_rate_and_their_ends_the_sets(files, method):
    for options in ({}, {"target": [14, 20], "tau": 3} if method == "weighted_ensemble" else {"target": [14, 20]}):
        result = sample(files, method, **options)
        paths = result.paths()
        sums = np.bincount(paths.passages.repeat, paths.weights, result.n_repeats)
        np.testing.assert_allclose(sums, result.rates, rtol=1e-12)
        assert len(paths) and paths.weights.mean() * len(paths) / result.n_repeats == pytest.approx(result.rate.value)
        for path in paths:
            ends = np.isin(path, [*SOURCE, *result.target])
            assert ends[0] and ends[-1] and not ends[1:-1].any()
            assert path[0] == 10 and path[-1] in result.target
            assert (np.abs(np.diff(path)) <= 1).all()  # what the chain can do
        if method == "splitting":
            assert len(paths) == result.arrivals


def test_paths_of_a_common_event_are_those_of_rollouts(files):
    """The passages that 400,000 steps of a rollout hold last as long, and visit the states as often."""
    walk = Sampler(files, "cpu").generate(400_000, start=[[10, 10]], n_threads=1, seed=5).dtrajs[0]
    first = np.flatnonzero(np.isin(walk, [10, 13]))
    pieces = [walk[a : b + 1] for a, b in pairwise(first) if (walk[a], walk[b]) == (10, 13)]
    times = np.array([len(piece) - 1 for piece in pieces])
    assert len(times) > 1000
    for method in QUICK:
        paths = sample(files, method, target=[13], n_repeats=16, start=[[10, 10]]).paths()
        error = np.hypot(paths.duration.error, times.std() / len(times) ** 0.5)
        assert error < 0.1 * times.mean() and abs(paths.duration.value - times.mean()) < 4 * error
        edges = [3, 4, 5, 8, 100]
        share = paths.duration_distribution(edges)
        found = np.histogram(times, edges)[0] / len(times)
        error = np.hypot(share.error, np.sqrt(found * (1 - found) / len(times)))
        assert (np.abs(share.value - found) < 4 * error).all() and share.value.sum() > 0.98


def test_an_iteration_of_many_steps_holds_several_arrivals(files):
    """With a target next to the source and tau = 40 walkers arrive again and again within one segment."""
    result = sample(files, target=[11], tau=40, n_iterations=12)
    arrival = result.segments.arrival
    assert len(np.unique(arrival[:, :2], axis=0)) < len(arrival) / 2
    paths = result.paths()
    assert set(paths.durations.tolist()) == {1}
    np.testing.assert_allclose(np.bincount(paths.passages.repeat, paths.weights), result.rates, rtol=1e-12)


def test_recording_changes_nothing_and_survives_interruptions(files, tmp_path, monkeypatch):
    monkeypatch.setattr(rare_files, "EVERY", 0.0)
    for method, stop in (("weighted_ensemble", 40), ("splitting", 12)):
        whole = sample(files, method)
        assert whole.rates.tolist() == sample(files, method, record=False).rates.tolist()
        calls = iter(range(10_000))
        folder = tmp_path / method
        with pytest.raises(CancelledError):
            sample(files, method, out=folder, cancel=lambda calls=calls, stop=stop: next(calls) > stop)
        with pytest.raises(StoreError, match="other settings"):
            sample(files, method, out=folder, record=False, resume=True)
        again = sample(files, method, out=folder, resume=True, n_threads=3)
        stored = RareEvents.load(folder / "result.npz")
        for other in (again, stored):
            for name, array in whole.paths().passages._asdict().items():
                np.testing.assert_array_equal(array, getattr(other.paths().passages, name))
        if method == "weighted_ensemble":
            for name, array in whole.segments.arrays().items():
                np.testing.assert_array_equal(array, stored.segments.arrays()[name])


def test_a_damaged_record_is_refused(files, tmp_path):
    for method in QUICK:
        result = sample(files, method, n_repeats=2)
        result.save(tmp_path / "result.npz")
        header, arrays = rare_files.read_file(tmp_path / "result.npz")
        recorded = [name for name in arrays if name.startswith(("segment_", "passage_"))]
        assert len(recorded) == (7 if method == "weighted_ensemble" else 4)
        for name in recorded:
            shorter = [] if name.endswith(("merged", "history")) else [arrays[name][:-1]]
            for bad in (*shorter, arrays[name].astype(np.float32), arrays[name][None]):
                rare_files.write_file(tmp_path / "result.npz", header, {**arrays, name: bad})
                with pytest.raises(StoreError, match="damaged"):
                    RareEvents.load(tmp_path / "result.npz").paths()
            high = arrays[name].copy()
            high.flat[-1] = np.nan if high.dtype.kind == "f" else np.iinfo(high.dtype).max
            rare_files.write_file(tmp_path / "result.npz", header, {**arrays, name: high})
            with pytest.raises(StoreError, match="damaged"):
                RareEvents.load(tmp_path / "result.npz")
            rare_files.write_file(
                tmp_path / "result.npz", header, {key: some for key, some in arrays.items() if key != name}
            )
            with pytest.raises(StoreError, match="damaged"):
                RareEvents.load(tmp_path / "result.npz")


def test_drawn_paths_have_equal_weights(files, tmp_path):
    paths = sample(files, n_repeats=16).paths()
    drawn = paths.draw(4000, seed=2)
    assert np.mean([len(path) - 1 for path in drawn]) == pytest.approx(paths.duration.value, rel=0.02)
    again = paths.draw(4000, seed=2)
    assert all(np.array_equal(a, b) for a, b in zip(drawn, again, strict=True))
    assert [len(path) for path in paths.draw(4000, seed=3)] != [len(path) for path in drawn]
    save_dtrajs(drawn[:30], tmp_path)
    assert [d.tolist() for d in load_dtrajs(f"{tmp_path}/md_*.npy")] == [d.tolist() for d in drawn[:30]]
    paths.save(tmp_path / "paths.npz")
    with np.load(tmp_path / "paths.npz") as stored:
        assert np.split(stored["states"], np.cumsum(stored["length"]))[3].tolist() == paths.dtrajs[3].tolist()
        assert stored["weight"].tolist() == paths.weights.tolist()


def test_what_cannot_be_told_is_said(files):
    with pytest.raises(InputError, match="record=True"):
        sample(files, record=False).paths()
    none = sample(files, n_iterations=2).paths()
    assert len(none) == 0 and none.tokens == [] and "none" in repr(none)
    for ask in (lambda: none.duration, lambda: none.density, lambda: none.current, lambda: none.draw(3)):
        with pytest.raises(InputError, match="not reached"):
            ask()
    paths = sample(files, n_repeats=1).paths()
    assert np.isnan(paths.duration.low) and paths.duration.value > 11
    with pytest.raises(InputError, match="one a path"):
        paths.mean([1.0, 2.0])
    with pytest.raises(InputError, match="rising"):
        paths.duration_distribution([3, 2])
    with pytest.raises(InputError, match="GiB"):
        sample(files, n_iterations=10_000_000)


def test_pictures_of_the_passages(files):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from nanomd import plots

    result = sample(files)
    axes = plots.reactive_paths(result, n=12)
    lines = [line.get_ydata() for line in axes.lines]
    assert len(lines) == 13 and all(line[-1] == result.progress[-1] for line in lines)
    matplotlib.pyplot.close(axes.figure)
    for some in (result.paths(), sample(files, n_repeats=1).paths()):
        axes = plots.transition_times(some)
        assert sum(bar.get_height() * bar.get_width() for bar in axes.patches) > 0.98
        matplotlib.pyplot.close(axes.figure)
