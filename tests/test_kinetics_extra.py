"""Leakage, transition paths, processes by eigenvector, and the error of a table of passage times."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_chain import default_chain

from nanomd import kinetics
from nanomd.base.errors import InputError
from nanomd.kinetics import macrostates, paths, processes, validate
from nanomd.kinetics.interval import Interval

CHAIN = default_chain()
DTRAJS = CHAIN.sample(20_000, 10, seed=21)


# --- Leakage ---------------------------------------------------------------------------------------------------------


def test_leakage_counts_what_training_never_shows():
    training = [np.array([0, 1, 2, 1, 0, 0, 1]), np.array([2, 2])]
    made = [np.array([0, 2, 2, 0, 1, -1, 0, 2]), np.array([1, 1, 0])]
    # Steps: 02* 22 20* 01 (1- and -0 are none) 02*; 11* 10.
    found = kinetics.leakage(made, training)
    assert (found.n_unseen, found.n_steps) == (4, 7)
    assert float(found.probability.value) == 4 / 7
    expected = np.zeros((3, 3), int)
    expected[0, 2], expected[2, 0], expected[1, 1] = 2, 1, 1
    assert found.counts.tolist() == expected.tolist()
    np.testing.assert_allclose(found.by_state, [2 / 3, 1 / 2, 1 / 2])
    assert found.worst() == [(0, 2, 2), (1, 1, 1), (2, 0, 1)]
    assert found.worst(1) == [(0, 2, 2)]
    one_way = kinetics.leakage([np.array([1, 0, 1, 0])], [np.array([0, 1, 1])])
    assert one_way.n_unseen == 2
    assert kinetics.leakage([np.array([1, 0, 1, 0])], [np.array([0, 1, 1])], both_ways=True).n_unseen == 0
    assert np.isnan(kinetics.leakage(made, training, n_states=5).by_state[[3, 4]]).all()


def test_leakage_has_an_interval():
    """Add a leak of known rate: the interval holds it, and MD of the same chain has none."""
    rng = np.random.default_rng(3)
    leaky = [np.where(rng.random(len(x)) < 0.002, (x + 2) % 4, x) for x in DTRAJS]
    found = kinetics.leakage(leaky, DTRAJS)
    low, value, high = (float(getattr(found.probability, name)) for name in ("low", "value", "high"))
    assert 0.001 < low < value < high < 0.006
    assert value == found.n_unseen / found.n_steps
    assert found.by_state[[0, 1, 2, 3]].max() < 0.02
    clean = kinetics.leakage(CHAIN.sample(20_000, 3, seed=9), DTRAJS)
    assert clean.n_unseen == 0 and float(clean.probability.value) == 0 and np.isnan(clean.probability.high)
    two = kinetics.leakage(leaky, DTRAJS, lagtime=2)
    assert two.n_steps == 10 * 19_998


# --- Transition paths ------------------------------------------------------------------------------------------------


def test_paths_by_hand():
    x = np.array([0, 0, -1, 0, -1, -1, 1, 1, -1, 2, 1, -1, 0, 2])
    pair, duration, block = paths.paths(x, 3, 5, 2)
    found = sorted(zip(pair.tolist(), duration.tolist(), block.tolist(), strict=True))
    # 0->1: frames 3-6. 1->2: 7-9. 0->2: 3-9 (through 1). 2->1: 9-10. 1->0: 10-12. 2->0: 9-12. 0->2: 12-13. 1->2: 10-13.
    expected = [(1, 3, 5), (5, 2, 6), (2, 6, 6), (7, 1, 6), (3, 2, 6), (6, 3, 6), (2, 1, 6), (5, 3, 6)]
    assert found == sorted(expected)
    assert all(len(part) == 0 for part in paths.paths(np.array([-1, -1]), 2, 0, 1))


def _walk(x, a, b):
    """Path durations by the definition, frame by frame."""
    out, left = [], None
    for t, label in enumerate(x):
        if label == a:
            left = t
        elif label == b:
            if left is not None:
                out.append(t - left)
            left = None
    return out


@given(st.lists(st.integers(-1, 3), min_size=2, max_size=60), st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_paths_follow_the_definition(x, n_blocks):
    pair, duration, block = paths.paths(np.array(x), 4, 0, n_blocks)
    for a in range(4):
        for b in range(4):
            if a != b:
                assert duration[pair == 4 * a + b].tolist() == _walk(x, a, b)
    assert ((block >= 0) & (block < n_blocks)).all()
    assert not np.isin(pair, [0, 5, 10, 15]).any()


def test_transition_times_of_the_known_chain():
    core = np.array([0, -1, -1, 1])
    n = CHAIN.n_states
    pairs = np.tile(core, n)  # the pair (i, j) is in state j
    at = np.array([0, 1, 2, 3, 5, 10, 20, 40])
    mean, longer = paths.markov_path_times(CHAIN.pair_matrix, CHAIN.pair_stationary.ravel(), pairs, 2, at)
    found = kinetics.transition_times(DTRAJS, core, times=at, timescale=140.0)
    assert found.events[0, 1] == pytest.approx(found.events[1, 0], abs=10)
    assert found.events[0, 1] > 200
    for a, b in ((0, 1), (1, 0)):
        assert float(found.mean.low[a, b]) < mean[a, b] < float(found.mean.high[a, b])
        np.testing.assert_allclose(found.longer[a, b], longer[a, b], atol=0.06)
        middle = found.quantiles.value[:, a, b]
        assert (np.diff(middle) > 0).all()
        # Share of paths longer than a quantile, and than the frame before it, by the exact law.
        steps = np.unique(np.concatenate([middle - 1, middle])).astype(int)
        law = paths.markov_path_times(CHAIN.pair_matrix, CHAIN.pair_stationary.ravel(), pairs, 2, steps)[1][a, b]
        exact = dict(zip(steps.tolist(), law.tolist(), strict=True))
        for share, q in zip(paths.QUANTILES, middle.astype(int).tolist(), strict=True):
            assert exact[q] - 0.06 < 1 - share < exact[q - 1] + 0.06
    assert mean[0, 1] == pytest.approx(mean[1, 0])  # the process is reversible
    lag1, _ = paths.markov_path_times(CHAIN.markov, CHAIN.stationary, core, 2, at)
    assert lag1[0, 1] < 0.7 * mean[0, 1], "the Markov model at lag 1 crosses too fast"


def test_path_law_of_a_two_step_chain():
    """From 0 to 2 by way of 1, which is kept with probability 1/2: durations 2, 3, ... with weights 1/2, 1/4, ..."""
    matrix = np.array([[0.8, 0.2, 0], [0.25, 0.5, 0.25], [0, 0.2, 0.8]])
    pi = np.array([5, 4, 5]) / 14
    mean, longer = paths.markov_path_times(matrix, pi, np.array([0, -1, 1]), 2, np.array([0, 1, 2, 3, 4]))
    assert mean[0, 1] == pytest.approx(3)
    np.testing.assert_allclose(longer[0, 1], [1, 1, 0.5, 0.25, 0.125])
    mean, longer = paths.markov_path_times(matrix, pi, np.arange(3), 3, np.array([0, 1]))
    assert mean[0, 1] == 1 and mean[0, 2] == pytest.approx(3)
    np.testing.assert_allclose(longer[0, 1], [1, 0])


def test_transition_times_with_a_stride_and_without_paths():
    core = np.array([0, -1, -1, 1])
    found = kinetics.transition_times(DTRAJS, core, stride=5)
    assert (found.times % 5 == 0).all()
    assert float(found.mean.value[0, 1]) > float(kinetics.transition_times(DTRAJS, core).mean.value[0, 1])
    none = kinetics.transition_times([np.zeros(50, int)], np.array([0, 1]))
    assert none.events.sum() == 0 and np.isnan(none.mean.value).all() and np.isnan(none.longer).all()


# --- Processes -------------------------------------------------------------------------------------------------------


def trapped(dtrajs):
    """Each label on its own, and one visit of 4000 frames to a trap, state 4, in the first trajectory."""
    first = np.concatenate([dtrajs[0][:8000], np.full(4000, 4), dtrajs[0][8000:]]).astype(np.int64)
    return [first, *(x.astype(np.int64) for x in dtrajs[1:])]


def test_processes_are_compared_by_eigenvector_not_by_rank():
    found = kinetics.match_timescales(DTRAJS, {"trap": trapped(DTRAJS), "twin": CHAIN.sample(20_000, 10, seed=5)}, 20)
    exact = CHAIN.implied_timescales(20)
    assert found["trap"].rank.tolist() == [1, 2, 3], "the trap is the slowest of its source, and like no process"
    np.testing.assert_allclose(found["trap"].timescales, found["reference"].timescales, rtol=0.1)
    np.testing.assert_allclose(found["twin"].timescales, exact, rtol=0.15)
    assert (found["twin"].overlap > 0.95).all()
    np.testing.assert_allclose(found["reference"].overlap, 1)
    assert (found["reference"].events > 500).all()


def test_a_process_that_rests_on_one_visit_is_named():
    data = trapped(DTRAJS)
    found = kinetics.match_timescales(data, {"MD without": DTRAJS}, 20)
    assert found["reference"].timescales[0] > 1000
    assert found["reference"].events[0] == 2 < processes.HANDFUL, "in once, and out once"
    assert found["reference"].events[1] > 500
    assert found["MD without"].events[0] == 0
    assert found["MD without"].rank[1] == 0, "its slowest process is the reference's second"
    assert found["MD without"].timescales[1] == pytest.approx(CHAIN.implied_timescales(20)[0], rel=0.15)


def test_ends_of_a_process():
    pi = np.array([0.3, 0.2, 0.01, 0.2, 0.29])
    slow = np.array([1.0, 0.9, 0.1, -0.9, -1.2])
    trap = np.array([-0.1, -0.1, 9.9, -0.1, -0.1])
    ends = processes.process_ends(np.stack([slow, trap], axis=1), pi)
    assert ends.tolist() == [[1, 1, -1, 0, 0], [0, 0, 1, 0, 0]]
    assert processes.describe_process(ends[1], pi) == "state 2 (1 %) against the rest"
    assert processes.describe_process(ends[0], pi, list("abcde")) == "states e, d (49 %) against the rest"


# --- One number for all passage times --------------------------------------------------------------------------------


def test_mfpt_error_by_hand():
    reference = np.array([[np.nan, 10.0, 20.0], [40.0, np.nan, np.nan], [5.0, 5.0, np.nan]])
    other = np.array([[1.0, 20.0, 20.0], [10.0, 7.0, 3.0], [np.nan, 5.0, 0.0]])
    events = np.full((3, 3), 5)
    events[2, 0] = 4  # left out: the reference itself hardly knows
    error = kinetics.mfpt_error(reference, other, events=events)
    assert error.factor == pytest.approx((2 * 1 * 4 * 1) ** (1 / 4))
    assert error.shift == pytest.approx((2 * 1 / 4 * 1) ** (1 / 4))
    assert (error.worst_pair, error.n_pairs, error.n_missing) == ((1, 0), 4, 0)
    assert error.worst_factor == pytest.approx(4)
    assert np.isnan(error.low) and np.isnan(error.high)
    named = kinetics.mfpt_error({("A", "B"): 10.0, ("B", "A"): 3.0, "x": 1.0}, {("A", "B"): 5.0, ("B", "A"): 9.0})
    assert (named.worst_pair, named.n_pairs, named.n_missing) == ("x", 2, 1)
    nothing = kinetics.mfpt_error(np.full((3, 3), np.nan), other)
    assert nothing.worst_pair is None and nothing.n_pairs == 0 and np.isnan(nothing.factor)


def test_a_missing_passage_is_worse_than_any():
    reference = np.array([[np.nan, 10.0, 20.0], [40.0, np.nan, np.nan], [5.0, 5.0, np.nan]])
    other = np.array([[1.0, 20.0, 20.0], [10.0, 7.0, 3.0], [np.nan, 5.0, 0.0]])
    error = kinetics.mfpt_error(reference, other)
    assert error.factor == error.low == error.high == error.worst_factor == np.inf
    assert (error.worst_pair, error.n_pairs, error.n_missing) == ((2, 0), 4, 1)
    assert error.shift == pytest.approx((2 * 1 / 4 * 1) ** (1 / 4)), "of the pairs that both have"
    stuck = kinetics.mfpt_error(reference, np.full((3, 3), np.nan))
    assert (stuck.factor, stuck.n_pairs, stuck.n_missing) == (np.inf, 0, 5) and np.isnan(stuck.shift)


def test_mfpt_error_has_an_interval():
    times = np.array([[np.nan, 100.0], [50.0, np.nan]])
    wide = Interval(times, times / 1.5, times * 1.5)
    exact = kinetics.mfpt_error(times, 2 * wide.value)
    assert exact.factor == pytest.approx(2) and np.isnan(exact.low)
    one = kinetics.mfpt_error(wide, 2 * times)
    # Two independent pairs: the mean of the logarithms spreads by ln(1.5) / sqrt(2) either way.
    assert np.log(one.high / one.factor) == pytest.approx(np.log(1.5) / np.sqrt(2), rel=0.1)
    assert one.low < one.factor / 1.2
    both = kinetics.mfpt_error(wide, Interval(2 * times, 2 * times / 1.5, 2 * times * 1.5))
    assert np.log(both.high / both.factor) == pytest.approx(np.log(1.5), rel=0.1)
    assert kinetics.mfpt_error(wide, times).low == 1.0
    rng = np.random.default_rng(0)
    together = times * np.exp(0.2 * rng.normal(size=(500, 1, 1)))  # pairs move together: they do not average out
    joint = kinetics.mfpt_error(times, 3 * times, other_replicates=3 * together)
    assert np.log(joint.high / joint.factor) == pytest.approx(1.96 * 0.2, rel=0.1)


@given(st.integers(2, 5), st.floats(0.01, 100), st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_mfpt_error_is_symmetric_and_scale_free(m, scale, seed):
    rng = np.random.default_rng(seed)
    a, b = np.exp(rng.normal(size=(2, m, m)))
    one, back = kinetics.mfpt_error(a, b), kinetics.mfpt_error(b, a)
    assert one.factor == pytest.approx(back.factor) and one.factor >= 1
    assert one.shift == pytest.approx(1 / back.shift)
    assert kinetics.mfpt_error(scale * a, scale * b).factor == pytest.approx(one.factor)
    assert one.worst_factor >= one.factor - 1e-12


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kinetics.leakage([np.arange(9)], [np.arange(9)], n_states=5), "n_states must be at least 9"),
        (lambda: kinetics.leakage([np.arange(9)], [np.arange(9)], lagtime=9), r"lagtime must be in \[1, 8\]"),
        (lambda: kinetics.leakage([], [np.arange(9)]), "dtrajs must hold at least one"),
        (lambda: kinetics.transition_times(DTRAJS, [0, -1, -1, 0]), "two cores or more"),
        (lambda: kinetics.transition_times(DTRAJS, [0, 1]), "each of 4 states"),
        (lambda: kinetics.match_timescales(DTRAJS, {"reference": DTRAJS}, 5), "must not be named"),
        (lambda: kinetics.match_timescales(DTRAJS, {"x": [np.arange(9) % 3]}, 20), r"lagtime must be in \[1, 8\]"),
        (lambda: kinetics.mfpt_error({"a": 1.0}, np.ones((1, 1))), "both be mappings"),
        (lambda: kinetics.mfpt_error(np.ones((2, 2)), np.ones((3, 3))), r"got shapes \(2, 2\) and \(3, 3\)"),
        (lambda: kinetics.mfpt_error(np.ones((2, 2)), np.ones((2, 2)), confidence=2), "confidence must be"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 0, 1], "each of 4 states"),
        ([0.0, 0.0, 1.0, 1.0], "whole number"),
        ([0, 0, 2, 2], "every number from 0"),
        ([0, 0, 0, -1], "every number from 0"),
    ],
)
def test_macrostates_of_ones_own_are_checked(labels, words):
    with pytest.raises(InputError, match=words):
        macrostates.check_macrostates(np.array(labels), 4)


def test_macrostates_of_ones_own_are_used():
    rng = np.random.default_rng(3)
    walk = np.zeros(20_000, np.int64)
    for i, u in enumerate(rng.random(len(walk) - 1), 1):
        side, inner = divmod(int(walk[i - 1]), 2)
        walk[i] = 2 * (1 - side if inner == 0 and u < 0.02 else side) + int(u > 0.5)
    wells = np.array([1, 1, 0, 0])
    result = validate([walk], lagtimes=[1, 5], lagtime=5, macrostate_of_state=wells, n_bootstrap=20)
    np.testing.assert_array_equal(result.macrostate_of_state, wells)
    assert len(result.processes) == 1  # one process between two wells
    with pytest.raises(InputError, match="n_macrostates is 3"):
        validate([walk], lagtime=5, macrostate_of_state=wells, n_macrostates=3)
