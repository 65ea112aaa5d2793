"""Counting in C++ equals counting by hand, for every block, lag, stride and type."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanomd import _native
from nanomd._native import Blocks
from nanomd.base.errors import InputError

N = 4
trajectories = st.lists(st.lists(st.integers(-1, N - 1), min_size=1, max_size=40), min_size=1, max_size=4)


def cut(dtrajs, counts):
    counts = [1 + c % 3 for c in counts[: len(dtrajs)]]
    spans = np.array([[sum(counts[:i]), c] for i, c in enumerate(counts)], np.int64)
    return Blocks(spans, sum(counts))


def block(blocks, i, t, length):
    first, count = blocks.spans[i]
    return first + t * count // length


several = st.lists(st.integers(0, 5), min_size=4, max_size=4)


@given(trajectories, st.integers(1, 12), several, st.sampled_from([np.int32, np.int64, np.int16]))
@settings(max_examples=60, deadline=None)
def test_transitions(dtrajs, lag, counts, dtype):
    blocks = cut(dtrajs, counts)
    sliding, strided = (np.zeros((blocks.n_blocks, N, N), np.int64) for _ in range(2))
    for i, x in enumerate(dtrajs):
        for t in range(len(x) - lag):
            if x[t] >= 0 and x[t + lag] >= 0:
                sliding[block(blocks, i, t, len(x)), x[t], x[t + lag]] += 1
                strided[block(blocks, i, t, len(x)), x[t], x[t + lag]] += t % lag == 0
    arrays = [np.array(x, dtype) for x in dtrajs]
    np.testing.assert_array_equal(_native.count_transitions(arrays, N, lag, blocks=blocks), sliding)
    np.testing.assert_array_equal(_native.count_transitions(arrays, N, lag, sliding=False, blocks=blocks), strided)
    matrix = np.random.default_rng(0).normal(size=(N, 3))
    product, rows = _native.project_transitions(arrays, N, lag, matrix, blocks=blocks)
    np.testing.assert_allclose(product, sliding @ matrix, atol=1e-12)
    np.testing.assert_array_equal(rows, sliding.sum(axis=2))
    visits = _native.count_visits(arrays, N, blocks)
    np.testing.assert_array_equal(visits.sum(axis=0), [sum(x.count(k) for x in dtrajs) for k in range(N)])


def passages_by_hand(x, stride):
    """Yield (a, b, frames on the way, completed) of every passage, by the definition."""
    for offset in range(min(stride, len(x))):
        frames = list(range(offset, len(x), stride))
        for a in range(N):
            for b in range(N):
                start, seen = None, False
                for t in frames if a != b else ():
                    if x[t] == a and start is None:
                        start = t if seen else offset
                    seen = seen or x[t] in (a, b)
                    if x[t] == b and start is not None:
                        yield a, b, range(start, t), t
                        start = None
                if start is not None:
                    yield a, b, range(start, frames[-1]), None


@given(trajectories, st.integers(1, 5), several)
@settings(max_examples=60, deadline=None)
def test_passages(dtrajs, stride, counts):
    blocks = cut(dtrajs, counts)
    exposure, passages = (np.zeros((blocks.n_blocks, N, N), np.int64) for _ in range(2))
    for i, x in enumerate(dtrajs):
        for a, b, way, end in passages_by_hand(x, stride):
            for t in way:
                exposure[block(blocks, i, t, len(x)), a, b] += 1
            if end is not None:
                passages[block(blocks, i, end, len(x)), a, b] += 1
    got = _native.count_passages([np.array(x) for x in dtrajs], N, stride, blocks=blocks)
    np.testing.assert_array_equal(got[0], exposure)
    np.testing.assert_array_equal(got[1], passages)


@given(trajectories, st.integers(1, 5), several)
@settings(max_examples=60, deadline=None)
def test_stays(dtrajs, stride, counts):
    blocks, n_bins = cut(dtrajs, counts), 7
    exposure, exits = (np.zeros((blocks.n_blocks, N), np.int64) for _ in range(2))
    completed, stopped = (np.zeros((N, n_bins), np.int64) for _ in range(2))
    for i, x in enumerate(dtrajs):
        for offset in range(min(stride, len(x))):
            frames = list(range(offset, len(x), stride))
            label, stays = -1, []  # [state, first, last, entered]
            for t in frames:
                label, before = (x[t] if x[t] >= 0 else label), label
                if label != before:
                    stays.append([label, t, frames[-1], before >= 0])
                    if len(stays) > 1:
                        stays[-2][2] = t
            for number, (state, first, last, entered) in enumerate(stays):
                for t in range(first, last):
                    exposure[block(blocks, i, t, len(x)), state] += 1
                ended = number + 1 < len(stays)
                exits[block(blocks, i, last, len(x)), state] += ended
                table = completed if ended else stopped
                table[state, min((last - first) // stride, n_bins - 1)] += entered
    got = _native.count_stays([np.array(x) for x in dtrajs], N, stride, n_bins=n_bins, blocks=blocks)
    for mine, expected in zip(got, (exposure, exits, completed, stopped), strict=True):
        np.testing.assert_array_equal(mine, expected)


def test_types_agree_and_mix():
    x = np.random.default_rng(1).integers(0, N, 500)
    expected = _native.count_transitions([x], N, 3)
    for dtype in (np.uint8, np.uint16, np.int8, np.int32, np.uint64):
        np.testing.assert_array_equal(_native.count_transitions([x.astype(dtype)], N, 3), expected)
    mixed = _native.count_transitions([x.astype(np.uint8), x], N, 3)
    np.testing.assert_array_equal(mixed, 2 * expected)


def test_many_trajectories_may_share_blocks():
    x = [np.array([0, 1, 2]), np.array([1, 1]), np.array([2, 0])]
    blocks = Blocks(np.array([[0, 1], [1, 1], [0, 1]]), 2)
    counts = _native.count_transitions(x, N, 1, blocks=blocks)
    assert counts[0].sum() == 3
    assert counts[1, 1, 1] == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: _native.count_transitions([np.array([0, 5])], N, 1),
            "below n_states = 4, got 5 in trajectory 0, frame 1",
        ),
        (lambda: _native.count_transitions([np.array([0, 1])], N, 0), "lagtime must be at least 1, got 0"),
        (lambda: _native.count_transitions([np.array([0.5, 1])], N, 1), "must be a 1-D array of integers"),
        (lambda: _native.count_visits([np.zeros((2, 2), int)], N), "must be a 1-D array"),
        (lambda: _native.count_visits([np.array([0])], 0), "n_states must be at least 1"),
        (lambda: _native.count_passages([np.array([0])], N, 0), "stride must be at least 1"),
        (lambda: _native.count_stays([np.array([0])], N, n_bins=1), "n_bins must be at least 2"),
        (lambda: _native.count_visits([np.array([0])], N, Blocks(np.array([[1, 1]]), 1)), "blocks out of range"),
        (lambda: _native.project_transitions([np.array([0])], N, 1, np.ones((3, 1))), "n_states = 4 rows"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
