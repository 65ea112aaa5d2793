"""Groups of microstates: cut along the slowest processes, of bounded size, the same for the same counts."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import block_diag, csr_array

from nanomd.base.errors import InputError
from nanomd.data import groups as grouping
from nanomd.data.groups import kinetic_groups


def wells(
    n_wells: int, size: int, passages: int, stays: int = 30, rng: np.random.Generator | None = None
) -> NDArray[np.int64]:
    """Count transitions among wells in a row: any state of a well to any other, `passages` to the next well."""
    rng = np.random.default_rng(0) if rng is None else rng
    counts = np.kron(np.eye(n_wells, dtype=np.int64), rng.integers(stays // 2, stays, (size, size)))
    for well in range(n_wells - 1):
        counts[(well + 1) * size - 1, (well + 1) * size] = counts[(well + 1) * size, (well + 1) * size - 1] = passages
    return counts


def test_wells_are_groups() -> None:
    order = np.random.default_rng(1).permutation(60)
    counts = csr_array(wells(3, 20, passages=2)[order][:, order])
    found = kinetic_groups(counts, 3)
    true = order // 20
    assert all(len(np.unique(found[true == well])) == 1 for well in range(3))
    # Numbered along the slowest process, from either end.
    in_order = [int(found[true == well][0]) for well in range(3)]
    assert in_order in ([0, 1, 2], [2, 1, 0])


@pytest.mark.parametrize("dense", [0, 600])
def test_no_group_crosses_a_barrier(monkeypatch: pytest.MonkeyPatch, dense: int) -> None:
    monkeypatch.setattr(grouping, "_DENSE_STATES", dense)
    found = kinetic_groups(csr_array(wells(4, 100, passages=3)), seed=3)
    assert np.array_equal(np.unique(found), np.arange(20))  # sqrt(400), none empty
    assert np.bincount(found).max() <= 80  # 4 sqrt(400)
    for group in range(20):
        assert len(np.unique(np.flatnonzero(found == group) // 100)) == 1


def test_equal_counts_and_seed_give_equal_groups() -> None:
    counts = csr_array(wells(4, 200, passages=3))  # above the dense solve
    np.testing.assert_array_equal(kinetic_groups(counts, seed=1), kinetic_groups(counts, seed=1))


@pytest.mark.parametrize("n_groups", [1, 2, 3, 7, 40, 119, 120])
def test_as_many_groups_as_asked_for_of_bounded_size(n_groups: int) -> None:
    connected = wells(2, 25, passages=1)
    pair = np.array([[5, 1], [1, 5]])
    counts = csr_array(block_diag([connected, pair, pair, np.zeros((66, 66))]))
    found = kinetic_groups(counts, n_groups)
    assert np.array_equal(np.unique(found), np.arange(n_groups))
    assert np.bincount(found).max() <= max(np.ceil(4 * 120**0.5), np.ceil(240 / n_groups))
    if n_groups > 1:  # what exchanges nothing with the rest is by itself
        assert not np.intersect1d(found[:50], found[50:]).size


def test_states_that_nothing_tells_apart_are_shared_out_evenly() -> None:
    sizes = np.bincount(kinetic_groups(csr_array(np.full((64, 64), 100)), 8))
    assert len(sizes) == 8
    # One transition among equals: all functions but the constant are degenerate, and sizes still bounded.
    assert sizes.max() <= 32
    alone = np.bincount(kinetic_groups(csr_array((64, 64)), 8))  # no transition at all
    assert len(alone) == 8 and alone.max() <= 9


def test_hardly_seen_dead_ends_are_not_the_slowest_processes() -> None:
    """Fifteen states, each entered once and stayed in for twenty frames, hang from one well of two."""
    n = 60
    counts = np.zeros((n + 15, n + 15), np.int64)
    counts[:n, :n] = np.kron(np.array([[225, 10], [10, 225]]), np.ones((30, 30), np.int64))  # a timescale of 11 frames
    for end in range(15):
        counts[end, n + end] = 1
        counts[n + end, n + end] = 20
    found = kinetic_groups(csr_array(counts), 3)
    assert not np.intersect1d(found[:30], found[30:60]).size


def test_a_state_with_one_neighbour_joins_it() -> None:
    counts = np.zeros((61, 61), np.int64)
    counts[:60, :60] = wells(3, 20, passages=2)
    counts[60, 45] = 1
    found = kinetic_groups(csr_array(counts), 3)
    assert found[60] == found[45]


def test_what_is_no_counts_is_refused() -> None:
    with pytest.raises(InputError, match="must be square"):
        kinetic_groups(csr_array((3, 4)))
    with pytest.raises(InputError, match="finite and at least 0"):
        kinetic_groups(csr_array(np.array([[1.0, -1.0], [0.0, 2.0]])))
    with pytest.raises(InputError, match=r"n_groups must be in \[1, 3\]"):
        kinetic_groups(csr_array(np.ones((3, 3))), 4)
