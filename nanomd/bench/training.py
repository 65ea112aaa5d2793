r"""Speed of training steps beside plain PyTorch, eager and compiled, with the floor.

What a person would write is the same model with `scaled_dot_product_attention` and a band mask, in the same loop: the
windows, the clipping and the fused optimiser are ours in all contenders, so that only the step itself is compared.

**The floor** of a step of N frames, forward and backward. Operations (a fused multiply-add is two), with d the width, k
that of the keys, m that of the hidden layer and c the mean number of positions seen:

.. math:: 3 N \left[ 2 L (d (d + 2 k) + d^2 + 2 d m + 2 d c) + 2 d V \right]

for one pass: the backward is twice the forward. Bytes: every matrix product, attention and the loss read their inputs
and write their outputs once, with all that stands between them fused into them,

.. math:: 3 N b \left[ L (8 d + 2 (d + 2 k) + 2 m) + 2 d + 2 V \right]

of b bytes each; weights are negligible. A first pass without gradient adds a third of both, one with gradient adds all
but the head's. The floor is the larger of operations over the peak and bytes over the bandwidth, both measured in the
same run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanomd.base.config import ModelConfig, TrainConfig
from nanomd.bench.floor import measure_bandwidth, measure_peak
from nanomd.bench.models import VerificationError, bench_config
from nanomd.bench.timing import interleaved
from nanomd.kernels.reference.attention import rotate
from nanomd.model.network import Attention, Block, NanoGPT
from nanomd.training.setup import learning_rate, make_optimiser, resolve_burn_in, torch_settings
from nanomd.training.step import TrainingStep
from nanomd.training.windows import WindowSampler

OBJECTIVES = ("one_pass", "two_pass_token", "two_pass_hidden")
# Contender -> (whether the attention is the plain one, `compile` of the training). Which run is decided by the device.
CONTENDERS = {
    "nanomd": (False, "auto"),  # on a CPU the compiled step
    "nanomd, PyTorch": (False, "none"),
    "nanomd, compiled": (False, "compile"),
    "nanomd, compiled graph": (False, "compile-graph"),
    "PyTorch eager": (True, "none"),
    "PyTorch compiled": (True, "compile"),
    "nanomd, dropout": (False, "auto"),  # verified without, since each draws its own units
    "PyTorch eager, dropout": (True, "none"),
}
DROPOUT = 0.2
N_STEPS, FIRST_STEP = 1_000_000, 500_000  # in the middle of a long training, where states are replaced
VERIFIED_STEPS = 3
TOKENS = {"cuda": 65536, "cpu": 2048}  # of a step, unless a batch size is given
TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2, "fp16": 1e-2}  # of losses, relative to float32 in plain PyTorch


class PlainAttention(Attention):
    """Attention as most would write it: rotation, a boolean mask, `scaled_dot_product_attention`."""

    def forward(self, x: Tensor, tables: tuple[Tensor, Tensor] | None) -> Tensor:
        """Map (B, T, d) to (B, T, d)."""
        config, length = self.config, x.shape[1]
        kv_width = config.kv_heads * config.d_head
        q, k, v = self.qkv(x).split((config.d_model, kv_width, kv_width), dim=-1)
        q, k, v = (y.unflatten(-1, (-1, config.d_head)).transpose(1, 2) for y in (q, k, v))
        if tables is not None:
            q, k = rotate(q, *tables), rotate(k, *tables)
        group = config.n_head // config.kv_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        mask = self._mask(length, x.device)
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out

    def _mask(self, length: int, device: torch.device) -> Tensor:
        kept = getattr(self, "_kept", None)
        if kept is None or kept.shape[0] != length:
            lag = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
            self._kept = kept = (lag >= 0) & (lag < self.config.context_length)
        return kept


def window_length(model: ModelConfig) -> int:
    """Return the frames of a training window."""
    return 4 * model.context_length if model.position == "rope" else model.context_length


def make_step(
    model: ModelConfig, config: TrainConfig, *, plain: bool, device: torch.device, fixed: bool | None = None
) -> TrainingStep:
    """Return a step over random walks in state space."""
    walks = np.random.default_rng(0).integers(-1, 2, (64, 4096)).cumsum(axis=1) % model.n_states
    length = window_length(model)
    windows = WindowSampler(
        list(walks.astype(np.uint16)),
        length=length,
        batch_size=config.batch_size,
        context=resolve_burn_in(model, config, length),
        seed=config.seed,
        device=device,
    )
    network = NanoGPT(model, backend="reference" if plain else config.backend, seed=config.seed)
    if plain:
        for block in network.blocks:
            assert isinstance(block, Block)
            own = block.attention.state_dict()
            block.attention = PlainAttention(model, "reference")
            block.attention.load_state_dict(own)
    network.to(device).train()
    rate = partial(learning_rate, config=config)
    if plain:
        config = config.replace(backend="reference")
    return TrainingStep(network, make_optimiser(network, config), windows, config, learning_rate=rate, fixed=fixed)


def verify(step: TrainingStep) -> tuple[float, float]:
    """Take the first steps; return how much their losses differ from eager PyTorch's in float32, and the first's time.

    Raises
    ------
    VerificationError
        If by more than rounding.
    """
    config = step.config
    reference = config.replace(compile="none", precision="fp32")
    expected = make_step(step.model.config, reference, plain=True, device=step.device, fixed=step.fixed)
    begin = time.perf_counter()
    found = [float(step(FIRST_STEP))]
    seconds = time.perf_counter() - begin
    found += [float(step(k)) for k in range(FIRST_STEP + 1, FIRST_STEP + VERIFIED_STEPS)]
    wanted = [float(expected(FIRST_STEP + k)) for k in range(VERIFIED_STEPS)]
    error = max(abs(a / b - 1) for a, b in zip(found, wanted, strict=True))
    if not error <= TOLERANCE[config.precision]:
        raise VerificationError(f"losses of {config.objective} differ from plain PyTorch's by {error:.2g}")
    return error, seconds


def floor(model: ModelConfig, objective: str, length: int, precision: str, rates: tuple[float, float]) -> Any:
    """Return operations and bytes a frame and the floor in frames per second; `rates` are peak and bandwidth."""
    d, k, m, L, V = model.d_model, model.kv_heads * model.d_head, model.d_mlp, model.n_layer, model.n_states
    W = model.context_length
    seen = sum(min(p + 1, W) for p in range(length)) / length
    size = 4 if precision == "fp32" else 2
    blocks = 2 * L * (d * (d + 2 * k) + d * d + 2 * d * m + 2 * d * seen), L * (8 * d + 2 * (d + 2 * k) + 2 * m) * size
    head = 2 * d * V, (d + 2 * V) * 4
    passes = {"one_pass": (3, 3), "two_pass_token": (4, 3), "two_pass_hidden": (6, 3)}[objective]
    operations, n_bytes = (passes[0] * b + passes[1] * h for b, h in zip(blocks, head, strict=True))
    speed = 1 / max(operations / rates[0], n_bytes / rates[1])
    return {
        "operations": operations,
        "bytes": n_bytes,
        "peak_flops": rates[0],
        "bandwidth_bytes": rates[1],
        "frames_per_second": speed,
        "bound": "operations" if operations / rates[0] > n_bytes / rates[1] else "bytes",
    }


def measure_rates(device: torch.device, precision: str, n_threads: int) -> tuple[float, float]:
    """Return operations and bytes per second of a large matrix product and a large copy."""
    if device.type == "cpu":
        return measure_peak(n_threads), measure_bandwidth(n_threads, 1 << 26)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    a, b = (torch.randn(8192, 8192, device=device, dtype=dtype) for _ in range(2))
    source = torch.empty(1 << 30, device=device, dtype=torch.float32)
    target = torch.empty_like(source)

    def seconds(work: Callable[[], Tensor]) -> float:
        times = []
        for _ in range(8):
            torch.cuda.synchronize()
            begin = time.perf_counter()
            work()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
        return min(times)

    return 2 * 8192.0**3 / seconds(lambda: a @ b), 8.0 * source.numel() / seconds(lambda: target.copy_(source))


def runner(step: TrainingStep) -> Callable[[int], int]:
    """Return a function that does some steps, after those that were verified, and returns their number of frames."""
    done = FIRST_STEP + VERIFIED_STEPS

    def run(n_steps: int) -> int:
        nonlocal done
        for _ in range(n_steps):
            step(done)
            done += 1
        if step.device.type == "cuda":
            torch.cuda.synchronize()
        return n_steps * step.config.batch_size * step.windows.length

    return run


def train_cases(
    models: Sequence[str],
    batch_size: int | None,
    seconds: float,
    repeats: int,
    *,
    precision: str = "fp32",
    contenders: Sequence[str] = ("nanomd", "PyTorch eager"),
    objectives: Sequence[str] = OBJECTIVES,
    n_threads: int = 1,
    device: str = "auto",
) -> list[dict[str, Any]]:
    """Verify every contender, then time all of them in turns, in frames per second.

    Without `batch_size` a step has ``TOKENS`` frames.

    Returns
    -------
    list of dict
        For each model ``frames_per_second`` by "objective contender"; ``startup_seconds`` (the first step, with
        compilation or capture); ``cost_over_one_pass`` of ours; ``floor`` by objective; ``errors`` of the verification.
    """
    place = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    rates = measure_rates(place, precision, n_threads)
    cases = []
    for name in models:
        model = bench_config(name)
        batch = batch_size or max(1, TOKENS[place.type] // window_length(model))
        errors: dict[str, float] = {}
        startup: dict[str, float] = {}
        functions: dict[str, Callable[[int], int]] = {}
        with torch_settings(place, n_threads):
            for objective in objectives:
                for contender in contenders:
                    plain, how = CONTENDERS[contender]
                    config = TrainConfig(
                        objective=objective,  # type: ignore[arg-type]
                        compile=how,  # type: ignore[arg-type]
                        precision=precision,  # type: ignore[arg-type]
                        n_steps=N_STEPS,
                        batch_size=batch,
                        learning_rate=1e-4,
                        mix_anneal=False,
                        device=place.type,  # type: ignore[arg-type]
                    )
                    label = f"{objective} {contender}"
                    step = make_step(model, config, plain=plain, device=place)
                    errors[label], startup[label] = verify(step)
                    if contender.endswith("dropout"):
                        step = make_step(model.replace(dropout=DROPOUT), config, plain=plain, device=place)
                    functions[label] = runner(step)
            timed = interleaved(functions, seconds, repeats)
        length = step.windows.length
        by = "median" if place.type == "cuda" else "per_cpu_second"
        speeds = {label: result[by] for label, result in timed.items()}
        cases.append(
            {
                "model": name,
                "batch_size": batch,
                "length": length,
                "device": place.type,
                "precision": precision,
                "n_threads": n_threads,
                "errors": errors,
                "startup_seconds": startup,
                "frames_per_second": timed,
                "cost_over_one_pass": {
                    objective: speeds["one_pass nanomd"] / speeds[f"{objective} nanomd"]
                    for objective in objectives
                    if {"one_pass nanomd", f"{objective} nanomd"} <= set(speeds)
                },
                "floor": {o: floor(model, o, length, precision, rates) for o in objectives},
            }
        )
    return cases


def in_words(case: dict[str, Any]) -> list[str]:
    """Return a line for each objective of a case: our speed, the share of the floor, and over the other contenders."""
    by = "median" if case["device"] == "cuda" else "per_cpu_second"
    lines = []
    for objective, bound in case["floor"].items():
        speeds = {
            name.removeprefix(f"{objective} "): speed[by]
            for name, speed in case["frames_per_second"].items()
            if name.startswith(f"{objective} ")
        }
        ours = speeds.pop("nanomd")
        others = "".join(f", {ours / speed:.2f} x {name} ({speed:,.0f})" for name, speed in speeds.items())
        floor = bound["frames_per_second"]
        lines.append(
            f"{case['model']} {objective}: {ours:,.0f} frames/s, {ours / floor:.0%} of the floor of {floor:,.0f} "
            f"({bound['bound']}){others}"
        )
    return lines
