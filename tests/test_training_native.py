"""The compiled training step: gradients against float64 autograd, the same bits for any number of threads, resume."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_training import forget_later_checkpoints

from nanomd._native import NativeTrainingStep, available_isas
from nanomd.base.config import ModelConfig, TrainConfig
from nanomd.base.errors import InputError
from nanomd.model.network import NanoGPT
from nanomd.model.rope import rope_tables
from nanomd.model.scoring import weighted_nll
from nanomd.training.loop import train
from nanomd.training.setup import learning_rate, make_optimiser
from nanomd.training.step import TrainingStep
from nanomd.training.windows import WindowSampler

MODEL = ModelConfig(n_states=20, d_model=32, n_layer=2, n_head=2, context_length=8, mlp_ratio=2)
TRAIN = TrainConfig(n_steps=12, batch_size=5, warmup_steps=3, mix_max=0.6, mix_anneal=False, seed=3, compile="native")
Gradient = dict[str, np.ndarray]


def random_model(config: ModelConfig, seed: int = 1) -> NanoGPT:
    """Weights of which none is zero or one, so that no gradient vanishes."""
    model = NanoGPT(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        model.head.weight.mul_(3)
    return model


def random_batch(n_states: int, length: int, n_windows: int = 5, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Tokens, targets and weights; windows with burn-in, with padding, and one that counts nowhere."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, n_states, (n_windows, length + 1), generator=generator)
    weights = torch.rand(n_windows, length, generator=generator)
    weights[0, : length // 3] = 0
    weights[1, length // 2 :] = 0
    weights[-1] = 0
    return frames[:, :-1].contiguous(), frames[:, 1:].contiguous(), weights


def native_step(model: NanoGPT, length: int, objective: str = "one_pass", isa: str = "") -> NativeTrainingStep:
    config = model.config
    rope = rope_tables(config, np.arange(length, dtype=np.uint64)) if config.position == "rope" else None
    step = NativeTrainingStep(config, length, objective, rope, isa)
    named = dict(model.named_parameters())
    values = [named[name].detach().numpy().reshape(-1) for name in step.names]
    step.bind(values, *([np.zeros_like(v) for v in values] for _ in range(2)))
    return step


def native_gradient(model: NanoGPT, batch: tuple[torch.Tensor, ...], **options: object) -> tuple[float, Gradient]:
    isa = str(options.pop("isa", ""))
    step = native_step(model, batch[0].shape[1], isa=isa)
    loss = step.gradient(*(x.numpy() for x in batch), **options)  # type: ignore[arg-type]
    return loss, step.gradients()


def autograd(model: NanoGPT, batch: tuple[torch.Tensor, ...], dtype: torch.dtype) -> tuple[float, Gradient]:
    copy = NanoGPT(model.config, backend="reference").to(dtype)
    copy.load_state_dict(model.state_dict())
    tokens, targets, weights = batch
    loss = weighted_nll(
        copy.scores(copy.hidden(tokens)), targets, weights.to(dtype), current=tokens, markov=copy.table,
        backend="reference",
    )  # fmt: skip
    loss.backward()
    return float(loss.detach()), {n: p.grad.double().numpy().ravel() for n, p in copy.named_parameters()}


def assert_as_good_as_float32(model: NanoGPT, batch: tuple[torch.Tensor, ...], isa: str = "") -> None:
    """Every parameter's gradient errs at most twice as much as that of PyTorch in float32, or by its last digit."""
    loss, found = native_gradient(model, batch, isa=isa)
    exact_loss, exact = autograd(model, batch, torch.float64)
    _, single = autograd(model, batch, torch.float32)
    assert loss == pytest.approx(exact_loss, rel=3e-6)
    assert set(found) == set(exact)
    for name, gradient in exact.items():
        norm = np.linalg.norm
        allowed = 2 * norm(single[name] - gradient) + 2e-7 * norm(gradient)
        assert norm(gradient) > 0, name
        assert norm(found[name] - gradient) <= allowed, name


SHAPES = {
    "rotary": {},
    "markov head": {"markov_head": True},
    "post-norm, ReLU, learned": {"norm": "post", "activation": "relu", "position": "learned", "context_length": 64},
    "grouped queries": {"n_head": 4, "n_kv_head": 2},
    "heads of 24, window of 3": {"d_model": 24, "n_head": 1, "n_kv_head": 1, "context_length": 3, "n_states": 5},
    "heads of 8, many states": {"d_model": 40, "n_head": 5, "n_kv_head": 5, "n_states": 333, "context_length": 33},
    "heads of 32": {"d_model": 64, "context_length": 16, "n_states": 130, "n_layer": 3},
    "window beyond the frames": {"context_length": 200},
}


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_float64(shape: str, isa: str) -> None:
    model = random_model(MODEL.replace(**SHAPES[shape]))
    assert_as_good_as_float32(model, random_batch(model.config.n_states, 50), isa)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    length=st.integers(2, 70),
    window=st.integers(2, 90),
    heads=st.sampled_from([(1, 1), (2, 1), (3, 3), (4, 2)]),
    d_head=st.sampled_from([8, 16, 24, 32]),
    n_states=st.integers(2, 70),
    pre=st.booleans(),
    gelu=st.booleans(),
    seed=st.integers(0, 99),
)
def test_gradients_of_any_shape(length, window, heads, d_head, n_states, pre, gelu, seed) -> None:
    config = ModelConfig(
        n_states=n_states, d_model=heads[0] * d_head, n_layer=2, n_head=heads[0], n_kv_head=heads[1],
        context_length=window, mlp_ratio=1, norm="pre" if pre else "post", activation="gelu" if gelu else "relu",
        markov_head=gelu != pre,
    )  # fmt: skip
    assert_as_good_as_float32(random_model(config, seed), random_batch(n_states, length, 4, seed))


