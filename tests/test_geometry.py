"""Embeddings that begin where the states lie."""

import numpy as np
import pytest

from nanomd import GPTEstimator
from nanomd.base.config import ModelConfig, TrainConfig
from nanomd.base.errors import InputError
from nanomd.model.geometry import check_coordinates, fourier_features
from nanomd.training.setup import untrained_model


def test_products_fall_with_the_distance():
    """Averaged over many features the product is a kernel: one at no distance, falling, near zero far away."""
    line = np.linspace(-2.0, 2.0, 81)[:, None]
    features = fourier_features(line, 4096, seed=1)
    kernel = (features @ features[40]) / (0.3**2 * 4096)
    assert kernel[40] == pytest.approx(1.0, abs=0.05)
    right = kernel[40:]
    assert (np.diff(right[:8]) < 0).all() and abs(right[30:]).max() < 0.35
    np.testing.assert_allclose(right, kernel[40::-1], atol=0.1)


def test_units_and_rotations_do_not_matter_to_distances():
    rng = np.random.default_rng(0)
    place = rng.normal(size=(500, 3))
    turned = 10.0 * place @ np.linalg.qr(rng.normal(size=(3, 3)))[0] + 7.0
    products = [x @ x.T / (0.3**2 * 8192) for x in (fourier_features(p, 8192, seed=2) for p in (place, turned))]
    np.testing.assert_allclose(products[0], products[1], atol=0.1)


def test_a_direction_without_spread_says_nothing():
    place = np.column_stack([np.linspace(0, 1, 50), np.full(50, 3.0)])
    np.testing.assert_allclose(fourier_features(place, 16, 3), fourier_features(place[:, :1], 16, 3))
    assert np.isfinite(fourier_features(np.zeros((5, 2)), 8, 0)).all()


def test_rows_are_those_of_labels_whatever_the_order_of_tokens():
    place = np.arange(20.0).reshape(10, 2)
    np.testing.assert_array_equal(check_coordinates(place, np.array([7, 0, 3])), place[[7, 0, 3]])


@pytest.mark.parametrize(
    ("coordinates", "message"),
    [
        (np.zeros(5), "must have shape"),
        (np.zeros((5, 0)), "must have shape"),
        (np.zeros((3, 2)), "a row for every label, up to 4"),
        (np.full((5, 2), np.nan), "finite"),
        ([["a"]], "must be numbers"),
    ],
)
def test_coordinates_that_cannot_be(coordinates, message):
    with pytest.raises(InputError, match=message):
        GPTEstimator("tiny", n_steps=2).fit(np.tile(np.arange(5), 40), coordinates=coordinates)


def test_the_embedding_begins_there_and_all_else_as_without():
    config, data = ModelConfig(n_states=5, d_model=16, n_head=2, context_length=8), [np.tile(np.arange(5), 20)]
    place = np.arange(5.0)[:, None]
    plain, placed = (untrained_model(config, TrainConfig(seed=4), data, c).to_tensors() for c in (None, place))
    np.testing.assert_allclose(placed["embedding.weight"], fourier_features(place, 16, 4), rtol=1e-6)
    for name in set(plain) - {"embedding.weight"}:
        np.testing.assert_array_equal(plain[name], placed[name])


def test_states_of_a_plane_are_learnt_sooner_from_where_they_lie():
    """A particle in a bowl, in cells of which each is seen some 25 times: most have no neighbours in the counts."""
    rng = np.random.default_rng(5)
    noise, place = np.sqrt(0.19) * rng.normal(size=(20_000, 2)), np.zeros((20_000, 2))
    for t in range(1, 20_000):
        place[t] = 0.9 * place[t - 1] + noise[t]
    cell = np.clip(np.floor(place / 0.2) + 15, 0, 29).astype(np.int64)
    coordinates = np.indices((30, 30)).reshape(2, 900).T.astype(np.float64)
    options = {"n_steps": 100, "refit": "off", "seed": 1, "n_threads": 1}
    losses = [
        GPTEstimator("tiny", **options).fit_fetch(cell @ [30, 1], coordinates=c).provenance["validation_loss"]
        for c in (None, coordinates)
    ]
    assert losses[1] < losses[0] - 0.5  # nats; four pairs of data and seeds differed by 0.91 to 0.96
