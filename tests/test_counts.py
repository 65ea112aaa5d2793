"""Counting transitions, the largest connected set, and stationary vectors: against definitions and known chains."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array

from nanomd.base.errors import InputError
from nanomd.data import counts as counting
from nanomd.data.counts import (
    largest_connected_set,
    sparse_transition_counts,
    stationary_vector,
    transition_counts,
)


def test_dense_and_sparse_counts_are_those_of_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    dtrajs = [rng.integers(-1, 6, size=n) for n in (1, 2, 50, 700)]
    for lag in (1, 3):
        expected = np.zeros((6, 6), np.int64)
        for x in dtrajs:
            for a, b in zip(x[:-lag], x[lag:], strict=True):
                if a >= 0 and b >= 0:
                    expected[a, b] += 1
        np.testing.assert_array_equal(transition_counts(dtrajs, 6, lag), expected)
    expected = transition_counts(dtrajs, 6)
    np.testing.assert_array_equal(sparse_transition_counts(dtrajs, 6).toarray(), expected)
    monkeypatch.setattr(counting, "_DENSE_SOLVE", 5)
    np.testing.assert_array_equal(sparse_transition_counts(dtrajs, 6).toarray(), expected)
    with pytest.raises(InputError, match="below n_states = 5"):
        sparse_transition_counts(dtrajs, 5)
    monkeypatch.setattr(counting, "_DENSE_SOLVE", 1)
    with pytest.raises(InputError, match="below n_states = 5"):
        sparse_transition_counts(dtrajs, 5)


def test_sparse_counts_hold_many_states() -> None:
    counts = sparse_transition_counts([np.array([65535, 0, 65535, 0], np.uint16)], 65536)
    assert counts.nnz == 2
    assert counts[65535, 0] == 2


def test_a_trap_is_no_large_connected_set() -> None:
    # 300 frames in states 0 to 2, then many more in state 3, which is never left.
    rng = np.random.default_rng(0)
    x = np.append(rng.integers(0, 3, size=300), np.full(5000, 3))
    assert largest_connected_set(transition_counts([x], 4)).tolist() == [0, 1, 2]
    assert largest_connected_set(sparse_transition_counts([x], 4)).tolist() == [0, 1, 2]


def test_without_transitions_between_states_the_state_seen_most_is_left() -> None:
    assert largest_connected_set(np.diag([1, 7, 2])).tolist() == [1]


def test_stationary_vector_of_a_birth_death_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Detailed balance gives it: pi ~ prod(up / down), here over nine orders of magnitude."""
    up, down = np.array([0.3, 0.01, 0.2, 1e-5]), np.array([0.1, 0.3, 1e-3, 0.4])
    T = np.diag(up, 1) + np.diag(down, -1)
    T += np.diag(1 - T.sum(axis=1))
    expected = np.append(1.0, np.cumprod(up / down))
    expected /= expected.sum()
    np.testing.assert_allclose(stationary_vector(T), expected, rtol=1e-9)
    from scipy.sparse import csr_array

    np.testing.assert_allclose(stationary_vector(csr_array(T)), expected, rtol=1e-9)
    monkeypatch.setattr(counting, "_DENSE_SOLVE", 3)
    np.testing.assert_allclose(stationary_vector(csr_array(T)), expected, rtol=1e-9)
    assert stationary_vector(np.ones((1, 1))).tolist() == [1.0]


def test_stationary_vector_of_many_states_needs_no_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five hundred states at random, two parts of them hardly connected, against detailed balance."""
    rng = np.random.default_rng(2)
    weight = rng.random((500, 500)) * (rng.random((500, 500)) < 0.03) * rng.choice([1e-3, 1.0], (500, 1))
    weight = (
        weight + weight.T + np.diag(rng.random(500)) + np.diag(np.full(499, 1e-2), 1) + np.diag(np.full(499, 1e-2), -1)
    )
    weight[:250, 250:] *= 1e-3
    weight[250:, :250] *= 1e-3
    rows = weight.sum(axis=1)
    monkeypatch.setattr(counting, "_DENSE_SOLVE", 100)
    monkeypatch.setattr(counting, "_DIRECT_SOLVE", 100)
    monkeypatch.setattr(np.linalg, "solve", None)
    found = stationary_vector(csr_array(weight / rows[:, None]))
    np.testing.assert_allclose(found, rows / rows.sum(), rtol=1e-6)
