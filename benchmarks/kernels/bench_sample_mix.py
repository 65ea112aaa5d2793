"""Softmax, sample, mix on a GPU: prove that the Triton kernel draws what the reference draws, then time it.

    python benchmarks/kernels/bench_sample_mix.py [--out FOLDER] [--quick]

Beside it: the reference (Philox in PyTorch), and what most would write, softmax and `torch.multinomial`, and the argmax
of logits with Gumbel noise under torch.compile. These two draw other numbers, from PyTorch's generator, with 24 bits.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial

import torch
from gpu_bench import Row, grid, main

from nanomd.kernels import sample_mix

SIZES = ("batch", "length", "n_states", "per_cent_replaced")
SHAPES = {  # a step of 64k tokens
    "S": (128, 512, 100, 25),
    "S, all replaced": (128, 512, 100, 100),
    "XS": (256, 256, 20, 25),
    "1000 states": (128, 512, 1000, 25),
}


def problem(shape, dtype, device, seed=0):
    batch, length, n_states, per_cent = shape
    generator = torch.Generator(device).manual_seed(seed)
    logits = torch.randn(batch, length, n_states, device=device, generator=generator).mul_(3).to(dtype)
    tokens = torch.randint(0, n_states, (batch, length), device=device, generator=generator)
    probability = torch.full((1,), per_cent / 100, dtype=torch.float64, device=device)
    return logits, tokens, probability, torch.full((1,), 7 + seed, dtype=torch.int64, device=device)


def through(backend, logits, tokens, probability, step):
    return sample_mix(logits, tokens, probability=probability, seed=2**63 + 1, step=step, backend=backend)


def mixed(drawn, tokens, probability):
    coin = torch.rand(tokens.shape, device=tokens.device)
    return torch.cat((tokens[:, :1], torch.where(coin[:, 1:] < probability, drawn, tokens[:, 1:])), dim=1)


def with_multinomial(logits, tokens, probability, step):  # noqa: ARG001
    p = torch.softmax(logits[:, :-1].float(), dim=-1)
    return mixed(torch.multinomial(p.flatten(0, 1), 1).view(p.shape[:2]), tokens, probability)


def with_gumbel(logits, tokens, probability, step):  # noqa: ARG001
    noise = -torch.log(-torch.log(torch.rand(logits[:, :-1].shape, device=logits.device)))
    return mixed((logits[:, :-1].float() + noise).argmax(dim=-1), tokens, probability)


def rivals(compiled=True) -> dict:
    runs = {
        "triton": partial(through, "triton"),
        "reference": partial(through, "reference"),
        "softmax, multinomial": with_multinomial,
    }
    if compiled:
        runs["compiled Gumbel argmax"] = torch.compile(with_gumbel, dynamic=False)
        runs["compiled reference"] = torch.compile(runs["reference"], dynamic=False)
    return runs


def verify(shape, dtype, runs, device="cuda") -> dict[str, float]:
    """Share of positions where the kernel drew something else than the reference.

    Exponentials may differ in the last bit, and a uniform number lie that close to a boundary: 1e-6 a draw.
    """
    case = problem((min(shape[0], 16), *shape[1:]), dtype, device)
    different = float((runs["triton"](*case) != runs["reference"](*case)).double().mean())
    replaced = float((runs["triton"](*case) != case[1]).double().mean())
    if not different <= 1e-4 or not replaced > 0:
        raise SystemExit(f"triton is wrong: {different:.1%} of the draws differ at {shape}, {dtype}")
    return {"different": different, "replaced": replaced}


def floor_bytes(shape, dtype) -> int:
    """Rows of logits of the replaced positions, tokens read and written."""
    batch, length, n_states, per_cent = shape
    return batch * length * (n_states * per_cent * (torch.finfo(dtype).bits // 8) // 100 + 2 * 8)


def rows(quick: bool) -> Iterator[Row]:
    yield from grid(SHAPES, SIZES, (torch.bfloat16, torch.float32), verify, problem, rivals, floor_bytes, quick)


if __name__ == "__main__":
    sys.exit(main("sample_mix", rows))
