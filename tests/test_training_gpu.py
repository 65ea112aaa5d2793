"""Training on a CUDA device: captured steps are the eager ones, resume as they ran, and never wait for the host."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from test_training import forget_later_checkpoints

from nanomd.base.config import ModelConfig, TrainConfig
from nanomd.model.network import NanoGPT
from nanomd.training.loop import train
from nanomd.training.result import TrainingDivergedError
from nanomd.training.setup import learning_rate, make_optimiser
from nanomd.training.step import TrainingStep
from nanomd.training.windows import WindowSampler

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

MODEL = ModelConfig(n_states=11, d_model=32, n_layer=2, n_head=4, context_length=16, mlp_ratio=2, markov_head=True)
TRAIN = TrainConfig(
    n_steps=60, batch_size=8, warmup_steps=5, mix_max=0.5, hidden_step_base=0.9, seed=3, time_reversal=True,
    validation_interval=20, checkpoint_interval=20, device="cuda",
)  # fmt: skip
OBJECTIVES = ["one_pass", "two_pass_token", "two_pass_hidden"]


def data(seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [(np.cumsum(rng.integers(-1, 2, n)) % 11).astype(np.uint8) for n in (3000, 400, 20)]


def curve(model: ModelConfig, config: TrainConfig) -> list[float]:
    return [record["loss"] for record in train(model, config, data(), data(1)).history]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_captured_is_eager(objective: str, precision: str) -> None:
    config = TRAIN.replace(objective=objective, precision=precision)
    expected = curve(MODEL, config.replace(compile="none"))
    tolerance = 1e-4 if precision == "fp32" else 2e-2
    assert curve(MODEL, config.replace(compile="graph")) == pytest.approx(expected, rel=tolerance)


@pytest.mark.filterwarnings("default")  # the compiler's own
def test_compiled_is_eager() -> None:
    expected = curve(MODEL, TRAIN.replace(compile="none"))
    assert curve(MODEL, TRAIN.replace(compile="compile-graph")) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_triton_is_reference(objective: str) -> None:
    config = TRAIN.replace(objective=objective, n_steps=200)
    expected = curve(MODEL, config.replace(backend="reference"))
    assert curve(MODEL, config.replace(backend="triton")) == pytest.approx(expected, rel=2e-3)


def test_cuda_is_cpu() -> None:
    config = TRAIN.replace(objective="one_pass")
    assert curve(MODEL, config) == pytest.approx(curve(MODEL, config.replace(device="cpu")), rel=1e-3)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_resume_is_identical_in_one_configuration(tmp_path: Path, objective: str) -> None:
    model = MODEL.replace(dropout=0.1, final_dropout=0.1)
    config = TRAIN.replace(objective=objective, precision="fp16")
    whole = train(model, config, data(), data(1))
    train(model, config, data(), data(1), run_dir=tmp_path)
    forget_later_checkpoints(tmp_path)
    resumed = train(model, config, data(), data(1), run_dir=tmp_path, resume=True)
    assert all(torch.equal(value, resumed.last[name]) for name, value in whole.last.items())


@pytest.mark.parametrize("mode", ["none", "graph"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_steps_never_wait_for_the_host(objective: str, precision: str, mode: str) -> None:
    config = TRAIN.replace(objective=objective, precision=precision, compile=mode, mix_anneal=False, n_steps=600)
    device = torch.device("cuda")
    windows = WindowSampler(data(), length=64, batch_size=8, context=15, reverse=True, seed=3, device=device)
    model = NanoGPT(MODEL, seed=1).to(device)
    rate = partial(learning_rate, config=config)
    step = TrainingStep(model, make_optimiser(model, config), windows, config, learning_rate=rate)
    for k in range(4):  # tables, kernels, captures
        step(k)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = [step(k) for k in range(4, 300)]  # the tables are sent again on the way
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.stack(losses).isfinite().all() and float(losses[-1]) < float(losses[0])


def test_divergence_is_an_error() -> None:
    with pytest.raises(TrainingDivergedError, match="the training diverged; lower learning_rate"):
        train(MODEL, TRAIN.replace(learning_rate=1e38, warmup_steps=0), data())
