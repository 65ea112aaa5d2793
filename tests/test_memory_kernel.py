"""Transfer tensors: exact on chains whose matrices are known, and as good as the data on samples of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_chain import default_chain

from nanomd import kinetics
from nanomd.base.errors import InputError
from nanomd.baselines.memory_kernel import MemoryKernelEstimator, MemoryKernelModel
from nanomd.baselines.msm import MSMEstimator
from nanomd.data.counts import stationary_vector
from nanomd.kinetics import transfer_tensors as tt
from nanomd.kinetics.memory_choice import choose_memory

CHAIN = default_chain()
EXACT = np.array([CHAIN.lagged_matrix(n) for n in range(1, 41)])


@pytest.fixture(scope="module")
def sample():
    return CHAIN.sample(50_000, 6, seed=31)


@pytest.fixture(scope="module")
def model(sample):
    return MemoryKernelEstimator(memory=20).fit(sample).fetch_model()


# --- Exact matrices --------------------------------------------------------------------------------------------------


def test_memory_gives_the_process_and_a_markov_model_does_not():
    model = MemoryKernelModel.from_matrices(EXACT)
    for n in (0, 1, 7, 40, 200, 1000):
        np.testing.assert_allclose(model.transition_matrix(n), CHAIN.lagged_matrix(n) if n else np.eye(4), atol=1e-8)
    assert model.timescales(1000)[0] == pytest.approx(CHAIN.timescales[0], rel=0.01)
    assert model.timescales(20)[:3] == pytest.approx(CHAIN.implied_timescales(20), rel=1e-9)
    blind = MemoryKernelModel.from_matrices(EXACT[:1])
    assert blind.timescales(1000)[0] == pytest.approx(CHAIN.implied_timescales(1)[0], rel=1e-3)
    assert abs(blind.transition_matrix(100) - CHAIN.lagged_matrix(100)).max() > 0.15
    np.testing.assert_allclose(model.stationary_distribution, CHAIN.stationary, atol=1e-12)
    assert model.growth == pytest.approx(1, abs=1e-6)
    assert model.kernel_norms[[0, 4, 20]] == pytest.approx(np.sqrt((model.tensors[[0, 4, 20]] ** 2).sum((1, 2))))
    assert (np.diff(np.log(model.kernel_norms[:30])) < 0).all()


def test_longer_memory_is_nearer():
    errors = [
        abs(MemoryKernelModel.from_matrices(EXACT[:n]).transition_matrix(200) - CHAIN.lagged_matrix(200)).max()
        for n in (2, 5, 10, 20)
    ]
    assert (np.diff(np.log(errors)) < -0.5).all(), errors


def test_populations_follow_the_matrices():
    model = MemoryKernelModel.from_matrices(EXACT[:25])
    start = np.array([0.1, 0.2, 0.3, 0.4])
    path = model.propagate(start, 60)
    matrices = model.transition_matrices([0, 1, 30, 60])
    np.testing.assert_allclose(path[[0, 1, 30, 60]], start @ matrices, atol=1e-12)
    np.testing.assert_allclose(path.sum(axis=1), 1)
    ck = model.chapman_kolmogorov([0, 0, 1, 1], [1, 30])
    pi = CHAIN.stationary
    expected = pi[2:] @ CHAIN.lagged_matrix(30)[2:, 2:].sum(axis=1) / pi[2:].sum()
    assert ck[1, 1] == pytest.approx(expected, abs=1e-5)


@given(st.integers(2, 6), st.integers(1, 6), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_a_markov_chain_has_no_memory(n, memory, seed):
    rng = np.random.default_rng(seed)
    matrix = rng.dirichlet(np.ones(n), size=n)
    powers = np.array([np.linalg.matrix_power(matrix, k + 1) for k in range(memory)])
    tensors = tt.transfer_tensors(powers)
    np.testing.assert_allclose(tensors[0], matrix)
    np.testing.assert_allclose(tensors[1:], 0, atol=1e-12)
    np.testing.assert_allclose(tt.propagate(tensors, [13])[0], np.linalg.matrix_power(matrix, 13), atol=1e-10)
    pi = stationary_vector(tensors.sum(axis=0))
    np.testing.assert_allclose(pi @ matrix, pi, atol=1e-9)


@given(st.integers(2, 5), st.integers(1, 5), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_matrices_and_tensors_are_the_same_knowledge(n, memory, seed):
    """Any row-stochastic matrices come back, tensors sum to 1, 0, 0, ... by row, and may stand on either side."""
    rng = np.random.default_rng(seed)
    matrices = rng.dirichlet(np.ones(n), size=(memory, n))
    tensors = tt.transfer_tensors(matrices)
    np.testing.assert_allclose(tt.propagate(tensors, range(1, memory + 1)), matrices, atol=1e-9)
    sums = tensors.sum(axis=2)
    np.testing.assert_allclose(sums[0], 1)
    np.testing.assert_allclose(sums[1:], 0, atol=1e-9)
    start = rng.dirichlet(np.ones(n))
    np.testing.assert_allclose(tt.propagate_vector(tensors, start, memory)[1:], start @ matrices, atol=1e-9)


def test_spectral_radius_by_either_way():
    rng = np.random.default_rng(1)
    tensors = tt.transfer_tensors(rng.dirichlet(np.ones(30), size=(15, 30)))  # beyond 400: iterative
    companion = np.eye(450, k=-30)
    companion[:30] = np.concatenate(list(tensors), axis=1)
    assert tt.spectral_radius(tensors) == pytest.approx(abs(np.linalg.eigvals(companion)).max(), rel=1e-4)
    assert tt.spectral_radius(np.array([[[1.0]], [[0.5]]])) == pytest.approx((1 + np.sqrt(3)) / 2)


# --- Samples ---------------------------------------------------------------------------------------------------------


def test_from_trajectories(sample, model):
    np.testing.assert_allclose(model.transition_matrix(100), CHAIN.lagged_matrix(100), atol=0.03)
    assert model.timescales(400)[0] == pytest.approx(CHAIN.implied_timescales(400)[0], rel=0.08)
    np.testing.assert_allclose(model.populations, CHAIN.stationary, rtol=0.08)
    plain = MemoryKernelEstimator(memory=20, reversible=False).fit(sample).fetch_model()
    np.testing.assert_allclose(plain.populations, CHAIN.stationary, rtol=0.08)
    assert plain.timescales(400)[0] == pytest.approx(CHAIN.implied_timescales(400)[0], rel=0.08)


def test_memory_of_one_is_the_markov_model(sample):
    model = MemoryKernelEstimator(5, 1).fit(sample).fetch_model()
    msm = MSMEstimator(5).fit(sample).fetch_model()
    np.testing.assert_allclose(model.transition_matrix(), msm.transition_matrix, atol=2e-3)
    np.testing.assert_allclose(model.timescales(5, 3), msm.timescales(3), rtol=0.02)
    got = model.mfpt([0], [3], method="markov")
    macrostate = np.array([0, -1, -1, 1])
    from nanomd.kinetics.markov import passage_times

    exact = 5 * passage_times(msm.transition_matrix, msm.stationary_distribution, macrostate, 2)[0, 1]
    assert got == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("stride", [1, 5, 20])
def test_passage_times_with_memory(sample, model, stride):
    """The killed process gets them right at every stride; the chain of the propagated matrix at long ones only."""
    for source, target in (([0], [3]), ([3], [0]), ([2], [0]), ([0, 1], [2, 3])):
        seen = float(kinetics.mfpt(sample, source, target, stride=stride, timescale=140.0, n_bootstrap=20)[0].value)
        assert model.mfpt(source, target, stride=stride) == pytest.approx(seen, rel=0.02)
        assert seen == pytest.approx(CHAIN.mfpt(source, target, stride), rel=0.13)
        assert model.mfpt(source, target, stride=stride, method="markov") == pytest.approx(
            CHAIN.markov_mfpt(source, target, stride), rel=0.13
        )
    assert CHAIN.markov_mfpt([0], [3], 1) < 0.3 * CHAIN.mfpt([0], [3], 1)


def test_short_trajectories():
    """4000 pieces of 50 frames, a third of the slowest timescale, give what no Markov model of them can."""
    pieces = CHAIN.sample(50, 4000, seed=5)
    model = MemoryKernelEstimator().fit(pieces).fetch_model()
    assert 12 <= model.memory <= 24
    assert model.timescales(300)[0] == pytest.approx(CHAIN.implied_timescales(300)[0], rel=0.15)
    assert model.mfpt([0], [3]) == pytest.approx(CHAIN.mfpt([0], [3]), rel=0.15)
    assert model.mfpt([0], [3], stride=60) == model.mfpt([0], [3], stride=60, method="markov")
    assert model.mfpt([0], [3], stride=60) == pytest.approx(CHAIN.mfpt([0], [3], 60), rel=0.15)
    with pytest.raises(InputError, match="longer than stride 60"):
        model.mfpt([0], [3], stride=60, method="excursions")


def test_memory_is_chosen_by_held_out_data(sample):
    memory, scores = choose_memory(sample, longest=30)
    assert memory >= 5
    assert scores[1] > 3 * scores[memory]
    assert min(scores) == 1 and max(scores) == 30
    memoryless = default_chain(0.0).sample(20_000, 8, seed=2)
    _, flat = choose_memory(memoryless, longest=30)
    assert flat[1] < 1.1 * min(flat.values())  # a Markov chain gains nothing
    assert choose_memory([np.random.default_rng(0).integers(0, 3, 9)])[0] >= 1  # nothing to hold out


def test_excursions_by_hand():
    """0 is the source, 3 the target; two steps of one frame, by group of the frame at which they begin."""
    x = [np.array([0, 1, 3, 0, 0, -1, 1, 0, 2])]
    counts = tt.excursion_counts(x, np.array([0]), np.array([3]), 4, 1, 2)[0]
    expected = np.zeros((2, 4, 6))
    for a, b in ((0, 1), (1, 4), (0, 5), (1, 5), (0, 2)):  # 4 is arrival, 5 return; 0-, nothing from -1
        expected[0, a, b] += 1
    for a, b in ((0, 4), (1, 4), (0, 5), (1, 5)):  # 01>3, 1>3 stays arrived, 0>0 stays returned, 1>0 too; 0>- unknown
        expected[1, a, b] += 1
    assert counts.tolist() == expected.tolist()
    halves = tt.excursion_counts(x, np.array([0]), np.array([3]), 4, 1, 2, np.array([[0, 2]]), np.array([1, 0]), 2)
    np.testing.assert_array_equal(halves.sum(axis=0), counts)
    assert halves[1, 0].sum() == 3 and halves[0, 0].sum() == 2, "frames 0-4 are block 0, which is of group 1"


def test_columns_follow_the_matrices():
    model = MemoryKernelModel.from_matrices(EXACT[:15])
    columns = np.random.default_rng(0).normal(size=(4, 2))
    steps = [1, 15, 40]
    got = tt.propagate_columns(model.tensors, columns, steps)
    np.testing.assert_allclose(got, tt.propagate(model.tensors, steps) @ columns, atol=1e-12)


def test_as_a_source_of_a_validation():
    """Learnt from pieces of 50 frames, judged by long trajectories, beside Markov models of the pieces."""
    md, pieces = CHAIN.sample(30_000, 6, seed=1), CHAIN.sample(50, 3000, seed=5)
    result = kinetics.validate(
        md, training=pieces, lagtimes=[20, 200], lagtime=20, memory_kernel=20, n_bootstrap=50, n_macrostates=4
    )
    source, short = result.sources["memory kernel"], result.sources["MSM (lag 1)"]
    order = np.argsort(result.macrostate_of_state)
    np.testing.assert_allclose(source.macro_populations.value, CHAIN.stationary[order], rtol=0.15)
    for row, lag in enumerate((20, 200)):
        assert source.timescales.value[row, 0] == pytest.approx(CHAIN.implied_timescales(lag)[0], rel=0.15)
        assert source.timescales.low[row, 0] < source.timescales.value[row, 0] < source.timescales.high[row, 0]
    for a in range(4):
        assert source.residence.value[a] == pytest.approx(CHAIN.residence([order[a]], 20), rel=0.15)
        assert source.ck_estimated.value[1, a] == pytest.approx(CHAIN.lagged_matrix(40)[order[a], order[a]], rel=0.15)
        for b in set(range(4)) - {a}:
            assert source.mfpt.value[a, b] == pytest.approx(CHAIN.mfpt([order[a]], [order[b]], 20), rel=0.2)
            assert source.mfpt.low[a, b] < source.mfpt.value[a, b] < source.mfpt.high[a, b]
    assert short.timescales.value[0, 0] < 0.4 * source.timescales.value[0, 0]
    assert result.mfpt_errors["memory kernel"].factor < 1.2 < result.mfpt_errors["MSM (lag 1)"].low
    assert (source.timescale_overlap > 0.9).all()
    # Whole passages counted in the pieces would be off by a large factor, and so would forgive any model.
    assert result.noise_floor.factor < 1.2
    counted = kinetics.mfpt(pieces, [0], [3], stride=20, timescale=140.0, n_bootstrap=20)[0].value
    assert counted > 1.5 * CHAIN.mfpt([0], [3], 20)
    with pytest.raises(InputError, match=r"memory_kernel must be in \[1, 49\] frames"):
        kinetics.validate(md, training=pieces, lagtimes=[20], lagtime=20, memory_kernel=60, n_bootstrap=20)


def test_full_length_arrays():
    """State 5 is never visited, state 4 is left and never entered, negative labels mean nothing."""
    (x,) = CHAIN.sample(20_000, 1, seed=7)
    data = [np.concatenate([[4, 4], x[:9000]]).astype(np.int64), np.concatenate([[-1], x[9000:], [-1]]).astype(int)]
    model = MemoryKernelEstimator(memory=10, reversible=False).fit(data, n_states=6).fetch_model()
    assert model.active.tolist() == [0, 1, 2, 3]
    assert model.transition_matrix(50).shape == (6, 6)
    np.testing.assert_allclose(model.transition_matrix(50).sum(axis=1), 1)
    assert model.transition_matrix(50)[4:].tolist() == np.eye(6)[4:].tolist()
    assert model.populations[4:].tolist() == [0, 0]
    start = np.array([0, 0.5, 0, 0, 0.5, 0])
    assert model.propagate(start, 20)[-1, 4] == 0.5
    times = model.mfpts([0, 0, 1, 1, -1, -1])
    assert np.isnan(times[[0, 1], [0, 1]]).all()
    seen = kinetics.mfpt([x], [0, 1], [2, 3], timescale=140.0, n_bootstrap=20)[0].value
    assert times[0, 1] == pytest.approx(float(seen), rel=0.03)


def test_a_state_without_late_starts_is_carried_on():
    counts = np.zeros((3, 2, 2))
    counts[0], counts[1, 0], counts[2, 0] = [[8, 2], [3, 1]], [6, 3], [5, 3]
    out = tt.normalised(counts, False)
    np.testing.assert_allclose(out[1, 1], out[0, 1] @ out[0])
    np.testing.assert_allclose(out[2, 1], out[0, 1] @ out[1])
    np.testing.assert_allclose(out.sum(axis=2), 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MemoryKernelEstimator(0), "lagtime must be at least 1"),
        (lambda: MemoryKernelEstimator(memory=0), "memory must be at least 1"),
        (lambda: MemoryKernelEstimator().fetch_model(), "call fit first"),
        (lambda: MemoryKernelEstimator().fit([]), "at least one trajectory"),
        (lambda: MemoryKernelEstimator(2, 30).fit([np.arange(50) % 3]), r"lagtime must be in \[1, 49\] .* got 60"),
        (lambda: MemoryKernelEstimator().fit([np.arange(50) % 3], n_states=2), "n_states must be at least 3"),
        (lambda: MemoryKernelEstimator(1, 40).fit([np.arange(50) % 30 * 1000]), "GiB, at most 4"),
        (lambda: MemoryKernelModel.from_matrices(np.eye(3)), "shape"),
        (lambda: MemoryKernelModel.from_matrices(np.ones((2, 3, 3))), "sum to 1"),
        (lambda: MemoryKernelModel.from_matrices(EXACT).mfpt([0], [3], method="excursions"), "use method markov"),
        (lambda: MemoryKernelModel.from_matrices(EXACT).mfpt([0], [0, 3]), "must not share"),
        (lambda: MemoryKernelModel.from_matrices(EXACT).mfpt([], [3]), "source must name states"),
        (lambda: MemoryKernelModel.from_matrices(EXACT, 2).mfpt([0], [3], stride=3), "multiple of lagtime 2"),
        (lambda: MemoryKernelModel.from_matrices(EXACT).mfpt([0], [3], method="exact"), "method must be one of"),
        (lambda: MemoryKernelModel.from_matrices(EXACT).propagate([1, 1, 0, 0], 3), "sum to 1"),
        (lambda: MemoryKernelModel.from_matrices(EXACT).chapman_kolmogorov([0, 1], [1]), "label for each of 4"),
        (lambda: tt.propagate(EXACT, [3, 1]), "must rise"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
