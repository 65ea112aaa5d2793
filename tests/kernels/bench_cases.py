"""The proofs of the kernel benchmarks, on small problems in Triton's interpreter: they pass, and they can fail."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "kernels"))

import bench_attention
import bench_cross_entropy
import bench_sample_mix

CASES = {
    bench_attention: (2, 2, 1, 40, 8, 16),
    bench_cross_entropy: (50, 11, 1),
    bench_sample_mix: (3, 20, 9, 60),
}
names = {"ids": lambda x: getattr(x, "__name__", "")}


@pytest.mark.parametrize(("bench", "shape"), CASES.items(), **names)
def test_the_proof_passes(bench, shape):
    errors = bench.verify(shape, torch.float32, bench.rivals(compiled=False), "cpu")
    assert errors
    assert bench.floor_bytes(shape, torch.float16) < bench.floor_bytes(shape, torch.float32)


@pytest.mark.parametrize(("bench", "shape"), CASES.items(), **names)
def test_the_proof_refuses_a_wrong_kernel(bench, shape):
    runs = bench.rivals(compiled=False)

    def wrong(right, *case):
        out = right(*case)
        return [x * (1 + 1e-5) for x in out] if isinstance(out, list) else out.flip(0)

    with pytest.raises(SystemExit, match="triton is wrong"):
        bench.verify(shape, torch.float32, {**runs, "triton": partial(wrong, runs["triton"])}, "cpu")
