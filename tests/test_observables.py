"""Observables accumulated while states are drawn equal what is counted in the stored tokens, to the last integer."""

import os
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollout_models import LABELS, make_files

from nanomd import _native, kinetics
from nanomd.base.errors import CancelledError, InputError, StoreError
from nanomd.data.states import StateMap
from nanomd.kinetics import markov
from nanomd.rollout.durations import log_bin_edges
from nanomd.rollout.observables import Observables, ObservablesResult
from nanomd.rollout.sampler import Rollout, Sampler

V = 7
STATES = StateMap(np.arange(V))


def check_equals_counting(result, rows, names=("visits", "transitions", "residence", "first_passage")):
    """Every table against the counting functions of `nanomd.kinetics` on stored tokens."""
    spec, n = result.spec, len(result.observables.sets)
    labels = [np.array(spec.set_of, np.int64)[row] for row in rows]
    n_states = result.state_map.n_states
    assert np.array_equal(result.visits, _native.count_visits(rows, n_states)[0])
    for lag in result.observables.lagtimes:
        assert np.array_equal(result.transition_counts(lag), _native.count_transitions(rows, n_states, lag)[0])
    longest = max((len(row) for row in rows), default=0) + 1
    bin_of = np.searchsorted(result.observables.bin_edges, np.arange(longest + 1), side="right") - 1
    for index in range(n):
        inside = [np.where(x == index, 0, 1) for x in labels]
        exposure, exits, completed, cut = _native.count_stays(inside, 2, n_bins=longest + 1)
        got = result.residence
        assert got.exposure[index] == exposure[0, 0] and got.events[index] == exits[0, 0]
        assert got.total[index] == (completed[0] * np.arange(longest + 1)).sum()
        for table, fine in ((got.completed, completed), (got.cut, cut)):
            assert np.array_equal(table[index], np.bincount(bin_of, fine[0], minlength=len(got.bin_edges)))
    if n:
        exposure, passages = _native.count_passages(labels, n)
        got = result.first_passage
        assert np.array_equal(got.exposure, exposure[0]) and np.array_equal(got.events, passages[0])
        assert np.array_equal(got.completed.sum(axis=-1), passages[0])
        completed, cut = passage_durations(labels, n)
        for i in range(n):
            for j in range(n):
                for table, durations in ((got.completed, completed), (got.cut, cut)):
                    expected = np.bincount(bin_of[durations[i, j]], minlength=len(got.bin_edges))
                    assert np.array_equal(table[i, j], expected)
                assert got.total[i, j] == sum(completed[i, j])


