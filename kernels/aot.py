"""Compile Triton kernels ahead of time, for any GPU on any machine, and read what they cost.

A kernel that spills registers, or asks for more shared memory than a multiprocessor has, shows here and not on a GPU.
``python -m nanomd.kernels.aot`` prints the table.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from nanomd.kernels import triton_attention, triton_cross_entropy, triton_sample_mix

# Shared memory that one block may use, bytes, by compute capability.
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
_FLOAT32 = {"COS", "SIN", "STATS", "LSE", "NLL", "DNLL", "MARKOV"}
_NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


@dataclass(frozen=True)
class Variant:
    """One kernel as some problem launches it."""

    label: str
    kernel: Any
    dtype: torch.dtype
    constants: dict[str, Any]
    num_warps: int
    num_stages: int
    max_registers: int | None = None


@dataclass(frozen=True)
class Resources:
    """What the assembler reports: registers and bytes of local memory a thread, bytes of shared memory a block."""

    registers: int
    stack: int
    shared: int


def compile_variant(variant: Variant, capability: int) -> Resources:
    """Compile for compute capability 80, 90 or 100 and return the resources used. Needs no GPU."""
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    for index, name in enumerate(variant.kernel.arg_names):
        kind = _kind(name, variant)
        signature[name] = kind
        if kind == "constexpr":
            constants[index,] = variant.constants[name]
        elif kind.startswith("*") or name.endswith(("_batch", "_head", "_row")):
            attributes[index,] = [["tt.divisibility", 16]]
    source = ASTSource(fn=variant.kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": variant.num_warps, "num_stages": variant.num_stages}
    if variant.max_registers is not None:
        options["maxnreg"] = variant.max_registers
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        report = subprocess.run(  # noqa: S603
            [str(tool), "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", report)
    if found is None:
        raise RuntimeError(f"cuobjdump gave no resource usage:\n{report}")
    return Resources(int(found[1]), int(found[2]), int(compiled.metadata.shared))


def _kind(name: str, variant: Variant) -> str:
    if name in variant.constants:
        return "constexpr"
    match name:
        case "TOKENS" | "MIXED" | "STEP" | "TARGETS" | "CURRENT":
            return "*i64"
        case "PROBABILITY":
            return "*fp64"
        case "T" | "H" | "WINDOW" | "N" | "N_STATES" | "first_sequence":
            return "i32"
        case "scale" | "scale_log2":
            return "fp32"
        case "key":
            return "i64"
    if name.isupper():
        return "*fp32" if name in _FLOAT32 else "*" + _NAMES[variant.dtype]
    return "i32"


def attention_variants(dtype: torch.dtype, d_heads: tuple[int, ...]) -> Iterator[Variant]:
    """Yield every kernel that attention launches at the lengths and windows where its choice changes."""
    seen = set()
    for d_head in d_heads:
        for length, window, group, rotary in (
            (512, 128, 1, True), (512, 64, 1, True), (512, 32, 1, True), (512, 1000, 2, True), (128, 128, 1, True),
            (64, 64, 1, True), (32, 32, 2, True), (512, 64, 1, False), (512, 128, 4, False),
        ):  # fmt: skip
            for launch in (
                triton_attention.plan_forward(dtype, d_head, length),
                triton_attention.plan_backward(dtype, d_head, length, window, group),
            ):
                constants = launch.constants(group, d_head, rotary)
                name = " ".join(filter(None, (launch.kernel.fn.__name__, launch.route)))
                label = f"{name} {_NAMES[dtype]} d_head={d_head} block={launch.block} group={group}"
                label += " rotary" if rotary else ""
                if label not in seen:
                    seen.add(label)
                    warps, stages = launch.num_warps, launch.num_stages
                    yield Variant(label, launch.kernel, dtype, constants, warps, stages, triton_attention.MAX_REGISTERS)


def row_variants(dtype: torch.dtype) -> Iterator[Variant]:
    """Yield the kernels over rows of logits, for small and large vocabularies."""
    for n_states, with_markov in ((100, True), (4000, False)):
        rows, block = triton_sample_mix.plan(n_states)
        constants = {"ROWS": rows, "BLOCK": block, "HAS_MARKOV": with_markov}
        label = f"sample_and_mix {_NAMES[dtype]} rows={rows} block={block}"
        yield Variant(label, triton_sample_mix.sample_and_mix, dtype, constants, 4, 3)
        rows, block = triton_cross_entropy.plan(n_states)
        constants = {"ROWS": rows, "BLOCK": block, "HAS_MARKOV": with_markov}
        for kernel in (triton_cross_entropy.loss_forward, triton_cross_entropy.loss_backward):
            label = f"{kernel.fn.__name__} {_NAMES[dtype]} rows={rows} block={block}"
            yield Variant(label, kernel, dtype, constants, 4, 3)


def main() -> None:
    """Print registers, local memory and shared memory of every kernel."""
    print(f"{'kernel':64s} {'sm':>4s} {'regs':>5s} {'stack':>6s} {'shared':>7s}")
    for dtype in (torch.float16, torch.float32):
        for variant in (*attention_variants(dtype, (16, 32, 64)), *row_variants(dtype)):
            for capability in SHARED_LIMIT:
                used = compile_variant(variant, capability)
                numbers = f"{capability:4d} {used.registers:5d} {used.stack:6d} {used.shared:7d}"
                print(f"{variant.label:64s} {numbers}", flush=True)


if __name__ == "__main__":
    main()
