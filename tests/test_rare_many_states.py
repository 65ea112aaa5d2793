"""Progress of models of thousands of states: sparse, without a table of all pairs."""

from __future__ import annotations

import tracemalloc
from itertools import product

import numpy as np
import pytest
from rare_chain import make_model
from rollout_models import make_files

from nanomd import Sampler
from nanomd._native import NativeEngine
from nanomd.base.extras import MissingExtraError
from nanomd.base.progress import reporting
from nanomd.rare import committor as rare_committor
from nanomd.rare.committor import committor, mean_transitions, model_progress
from nanomd.rare.many_states import likely_transitions, sparse_committor
from nanomd.rare.propagator import Propagator, Task

sparse = pytest.importorskip("scipy.sparse")


def propagator(files, source, target):
    engine = Sampler(files, "cpu").engine
    assert isinstance(engine, NativeEngine)
    sets = (np.isin(np.arange(files.config.n_states), some) for some in (source, target))
    with reporting(False, 0, "test") as bar:
        return Propagator(Task(files, engine, *sets, "ring", 0, 1, 1.0, 1, 2, bar))


def wells(n, n_leaks=0, seed=0):
    """Two wells of 10 kT on a grid of n x n states, with steps to the 24 next ones, and leaks of 1e-8 to any."""
    x = np.linspace(-1.4, 1.4, n)
    grid = np.stack(np.meshgrid(x, x, indexing="ij"), axis=-1).reshape(-1, 2)
    energy = 10 * ((grid[:, 0] ** 2 - 1) ** 2 + grid[:, 1] ** 2 / 2)
    place = np.stack(np.divmod(np.arange(n * n), n), axis=1)
    pairs = []
    for step in product(range(-2, 3), repeat=2):
        after = place + step
        inside = ((after >= 0) & (after < n)).all(axis=1) & (np.array(step) != 0).any()
        pairs.append(np.stack((np.flatnonzero(inside), after[inside] @ [n, 1])))
    i, j = np.concatenate(pairs, axis=1)
    rng = np.random.default_rng(seed)
    many = np.repeat(np.arange(n * n), n_leaks)
    p = np.concatenate((np.minimum(1, np.exp(energy[i] - energy[j])) / 30, np.full(len(many), 1e-8)))
    index = (np.concatenate((i, many)), np.concatenate((j, rng.integers(0, n * n, len(many)))))
    matrix = sparse.csr_array((p, index), shape=(n * n, n * n))
    matrix = matrix + sparse.diags_array(1 - matrix.sum(axis=1))
    near = np.abs(grid[:, 1]) < 0.15
    return matrix.tocsr(), near & (grid[:, 0] < -0.9), near & (grid[:, 0] > 0.9)


def test_likely_transitions_of_few_states_are_all_of_them():
    files = make_model()
    dense = mean_transitions(propagator(files, [0], [11]))
    contexts = rare_committor._contexts(propagator(files, [0], [11]))
    likely = likely_transitions(contexts, 12, 1.0)
    np.testing.assert_allclose(likely.toarray(), dense, rtol=1e-10, atol=1e-300)
    source, target = (np.arange(12) == k for k in (0, 11))
    exact = committor(dense, source, target)
    assert exact[1] < 1e-6
    np.testing.assert_allclose(sparse_committor(likely, source, target), exact, rtol=1e-6)


def test_progress_is_the_same_by_both_ways(monkeypatch):
    """The same model once above and once below the number of states from which the matrix is sparse."""
    files = make_model()
    dense = propagator(files, [0], [11])
    expected = model_progress(dense)
    monkeypatch.setattr(rare_committor, "DENSE_STATES", 11)
    some = propagator(files, [0], [11])
    np.testing.assert_allclose(model_progress(some), expected, rtol=1e-6)
    assert some.steps == dense.steps


