"""Training: windows, weights, schedules, resume, determinism, errors, and learning a chain whose entropy is known."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanomd.base.config import ModelConfig, TrainConfig
from nanomd.base.errors import InputError, StoreError
from nanomd.data.counts import transition_counts
from nanomd.training.checkpoint import find_checkpoints
from nanomd.training.loop import train
from nanomd.training.result import TrainingDivergedError
from nanomd.training.setup import learning_rate, make_optimiser, resolve_train_length
from nanomd.training.windows import WindowSampler, even_weights

MODEL = ModelConfig(n_states=4, d_model=16, n_layer=1, n_head=2, context_length=4, mlp_ratio=2)
TRAIN = TrainConfig(n_steps=12, batch_size=4, warmup_steps=3, validation_interval=4, checkpoint_interval=5, seed=3)


def data(n_frames: int = 300, n_trajs: int = 2, n_states: int = 4, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, n_states, n_frames).astype(np.uint8) for _ in range(n_trajs)]


def forget_later_checkpoints(run_dir: Path) -> None:
    """Leave the first checkpoint alone, as if the training had been killed after it."""
    for path in find_checkpoints(run_dir / "checkpoints")[1:]:
        for file in path.iterdir():
            file.unlink()
        path.rmdir()


# ---- windows


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6).filter(lambda x: max(x) >= 2),
    length=st.integers(1, 20),
    shift=st.one_of(st.none(), st.integers(1, 12)),
    reverse=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_no_window_crosses_trajectories(
    lengths: list[int], length: int, shift: int | None, reverse: bool, seed: int
) -> None:
    # Every frame of the data has its own token, so that a window shows where it was read.
    ends = np.cumsum(lengths)
    trajectories = [np.arange(end - n, end, dtype=np.uint16) for n, end in zip(lengths, ends, strict=True)]
    owner = np.repeat(np.arange(len(lengths)), lengths)
    windows = WindowSampler(trajectories, length=length, batch_size=5, shift=shift, reverse=reverse, seed=seed)
    for step in range(4):
        batch = windows.batch(step)
        assert batch.tokens.shape == batch.targets.shape == batch.weights.shape == (5, length)
        for tokens, targets, weights in zip(
            batch.tokens.numpy(), batch.targets.numpy(), batch.weights.numpy(), strict=True
        ):
            valid = weights > 0
            n_valid = int(valid.sum())
            assert n_valid >= 1 and valid[:n_valid].all()  # padding stands at the end only
            assert n_valid == min(length, lengths[owner[tokens[0]]] - 1)  # and no target is lost to it
            assert (owner[tokens[valid]] == owner[targets[valid]]).all() and len(set(owner[tokens[valid]])) == 1
            direction = targets[valid].astype(int) - tokens[valid]
            assert (direction == 1).all() or (reverse and (direction == -1).all())
            assert (targets[valid][:-1] == tokens[valid][1:]).all()


@pytest.mark.parametrize("reverse", [False, True])
def test_every_target_has_the_same_expected_weight(reverse: bool) -> None:
    lengths = [2, 9, 11, 17, 30, 100]
    trajectories = [np.arange(sum(lengths[:k]), sum(lengths[: k + 1])) for k in range(len(lengths))]
    windows = WindowSampler(trajectories, length=10, batch_size=64, reverse=reverse, seed=1)
    total = np.zeros(sum(lengths) + 1)
    for step in range(1500):
        batch = windows.batch(step)
        # A transition read forwards or backwards is the same pair of frames.
        pair = torch.maximum(batch.tokens, batch.targets).flatten().numpy()
        total += np.bincount(pair, weights=batch.weights.flatten().numpy(), minlength=len(total))
    targets = np.concatenate([trajectory[1:] for trajectory in trajectories])
    share = total[targets] / total[targets].mean()
    assert total.sum() == pytest.approx(total[targets].sum())
    assert abs(share - 1).max() < 0.12 and share.std() < 0.03  # sampling error alone is about 0.02


def test_weights_are_one_inside_and_bounded_at_the_ends() -> None:
    target, total = torch.arange(91)[:, None] + torch.arange(10), torch.full((91, 1), 100)
    weights = even_weights(target, total, 10)
    assert weights[40].tolist() == pytest.approx([1.01] * 10)
    assert weights.min() > 0.6 and weights.max() < 2.1
    short = even_weights(target[:1], torch.tensor([[4]]), 10)
    assert short[0].tolist() == [1.0] * 4 + [0.0] * 6


def test_grid_windows_visit_everything_once_an_epoch() -> None:
    windows = WindowSampler([np.arange(23), np.arange(100, 106)], length=8, batch_size=1, shift=4, seed=0)
    starts = [0, 4, 8, 12, 14, 100]
    for epoch in range(3):
        seen = [int(windows.batch(epoch * 6 + k).tokens[0, 0]) for k in range(6)]
        assert sorted(seen) == starts
    assert seen != [int(windows.batch(k).tokens[0, 0]) for k in range(6)]


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 40), min_size=1, max_size=6),
    length=st.integers(2, 20),
    data=st.data(),
    reverse=st.booleans(),
)
def test_burn_in_frames_are_read_and_not_scored(lengths, length, data, reverse) -> None:
    context = data.draw(st.integers(0, length - 1))
    ends = np.cumsum(lengths)
    trajectories = [np.arange(end - n, end) for n, end in zip(lengths, ends, strict=True)]
    windows = WindowSampler(trajectories, length=length, context=context, batch_size=6, reverse=reverse, seed=0)
    for step in range(3):
        batch = windows.batch(step)
        for tokens, targets, weights in zip(
            batch.tokens.numpy(), batch.targets.numpy(), batch.weights.numpy(), strict=True
        ):
            first, count = int(np.flatnonzero(weights)[0]), int((weights > 0).sum())
            assert (weights[first : first + count] > 0).all() and count <= length - context
            read = np.concatenate((tokens[: first + count], targets[first + count - 1 : first + count]))
            step_of = np.diff(read)
            assert (step_of == 1).all() or (reverse and (step_of == -1).all())
            trajectory = trajectories[int(np.searchsorted(ends, read[0], side="right"))]
            assert np.isin(read, trajectory).all()
            # The whole burn-in, or all that the trajectory has before the first scored target.
            start = trajectory[0] if step_of[0] == 1 else trajectory[-1]
            assert first == context or (first < context and read[0] == start)


def test_every_target_is_scored_alike_with_burn_in() -> None:
    trajectories = [np.arange(0, 12), np.arange(12, 60)]
    windows = WindowSampler(trajectories, length=14, context=6, batch_size=64, seed=1)
    total = np.zeros(60)
    for step in range(1500):
        batch = windows.batch(step)
        total += np.bincount(batch.targets.flatten().numpy(), weights=batch.weights.flatten().numpy(), minlength=60)
    share = np.delete(total, [0, 12]) / np.delete(total, [0, 12]).mean()
    assert abs(share - 1).max() < 0.12 and share.std() < 0.03


def test_reversed_windows_are_about_half() -> None:
    windows = WindowSampler([np.arange(200)], length=5, batch_size=200, reverse=True, seed=0)
    batch = windows.batch(0)
    assert 70 < int((batch.targets[:, 0] < batch.tokens[:, 0]).sum()) < 130


def test_counts_stay_within_trajectories() -> None:
    counts = transition_counts([np.array([0, 1, 1], np.uint8), np.array([2, 0], np.uint8)], 3)
    assert counts.tolist() == [[0, 1, 0], [0, 1, 0], [1, 0, 0]]


# ---- schedules and settings


def test_learning_rate_warms_up_and_ends_at_zero() -> None:
    config = TrainConfig(n_steps=100, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(1.0) and max(rates) == pytest.approx(1.0)
    assert rates[-1] < 1e-3 and all(a >= b for a, b in pairwise(rates[10:]))
    assert learning_rate(99, config.replace(lr_schedule="constant")) == 1.0


def test_weight_decay_spares_biases_norms_and_tables() -> None:
    from nanomd.model.network import NanoGPT

    model = NanoGPT(MODEL.replace(markov_head=True))
    decayed, free = (set(map(id, group["params"])) for group in make_optimiser(model, TRAIN).param_groups)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[i] for i in decayed} == {
        "blocks.0.attention.qkv.weight", "blocks.0.attention.proj.weight", "blocks.0.mlp.up.weight",
        "blocks.0.mlp.down.weight", "head.weight",
    }  # fmt: skip
    assert not decayed & free and len(decayed | free) == len(names)


def test_window_length_fits_the_data() -> None:
    assert resolve_train_length(MODEL, TRAIN, 1000) == 16
    assert resolve_train_length(MODEL, TRAIN, 10) == 9
    assert resolve_train_length(MODEL.replace(position="learned"), TRAIN, 1000) == 4
    with pytest.raises(InputError, match=r"\[2, 9\] frames \(longest training trajectory has 10\), got 12"):
        resolve_train_length(MODEL, TRAIN.replace(train_length=12), 10)
    with pytest.raises(InputError, match="context_length = 4 with learned"):
        resolve_train_length(MODEL.replace(position="learned"), TRAIN.replace(train_length=5), 1000)


def test_training_leaves_torch_as_it_was() -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    train(MODEL.replace(dropout=0.1), TRAIN.replace(n_threads=1, n_steps=2), data())
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    assert (torch.tensor([1e-40]) / 2).item() > 0  # denormals are not flushed


# ---- runs


class Killed(BaseException):
    """Stands for a signal."""


class KillAt:
    """A progress bar that ends the process at a step."""

    def __init__(self, step: int) -> None:
        self.left = step

    def update(self, n: float = 1) -> None:
        self.left -= int(n)
        if self.left == 0:
            raise Killed

    def note(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.parametrize("objective", ["one_pass", "two_pass_token", "two_pass_hidden"])
@pytest.mark.parametrize("shift", [None, 3])
def test_resume_is_bit_identical(tmp_path: Path, objective: str, shift: int | None) -> None:
    model = MODEL.replace(dropout=0.1, final_dropout=0.1, markov_head=True)
    config = TRAIN.replace(objective=objective, window_shift=shift, time_reversal=True, mix_max=0.5)
    held_out = data(60, 1, seed=9)
    whole = train(model, config, data(), held_out)
    with pytest.raises(Killed):
        train(model, config, data(), held_out, run_dir=tmp_path, progress=KillAt(8))
    assert [path.name for path in find_checkpoints(tmp_path / "checkpoints")] == ["step_000005"]
    resumed = train(model, config, data(), held_out, run_dir=tmp_path, resume=True)
    for name, value in whole.last.items():
        assert torch.equal(value, resumed.last[name]), name
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert (whole.best_step, whole.best_loss) == (resumed.best_step, resumed.best_loss)
    # The log has each record once, as if nothing had happened.
    records = [json.loads(line) for line in (tmp_path / "logs" / "metrics.jsonl").read_text().splitlines()]
    for name in ("step", "loss", "validation_loss", "learning_rate"):
        assert [r.get(name) for r in records] == [r.get(name) for r in whole.history], name


def test_a_finished_training_resumes_to_itself(tmp_path: Path) -> None:
    first = train(MODEL, TRAIN, data(), run_dir=tmp_path)
    (tmp_path / "checkpoints" / ".step_000005.abcd1234.part").mkdir()  # of a process that was killed while it wrote
    again = train(MODEL, TRAIN, data(), run_dir=tmp_path, resume=True)
    assert all(torch.equal(value, again.last[name]) for name, value in first.last.items())
    assert len(find_checkpoints(tmp_path / "checkpoints")) == 3
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".safetensors", ".json", ".jsonl"}


def test_a_disk_that_is_full_leaves_the_checkpoints_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if "step_000010" in str(path) and path.name == "optimiser.safetensors":
            raise OSError(28, "No space left on device", str(path))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StoreError, match=r"cannot write the checkpoint .*step_000010: the disk is full"):
        train(MODEL, TRAIN, data(), run_dir=tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_000005"]


def test_seeds_decide_everything() -> None:
    model = MODEL.replace(dropout=0.1)
    one, two = (train(model, TRAIN, data(), data(60, 1, seed=9)) for _ in range(2))
    assert all(torch.equal(value, two.last[name]) for name, value in one.last.items())
    other = train(model, TRAIN.replace(seed=4), data(), data(60, 1, seed=9))
    assert not torch.equal(one.last["head.weight"], other.last["head.weight"])


def test_chosen_weights_are_the_latest_within_tolerance_of_the_lowest_loss() -> None:
    result = train(MODEL, TRAIN.replace(n_steps=200, learning_rate=0.02), data(40, 2), data(200, 1, seed=9))
    validated = {r["step"]: r["validation_loss"] for r in result.history if "validation_loss" in r}
    lowest = min(validated.values())
    assert result.best_loss == validated[result.best_step] <= 1.002 * lowest
    assert all(loss > 1.002 * lowest for step, loss in validated.items() if step > result.best_step)
    assert result.best_step < 200  # noise: 80 frames are learnt by heart
    assert not torch.equal(result.last["head.weight"], result.model.head.weight)


def test_another_training_cannot_be_resumed(tmp_path: Path) -> None:
    train(MODEL, TRAIN, data(), run_dir=tmp_path)
    with pytest.raises(InputError, match="already holds a training"):
        train(MODEL, TRAIN, data(), run_dir=tmp_path)
    with pytest.raises(InputError, match=r"learning_rate was 0\.002, now 0\.1"):
        train(MODEL, TRAIN.replace(learning_rate=0.1), data(), run_dir=tmp_path, resume=True)
    with pytest.raises(InputError, match="d_model was 16, now 32"):
        train(MODEL.replace(d_model=32), TRAIN, data(), run_dir=tmp_path, resume=True)
    with pytest.raises(InputError, match="training data differ"):
        train(MODEL, TRAIN, data(seed=1), run_dir=tmp_path, resume=True)


@pytest.mark.parametrize("file", ["state.json", "model.safetensors", "best.safetensors", "optimiser.safetensors"])
@pytest.mark.parametrize("damage", ["truncate", "remove", "garbage"])
def test_damaged_checkpoints_are_named(tmp_path: Path, file: str, damage: str) -> None:
    train(MODEL, TRAIN, data(), run_dir=tmp_path)
    path = find_checkpoints(tmp_path / "checkpoints")[-1] / file
    content = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "truncate" else b"\xff" * 64)
    with pytest.raises(InputError, match="step_000012"):
        train(MODEL, TRAIN, data(), run_dir=tmp_path, resume=True)


def test_divergence_is_an_early_clear_error() -> None:
    with pytest.raises(TrainingDivergedError, match=r"at step \d+: the training diverged; lower learning_rate"):
        train(MODEL, TRAIN.replace(learning_rate=1e38, warmup_steps=0, n_steps=50), data())


def test_many_short_trajectories_train() -> None:
    """Alternation 0 1 0 1 in pieces of two to seven frames, shorter than a window: all of it is learnt."""
    rng = np.random.default_rng(0)
    pieces = [((np.arange(rng.integers(2, 8)) + rng.integers(0, 2)) % 2).astype(np.uint8) for _ in range(80)]
    config = TRAIN.replace(n_steps=80, learning_rate=0.01, objective="one_pass")
    result = train(MODEL.replace(n_states=2), config, pieces)
    assert result.history[-1]["loss"] < 0.05 and math.isnan(result.best_loss)
