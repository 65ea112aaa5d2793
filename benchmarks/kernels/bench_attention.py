"""Attention on a GPU: prove that the Triton kernels compute the formula, then time them beside PyTorch.

    python benchmarks/kernels/bench_attention.py [--out FOLDER] [--quick]

Compared, forward and backward together, rotation included: the Triton kernels, scaled-dot-product attention with a band
mask (eager), the blocked form that nanomd uses without Triton, and both under torch.compile. One process, interleaved
repeats, median and spread; one JSON record. Without a CUDA device it says so and exits with code 3.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from torch.nn.functional import scaled_dot_product_attention

from nanomd.kernels import attention, sdpa_attention
from nanomd.kernels.reference.attention import attention as formula
from nanomd.kernels.reference.attention import rotate

# name: batch, heads, key/value heads, T, d_head, W; S and XS train at 64k tokens a step with T = 4 W.
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


def implementations() -> dict:
    return {
        "triton": lambda *x, **rest: attention(*x, backend="triton", **rest),
        "sdpa, band mask": banded,
        "sdpa, blocks": sdpa_attention.attention,
        "compiled sdpa, band mask": torch.compile(banded, dynamic=False),
        "compiled formula": torch.compile(formula, dynamic=False),
    }


def problem(shape, dtype, device="cuda"):
    batch, heads, kv_heads, length, d_head, window = shape
    generator = torch.Generator(device).manual_seed(0)
    draw = lambda n: torch.randn(batch, length, n, d_head, device=device, generator=generator, dtype=dtype)  # noqa: E731
    q, k, v, do = (draw(n).transpose(1, 2) for n in (heads, kv_heads, kv_heads, heads))
    angle = torch.rand(length, d_head // 2, device=device, generator=generator) * 6.28 - 3.14
    return q, k, v, do, {"window": window, "cos": angle.cos(), "sin": angle.sin()}


def step(run, q, k, v, do, rest):
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    o = run(*leaves, **rest)
    return [o, *torch.autograd.grad(o, leaves, do)]


def verify(shape, dtype) -> dict[str, float]:
    """Relative error of o, dq, dk, dv against float64, and the factor to the formula's own in the same type."""
    small = (2, *shape[1:])
    q, k, v, do, rest = problem(small, dtype)
    exact_rest = {**rest, "cos": rest["cos"].double(), "sin": rest["sin"].double()}
    exact = step(formula, q.double(), k.double(), v.double(), do.double(), exact_rest)
    plain = step(formula, q, k, v, do, rest)
    worst = {}
    for name, run in implementations().items():
        factors = [
            float((mine.double() - e).norm() / (theirs.double() - e).norm().clamp(min=1e-30))
            for mine, theirs, e in zip(step(run, q, k, v, do, rest), plain, exact, strict=True)
        ]
        worst[name] = max(factors)
    if not worst["triton"] <= 2.0:
        raise SystemExit(f"triton is wrong: {worst['triton']:.2f} times the error of PyTorch at {shape}, {dtype}")
    return worst


def time_all(shape, dtype, repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds of forward and backward, replayed as one CUDA graph: launches cost what they cost in training."""
    problems = [problem(shape, dtype) for _ in range(3)]  # rotated, so that inputs do not sit in the L2 cache
    graphs = {}
    for name, run in implementations().items():
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for case in problems:
                for _ in range(3):
                    step(run, *case)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for case in problems:
                step(run, *case)
        graphs[name] = graph
    samples: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(repeats):
        for name, graph in graphs.items():
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            graph.replay()
            stop.record()
            stop.synchronize()
            samples[name].append(start.elapsed_time(stop) / len(problems))
    return {
        name: {"median_ms": statistics.median(x), "low_ms": min(x), "high_ms": max(x)} for name, x in samples.items()
    }


def floor(shape, dtype) -> dict[str, float]:
    """Bytes and multiply-adds that nothing avoids: each tensor once each way, the pairs inside the window."""
    batch, heads, kv_heads, length, d_head, window = shape
    width = torch.finfo(dtype).bits // 8
    rows = batch * length * d_head * width
    forward = rows * (2 * heads + 2 * kv_heads)
    backward = rows * (4 * heads + 4 * kv_heads)
    pairs = sum(min(i + 1, window) for i in range(length)) * batch * heads
    return {"bytes": forward + backward, "multiply_adds": pairs * d_head * 7}


def stamp() -> dict:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    triton = sys.modules.get("triton")
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": getattr(triton, "__version__", None),
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--quick", action="store_true", help="two shapes, few repeats")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("bench_attention needs a CUDA device; none is visible. Nothing was measured.", file=sys.stderr)
        return 3
    record = {"benchmark": "attention", "environment": stamp(), "rows": []}
    for name, shape in list(SHAPES.items())[: 2 if arguments.quick else None]:
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            row = {"name": name, "shape": shape, "dtype": str(dtype), "error_factor": verify(shape, dtype)}
            row |= {"floor": floor(shape, dtype), "times": time_all(shape, dtype, 10 if arguments.quick else 50)}
            record["rows"].append(row)
    record["environment"] = stamp()
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "bench_attention.json").write_text(json.dumps(record, indent=1))
    print(f"{'shape':20s} {'type':15s} {'triton ms':>10s} {'GB/s':>7s}  speed against the others")
    for row in record["rows"]:
        mine = row["times"]["triton"]["median_ms"]
        ratios = ", ".join(f"{n} {t['median_ms'] / mine:.2f}x" for n, t in row["times"].items() if n != "triton")
        rate = row["floor"]["bytes"] / mine / 1e6
        print(f"{row['name']:20s} {row['dtype']:15s} {mine:10.3f} {rate:7.0f}  {ratios}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