def passage_durations(labels, n):
    """First passages by their definition, pair by pair, in plain Python."""
    completed, cut = {}, {}
    for i in range(n):
        for j in range(n):
            completed[i, j], cut[i, j] = [], []
            for row in labels if i != j else []:
                pair = np.flatnonzero((row == i) | (row == j))
                begin = None
                for rank, t in enumerate(pair):
                    if row[t] == i and begin is None:
                        begin = 0 if rank == 0 else t
                    elif row[t] == j and begin is not None:
                        completed[i, j].append(int(t - begin))
                        begin = None
                if begin is not None:
                    cut[i, j].append(len(row) - 1 - int(begin))
    return completed, cut


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    n_trajs=st.integers(1, 5),
    n_steps=st.integers(1, 60),
    hold=st.sampled_from([0.0, 0.6, 0.95]),
    lagtimes=st.lists(st.integers(1, 70), max_size=3, unique=True),
    sets=st.dictionaries(st.integers(0, V - 1), st.integers(0, 2)),
    bins=st.sampled_from(["log", 2, 20, (0, 1, 3, 7, 30)]),
    threads=st.integers(1, 3),
    wide=st.booleans(),
    data=st.data(),
)
def test_any_split_equals_counting_stored_tokens(
    seed, n_trajs, n_steps, hold, lagtimes, sets, bins, threads, wide, data
):
    """Pieces, threads and interruptions at arbitrary points; sets that are empty, partial or all states."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, V, (n_trajs, n_steps))
    for t in range(1, n_steps):
        rows[:, t] = np.where(rng.random(n_trajs) < hold, rows[:, t - 1], rows[:, t])
    rows = rows.astype(np.uint16 if wide else np.uint8)
    named = {str(name): [s for s, k in sets.items() if k == name] for name in set(sets.values())}
    observables = Observables(lagtimes, named, bins)
    spec = observables.spec(STATES)
    totals = np.zeros(_native.observables_layout(spec)["size"], np.int64)
    batch = data.draw(st.integers(1, n_trajs))
    for first in range(0, n_trajs, batch):
        part = rows[first : first + batch]
        writer, done = _native.NativeObservables(spec, len(part), totals), 0
        while done < n_steps:
            steps = data.draw(st.integers(1, n_steps - done))
            writer.add(part[:, done : done + steps], threads)
            done += steps
            if data.draw(st.booleans()):  # as if read back by another process
                writer = _native.NativeObservables(spec, len(part), writer.totals(), writer.counters(), writer.recent())
        writer.finish()
        totals = writer.totals()
    result = ObservablesResult(observables, STATES, totals)
    check_equals_counting(result, list(rows))
    assert result.n_frames == rows.size
    whole = observables.count(list(rows.astype(np.int64)), STATES) if n_steps > 1 else result
    assert whole == result
    halves = [observables.count(list(rows[k::2].astype(np.int64)), STATES) for k in (0, 1) if len(rows) > 1]
    assert n_steps == 1 or len(halves) < 2 or halves[0] + halves[1] == result


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    n_trajs=st.integers(1, 4),
    hold=st.sampled_from([0.3, 0.9]),
    set_of=st.lists(st.integers(-1, 2), min_size=V, max_size=V).filter(lambda sets: max(sets) >= 0),
)
def test_observables_are_the_kinetics_of_the_same_tokens(seed, n_trajs, hold, set_of):
    """Sets that leave states out: a stay ends with the first frame outside, be it in another set or in none."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, V, (n_trajs, 80))
    for t in range(1, 80):
        rows[:, t] = np.where(rng.random(n_trajs) < hold, rows[:, t - 1], rows[:, t])
    rows[0, :V] = np.arange(V)  # every state occurs
    macrostate = np.unique(set_of, return_inverse=True)[1] - (min(set_of) < 0)  # 0, 1, ... without gaps
    named = {str(k): np.flatnonzero(macrostate == k).tolist() for k in range(macrostate.max() + 1)}
    found = Observables([1], named).count(list(rows), STATES)
    stay, exits, _ = kinetics.residence(list(rows), macrostate, n_bootstrap=20)
    assert np.array_equal(found.residence.events, exits)
    assert np.allclose(found.residence.mean, stay.value, equal_nan=True)
    for i, j in np.argwhere(~np.eye(len(named), dtype=bool)):
        time, passages = kinetics.mfpt(list(rows), named[str(i)], named[str(j)], n_bootstrap=20)
        assert found.first_passage.events[i, j] == passages
        assert np.allclose(found.first_passage.mean[i, j], time.value, equal_nan=True)


def test_a_stay_ends_outside_and_a_gap_is_no_exit():
    """States 0 and 1 are sets, 2 is in none, -1 unassigned: one rule for trajectories and Markov models."""
    dtraj = [0, 0, 2, 0, 0, 0, 1, 1]
    stay, exits, _ = kinetics.residence([dtraj], [0, 1, -1], n_bootstrap=20)
    assert exits.tolist() == [2, 0] and stay.value[0] == 2.5
    found = Observables([1], {"A": [0], "B": [1]}).count([dtraj], StateMap(np.arange(3)))
    assert found.residence.events.tolist() == [2, 0] and found.residence.mean[0] == 2.5
    stay, exits, _ = kinetics.residence([[0, 0, -1, 0, 0, 0, 1, 1, 2]], [0, 1, -1], n_bootstrap=20)
    assert exits.tolist() == [1, 1] and stay.value[0] == 6
    chain = np.array([[0.9, 0.0, 0.1], [0.0, 0.8, 0.2], [0.2, 0.3, 0.5]])
    pi = np.array([6, 4.5, 3]) / 13.5
    rng = np.random.default_rng(0)
    rows = np.zeros((50, 4000), np.int64)
    for t in range(1, 4000):
        rows[:, t] = (rng.random(50)[:, None] >= np.cumsum(chain[rows[:, t - 1]], axis=1)[:, :2]).sum(axis=1)
    exact = markov.mean_residence(chain, pi, np.array([0, 1, -1]), 2)[0]
    stay, exits, _ = kinetics.residence(list(rows), [0, 1, -1], n_bootstrap=50)
    assert exits.min() > 5000  # the relative error of a mean is below 1.5 %
    assert np.allclose(stay.value, exact, rtol=0.06)


OBSERVABLES = Observables([1, 10, 400], {"A": [5, 8], "B": [20], "C": [35]})


@pytest.fixture(scope="module")
def sampler():
    return Sampler(make_files())


