"""Cross-entropy with the markov head on a GPU: prove the Triton kernel, then time it beside PyTorch.

    python benchmarks/kernels/bench_cross_entropy.py [--out FOLDER] [--quick]

Compared, forward and backward together, the gradient of the table included: the Triton kernels, PyTorch eager, and
PyTorch under torch.compile.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial

import torch
from gpu_bench import Row, grid, main

from nanomd.kernels import cross_entropy
from nanomd.kernels.reference.cross_entropy import cross_entropy as formula

SIZES = ("rows", "n_states", "markov")
SHAPES = {  # rows of 64k tokens, states, whether there is a table
    "S": (65536, 100, 0),
    "S, markov": (65536, 100, 1),
    "XS": (65536, 20, 0),
    "1000 states, markov": (65536, 1000, 1),
    "20000 states": (8192, 20000, 0),
}


def problem(shape, dtype, device, seed=0):
    n_rows, n_states, with_markov = shape
    generator = torch.Generator(device).manual_seed(seed)
    logits = torch.randn(n_rows, n_states, device=device, generator=generator).mul_(3).to(dtype)
    targets, current = torch.randint(0, n_states, (2, n_rows), device=device, generator=generator)
    table = torch.randn(n_states, n_states, device=device, generator=generator) if with_markov else None
    weight = torch.rand(n_rows, device=device, generator=generator)
    return logits, targets, current, table, weight


def step(run, logits, targets, current, table, weight):
    """nll, dlogits and, with a table, its gradient."""
    leaves = [x.detach().requires_grad_() for x in (logits, table) if x is not None]
    rest = {} if table is None else {"current": current, "markov": leaves[1]}
    nll = run(leaves[0], targets, **rest)
    return [nll.detach(), *torch.autograd.grad(nll, leaves, weight.to(nll.dtype))]


def rivals(compiled=True) -> dict:
    runs = {"triton": partial(cross_entropy, backend="triton"), "eager": formula}
    if compiled:
        runs["compiled"] = torch.compile(formula, dynamic=False)
    return {name: partial(step, run) for name, run in runs.items()}


def verify(shape, dtype, runs, device="cuda") -> dict[str, float]:
    """Root mean square error against float64, in roundings of the type that the result has."""
    logits, targets, current, table, weight = problem((min(shape[0], 4096), *shape[1:]), dtype, device)
    exact = step(formula, logits.double(), targets, current, None if table is None else table.double(), weight.double())
    worst = {}
    for name, run in runs.items():
        errors = []
        for mine, e in zip(run(logits, targets, current, table, weight), exact, strict=True):
            errors.append(float((mine.double() - e).norm() / e.norm()) / torch.finfo(mine.dtype).eps)
        worst[name] = max(errors)
    if not worst["triton"] <= max(2.0 * worst["eager"], 2.0):
        raise SystemExit(f"triton is wrong: {worst['triton']:.2f} roundings at {shape}, {dtype}")
    return worst


def floor_bytes(shape, dtype) -> int:
    """Logits read forward and backward, their gradient written; a row's target, current token, nll, lse and weight."""
    n_rows, n_states, with_markov = shape
    width = torch.finfo(dtype).bits // 8
    return n_rows * (3 * n_states * width + 2 * 8 * (1 + with_markov) + 4 * 4)


def rows(quick: bool) -> Iterator[Row]:
    yield from grid(SHAPES, SIZES, (torch.bfloat16, torch.float32), verify, problem, rivals, floor_bytes, quick)


if __name__ == "__main__":
    sys.exit(main("cross_entropy", rows))
