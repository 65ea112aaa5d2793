"""Calibration against rollouts, on chains whose timescales follow exactly from the table of the model."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from known_chain import default_chain
from markov_walk import MATRIX, STATIONARY, walks
from numpy.typing import NDArray

from nanomd import FrameInterval, GPTEstimator
from nanomd.base.config import ModelConfig, TrainConfig
from nanomd.base.errors import InputError
from nanomd.data.states import StateMap
from nanomd.model.files import ModelFiles, Starts
from nanomd.model.network import NanoGPT
from nanomd.training.calibration import ROUNDS, calibrate
from nanomd.training.finish import finish

CHAIN = default_chain()
SLOWEST = -1 / np.log(np.sort(np.linalg.eigvals(MATRIX).real)[1])  # 30 steps


def markov_model(matrix: NDArray[np.float64], stationary: NDArray[np.float64], stride: int = 1) -> ModelFiles:
    """A model that is this Markov chain: its transformer adds nothing to the table."""
    n = len(matrix)
    config = ModelConfig(n_states=n, d_model=8, n_layer=1, n_head=1, context_length=4, mlp_ratio=2, markov_head=True)
    network = NanoGPT(config)
    network.start_at_markov(matrix, 1e-9)
    return ModelFiles(
        config, network.to_tensors(), StateMap(np.arange(n)), Starts(stationary, np.zeros((0, 4), np.int32)),
        FrameInterval(), {}, frame_stride=stride,
    )  # fmt: skip


def chain_of(files: ModelFiles) -> NDArray[np.float64]:
    """The transition matrix of a model without a transformer."""
    assert not files.tensors["head.weight"].any()
    p = np.exp(files.tensors["markov.weight"].astype(np.float64))
    return np.asarray(p / p.sum(axis=1, keepdims=True))


def slowest_of(files: ModelFiles) -> float:
    """In frames."""
    return float(-files.frame_stride / np.log(np.sort(np.linalg.eigvals(chain_of(files)).real)[-2]))


def populations_of(files: ModelFiles) -> NDArray[np.float64]:
    values, vectors = np.linalg.eig(chain_of(files).T)
    pi = vectors[:, np.argmax(values.real)].real
    return np.asarray(pi / pi.sum())


def test_a_chain_that_remembers_too_little_gets_the_timescale_of_the_data() -> None:
    data = CHAIN.sample(100_000, 8, seed=1)  # 6000 slowest timescales: an error of 3 %
    model = markov_model(CHAIN.markov, CHAIN.stationary)
    assert slowest_of(model) < 0.3 * CHAIN.timescales[0]  # right in every step, and four times too fast
    found = calibrate(model, data, n_threads=1)
    target = np.exp(found.target.value[-found.n_processes])
    assert target == pytest.approx(CHAIN.timescales[0], rel=0.12)
    assert slowest_of(found.files) == pytest.approx(target, rel=0.06)
    np.testing.assert_allclose(populations_of(found.files), CHAIN.stationary, rtol=0.1)
    assert 2 <= found.rounds <= ROUNDS + 1
    record = found.describe()
    assert record["timescales"]["after"][0] == pytest.approx(slowest_of(found.files), rel=0.1)
    assert f"{target:.4g}" in found.in_words()


def test_pieces_that_start_out_of_equilibrium_do_not_lean_a_right_model() -> None:
    """Pieces of a third of the slowest timescale that begin in the last state: their frames are there far too often."""
    rng = np.random.default_rng(3)
    pieces = np.full((4000, 10), len(MATRIX) - 1)
    for t in range(1, 10):
        pieces[:, t] = (rng.random(4000)[:, None] > np.cumsum(MATRIX[pieces[:, t - 1]], axis=1)).sum(axis=1)
    begun = np.bincount(pieces.ravel(), minlength=3) / pieces.size
    assert begun[-1] > 1.5 * STATIONARY[-1]
    found = calibrate(markov_model(MATRIX, STATIONARY), list(pieces), equilibrium=False, n_threads=1)
    # Power: aimed at the shares of frames, the last state has half as much again.
    np.testing.assert_allclose(populations_of(found.files), STATIONARY, rtol=0.15)
    aimed = 1 / (1 + np.exp(-found.target.value[: -found.n_processes]))
    assert aimed.sum() == pytest.approx(1.0, abs=1e-6)


def test_a_right_model_stays_as_it_is() -> None:
    model = markov_model(MATRIX, STATIONARY)
    found = calibrate(model, walks(200_000, 16, seed=2), n_threads=1)
    assert found.rounds == 1 and found.files is model


@pytest.mark.parametrize("stride", [1, 3])
def test_populations_and_timescales_are_mended_together_at_the_stride_of_the_model(stride: int) -> None:
    leaning = np.linalg.matrix_power(MATRIX, stride) * np.exp([0.0, 0.3, 0.6])  # towards the last state
    leaning[0, 1:] *= 1.6  # and too fast
    leaning /= leaning.sum(axis=1, keepdims=True)
    model = markov_model(leaning, STATIONARY, stride)
    found = calibrate(model, walks(100_000, 16, seed=3), n_threads=1)
    assert abs(populations_of(model) / STATIONARY - 1).max() > 0.25
    np.testing.assert_allclose(populations_of(found.files), STATIONARY, rtol=0.05)
    assert slowest_of(found.files) == pytest.approx(SLOWEST, rel=0.06)


def test_few_data_are_met_without_running_away() -> None:
    model = markov_model(MATRIX, STATIONARY)
    data = walks(300, 1, seed=5)  # a handful of passages
    found = calibrate(model, data, n_threads=1)
    moved = found.files.tensors["markov.weight"] - model.tensors["markov.weight"]
    assert abs(moved).max() < 3.0
    score = [abs(x - found.target.value)[np.isfinite(found.target.error)].max() for x in (found.before, found.after)]
    assert score[1] <= score[0]


def test_what_cannot_be_calibrated_is_said() -> None:
    model = markov_model(MATRIX, STATIONARY)
    bare = {name: x for name, x in model.tensors.items() if name != "markov.weight"}
    with pytest.raises(InputError, match="markov head"):
        calibrate(dataclasses.replace(model, tensors=bare), walks(1000, 1, seed=1))
    random = np.random.default_rng(1).integers(0, 3, 2000)  # nothing slow
    config = TrainConfig(refit="off", calibrate=True)
    finished = finish(model, [random], config)
    assert finished.tensors is model.tensors
    assert "not calibrated: these data show no process slower" in finished.provenance["choices"][-1]


def test_the_default_calibrates_and_tells() -> None:
    model = GPTEstimator(n_steps=20, n_threads=1).fit(walks(5_000, 4, seed=6)).fetch_model()
    calibration = model.provenance["calibration"]
    after, data = calibration["timescales"]["after"][0], calibration["timescales"]["training_data"][0]
    assert after == pytest.approx(data, rel=0.15)
    assert any("after calibration" in line for line in model.provenance["choices"])
    off = GPTEstimator(n_steps=20, n_threads=1, calibrate=False).fit(walks(5_000, 4, seed=6)).fetch_model()
    assert "calibration" not in off.provenance