def test_only_the_most_probable_steps_are_kept():
    rng = np.random.default_rng(3)
    log_p = np.log(rng.dirichlet(np.full(300, 0.5), 300)).astype(np.float32)
    tokens = np.arange(300, dtype=np.uint16)
    found = likely_transitions([(tokens[:20], log_p[:20]), (tokens[20:], log_p[20:])], 300, 1.0).toarray()
    rank = (-log_p).argsort(axis=1).argsort(axis=1)
    assert ((found > 0) == (rank < 64)).all()
    np.testing.assert_allclose(found.sum(axis=1), 1)
    kept = np.where(rank < 64, np.exp(log_p.astype(np.float64)), 0)
    np.testing.assert_allclose(found, kept / kept.sum(axis=1, keepdims=True), rtol=1e-12)


@pytest.mark.parametrize("n_leaks", [0, 20])
def test_the_sparse_committor_is_the_dense_one(n_leaks):
    matrix, source, target = wells(40, n_leaks)
    exact = committor(matrix.toarray(), source, target)
    assert exact[~(source | target)].min() < 1e-4
    np.testing.assert_allclose(sparse_committor(matrix, source, target), exact, rtol=1e-5)


def test_twenty_thousand_states_meet_a_direct_solution():
    from scipy.sparse import linalg

    matrix, source, target = wells(142)
    assert len(source) > 20_000
    free = np.flatnonzero(~(source | target))
    inner = sparse.eye_array(len(free)) - matrix[free][:, free]
    exact = linalg.splu(inner.tocsc()).solve(np.asarray(matrix[free][:, np.flatnonzero(target)].sum(axis=1)).ravel())
    np.testing.assert_allclose(sparse_committor(matrix, source, target)[free], exact, rtol=1e-5)


def test_sets_that_nothing_leaves_and_walks_against_the_wind():
    """A pair of states that only know each other, and a walk on 20,000 states of which each is 1 % less probable."""
    n = 20_000
    up, down = np.full(n - 1, 0.4 * np.exp(-0.01)), np.full(n - 1, 0.4)
    up[0] = down[0] = 0  # state 0 is apart, with state 1 ...
    up[1] = down[1] = 0
    up[0] = down[0] = 0.4  # ... and both from all others
    walk = sparse.diags_array([down, up], offsets=[-1, 1]).tocsr()
    walk = (walk + sparse.diags_array(1 - walk.sum(axis=1))).tocsr()
    source, target = np.arange(n) == 2, np.arange(n) == 1002
    found = sparse_committor(walk, source, target)
    steps = np.arange(1001)
    np.testing.assert_allclose(found[2:1003], np.expm1(0.01 * steps) / np.expm1(10), rtol=1e-4)
    assert (found[:2] < 1e-9).all() and found[1003:] == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
def test_a_rare_event_of_twenty_thousand_states(monkeypatch):
    """From the model's own states to a rate, without ever holding a table of all pairs (3.2 GB)."""
    monkeypatch.setattr(rare_committor, "_PROBABILITIES", 1 << 28)  # one context of every state
    files = make_files(n_states=20_000, d_model=8, n_layer=1, n_head=1, context_length=2, mlp_ratio=1)
    files.tensors["head.weight"] *= np.float32(40 / np.abs(files.tensors["head.weight"]).mean() / 8)
    labels = files.state_map.symbols
    tracemalloc.start()
    result = Sampler(files, "cpu").rare_event(
        labels[:2000],
        labels[-2000:],
        n_iterations=12,
        walkers_per_bin=4,
        n_repeats=2,
        n_bins=6,
        n_threads=1,
        record=True,
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 30
    assert result.rate.value > 0 and len(result.paths()) == result.arrivals
    free = ~np.isin(labels, [*result.source, *result.target])
    assert np.isfinite(result.progress).all() and len(np.unique(result.progress[free])) > 1000


def test_scipy_is_asked_for_where_it_is_missing(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(MissingExtraError, match="progress of 12 states needs scipy"):
        likely_transitions([], 12, 1.0)
