"""The integrator and the tokens of the four-state potential."""

from __future__ import annotations

import numpy as np
import pytest

from nanomd import _core, _native
from nanomd.base.errors import InputError
from nanomd.systems import four_state

HOT = 3.0  # inverse temperature at which every test below equilibrates in a few hundred time units


def u(x, y):
    def g(a, b):
        return np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * 0.8**2))

    return 1e-4 * (x**6 + y**6) + g(0, 0) - g(2, -1) - g(0.5, 2) - g(-0.5, -2) - g(-2, 1)


def test_potential():
    x, y = np.random.default_rng(0).uniform(-3, 3, (2, 100))
    np.testing.assert_allclose(four_state.potential(x, y), u(x, y), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(four_state.potential(-x, -y), u(x, y), rtol=1e-13, atol=1e-14)


def boltzmann(beta, quantity):
    """Average over the plane by quadrature."""
    grid = np.linspace(-7, 7, 401)
    x, y = np.meshgrid(grid, grid, indexing="ij")
    weight = np.exp(-beta * u(x, y))
    return (weight * quantity(x, y)).sum() / weight.sum()


def mean_and_error(samples):
    """Average over independent trajectories."""
    per_trajectory = samples.mean(axis=1)
    return per_trajectory.mean(), per_trajectory.std(ddof=1) / np.sqrt(len(per_trajectory))


def test_positions_follow_boltzmann():
    xy = four_state.simulate(4000, 64, beta=HOT, spacing=50, seed=1, n_threads=1)[:, 200:]
    for quantity in (lambda x, y: x * x, lambda x, y: x * y, u, lambda x, y: x, lambda x, y: (x > 1.2) * 1.0):
        mean, error = mean_and_error(quantity(xy[..., 0], xy[..., 1]))
        assert abs(mean - boltzmann(HOT, quantity)) < 4.5 * error
    # and the errors are small enough to see a temperature that is 4 % wrong
    mean, error = mean_and_error(u(xy[..., 0], xy[..., 1]))
    assert 4.5 * error < abs(boltzmann(HOT, u) - boltzmann(HOT * 1.04, u))


def test_kinetic_temperature_and_maxwell_start():
    beta, n = 9.5, 4096
    start = np.zeros((n, 4))
    start[:, :2] = (2, -1)
    first = start.copy()
    settings = {"beta": beta, "friction": 1.0, "seed": 3}
    _native.simulate_four_state(first, 1, time_step=1e-9, spacing=1, **settings)
    later = start.copy()
    _native.simulate_four_state(later, 5, time_step=0.01, spacing=100, **settings)
    for walkers in (first, later):
        v = walkers[:, 2:]
        # <v^2> = 1 / beta with variance 2 / n; the fourth moment is that of a Gaussian.
        assert abs(beta * (v**2).mean() - 1) < 4.5 * np.sqrt(2 / v.size)
        assert abs(beta**2 * (v**4).mean() / 3 - 1) < 4.5 * np.sqrt(96 / 9 / v.size)
        assert abs(np.corrcoef(v.T)[0, 1]) < 4.5 / np.sqrt(n)


def test_noise_has_gaussian_tails_and_no_memory():
    """Free diffusion far from the wells: with a tiny step, velocities are sums of the noise alone."""
    n = 200_000
    walkers = np.zeros((n, 4))
    _native.simulate_four_state(walkers, 1, beta=1.0, friction=1.0, time_step=1e-9, spacing=1, seed=9)
    v = walkers[:, 2:].ravel()
    from scipy.stats import kstest, norm

    assert kstest(v, "norm").pvalue > 1e-4
    beyond = (abs(v) > 3.5).sum()
    expected = 2 * norm.sf(3.5) * v.size
    assert abs(beyond - expected) < 4.5 * np.sqrt(expected)


@pytest.mark.slow
def test_time_step_error_is_second_order():
    """Halving the step divides the error of <U> by four."""
    errors, scatter = [], []
    exact = boltzmann(HOT, u)
    for dt in (0.4, 0.2):
        xy = four_state.simulate(15000, 128, beta=HOT, spacing=round(4 / dt), time_step=dt, seed=5, n_threads=1)[:, 50:]
        mean, error = mean_and_error(u(xy[..., 0], xy[..., 1]))
        errors.append(mean - exact)
        scatter.append(error)
    assert abs(errors[0]) > 20 * scatter[0]
    order = np.log2(errors[0] / errors[1])
    assert abs(order - 2) < 0.15 + 3 * scatter[1] / abs(errors[1])


def test_pairwise_populations():
    """U(x, y) = U(-x, -y): the first and the fourth, the second and the third state are equally populated."""
    xy = four_state.simulate(6000, 64, preset="demo", seed=2, n_threads=1)[:, 500:]
    tokens = np.stack(four_state.tokenize(xy))
    shares = np.stack([(tokens == k).mean(axis=1) for k in range(4)])
    for a, b in ((0, 3), (1, 2)):
        difference = shares[a] - shares[b]
        assert abs(difference.mean()) < 4.5 * difference.std(ddof=1) / np.sqrt(len(difference))
    assert (abs(shares.mean(axis=1) - [0.26, 0.24, 0.24, 0.26]) < 0.03).all()


def test_a_trajectory_depends_on_seed_index_and_start_alone():
    whole = four_state.simulate(40, 21, spacing=5, seed=4, n_threads=1)
    np.testing.assert_array_equal(four_state.simulate(40, 21, spacing=5, seed=4, n_threads=4), whole)
    np.testing.assert_array_equal(four_state.simulate(40, 3, spacing=5, seed=4, first_trajectory=11), whole[11:14])
    np.testing.assert_array_equal(four_state.simulate(25, 21, spacing=5, seed=4), whole[:, :25])
    assert not np.array_equal(four_state.simulate(40, 21, spacing=5, seed=5), whole)
    chunk = four_state._CHUNK_FRAMES
    try:
        four_state._CHUNK_FRAMES = 100
        np.testing.assert_array_equal(four_state.simulate(40, 21, spacing=5, seed=4), whole)
    finally:
        four_state._CHUNK_FRAMES = chunk


@pytest.mark.parametrize("name", ["sse2", "avx2", "avx512"])
def test_instruction_sets_agree(name):
    try:
        _core.set_langevin_instruction_set(name)
    except _core.CoreInputError as error:
        pytest.skip(str(error))
    try:
        forced = four_state.simulate(50, 9, seed=6, n_threads=1)
    finally:
        _core.set_langevin_instruction_set("")
    np.testing.assert_array_equal(forced, four_state.simulate(50, 9, seed=6, n_threads=1))


def test_starts():
    starts = four_state._starts(None, 4000, 1, 0)
    nearest = np.argmin(((starts[:, None] - four_state.MINIMA) ** 2).sum(-1), axis=1)
    assert (abs(np.bincount(nearest, minlength=4) - 1000) < 4.5 * np.sqrt(750)).all()
    xy = four_state.simulate(1, 2, start=[[2, -1], [-2, 1]], spacing=1, seed=0)
    np.testing.assert_allclose(xy[:, 0], [[2, -1], [-2, 1]], atol=0.05)


class Recorder:
    def __init__(self):
        self.total = 0

    def update(self, n=1):
        self.total += n

    def note(self, text):
        pass

    def close(self):
        pass


def test_progress():
    recorder = Recorder()
    four_state.simulate(30, 4, spacing=1, progress=recorder)
    assert recorder.total == 120


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_frames": 0}, "n_frames must be at least 1, got 0"),
        ({"n_frames": 1, "n_trajs": 0}, "n_trajs must be at least 1"),
        ({"n_frames": 1, "beta": -1.0}, "beta must be positive, got -1"),
        ({"n_frames": 1, "spacing": 0}, "spacing must be at least 1"),
        ({"n_frames": 1, "time_step": 1.0}, r"time_step must be in \(0, 0.5\]"),
        ({"n_frames": 1, "friction": -1.0}, "friction must not be negative"),
        ({"n_frames": 50, "beta": 1e-6}, "escaped"),
        ({"n_frames": 1, "start": [1.0, np.nan]}, "start must be finite"),
        ({"n_frames": 1, "start": [50.0, 0.0]}, "start positions must lie within"),
        ({"n_frames": 1, "preset": "fast"}, "preset must be one of paper, demo"),
        ({"n_frames": 1, "seed": -1}, "seed must be in"),
        ({"n_frames": 1, "n_threads": 0}, "n_threads must be at least 1"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(InputError, match=message):
        four_state.simulate(**options)


def test_cores():
    xy = np.array([[[0, 0], [2, -1], [1, 0], [2.3, -1], [0.5, 2.2], [0, 0], [-2, 1], [-0.5, -2]]])
    (tokens,) = four_state.tokenize(xy)
    np.testing.assert_array_equal(tokens, [-1, 0, 0, 0, 1, 1, 3, 2])


def test_bins_and_kmeans():
    xy = four_state.simulate(2000, 2, preset="demo", seed=1)
    bins = four_state.tokenize(xy, "x-bins")
    assert min(x.min() for x in bins) >= 0
    assert max(x.max() for x in bins) < 32
    assert (np.diff(np.concatenate(bins)[np.argsort(xy[..., 0].ravel())]) >= 0).all()
    centers = four_state.kmeans_centers(xy, 20, seed=3)
    tokens = four_state.tokenize(xy, "kmeans", centers=centers)
    nearest = np.argmin(((xy[0][:, None] - centers) ** 2).sum(-1), axis=1)
    np.testing.assert_array_equal(tokens[0], nearest)
    again = four_state.tokenize(xy, "kmeans", n_states=20, seed=3)
    np.testing.assert_array_equal(again[1], tokens[1])


@pytest.mark.parametrize(
    ("xy", "options", "message"),
    [
        (np.zeros((1, 5, 3)), {}, "must have the shape"),
        (np.full((1, 5, 2), np.nan), {}, "not finite, the first is 0"),
        (np.zeros((1, 5, 2)), {"scheme": "grid"}, "scheme must be one of"),
        (np.zeros((1, 5, 2)), {"radius": 2.0}, "radius must be in"),
        (np.zeros((1, 5, 2)), {"n_states": 5}, "has 4 states"),
        (np.zeros((1, 5, 2)), {"scheme": "x-bins", "n_states": 1}, "n_states must be in"),
        (np.zeros((1, 5, 2)), {"scheme": "kmeans", "n_states": 9}, "n_states must be in"),
    ],
)
def test_bad_tokens(xy, options, message):
    with pytest.raises(InputError, match=message):
        four_state.tokenize(xy, **options)


@pytest.mark.slow
def test_published_setting():
    """Beta 9.5, a frame every 100 steps, against a reference run of 4 million frames.

    Mean residence 1270 frames, fast edges 7e-4 and slow edges 6e-5 per frame, no diagonal transitions.
    """
    xy = four_state.simulate(15_000, 80, seed=8, n_threads=1)[:, 1000:]
    tokens = [x[x >= 0] for x in four_state.tokenize(xy)]
    counts = _native.count_transitions(tokens, 4, 1)[0]
    rates = counts / counts.sum(axis=1, keepdims=True)
    exposure, exits, _, _ = _native.count_stays(tokens, 4)
    residence, events = exposure.sum() / exits.sum(), exits.sum()
    assert abs(residence / 1270 - 1) < 4.5 / np.sqrt(events) + 0.03
    fast = [rates[0, 2], rates[2, 0], rates[1, 3], rates[3, 1]]
    slow = [rates[0, 1], rates[1, 0], rates[2, 3], rates[3, 2]]
    assert abs(np.mean(fast) / 7e-4 - 1) < 0.2
    assert abs(np.mean(slow) / 6e-5 - 1) < 0.4
    assert counts[0, 3] + counts[3, 0] + counts[1, 2] + counts[2, 1] <= 2
