"""The estimator and the model it gives: inputs, errors, files, starts, likelihood."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nanomd.base.config import TrainConfig
from nanomd.base.errors import InputError
from nanomd.estimator import GPTEstimator, load_model
from nanomd.model.starts import start_windows, stationary_distribution

QUICK = {
    "d_model": 16,
    "n_layer": 1,
    "n_head": 2,
    "context_length": 8,
    "n_steps": 6,
    "batch_size": 4,
    "validation_interval": 3,
    "seed": 2,
}


def labels(n_frames: int = 400, n_trajs: int = 2, seed: int = 0) -> list[np.ndarray]:
    """Three states with the labels 2, 5 and 40."""
    rng = np.random.default_rng(seed)
    return [np.array([2, 5, 40])[rng.integers(0, 3, n_frames)] for _ in range(n_trajs)]


def test_fit_gives_a_model_with_everything_it_needs() -> None:
    model = GPTEstimator("tiny", frame_interval="0.2 ns", **QUICK).fit(labels()).fetch_model()
    assert model.config.n_states == 3 and model.config.d_model == 16
    assert model.state_map.symbols.tolist() == [2, 5, 40]
    assert str(model.frame_interval) == "0.2 ns"
    files = model.to_files()
    assert files.starts.stationary.sum() == pytest.approx(1) and files.starts.windows.shape == (256, 8)
    assert [record["step"] for record in model.history] == [3, 6]
    assert {"loss", "validation_loss", "frames_per_second", "learning_rate"} <= set(model.history[-1])
    assert model.provenance["train"]["seed"] == 2


def test_save_and_load_change_nothing(tmp_path: Path) -> None:
    model = GPTEstimator("tiny", **QUICK).fit(labels()).fetch_model()
    model.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.config == model.config and loaded.state_map == model.state_map
    assert loaded.log_likelihood(labels(seed=5)) == model.log_likelihood(labels(seed=5))
    assert np.array_equal(loaded.to_files().starts.windows, model.to_files().starts.windows)


def test_files_patterns_and_arrays_are_the_same_data(tmp_path: Path) -> None:
    dtrajs = labels()
    np.save(tmp_path / "a_1.npy", dtrajs[0])
    np.save(tmp_path / "a_2.npy", dtrajs[1])
    from_arrays = GPTEstimator("tiny", **QUICK).fit(dtrajs).fetch_model()
    from_files = GPTEstimator("tiny", **QUICK).fit(str(tmp_path / "a_*.npy")).fetch_model()
    assert from_arrays.log_likelihood(dtrajs) == from_files.log_likelihood(str(tmp_path / "a_*.npy"))


def test_best_and_last() -> None:
    estimator = GPTEstimator("tiny", **QUICK | {"n_steps": 150, "learning_rate": 0.03}).fit(labels(60))
    best, last = estimator.fetch_model(), estimator.fetch_model("last")
    assert best.provenance["best_step"] < 150 == last.provenance["best_step"]
    assert best.log_likelihood(labels(seed=5)) > last.log_likelihood(labels(seed=5))
    with pytest.raises(InputError, match="best or last"):
        estimator.fetch_model("first")


def test_the_last_weights_get_their_last_fit_when_somebody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    from nanomd.training import finish

    fits, fit = [], finish.refit_files
    monkeypatch.setattr(finish, "refit_files", lambda *args, **kw: fits.append(1) or fit(*args, **kw))
    estimator = GPTEstimator("tiny", **QUICK | {"n_steps": 150, "learning_rate": 0.03}).fit(labels(60))
    assert estimator.fetch_model().provenance["best_step"] < 150 and len(fits) == 1
    last = estimator.fetch_model("last")
    assert estimator.fetch_model("last") is last and len(fits) == 2
    assert last.provenance["refit"]["converged"]


def test_train_config_and_overrides() -> None:
    estimator = GPTEstimator("small", train=TrainConfig(n_steps=7, seed=3), objective="one_pass", n_kv_head=2)
    assert estimator.train_config == TrainConfig(n_steps=7, seed=3, objective="one_pass")
    assert estimator.model_overrides == {"n_kv_head": 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "huge"}, "preset must be one of"),
        ({"objectiv": "one_pass"}, "no option objectiv"),
        ({"n_states": 5}, "comes from the data"),
        ({"d_model": 30}, "multiple of 8"),
        ({"objective": "three_pass"}, "objective must be one of"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"n_steps": 2.5}, "n_steps must be int"),
        ({"frame_interval": 0.2}, "needs a unit"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GPTEstimator(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dtrajs", "message"),
    [
        (np.zeros(100, dtype=int), "one state only"),
        (np.array([0.0, 1.0, np.nan, 1.0]), "whole numbers"),
        (np.array([], dtype=int), "empty"),
        ([], "empty"),
        ([np.array([1]), np.array([2])], "no transition"),
        ([np.array([1, -1, 2, -1, 1])], "no transition"),
        (np.full(50, -1), "unassigned"),
        ([np.array([0, 1, 0])], "hold out"),
    ],
)
def test_bad_data(dtrajs: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        GPTEstimator("tiny", **QUICK).fit(dtrajs)  # type: ignore[arg-type]


def test_window_longer_than_the_data() -> None:
    with pytest.raises(InputError, match=r"train_length must be in \[2, 359\] frames"):
        GPTEstimator("tiny", train_length=500, **QUICK).fit(labels())


def test_unknown_states_and_missing_model() -> None:
    with pytest.raises(InputError, match="call fit"):
        GPTEstimator("tiny").fetch_model()
    model = GPTEstimator("tiny", **QUICK).fit(labels()).fetch_model()
    with pytest.raises(InputError, match="unknown state 7"):
        model.log_likelihood(np.array([2, 5, 7, 2]))
    with pytest.raises(InputError, match="nothing to score"):
        model.log_likelihood(np.array([2]))


def test_log_likelihood_is_a_mean_over_transitions() -> None:
    model = GPTEstimator("tiny", **QUICK).fit(labels()).fetch_model()
    x, y = labels(300, 1, seed=5)[0], labels(100, 1, seed=6)[0]
    both = model.log_likelihood([x, y])
    assert both == pytest.approx((299 * model.log_likelihood(x) + 99 * model.log_likelihood(y)) / 398, rel=1e-6)
    with torch.no_grad():
        tokens = torch.from_numpy(model.state_map.encode([x])[0].astype(np.int64))[None]
        scores = model.module(tokens[:, :-1]).log_softmax(-1).gather(-1, tokens[:, 1:, None])
    assert model.log_likelihood(x) == pytest.approx(scores.mean().item(), rel=1e-5)


def test_without_validation_the_last_weights_are_the_model() -> None:
    estimator = GPTEstimator("tiny", validation_fraction=0.0, **QUICK).fit(labels())
    best, last = estimator.fetch_model().to_files(), estimator.fetch_model("last").to_files()
    assert all(np.array_equal(best.tensors[name], last.tensors[name]) for name in best.tensors)


def test_resume_through_the_estimator(tmp_path: Path) -> None:
    options = QUICK | {"checkpoint_interval": 3}
    whole = GPTEstimator("tiny", run_dir=tmp_path, **options).fit(labels()).fetch_model()
    again = GPTEstimator("tiny", run_dir=tmp_path, resume=True, **options).fit(labels()).fetch_model()
    assert again.log_likelihood(labels()) == whole.log_likelihood(labels())
    with pytest.raises(InputError, match="already holds a training"):
        GPTEstimator("tiny", run_dir=tmp_path, **options).fit(labels())


# ---- starts


def test_stationary_distribution_solves_the_markov_model() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(5), size=5)
    x = np.zeros(20000, dtype=np.int64)
    for t in range(1, len(x)):
        x[t] = rng.choice(5, p=p[x[t - 1]])
    pi = stationary_distribution([x[:9000], x[9000:]], 5)
    counts = np.zeros((5, 5))
    for part in (x[:9000], x[9000:]):
        np.add.at(counts, (part[:-1], part[1:]), 1)
    np.testing.assert_allclose(pi @ (counts / counts.sum(1, keepdims=True)), pi, atol=1e-12)


def test_stationary_distribution_of_slow_and_of_disconnected_data() -> None:
    # Two wells joined by one passage each way: the eigenvalue nearest 1 is 1 - 2e-5.
    x = np.concatenate([np.tile([0, 1], 50000), np.tile([2, 3], 50000), [0]])
    pi = stationary_distribution([x], 4)
    assert pi == pytest.approx([0.25] * 4, abs=1e-3)
    # State 2 is left and never seen again; the larger connected set keeps everything.
    pi = stationary_distribution([np.concatenate([[2, 2], np.tile([0, 1], 100)])], 3)
    assert pi == pytest.approx([0.5, 0.5, 0.0], abs=1e-2)
    # Nothing returns: observed populations.
    assert stationary_distribution([np.array([0, 1, 2, 2])], 3) == pytest.approx([0.25, 0.25, 0.5])


def test_start_windows_are_pieces_of_the_data() -> None:
    tokens = [np.arange(10), np.arange(100, 103), np.arange(50, 59)]
    windows = start_windows(tokens, 5)
    assert windows.dtype == np.int32 and sorted(w[0] for w in windows.tolist()) == [
        0,
        1,
        2,
        3,
        4,
        5,
        50,
        51,
        52,
        53,
        54,
    ]
    assert (np.diff(windows, axis=1) == 1).all()
    assert start_windows([np.arange(4)], 5).shape == (0, 5)
    assert start_windows([np.arange(5000)], 5).shape == (256, 5)


@pytest.mark.parametrize("markov_head", [False, True])
def test_a_mask_removes_what_the_data_never_show_and_nothing_else(markov_head: bool) -> None:
    rng = np.random.default_rng(5)
    # A walk on a ring of raw labels that never steps back: of 25 transitions it shows 10.
    dtraj = 3 * (np.cumsum(rng.integers(0, 2, 3000)) % 5) + 1
    options = {"n_steps": 3, "context_length": 4, "train_length": 8, "seed": 2, "markov_head": markov_head}
    model = GPTEstimator("tiny", **options).fit(dtraj).fetch_model()
    masked = model.mask_unseen(dtraj)
    assert masked.config.markov_head
    made = (masked.generate(5000, 2, seed=1).dtrajs[0] - 1) // 3
    assert set(np.unique((np.diff(made)) % 5)) == {0, 1}
    if not markov_head:  # whose table starts from the counts
        plain = (model.generate(5000, 2, seed=1).dtrajs[0] - 1) // 3
        assert len(np.unique(np.diff(plain) % 5)) == 5
    both = (model.mask_unseen(dtraj, both_ways=True).generate(5000, 2, seed=1).dtrajs[0] - 1) // 3
    assert set(np.unique(np.diff(both) % 5)) <= {0, 1, 4}
    # Among seen transitions the odds are the model's own.
    tokens = torch.tensor([[0, 1, 1, 2]])
    with torch.no_grad():
        before, after = (m.module(tokens)[0, -1].softmax(-1) for m in (model, masked))
    assert float(after[2] / after[3]) == pytest.approx(float(before[2] / before[3]), rel=1e-4)
    assert float(after[[0, 1, 4]].sum()) == 0.0
    # Data that end in a state, and never leave it, say nothing of where it leads.
    with torch.no_grad():
        kept = model.mask_unseen(np.array([1, 4, 4, 7])).module(torch.tensor([[2]]))[0, -1].softmax(-1)
    assert float(kept.min()) > 0