@pytest.mark.parametrize("changes", [{}, {"position": "learned", "context_length": 7}], ids=["ring", "hop"])
def test_rollout_counts_what_it_stores(changes, tmp_path, monkeypatch):
    monkeypatch.setattr("nanomd.rollout.run.OBSERVE_TOKENS", 3000)
    sampler = Sampler(make_files(**changes))
    plain = sampler.generate(1500, 70, seed=3)
    assert plain.observables is None
    results = []
    for n_threads, stride, store, out in (
        (1, 1, True, None), (3, 1, False, None), (2, 7, True, None), (1, 1, True, "a"), (2, 7, True, "b"),
        (1, 1, False, "c"),
    ):  # fmt: skip
        rollout = sampler.generate(
            1500, 70, seed=3, stride=stride, n_threads=n_threads, observables=OBSERVABLES, store_tokens=store,
            out=None if out is None else tmp_path / out,
        )  # fmt: skip
        results.append(rollout.observables)
        if store:
            assert np.array_equal(np.asarray(rollout.tokens), plain.tokens[:, ::stride])
        else:
            assert rollout.tokens.shape == (70, 0) and rollout.n_steps == 1500 and rollout.n_trajs == 70
            with pytest.raises(InputError, match="only observables"):
                _ = rollout.dtrajs
        if out is not None:
            assert Rollout.load(tmp_path / out).observables == rollout.observables
            assert [p.name for p in (tmp_path / out).glob("observables*")] == ["observables.npz"]
    assert not list((tmp_path / "c").glob("shard*"))
    assert all(result == results[0] for result in results)
    check_equals_counting(results[0], list(plain.tokens))
    dtrajs = [np.searchsorted(LABELS, row) for row in plain.dtrajs]
    assert np.array_equal(results[0].transition_counts(10), _native.count_transitions(dtrajs, 11, 10)[0])
    assert results[0].first_passage.events.sum() > 1000 and np.isnan(results[0].first_passage.mean).sum() == 3
    assert np.allclose(results[0].populations, np.bincount(plain.tokens.ravel(), minlength=11) / plain.tokens.size)


def test_reference_backend_counts_the_same(sampler, tmp_path):
    pytest.importorskip("torch")
    options = {"seed": 1, "observables": OBSERVABLES}
    every = sampler.generate(40, 3, **options)
    for more in ({}, {"stride": 3}, {"out": tmp_path / "a", "stride": 3}, {"out": tmp_path / "b"}):
        rollout = Sampler(make_files(), "reference").generate(40, 3, **options, **more)
        assert np.array_equal(np.asarray(rollout.tokens), every.tokens[:, :: more.get("stride", 1)])
        assert rollout.observables == every.observables
    check_equals_counting(rollout.observables, list(np.asarray(rollout.tokens)))


@pytest.mark.parametrize("store_tokens", [True, False])
def test_cancelled_rollout_resumes_bit_identically(sampler, tmp_path, monkeypatch, store_tokens):
    """Stopped at many points, each time with a fresh process' state: the same observables and tokens."""
    monkeypatch.setattr("nanomd.rollout.disk.COMMIT_SECONDS", 0.001)
    options = {"seed": 8, "stride": 3, "observables": OBSERVABLES, "store_tokens": store_tokens, "n_threads": 1}
    whole = sampler.generate(6000, 80, **options)
    folder, stops = tmp_path / "run", 0
    for attempt in range(60):
        calls = iter(range(10**9))
        try:
            rollout = sampler.generate(
                6000, 80, out=folder, resume=True, cancel=lambda c=calls, n=attempt: next(c) > n % 6, **options
            )
            break
        except CancelledError:
            stops += 1
            with pytest.raises(StoreError, match="unfinished"):
                Rollout.load(folder)
    assert stops >= 3
    assert rollout.observables == whole.observables
    assert np.array_equal(np.asarray(rollout.tokens), whole.tokens)
    with pytest.raises(InputError, match="observables"):
        sampler.generate(6000, 80, out=folder, resume=True, **{**options, "observables": Observables([2])})
    with pytest.raises(InputError, match="keeps_tokens"):
        sampler.generate(6000, 80, out=folder, resume=True, **{**options, "store_tokens": not store_tokens})


