"""Attention on a GPU: prove that the Triton kernels compute the formula, then time them beside PyTorch.

    python benchmarks/kernels/bench_attention.py [--out FOLDER] [--quick]

Compared, forward and backward together, rotation included: the Triton kernels, scaled-dot-product attention with a band
mask (eager), the blocked form that nanomd uses without Triton, and both under torch.compile.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial

import torch
from gpu_bench import Row, grid, main
from torch.nn.functional import scaled_dot_product_attention

from nanomd.kernels import attention, sdpa_attention
from nanomd.kernels.reference.attention import attention as formula
from nanomd.kernels.reference.attention import rotate

SIZES = ("batch", "heads", "kv_heads", "length", "d_head", "window")
# S and XS train at 64k tokens a step with T = 4 W.
SHAPES = {
    "S": (128, 4, 4, 512, 32, 128),
    "S, grouped": (128, 4, 1, 512, 32, 128),
    "XS": (256, 2, 2, 256, 32, 64),
    "small": (256, 4, 4, 256, 16, 64),
    "paper, four states": (128, 8, 8, 100, 8, 100),
    "paper, proteins": (64, 8, 8, 100, 16, 100),
    "wide heads": (64, 8, 8, 1024, 64, 256),
}


def banded(q, k, v, *, window, cos, sin):
    """PyTorch as most would write it: rotation, a boolean mask, scaled-dot-product attention."""
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    lag = torch.arange(q.shape[2], device=q.device)[:, None] - torch.arange(q.shape[2], device=q.device)
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    return scaled_dot_product_attention(q, k, v, attn_mask=(lag >= 0) & (lag < window))


def rivals(compiled=True) -> dict:
    runs = {
        "triton": lambda *x, **rest: attention(*x, backend="triton", **rest),
        "sdpa, band mask": banded,
        "sdpa, blocks": sdpa_attention.attention,
    }
    if compiled:
        runs["compiled sdpa, band mask"] = torch.compile(banded, dynamic=False)
        runs["compiled formula"] = torch.compile(formula, dynamic=False)
    return {name: partial(step, run) for name, run in runs.items()}


def problem(shape, dtype, device, seed=0):
    batch, heads, kv_heads, length, d_head, window = shape
    generator = torch.Generator(device).manual_seed(seed)
    draw = lambda n: torch.randn(batch, length, n, d_head, device=device, generator=generator, dtype=dtype)  # noqa: E731
    q, k, v, do = (draw(n).transpose(1, 2) for n in (heads, kv_heads, kv_heads, heads))
    angle = torch.rand(length, d_head // 2, device=device, generator=generator) * 6.28 - 3.14
    return q, k, v, do, {"window": window, "cos": angle.cos(), "sin": angle.sin()}


def step(run, q, k, v, do, rest):
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    o = run(*leaves, **rest)
    return [o.detach(), *torch.autograd.grad(o, leaves, do)]


def verify(shape, dtype, runs, device="cuda") -> dict[str, float]:
    """Root mean square error of o, dq, dk, dv against float64, as a factor to the formula's own in the same type."""
    q, k, v, do, rest = problem((2, *shape[1:]), dtype, device)
    exact_rest = {**rest, "cos": rest["cos"].double(), "sin": rest["sin"].double()}
    exact = step(formula, q.double(), k.double(), v.double(), do.double(), exact_rest)
    plain = step(formula, q, k, v, do, rest)
    worst = {}
    for name, run in runs.items():
        factors = [
            float((mine.double() - e).norm() / (theirs.double() - e).norm().clamp(min=1e-30))
            for mine, theirs, e in zip(run(q, k, v, do, rest), plain, exact, strict=True)
        ]
        worst[name] = max(factors)
    if not worst["triton"] <= 2.0:
        raise SystemExit(f"triton is wrong: {worst['triton']:.2f} times the error of PyTorch at {shape}, {dtype}")
    return worst


def floor_bytes(shape, dtype) -> int:
    """q, k, v, o, and in the backward do, dq, dk, dv and again q, k, v, o: each once."""
    batch, heads, kv_heads, length, d_head, _ = shape
    rows = batch * length * d_head * (torch.finfo(dtype).bits // 8)
    return rows * (2 * heads + 2 * kv_heads) + rows * (4 * heads + 4 * kv_heads)


def rows(quick: bool) -> Iterator[Row]:
    yield from grid(
        SHAPES, SIZES, (torch.bfloat16, torch.float16, torch.float32), verify, problem, rivals, floor_bytes, quick
    )


if __name__ == "__main__":
    sys.exit(main("attention", rows))
