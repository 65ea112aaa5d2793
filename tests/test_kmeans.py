"""The iterations of k-means in the compiled core: what they compute, and that they end where scikit-learn's do."""

import numpy as np
import pytest

from nanomd import _native
from nanomd.base.errors import InputError
from nanomd.tokenize import clustering

sklearn_cluster = pytest.importorskip("sklearn.cluster")


def iteration(points, centers, isa=""):
    labels = np.full(len(points), -1, np.int32)
    norms = np.einsum("ij,ij->i", centers, centers)
    return labels, *_native.lloyd(points, centers, norms, labels, isa)


@pytest.mark.parametrize("isa", _native.available_isas())
@pytest.mark.parametrize(("n", "d", "k"), [(1, 1, 1), (63, 1, 4), (64, 3, 5), (65, 4, 17), (1000, 7, 50), (130, 33, 9)])
def test_an_iteration_is_the_formula(isa, n, d, k):
    random = np.random.default_rng(n + d)
    points = random.normal(size=(n, d)).astype(np.float32)
    centers = random.normal(size=(k, d)).astype(np.float32)
    labels, means, counts, shifts = iteration(points, centers, isa)
    distances = ((points[:, None, :].astype(float) - centers) ** 2).sum(-1)
    chosen = np.take_along_axis(distances, labels[:, None].astype(int), axis=1)[:, 0]
    assert (chosen <= distances.min(axis=1) + 1e-5 * (1 + distances.min(axis=1))).all()
    assert np.array_equal(counts, np.bincount(labels, minlength=k))
    expected = np.array([points[labels == j].mean(axis=0) if counts[j] else centers[j] for j in range(k)])
    assert np.allclose(means, expected, atol=1e-5)
    assert np.array_equal(means[counts == 0], centers[counts == 0])
    assert np.allclose(shifts, np.linalg.norm(expected - centers, axis=1), atol=1e-5)


def test_the_first_of_equally_near_centres_wins():
    points = np.array([[1.0, 0.0], [0.0, 0.0], [-3.0, 0.0]], np.float32)
    centers = np.array([[2.0, 0.0], [0.0, 0.0], [0.0, 0.0], [-3.0, 0.0]], np.float32)
    assert iteration(points, centers)[0].tolist() == [0, 1, 3]


def test_fused_instruction_sets_agree_to_the_last_bit():
    fused = [isa for isa in _native.available_isas() if isa != "sse2"]
    if len(fused) < 2:
        pytest.skip("this processor has one fused instruction set")
    random = np.random.default_rng(0)
    points, centers = (random.normal(size=(n, 5)).astype(np.float32) for n in (5000, 300))
    first, second = (iteration(points, centers, isa) for isa in fused)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(("d", "k"), [(1, 6), (2, 40), (5, 25)])
def test_the_centres_are_those_of_scikit_learn(d, k):
    """Points in tight clouds, more centres than clouds: no rounding decides which centre is near."""
    random = np.random.default_rng(d)
    clouds = random.uniform(-5, 5, size=(k // 2, d))
    frames = (clouds[random.integers(0, len(clouds), 4000)] + 0.05 * random.normal(size=(4000, d))).astype(np.float32)
    expected = sklearn_cluster.KMeans(k, n_init=1, random_state=4).fit(frames).cluster_centers_
    assert np.allclose(clustering._all_frames(frames, k, 4), expected, atol=2e-3)
    assert np.median(np.abs(clustering._all_frames(frames, k, 4) - expected)) < 1e-5


def test_centres_that_lose_all_frames_are_left_to_scikit_learn(monkeypatch):
    frames = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)

    def empty(points, centers, norms, labels):
        counts = np.ones(len(centers), np.float32)
        counts[2] = 0
        return centers, counts, np.ones(len(centers), np.float32)

    monkeypatch.setattr(_native, "lloyd", empty)
    expected = sklearn_cluster.KMeans(7, n_init=1, random_state=1).fit(frames).cluster_centers_
    assert np.array_equal(clustering._all_frames(frames, 7, 1), expected)


def test_shapes_that_do_not_fit_are_refused():
    x, labels = np.zeros((4, 2), np.float32), np.zeros(4, np.int32)
    for points, centers, norms, own in (
        (x, np.zeros((3, 1), np.float32), np.zeros(3, np.float32), labels),
        (x, x, np.zeros(3, np.float32), labels),
        (x, x, np.zeros(4, np.float32), labels[:3]),
    ):
        with pytest.raises(InputError, match="must be"):
            _native.lloyd(points, centers, norms, own)


# --- Many states: two levels -----------------------------------------------------------------------------------------


def clouds(n=6000, d=2):
    random = np.random.default_rng(4)
    middle = random.normal(size=(5, d)) * 4
    spread = np.array([0.2, 0.5, 1.0, 1.0, 2.0])
    of = random.integers(0, 5, n)
    return (middle[of] + spread[of, None] * random.normal(size=(n, d))).astype(np.float32)


def distance(x, centers):
    return float(((x - centers[clustering.assign(x, centers)]) ** 2).sum(axis=1).mean())


def test_two_levels_lose_little():
    x = clouds()
    flat, levels = (clustering.kmeans_centers([x], 200, 0, two) for two in (False, True))
    assert levels.shape == (200, 2)
    assert not np.array_equal(flat, levels)
    assert distance(x, flat) < distance(x, levels) < 1.15 * distance(x, flat)
    assert np.array_equal(levels, clustering.kmeans_centers([x[:2500], x[2500:]], 200, 0, True))


def test_two_levels_are_the_default_of_many_states(monkeypatch):
    x = clouds(2000)
    monkeypatch.setattr(clustering, "TWO_LEVELS_ABOVE", 50)
    assert np.array_equal(clustering.kmeans_centers([x], 60, 0), clustering.kmeans_centers([x], 60, 0, True))
    assert np.array_equal(clustering.kmeans_centers([x], 50, 0), clustering.kmeans_centers([x], 50, 0, False))
    few = x[:200]  # hardly more frames than states: cells would run out of them
    assert np.array_equal(clustering.kmeans_centers([few], 60, 0), clustering.kmeans_centers([few], 60, 0, False))


def test_cells_have_states_as_they_need_them():
    # Two clouds of equally many frames, one ten times as wide, in one dimension: 100^(1/3) times as many states.
    random = np.random.default_rng(1)
    x = np.concatenate([random.normal(size=(5000, 1)), 1000 + 10 * random.normal(size=(5000, 1))]).astype(np.float32)
    centers = clustering.kmeans_centers([x], 400, 0, True)
    narrow = (centers[:, 0] < 500).sum()
    assert 0.7 * 400 / (1 + 100 ** (1 / 3)) < narrow < 1.3 * 400 / (1 + 100 ** (1 / 3))


@pytest.mark.parametrize(("total", "most"), [(10, [4, 4, 4]), (12, [4, 4, 4]), (3, [9, 9, 9]), (40, [100, 2, 0, 30])])
def test_states_are_shared_out_among_cells(total, most):
    found = clustering._shared_out(total, np.array([5.0, 0.1, 0.0, 1.0])[: len(most)], np.array(most))
    assert found.sum() == total
    assert ((found <= most) & (found >= np.minimum(most, 1))).all()


def test_fewer_frames_than_states_are_refused_in_two_levels():
    with pytest.raises(InputError, match="n_states must be at most the number of frames, 5, got 6"):
        clustering.kmeans_centers([np.arange(5.0)[:, None].astype(np.float32)], 6, 0, True)