def test_damaged_observables_are_noticed(sampler, tmp_path):
    sampler.generate(50, 2, observables=OBSERVABLES, out=tmp_path / "run")
    file = tmp_path / "run" / "observables.npz"
    good = file.read_bytes()
    for bad in (b"", good[:50], good[:-30], b"PK" + bytes(100), good[: len(good) // 2] + bytes(len(good) // 2)):
        file.write_bytes(bad)
        with pytest.raises(StoreError, match=r"observables\.npz is damaged"):
            Rollout.load(tmp_path / "run")
    file.write_bytes(good)
    result = Rollout.load(tmp_path / "run").observables
    for name, change in {
        "totals": lambda x: x[:-1], "set_sizes": lambda x: x * 2, "lagtimes": lambda x: x * 0, "bins": lambda x: -1,
        "state_symbols": lambda x: x * 0, "set_states": lambda x: x + 100,
    }.items():  # fmt: skip
        arrays = result.to_arrays()
        np.savez(file, **{**arrays, name: np.asarray(change(arrays[name]))})
        with pytest.raises(StoreError, match="damaged"):
            Rollout.load(tmp_path / "run")
    np.savez(file, **{**result.to_arrays(), "totals": np.array([{}], dtype=object)})  # would have to be unpickled
    with pytest.raises(StoreError, match="damaged"):
        Rollout.load(tmp_path / "run")
    file.unlink()
    with pytest.raises(StoreError, match="missing"):
        Rollout.load(tmp_path / "run")


def test_arguments(sampler):
    for bad, pattern in (
        ({"lagtimes": [0]}, "lagtimes must be"), ({"lagtimes": [1, 1]}, "differ"), ({"lagtimes": [1.5]}, "whole"),
        ({"sets": {"A": [1], "B": [1]}}, "state 1 is in 'A' and 'B'"), ({"sets": {"A": []}}, "at least one state"),
        ({"sets": {"": [1]}}, "printable"), ({"bins": "linear"}, '"log"'), ({"bins": 1}, "bins must be"),
        ({"bins": [1, 2]}, "first 0"), ({"bins": [0, 2, 2]}, "increasing"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=pattern):
            Observables(**bad)
    with pytest.raises(InputError, match="unknown state 6"):
        sampler.generate(10, observables=Observables(sets={"A": [6]}))
    with pytest.raises(InputError, match="store_tokens=False needs observables"):
        sampler.generate(10, store_tokens=False)
    many = StateMap(np.arange(60_000))
    with pytest.raises(InputError, match="lagtimes must be empty for more than 8192 states"):
        _native.observables_layout(Observables([1]).spec(many))
    spec = OBSERVABLES.spec(sampler.files.state_map)
    with pytest.raises(InputError, match="below n_states = 11, got 11"):
        _native.NativeObservables(spec, 1).add(np.full((1, 3), 11, np.uint8))
    writer = _native.NativeObservables(spec, 2)
    for index, value in ((0, -1), (0, 2**62), (1, 3), (9, -5)):
        counters = writer.counters()
        counters[index] = value
        with pytest.raises(InputError, match="makes no sense"):
            _native.NativeObservables(spec, 2, writer.totals(), counters, writer.recent())
    with pytest.raises(InputError, match="does not fit"):
        _native.NativeObservables(spec, 3, writer.totals(), writer.counters(), writer.recent())


def test_logarithmic_bins_are_exact_to_ten():
    edges = log_bin_edges()
    assert edges[:12] == (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13) and edges[-1] == 10**12
    assert all(a < b for a, b in pairwise(edges))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_of_counts_only_is_bounded():
    """A thousand trajectories, counts only: memory does not grow with steps, and is far from their tokens' size."""
    code = textwrap.dedent("""
        import re
        from pathlib import Path
        from rollout_models import make_files
        from nanomd.rollout.observables import Observables
        from nanomd.rollout.sampler import Sampler
        sampler = Sampler(make_files(n_layer=1))
        # Not getrusage: its peak begins with that of the process that started this one.
        peak = lambda: int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
        def run(n):
            return sampler.generate(n, 1000, observables=Observables([1, 10, 100], {"A": [5], "B": [8]}),
                                    store_tokens=False, n_threads=1, seed=1)
        run(200); first = peak(); result = run(12000); print(peak() - first, peak(), result.observables.n_frames)
    """)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    growth, total, frames = (float(x) for x in done.stdout.split())
    assert frames == 12e6
    assert growth < 6 and total < 200, done.stdout


def test_transitions_among_too_many_states_are_refused() -> None:
    states = StateMap(np.arange(9000))
    with pytest.raises(InputError, match="lagtimes must be empty for more than 8192 states"):
        Observables(lagtimes=[1]).spec(states)
    assert Observables(lagtimes=[]).count([np.array([0, 8999, 8999])], states).visits[8999] == 2