def test_threads_and_instruction_sets_change_no_bit() -> None:
    model = random_model(MODEL.replace(markov_head=True))
    batch = random_batch(20, 50, n_windows=21)
    loss, expected = native_gradient(model, batch)
    isas = [isa for isa in available_isas() if isa != "sse2"]  # which has no fused multiply-add
    for options in ({"n_threads": 2}, {"n_threads": 5}, *({"isa": isa} for isa in isas)):
        again, found = native_gradient(model, batch, **options)
        assert again == loss, options
        assert all(np.array_equal(found[name], expected[name]) for name in expected), options


def test_gradients_of_one_step_do_not_stay_for_the_next() -> None:
    model = random_model(MODEL.replace(markov_head=True))
    first, second = random_batch(20, 30, seed=0), random_batch(4, 30, n_windows=2, seed=1)  # few of the tokens
    step = native_step(model, 30)
    step.gradient(*(x.numpy() for x in first))
    step.gradient(*(x.numpy() for x in second))
    _, expected = native_gradient(model, second)
    assert all(np.array_equal(value, expected[name]) for name, value in step.gradients().items())


# ---- as one of the ways to run a step


def data(n_frames: int = 300, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 20, n).astype(np.uint8) for n in (n_frames, 40, 9)]


def training_step(model: ModelConfig = MODEL, **changes: object) -> TrainingStep:
    config = TRAIN.replace(hidden_step_base=0.9, **changes)
    windows = WindowSampler(data(), length=13, batch_size=5, context=3, reverse=True, seed=3)
    network = random_model(model)
    rate = partial(learning_rate, config=config)
    fixed = None if config.compile == "native" else True
    return TrainingStep(network, make_optimiser(network, config), windows, config, learning_rate=rate, fixed=fixed)


def weights(step: TrainingStep) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in step.model.parameters()])


@pytest.mark.parametrize("markov", [True, False])
@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("objective", ["one_pass", "two_pass_token", "two_pass_hidden"])
def test_steps_are_those_of_pytorch(objective: str, norm: str, markov: bool) -> None:
    """Losses and weights of twelve steps with states drawn, clipping and weight decay."""
    model = MODEL.replace(norm=norm, markov_head=markov)
    steps = [training_step(model, objective=objective, compile=how) for how in ("native", "none")]
    losses = [[float(step(k)) for k in range(12)] for step in steps]
    assert losses[0] == pytest.approx(losses[1], rel=2e-5)
    torch.testing.assert_close(weights(steps[0]), weights(steps[1]), rtol=1e-3, atol=2e-5)


def test_two_hundred_steps_give_the_loss_curve_of_pytorch() -> None:
    walk = [np.cumsum(np.random.default_rng(k).integers(-1, 2, 2000)) % 20 for k in range(3)]
    curves = []
    for how in ("native", "none"):
        config = TRAIN.replace(n_steps=200, compile=how, batch_size=8, validation_interval=20)
        curves.append([record["loss"] for record in train(MODEL, config, walk, walk[:1]).history])
    assert curves[0][-1] < 0.6 * curves[0][0]  # it has learnt
    assert curves[0] == pytest.approx(curves[1], rel=2e-3)


def test_a_killed_training_resumes_bit_for_bit(tmp_path) -> None:
    config = TRAIN.replace(objective="two_pass_token", checkpoint_interval=6, average="tail")
    whole = train(MODEL, config, data())
    train(MODEL, config, data(), run_dir=tmp_path)
    forget_later_checkpoints(tmp_path)
    resumed = train(MODEL, config.replace(n_threads=2), data(), run_dir=tmp_path, resume=True)
    assert all(torch.equal(value, resumed.last[name]) for name, value in whole.last.items())


def test_checkpoints_do_not_tell_which_step_wrote_them(tmp_path) -> None:
    config = TRAIN.replace(checkpoint_interval=6)
    whole = train(MODEL, config.replace(compile="none"), data())
    train(MODEL, config.replace(compile="none"), data(), run_dir=tmp_path)
    forget_later_checkpoints(tmp_path)
    resumed = train(MODEL, config, data(), run_dir=tmp_path, resume=True)
    for name, value in whole.last.items():
        torch.testing.assert_close(value, resumed.last[name], rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"precision": "bf16"}, "it has no precision but fp32, not bf16"),
        ({"backend": "reference"}, "backend must be auto, not reference"),
    ],
)
def test_what_it_cannot_do_is_a_clear_error(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(InputError, match=f"compile must not be native for this training \\({reason}.*; use auto"):
        train(MODEL, TRAIN.replace(**changes), data())


def test_the_core_checks_what_it_is_given() -> None:
    model = random_model(MODEL)
    tokens, targets, batch_weights = (x.numpy() for x in random_batch(20, 30))
    step = native_step(model, 30)
    with pytest.raises(InputError, match=r"tokens must be in \[0, 19\], got 20"):
        step.gradient(np.full_like(tokens, 20), targets, batch_weights)
    with pytest.raises(InputError, match="a batch must have a target that counts"):
        step.gradient(tokens, targets, np.zeros_like(batch_weights))
    with pytest.raises(InputError, match=r"tokens must have the shape \(n_windows, 30\)"):
        step.gradient(tokens[:, :7].copy(), targets, batch_weights)
    with pytest.raises(InputError, match="d_model / n_head must be a multiple of 8, got 32 / 3"):
        NativeTrainingStep(MODEL.replace(n_head=3), 30)
    with pytest.raises(InputError, match="rotary positions need tables"):
        NativeTrainingStep(MODEL, 30)
