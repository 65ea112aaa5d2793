"""Many states: kinetics from sparse counts are those from dense ones, on systems small enough for both."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array

from nanomd.base.errors import InputError
from nanomd.data import counts as counting
from nanomd.data.counts import largest_connected_set, model_counts, sparse_transition_counts, transition_counts
from nanomd.kinetics import (
    Interval,
    compare,
    deeptime_adapter,
    lags,
    leakage,
    markov,
    memberships,
    reversible,
    time_scales,
    transition_times,
    validate,
)
from nanomd.kinetics import macrostates as macro
from nanomd.kinetics.results import SourceKinetics
from nanomd.kinetics.time_scales import slow_time_scales
from nanomd.training.floor import markov_loss
from nanomd.training.plan import excess_current, make_plan

N = 30


def walks(n_trajs: int, n_frames: int, seed: int) -> list[NDArray[np.int64]]:
    """Draw walks on a ring of thirty states with barriers between three arcs of it, all started in the first."""
    rng = np.random.default_rng(seed)
    hop = np.full(N, 0.25)
    hop[[9, 19, 29]] = 0.01
    matrix = np.diag(hop[:-1], 1) + np.diag(hop[:-1] * 0.9, -1)
    matrix[N - 1, 0], matrix[0, N - 1] = hop[-1], 0.9 * hop[-1]
    matrix[range(N), range(N)] = 1 - matrix.sum(axis=1)
    cumulative = matrix.cumsum(axis=1)
    out = np.empty((n_trajs, n_frames), np.int64)
    now = rng.integers(0, 10, n_trajs)
    for t in range(n_frames):
        out[:, t] = now
        now = (rng.random(n_trajs)[:, None] >= cumulative[now]).sum(axis=1)
    return list(out)


@pytest.fixture
def sparse(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Take everything above four states for many."""
    for module in (counting, compare, lags, time_scales):
        monkeypatch.setattr(module, "SPARSE_STATES", 4)
    monkeypatch.setattr(counting, "_DENSE_SOLVE", 4)
    monkeypatch.setattr(counting, "_AT_ONCE", 700)  # several batches
    return monkeypatch


# --- Counts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lag", [1, 3, 49])
def test_counts_in_batches_are_the_counts(sparse: pytest.MonkeyPatch, lag: int) -> None:
    rng = np.random.default_rng(3)
    dtrajs = [rng.integers(-1, 6, size=n).astype(kind) for n, kind in ((1, int), (50, np.int16), (3000, np.int32))]
    expected = transition_counts(dtrajs, 6, lag)
    found = model_counts(dtrajs, 6, lag)
    assert isinstance(found, csr_array)
    np.testing.assert_array_equal(found.toarray(), expected)
    with pytest.raises(InputError, match="lagtime must be at least 1, got 0"):
        sparse_transition_counts(dtrajs, 6, 0)


# --- The Markov model ------------------------------------------------------------------------------------------------


