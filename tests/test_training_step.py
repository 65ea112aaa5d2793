"""One step in all its forms: the same loss and gradient, shared or not, and nothing that would ask the device."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch
from test_training import forget_later_checkpoints
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from nanomd.base.config import ModelConfig, TrainConfig
from nanomd.base.errors import BackendUnavailableError, InputError
from nanomd.model.network import NanoGPT
from nanomd.training.distributed import World
from nanomd.training.loop import train
from nanomd.training.loss_scale import GROWTH_INTERVAL, INITIAL, LossScale
from nanomd.training.result import TrainingDivergedError
from nanomd.training.setup import learning_rate, make_optimiser
from nanomd.training.step import TrainingStep
from nanomd.training.windows import WindowSampler

MODEL = ModelConfig(n_states=5, d_model=16, n_layer=2, n_head=2, context_length=4, mlp_ratio=2, markov_head=True)
TRAIN = TrainConfig(n_steps=12, batch_size=5, warmup_steps=3, mix_max=0.6, mix_anneal=False, seed=3)
OBJECTIVES = ["one_pass", "two_pass_token", "two_pass_hidden"]


def data(n_frames: int = 300, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 5, n).astype(np.uint8) for n in (n_frames, 40, 9)]


def make_step(objective: str, *, world: World | None = None, fixed: bool = True, **changes: object) -> TrainingStep:
    config = TRAIN.replace(objective=objective, hidden_step_base=0.9, **changes)
    windows = WindowSampler(data(), length=12, batch_size=5, context=3, reverse=True, seed=3)
    model = NanoGPT(MODEL, seed=1)
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(model.markov.weight, generator=torch.Generator().manual_seed(1))
    rate = partial(learning_rate, config=config)
    return TrainingStep(
        model, make_optimiser(model, config), windows, config, learning_rate=rate, world=world, fixed=fixed
    )


def weights(step: TrainingStep) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in step.model.parameters()])


class Part(World):
    """One of several processes, without the others: what it would add to the sum is kept."""

    __slots__ = ()

    def sum(self, tensor: torch.Tensor) -> None:
        sums.append(tensor.clone())


sums: list[torch.Tensor] = []


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shift", [None, 4])
def test_plans_and_slices_are_the_batches_of_their_steps(reverse: bool, shift: int | None) -> None:
    windows = WindowSampler(data(), length=12, batch_size=5, context=3, reverse=reverse, shift=shift, seed=3)
    plans = torch.from_numpy(windows.plan(7, 4))
    for plan, step in zip(plans, range(7, 11), strict=True):
        whole = windows.batch(step)
        parts = [windows.gather(plan, rows) for rows in (slice(0, 2), slice(2, 5))]
        for name in ("tokens", "targets", "weights"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name)), name
        assert all(part.total == whole.weights.sum() for part in parts)


@pytest.mark.parametrize("objective", ["one_pass", "two_pass_hidden"])
def test_fixed_shapes_do_not_change_the_training(objective: str, monkeypatch) -> None:
    monkeypatch.setattr("nanomd.training.step.CHUNK", 5)  # the tables are sent several times
    fixed, sparse = make_step(objective), make_step(objective, fixed=False)
    losses = [[float(step(k)) for k in range(12)] for step in (fixed, sparse)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    torch.testing.assert_close(weights(fixed), weights(sparse), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_processes_together_do_what_one_does(objective: str, fixed: bool) -> None:
    """The sums of two slices of a step are the gradient and the loss of the whole step."""
    alone = make_step(objective, fixed=fixed)
    losses = [alone(k) for k in range(4)]
    expected = torch.cat([parameter.grad.flatten() for parameter in alone.parameters])
    for rank in range(2):
        part = make_step(objective, world=Part(rank, 2), fixed=fixed)
        for k in range(3):  # its own steps would lead elsewhere: take those of the whole
            if fixed:
                part(k)
        whole = make_step(objective, fixed=fixed)
        for k in range(3):
            whole(k)
        part.model.load_state_dict(whole.model.state_dict())
        sums.clear()
        part(3)
        gradient = sums[0] if rank == 0 else gradient + sums[0]  # noqa: F821
    torch.testing.assert_close(gradient[-1], losses[3], rtol=1e-5, atol=0)
    norm = gradient[:-1].norm()  # that of one process was clipped
    scale = 1.0 if norm < TRAIN.gradient_clip else TRAIN.gradient_clip / norm
    torch.testing.assert_close(gradient[:-1] * scale, expected, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("two_passes", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_steps_of_fixed_shapes_never_ask_the_device(objective: str, precision: str, two_passes: bool) -> None:
    """Tensors without values refuse whatever a CUDA graph could not hold; no GPU is needed to see it."""
    step = make_step(objective, precision=precision)
    step(0)  # makes tables and the optimiser's state
    before = weights(step)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for parameter in step.parameters:
            parameter.grad = None
        fake = [mode.from_tensor(x) for x in (step._plan[0], step._rates[0, 1:], step._place[1:], step._coins)]
        loss = step._fixed_loss(*fake, two_passes)
        assert loss.shape == ()
    assert torch.equal(weights(step), before)


def test_steps_of_changing_shapes_do_ask_it() -> None:
    step = make_step("two_pass_token", fixed=False)
    step.model.hidden(torch.zeros((1, 12), dtype=torch.int64))
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(DynamicOutputShapeException):
        step._sparse_loss(6)


def test_a_batch_has_a_window_for_every_process() -> None:
    assert [World(rank, 3).rows(8) for rank in range(3)] == [(0, 2), (2, 3), (5, 3)]
    with pytest.raises(InputError, match="batch_size must be at least 4, one window a process, got 3"):
        World(0, 4).rows(3)


def test_graphs_need_cuda() -> None:
    for name in ("graph", "compile-graph"):
        with pytest.raises(BackendUnavailableError, match=f"compile '{name}' needs a CUDA device"):
            train(MODEL, TRAIN.replace(compile=name, device="cpu"), data())
    with pytest.raises(
        InputError, match="compile must be one of auto, none, compile, graph, compile-graph, native, got 'x'"
    ):
        TRAIN.replace(compile="x")


# ---- 16 bits


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_sixteen_bits_learn_what_thirty_two_do(precision: str) -> None:
    dtrajs = [np.tile(np.array([0, 1, 1, 2, 4], np.uint8), 60)]
    config = TRAIN.replace(n_steps=60, learning_rate=0.01)
    results = [train(MODEL, config.replace(precision=name), dtrajs, dtrajs) for name in ("fp32", precision)]
    curves = np.array([[record["loss"] for record in result.history] for result in results])
    assert (curves[0] != curves[1]).any() and curves[:, -1].max() < 0.4
    assert np.abs(curves[1] - curves[0]).max() < 0.05
    assert all(value.dtype == torch.float32 for value in results[1].last.values())


def test_logits_stay_in_single_precision() -> None:
    model = NanoGPT(MODEL)
    torch.nn.init.normal_(model.head.weight)
    hidden, tokens = torch.randn(2, 3, 16), torch.zeros((2, 3), dtype=torch.int64)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.logits(hidden, tokens), model.logits(hidden.float(), tokens))
        assert model.logits(hidden, tokens).dtype == torch.float32
        assert model.blocks[0].mlp.up(hidden).dtype == torch.bfloat16
    torch.testing.assert_close(
        model.logits(hidden, tokens), model.norm(hidden) @ model.head.weight.T, rtol=1e-5, atol=1e-5
    )


def test_an_overflow_leaves_the_step_out_and_halves_the_scale() -> None:
    parameter = torch.nn.Parameter(torch.ones(4))
    optimiser = torch.optim.AdamW([parameter], lr=0.1, fused=True)
    scale = LossScale(torch.device("cpu"))

    def step(gradient: float) -> None:
        parameter.grad = torch.full((4,), gradient * float(scale.state[0]))
        scale.unscale_and_clip([parameter], 1.0, optimiser)
        optimiser.step()
        scale.update()

    step(0.25)
    once = parameter.detach().clone()
    assert (once < 1).all() and scale.to_list() == [INITIAL, 1]
    assert parameter.grad.tolist() == pytest.approx([0.25] * 4, rel=1e-5)
    for bad in (float("inf"), float("nan")):
        before = scale.to_list()[0]
        step(bad)
        assert torch.equal(parameter, once) and scale.to_list() == [before / 2, 0]
        assert float(optimiser.state[parameter]["step"]) == 1
    step(10.0)
    assert parameter.grad.norm() == pytest.approx(1.0, rel=1e-5)  # clipped
    scale.load([8.0, GROWTH_INTERVAL - 1])
    step(0.1)
    assert scale.to_list() == [16.0, 0]


def test_fp16_resumes_with_its_scale(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("nanomd.training.loss_scale.GROWTH_INTERVAL", 4)
    config = TRAIN.replace(precision="fp16", checkpoint_interval=6)
    whole = train(MODEL, config, data())
    train(MODEL, config, data(), run_dir=tmp_path)
    forget_later_checkpoints(tmp_path)
    state = json.loads((tmp_path / "checkpoints" / "step_000006" / "state.json").read_text())
    assert state["loss_scale"] == [2 * INITIAL, 2.0]
    resumed = train(MODEL, config, data(), run_dir=tmp_path, resume=True)
    assert all(torch.equal(value, resumed.last[name]) for name, value in whole.last.items())


def test_gradients_that_stay_infinite_are_a_clear_error(monkeypatch) -> None:
    monkeypatch.setattr(LossScale, "scaled", lambda self, loss: loss * float("inf"))
    with pytest.raises(TrainingDivergedError, match=r"gradients are not finite at step 2\d: the training diverged"):
        train(MODEL, TRAIN.replace(precision="fp16", n_steps=40), data())


def test_checkpoints_of_before_an_option_existed_resume(tmp_path) -> None:
    config = TRAIN.replace(checkpoint_interval=6)
    train(MODEL, config, data(), run_dir=tmp_path)
    file = tmp_path / "checkpoints" / "step_000012" / "state.json"
    state = json.loads(file.read_text())
    for name in ("precision", "compile"):
        state["identity"]["train"].pop(name, None)
    del state["loss_scale"]
    file.write_text(json.dumps(state))
    train(MODEL, config, data(), run_dir=tmp_path, resume=True)
    with pytest.raises(InputError, match="precision was 'fp32', now 'bf16'"):
        train(MODEL, config.replace(precision="bf16"), data(), run_dir=tmp_path, resume=True)


@pytest.mark.filterwarnings("default")  # the tracer's own
def test_the_loss_is_one_region_of_the_compiler(monkeypatch) -> None:
    """Traced whole, without a break, and run as traced; no code is generated, which would take half a minute."""
    compile_loss, regions = torch.compile, []

    def traced(function, **options):
        def count(graph, inputs):
            regions.append(graph)
            return graph.forward

        return compile_loss(function, backend=count, fullgraph=True, **options)

    monkeypatch.setattr(torch, "compile", traced)
    compiled, eager = (make_step("two_pass_token", compile=how) for how in ("compile", "none"))
    losses = [[float(step(k)) for k in range(5)] for step in (compiled, eager)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert len(regions) == 2  # without and with a first pass
