"""Choice of weights by kinetics: the score against chains whose kinetics are known, and the choice in a training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from known_chain import default_chain
from test_training import KillAt, Killed

from nanomd.base.config import ModelConfig, TrainConfig
from nanomd.base.errors import InputError
from nanomd.estimator import GPTEstimator
from nanomd.training.loop import train
from nanomd.training.selection import KineticsReference, KineticsSelector, selection_steps

CHAIN = default_chain()
TRAINING = CHAIN.sample(20000, 4, seed=1)
HELD_OUT = CHAIN.sample(20000, 2, seed=2)
MODEL = ModelConfig(n_states=4, d_model=16, n_layer=1, n_head=2, context_length=4, mlp_ratio=2, markov_head=True)
TRAIN = TrainConfig(
    objective="one_pass", n_steps=40, batch_size=8, train_length=32, learning_rate=0.02, warmup_steps=4,
    validation_interval=40, checkpoint_interval=10, select="kinetics", seed=3, n_threads=1,
)  # fmt: skip


def markov_chain(n_steps: int, n_trajs: int, seed: int) -> list[np.ndarray]:
    """The lag-1 Markov model of the chain: the same populations, and timescales four times too short."""
    rng = np.random.default_rng(seed)
    cumulative = np.cumsum(CHAIN.markov, axis=1)
    cumulative[:, -1] = 1.0
    state = rng.choice(4, size=n_trajs, p=CHAIN.stationary)
    out = np.empty((n_trajs, n_steps), np.uint8)
    for step in range(n_steps):
        out[:, step] = state
        state = (rng.random(n_trajs)[:, None] >= cumulative[state]).sum(axis=1)
    return list(out)


def test_rounds_are_few_and_in_the_last_half() -> None:
    assert selection_steps(1000) == (600, 700, 800, 900, 1000)
    assert selection_steps(1) == (1,) and selection_steps(3)[-1] == 3


def test_lag_processes_and_macrostates_come_from_the_data() -> None:
    reference = KineticsReference.make(TRAINING, HELD_OUT, 4)
    assert 4 <= reference.slow.lagtime <= 32  # at lag 1 the slowest timescale is a quarter of the truth
    assert reference.slow.timescale == pytest.approx(CHAIN.implied_timescales(reference.slow.lagtime)[0], rel=0.2)
    assert reference.slow.timescale > 0.8 * CHAIN.timescales[0]
    assert reference.held_out and reference.n_frames == 40000
    assert reference.slow.macrostate is not None and sorted(reference.slow.macrostate) == [0, 1, 2, 3]
    assert reference.describe()["reference"] == "held-out MD"


def test_a_right_model_scores_one_and_a_wrong_one_far_more() -> None:
    model, wrong = CHAIN.sample(25000, 16, seed=5), markov_chain(25000, 16, seed=6)
    scores = []
    for seed in range(12):
        reference = KineticsReference.make(TRAINING, CHAIN.sample(20000, 2, seed=100 + seed), 4)
        scores.append(reference.score(model))
        assert reference.score(wrong) > 10
    # Mean of 12 sums of about five squares that are correlated: 1.05, and a scatter of 0.3.
    assert 0.4 < np.mean(scores) < 2.0


def test_the_score_is_the_formula() -> None:
    reference = KineticsReference.make(TRAINING, HELD_OUT, 4)
    assert reference.score(HELD_OUT) == pytest.approx(0.0, abs=1e-6)
    model = CHAIN.sample(30000, 8, seed=7)
    visits = np.bincount(np.concatenate(model), minlength=4) / 240000
    shares = np.array([visits[reference.slow.macrostate == a].sum() for a in range(4)])
    lag = reference.slow.lagtime
    counts = sum(np.bincount(4 * x[:-lag].astype(int) + x[lag:], minlength=16) for x in model).reshape(4, 4)
    transition = counts / counts.sum(axis=1, keepdims=True)
    values = np.array(
        [psi @ transition @ phi for psi, phi in zip(reference.slow.left.T, reference.slow.right.T, strict=True)]
    )
    expected = np.concatenate([np.log(shares / (1 - shares)), np.log(-lag / np.log(values))])
    assert len(values) >= 1 and np.isfinite(reference.md.error).all()
    z = (expected - reference.md.value) / reference.md.error
    assert reference.score(model) == pytest.approx(np.mean(z**2), rel=1e-4)
    # In the training MD itself the processes have the timescales of its Markov model, nearly: that one is reversible.
    own = KineticsReference.make(TRAINING, [], 4)
    assert own.md.value[4] == pytest.approx(np.log(own.slow.timescale), abs=0.02)


def test_a_model_without_the_process_has_a_finite_and_large_score() -> None:
    stuck = [np.zeros(1000, np.uint8)] * 4
    score = KineticsReference.make(TRAINING, HELD_OUT, 4).score(stuck)
    assert np.isfinite(score) and score > 100


def test_held_out_data_that_are_too_short_do_not_judge() -> None:
    reference = KineticsReference.make(TRAINING, [HELD_OUT[0][:500]], 4)
    assert not reference.held_out and reference.n_frames == 80000
    assert reference.describe()["reference"].startswith("training MD: the held-out part is too short")


def test_data_without_slow_processes_are_refused() -> None:
    fast = [np.tile(np.array([0, 1], np.uint8), 500)]
    with pytest.raises(InputError, match="select must be loss or last for these data"):
        KineticsReference.make(fast, [], 2)


def test_rollouts_are_bounded_by_the_training_and_by_the_reference() -> None:
    def selector(frames: int) -> KineticsSelector:
        return KineticsSelector(MODEL, TRAINING, HELD_OUT, n_steps=100, frames=frames)

    small, large = selector(100_000), selector(10**9)
    assert 5 * small.n_trajs * small.n_frames <= 100_000
    assert large.n_trajs == 16 and large.n_trajs * large.n_frames == pytest.approx(4 * 40000, rel=0.01)
    assert large.tolerance > 0.25 and 0 < large.dropped <= large.n_frames // 4


def test_the_chosen_weights_have_the_lowest_score_and_resume_is_bit_identical(tmp_path: Path) -> None:
    whole = train(MODEL, TRAIN, TRAINING, HELD_OUT)
    scores = {r["step"]: r["kinetics_score"] for r in whole.history if "kinetics_score" in r}
    assert tuple(scores) == (24, 28, 32, 36, 40)
    assert all("validation_loss" in r for r in whole.history if r["step"] in scores)
    selector = KineticsSelector(MODEL, TRAINING, HELD_OUT, n_steps=40, frames=40 * 8 * 32)
    bound = min(scores.values()) + selector.tolerance
    assert whole.best_step == max(step for step, score in scores.items() if score <= bound)
    assert whole.selection["select"] == "kinetics" and whole.selection["steps"] == [24, 28, 32, 36, 40]
    with pytest.raises(Killed):
        train(MODEL, TRAIN, TRAINING, HELD_OUT, run_dir=tmp_path, progress=KillAt(35))
    resumed = train(MODEL, TRAIN, TRAINING, HELD_OUT, run_dir=tmp_path, resume=True)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert {r["step"]: r["kinetics_score"] for r in resumed.history if "kinetics_score" in r} == scores
    records = [json.loads(line) for line in (tmp_path / "logs" / "metrics.jsonl").read_text().splitlines()]
    assert [r["kinetics_held_out"] for r in records if "kinetics_score" in r] == [1.0] * 5


def test_the_score_is_of_the_mean_of_the_weights() -> None:
    plain = train(MODEL, TRAIN, TRAINING, HELD_OUT)
    mean = train(MODEL, TRAIN.replace(average="tail", average_span=0.8), TRAINING, HELD_OUT)
    assert plain.history[-1]["loss"] == mean.history[-1]["loss"]
    assert plain.history[-1]["kinetics_score"] != mean.history[-1]["kinetics_score"]


def test_the_last_weights_can_be_asked_for() -> None:
    config = TRAIN.replace(select="last", n_steps=20, learning_rate=0.3, validation_interval=5)
    result = train(MODEL, config, TRAINING, HELD_OUT)
    assert result.best_step == 20 and result.best_loss == result.history[-1]["validation_loss"]
    assert all(torch.equal(value, result.last[name]) for name, value in result.model.state_dict().items())


def test_without_held_out_data_the_training_md_judges_and_the_model_says_so() -> None:
    options = TRAIN.replace(validation_fraction=0.0, n_steps=10).to_dict()
    model = GPTEstimator("tiny", train=TrainConfig.from_dict(options), d_model=16, n_layer=1, context_length=4).fit(
        TRAINING
    )
    provenance = model.fetch_model().provenance
    assert provenance["selection"]["reference"].startswith("training MD")
    assert provenance["best_step"] in (6, 7, 8, 9, 10)
    assert json.loads(json.dumps(provenance, allow_nan=False))["selection"]["n_quantities"] >= 4


def test_bad_choices_are_named() -> None:
    with pytest.raises(InputError, match="select must be one of loss, kinetics, last"):
        TrainConfig(select="best")  # type: ignore[arg-type]