def test_reversible_model_is_that_of_largest_likelihood() -> None:
    """Against deeptime's iteration, on counts far from equilibrium, with steps seen one way only."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.4, (60, 60)) * rng.integers(1, 40, (60, 60))
    members = largest_connected_set(counts)
    counts = counts[np.ix_(members, members)]
    assert ((counts > 0) & (counts.T == 0)).sum() > 100
    expected, pi = deeptime_adapter.reversible_transition_matrix(counts)
    inner = csr_array(counts)
    found, stationary = reversible.reversible_matrix(inner, reversible.balancing_vector(inner))
    np.testing.assert_allclose(stationary, pi, rtol=1e-5)
    np.testing.assert_allclose(found.toarray(), expected, rtol=1e-5, atol=1e-12)
    flow = stationary[:, None] * found.toarray()
    np.testing.assert_allclose(flow, flow.T, rtol=1e-7, atol=1e-15)

    def likelihood(transition: NDArray[np.float64]) -> float:
        return float((counts[counts > 0] * np.log(transition[counts > 0])).sum())

    assert likelihood(found.toarray()) >= likelihood(expected) - 1e-9 * abs(likelihood(expected))


def test_sparse_model_has_the_processes_and_passages_of_the_dense_one() -> None:
    dtrajs = [*walks(4, 20000, 1), np.array([30, 31, 30, 31])]  # two states apart from the others
    counts = transition_counts(dtrajs, N + 2)
    dense, sparse = (markov.estimate_markov_model(c, 1) for c in (counts, csr_array(counts)))
    np.testing.assert_array_equal(sparse.active, dense.active)
    np.testing.assert_allclose(sparse.transition.toarray(), dense.transition, rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(sparse.timescales(4), dense.timescales(4), rtol=1e-5)
    assert sparse.timescales(N)[N - 2] == pytest.approx(dense.timescales(N)[N - 2], rel=1e-4)  # all there are
    labels = np.append(np.arange(N) // 10, [-1, -1])
    for chain in (dense, sparse):
        assert np.isnan(np.diag(markov.passage_times(chain.transition, chain.stationary, labels, 3))).all()
    np.testing.assert_allclose(
        markov.passage_times(sparse.transition, sparse.stationary, labels, 3),
        markov.passage_times(dense.transition, dense.stationary, labels, 3),
        rtol=1e-5,
    )


def test_a_dense_model_of_many_states_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = transition_counts([*walks(4, 20000, 1), np.array([30, 31, 30, 31])], N + 2)
    small = markov.estimate_markov_model(counts, 1)
    monkeypatch.setattr(markov, "_DENSE_STATES", 10)
    large = markov.estimate_markov_model(counts, 1)
    assert isinstance(large.transition, np.ndarray)
    np.testing.assert_allclose(large.transition, small.transition, rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(large.stationary, small.stationary, rtol=1e-5)


def test_memberships_are_those_of_deeptime() -> None:
    model = markov.estimate_markov_model(transition_counts(walks(4, 20000, 1), N), 1)
    expected = deeptime_adapter.pcca_memberships(model.transition, model.stationary, 3)
    found = memberships.pcca_memberships(model.eigen(2)[1])
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    order = [int(np.argmax(abs(found[:, [k]] * expected).sum(axis=0))) for k in range(3)]
    assert sorted(order) == [0, 1, 2]
    np.testing.assert_allclose(found, expected[:, order], atol=0.02)  # both end a search
    assert (np.argmax(found, axis=1) == np.argsort(order)[np.argmax(expected, axis=1)]).all()


def test_states_apart_join_those_they_exchange_with_most() -> None:
    """A chain of three states, each seen more from the one before: they join one after the other."""
    counts = np.zeros((7, 7), np.int64)
    counts[:2, :2], counts[2:4, 2:4] = 50, 50
    counts[1, 2] = counts[2, 1] = 1
    counts[3, 4], counts[4, 5], counts[0, 5], counts[6, 6] = 4, 3, 2, 1
    model = markov.estimate_markov_model(counts[:4, :4], 1)
    whole = markov.MarkovModel(np.eye(7), np.append(model.stationary, np.zeros(3)), np.arange(4), 1)
    whole.transition[:4, :4] = model.transition
    for given in (counts, csr_array(counts)):
        found = macro.macrostates(whole, given, np.array([9, 9, 9, 9, 9, 9, 1]), 2)
        assert found[4] == found[5] == found[3] != found[0]
        assert found[6] == -1


# --- Validation ------------------------------------------------------------------------------------------------------

_SETTINGS = {"lagtimes": [1, 3, 10], "lagtime": 3, "n_macrostates": 3, "n_bootstrap": 50}


def _fields(source: SourceKinetics) -> dict[str, NDArray[np.float64]]:
    out = {}
    for name in source.__dataclass_fields__:
        value = getattr(source, name)
        if isinstance(value, Interval):
            out |= {f"{name}.{part}": getattr(value, part) for part in ("value", "low", "high", "error")}
        elif isinstance(value, np.ndarray):
            out[name] = value
    return out


def test_validation_with_sparse_counts_is_the_same(sparse: pytest.MonkeyPatch) -> None:
    sparse.setattr("nanomd.kinetics.paths.FOLLOWED", 10**6)
    md, model = walks(6, 3000, 1), walks(3, 6000, 2)
    model[0][:40] = 31  # a state that the MD never visits
    found = validate(md, model, **_SETTINGS)
    sparse.undo()
    dense = validate(md, model, **_SETTINGS)
    assert list(found.sources) == ["MD", "GPT", "MSM"] == list(dense.sources)[:3]  # without "MSM (lag 1)"
    np.testing.assert_array_equal(found.macrostate_of_state, dense.macrostate_of_state)
    np.testing.assert_array_equal(found.core_of_state, dense.core_of_state)
    n_compared = 0
    for name, source in found.sources.items():
        for field, value in _fields(source).items():
            expected = _fields(dense.sources[name])[field]
            if name == "MSM" and field.split(".")[-1] in ("low", "high", "error") and not field.startswith("timesc"):
                assert np.isnan(value).all()  # no replicates of a matrix
                continue
            np.testing.assert_allclose(value, expected, rtol=2e-4, atol=1e-9, err_msg=f"{name} {field}")
            n_compared += 1
    assert n_compared > 100
    assert found.verdicts["GPT"].outcome == dense.verdicts["GPT"].outcome
    assert found.sources["GPT"].unseen_events == dense.sources["GPT"].unseen_events > 0
    assert found.sources["MD"].mfpt.value[0, 1] > 10


def test_curves_of_a_sparse_chain_end_where_it_is_no_longer_followed(sparse: pytest.MonkeyPatch) -> None:
    sparse.setattr("nanomd.kinetics.paths.FOLLOWED", 20)
    source = validate(walks(6, 3000, 1), **_SETTINGS).sources["MSM"]
    far = source.residence_times > 20 * 3
    assert far.any()
    assert np.isnan(source.residence_survival[:, far]).all()
    assert np.isfinite(source.residence_survival[:, ~far]).all()


def test_slow_functions_of_replicates_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    md = walks(6, 3000, 1)
    whole = validate(md, **_SETTINGS).sources["MD"]
    monkeypatch.setattr("nanomd.kinetics.estimates._AT_ONCE", 10)
    monkeypatch.setattr("nanomd.kinetics.estimates._STATES_AT_ONCE", 7)
    parts = validate(md, **_SETTINGS).sources["MD"]
    for name in ("low", "high"):
        np.testing.assert_allclose(getattr(parts.timescales, name), getattr(whole.timescales, name), rtol=1e-10)
        np.testing.assert_array_equal(getattr(parts.populations, name), getattr(whole.populations, name))


@pytest.mark.parametrize("both_ways", [False, True])
def test_unseen_transitions_are_the_same(sparse: pytest.MonkeyPatch, both_ways: bool) -> None:
    training, made = walks(1, 300, 1), walks(4, 2000, 2)
    found = leakage(made, training, both_ways=both_ways)
    sparse.undo()
    dense = leakage(made, training, both_ways=both_ways)
    assert found.n_unseen == dense.n_unseen > 50
    np.testing.assert_array_equal(found.counts.toarray(), dense.counts)
    np.testing.assert_allclose(found.by_state, dense.by_state)
    assert found.worst(5) == dense.worst(5)
    assert len(dense.worst(5)) == 5


# --- What a training takes from its data -----------------------------------------------------------------------------


def test_plan_and_floor_from_sparse_counts(sparse: pytest.MonkeyPatch) -> None:
    training, held_out = walks(6, 4000, 1), walks(1, 2000, 2)
    sparse.setattr(time_scales, "_GROUPS", 12)
    plan, loss = make_plan(training, N), markov_loss(training, held_out, N, both_ways=True)
    current = excess_current(model_counts(training, N))
    sparse.undo()
    dense = make_plan(training, N)
    assert current == pytest.approx(excess_current(transition_counts(training, N)), rel=1e-12)
    assert loss == pytest.approx(markov_loss(training, held_out, N, both_ways=True), rel=1e-12)
    # Twelve groups of thirty states are slow enough: timescales of groups are a lower bound.
    assert 0.85 * dense.scales.slowest < plan.scales.slowest < 1.02 * dense.scales.slowest


def test_groups_keep_the_slow_timescales(sparse: pytest.MonkeyPatch) -> None:
    dtrajs = walks(6, 4000, 1)
    sparse.setattr(time_scales, "_GROUPS", 20)
    grouped = slow_time_scales(dtrajs, N)
    sparse.undo()
    dense = slow_time_scales(dtrajs, N)
    np.testing.assert_allclose(grouped.timescales[:6, 0], dense.timescales[:6, 0], rtol=0.1)


def test_path_times_do_not_change(sparse: pytest.MonkeyPatch) -> None:
    """Paths of trajectories never need a matrix: many labels are no obstacle."""
    dtrajs = [np.where(x == 3, 70000, x) for x in walks(1, 5000, 3)]
    core = np.full(70001, -1)
    core[[0, 1, 2]], core[[15, 16]] = 0, 1
    few = transition_times(walks(1, 5000, 3), core[:N])
    assert transition_times(dtrajs, core).events.tolist() == few.events.tolist()
