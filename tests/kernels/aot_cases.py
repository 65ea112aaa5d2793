"""Ahead-of-time compilation of every kernel for three generations of GPU: it compiles, spills nothing, and fits."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from nanomd.kernels.aot import SHARED_LIMIT, attention_variants, compile_variant, row_variants

EVERYTHING = [
    variant
    for dtype in (torch.float16, torch.bfloat16, torch.float32)
    for variant in (*attention_variants(dtype, (8, 24, 32, 56, 64)), *row_variants(dtype))
]
# The widest head of each register class, on the architecture that matters most, and one of each kernel on the others.
QUICK = {
    90: [*attention_variants(torch.float16, (32,)), *list(attention_variants(torch.float32, (64,)))[:3]],
    80: [*attention_variants(torch.float16, (64,))],
    100: [*attention_variants(torch.bfloat16, (32,))],
}


def check(variant, capability):
    used = compile_variant(variant, capability)
    assert used.stack == 0, f"{variant.label} spills {used.stack} bytes a thread on sm_{capability}"
    assert used.shared <= SHARED_LIMIT[capability], f"{variant.label} needs {used.shared} bytes on sm_{capability}"


@pytest.mark.parametrize("capability", SHARED_LIMIT)
def test_kernels_compile_without_spills(capability):
    variants = [v for v in QUICK[capability] if "group=1 rotary" in v.label]
    kinds = {(v.kernel.fn.__name__, v.constants.get("ROUTE")) for v in variants}
    assert len(kinds) == 4, "forward and the three routes backward must all be covered"
    for variant in (*variants, *list(row_variants(torch.float32))[:3]):
        check(variant, capability)


@pytest.mark.slow
@pytest.mark.parametrize("capability", SHARED_LIMIT)
@pytest.mark.parametrize("variant", EVERYTHING, ids=lambda variant: variant.label)
def test_every_kernel_compiles_without_spills(variant, capability):
    check(variant, capability)


def test_the_gate_sees_a_spill():
    # A tile far too large for the registers: if this passes, the gate reads the wrong field.
    variant = next(v for v in attention_variants(torch.float32, (64,)) if "walk" in v.label)
    too_large = type(variant)(variant.label, variant.kernel, variant.dtype, {**variant.constants, "BLOCK": 64}, 4, 1)
    with pytest.raises(AssertionError, match="spills"):
        check(too_large, 90)
