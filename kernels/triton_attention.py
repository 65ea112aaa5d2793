"""Attention in Triton: which kernel and tile a problem gets, and the launches.

The formulae are in `nanomd.kernels.attention`, the kernels in `triton_attention_forward` and `_backward`. The launches
are operators of PyTorch, so that torch.compile takes them whole, without tracing into them or breaking its graph.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor, library

from nanomd.kernels.triton_attention_backward import backward
from nanomd.kernels.triton_attention_forward import forward

LOG2E = math.log2(math.e)
# Registers a thread, the most there are. Without it the assembler stops at 64, 80, 96 or 128, for more blocks at once,
# and keeps 8 to 24 bytes of some variants in local memory.
MAX_REGISTERS = 255


@dataclass(frozen=True)
class Launch:
    """Which kernel, with which tile: a pure function of the problem, so that the compile-time checks see what runs."""

    kernel: Any
    block: int
    num_warps: int
    num_stages: int
    route: str | None = None  # of the backward: "one tile", "walk" or "tiles"

    def constants(self, group: int, d_head: int, rotary: bool) -> dict[str, Any]:
        """Compile-time arguments of the kernel."""
        values: dict[str, Any] = {
            "GROUP": group, "D": d_head, "HALF": half_columns(d_head), "BLOCK": self.block, "ROTARY": rotary,
        }  # fmt: skip
        if self.route is not None:
            values["ROUTE"] = self.route
        return values


def half_columns(d_head: int) -> int:
    """Columns of one half of a padded head: a power of two, at least 8."""
    return max(8, triton.next_power_of_2(d_head // 2))


def plan_forward(dtype: torch.dtype, d_head: int, length: int) -> Launch:
    """Choose the forward's tile."""
    wide = half_columns(d_head) > 16
    if dtype == torch.float32:
        return Launch(forward, min(32, _tile(length)), 8, 1)
    return Launch(forward, min(64, _tile(length)), 4, 1 if wide else 2)


def plan_backward(dtype: torch.dtype, d_head: int, length: int, window: int, group: int) -> Launch:
    """Choose the backward's route and tile: the largest walk that holds the window in registers, else tiles.

    The limits are those at which the compiler spills nothing on any architecture. Grouped queries walk only a single
    tile, since the dq of several heads cannot travel along the walk at once.
    """
    half = half_columns(d_head)
    single = dtype == torch.float32
    whole = 32 if single else (64 if half > 16 else 128)  # the largest sequence that is one tile
    if length <= whole:
        warps = 8 if length > 64 or (single and half > 16) else 4
        return Launch(backward, _tile(length), warps, 1, "one tile")
    return _plan_long(single, d_head, window, group)


def _plan_long(single: bool, d_head: int, window: int, group: int) -> Launch:
    half = half_columns(d_head)
    wide, padded = half > 16, d_head < 2 * half
    if group == 1:
        if single and window <= 33:
            return Launch(backward, 32, 8 if wide else 4, 1, "walk")
        if not single and window <= 33 and wide:
            return Launch(backward, 32, 4, 1, "walk")
        if not single and window <= 65 and not wide:
            return Launch(backward, 64, 4, 1, "walk")
        if not single and window <= 129 and half == 8:
            return Launch(backward, 128, 8, 1, "walk")
    # The masks of padded heads take registers: wide ones leave none for a whole tile, and those of 24 in 16 bits would
    # spill with four warps.
    block = (32 if single else 64) // (2 if wide and padded else 1)
    return Launch(backward, block, 8 if wide or (padded and not single) else 4, 1, "tiles")


def _tile(length: int) -> int:
    return max(16, triton.next_power_of_2(length))


def _head_strides(x: Tensor) -> tuple[int, int, int]:
    return x.stride(0), x.stride(1), x.stride(2)


def _rows_contiguous(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _like(x: Tensor) -> Tensor:
    """Empty tensor shaped (B, heads, T, d) and stored as (B, T, heads, d), the order of the layers around attention."""
    batch, heads, length, d_head = x.shape
    return torch.empty((batch, length, heads, d_head), dtype=x.dtype, device=x.device).transpose(1, 2)


@library.custom_op("nanomd::attention", mutates_args=())
def _attend(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor | None, sin: Tensor | None, window: int
) -> tuple[Tensor, Tensor]:
    """Compute o and stats (B, n_head, 2, T): m and r of the forward kernel."""
    batch, n_head, length, d_head = q.shape
    o, stats = _empty_outputs(q)
    launch = plan_forward(q.dtype, d_head, length)
    launch.kernel[(triton.cdiv(length, launch.block) * batch * n_head,)](
        q, k, v, *_tables(cos, sin, q), o, stats, *_head_strides(q), *_head_strides(k), *_head_strides(v),
        length, n_head, window, d_head**-0.5 * LOG2E,
        **launch.constants(n_head // k.shape[1], d_head, cos is not None),
        num_warps=launch.num_warps, num_stages=launch.num_stages,
        maxnreg=MAX_REGISTERS,
    )  # fmt: skip
    return o, stats


@_attend.register_fake
def _empty_outputs(q: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    batch, n_head, length, _ = q.shape
    return _like(q), q.new_empty((batch, n_head, 2, length), dtype=torch.float32)


@library.custom_op("nanomd::attention_backward", mutates_args=())
def _gradients(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, cos: Tensor | None, sin: Tensor | None,
    o: Tensor, stats: Tensor, window: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Compute dq, dk and dv."""
    do = _rows_contiguous(do)
    batch, n_head, length, d_head = q.shape
    n_kv_head = k.shape[1]
    dq, dk, dv = _empty_gradients(do, q, k, v)
    launch = plan_backward(q.dtype, d_head, length, window, n_head // n_kv_head)
    n_tiles = triton.cdiv(length, launch.block) if launch.route == "tiles" else 1
    launch.kernel[(n_tiles * batch * n_kv_head,)](
        q, k, v, *_tables(cos, sin, q), o, stats, do, dq, dk, dv,
        *_head_strides(q), *_head_strides(k), *_head_strides(v), *_head_strides(do),
        length, n_head, window, d_head**-0.5 * LOG2E, d_head**-0.5,
        **launch.constants(n_head // n_kv_head, d_head, cos is not None),
        num_warps=launch.num_warps, num_stages=launch.num_stages,
        maxnreg=MAX_REGISTERS,
    )  # fmt: skip
    return dq, dk, dv


@_gradients.register_fake
def _empty_gradients(_do: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    return _like(q), _like(k), _like(v)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.window = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, do: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    return *_gradients(do, *ctx.saved_tensors, ctx.window), None, None, None


_attend.register_autograd(_differentiate, setup_context=_keep)


def _tables(cos: Tensor | None, sin: Tensor | None, q: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rotary tables, or without rotation any pointer at all."""
    return (q, q) if cos is None or sin is None else (cos, sin)


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, window: int, cos: Tensor | None = None, sin: Tensor | None = None
) -> Tensor:
    """Attend with the kernels; arguments as in `nanomd.kernels.attention`, already checked there."""
    if q.numel() == 0:
        return torch.empty_like(q)
    if cos is not None and sin is not None:
        cos, sin = cos.float().contiguous(), sin.float().contiguous()
    q, k, v = _rows_contiguous(q), _rows_contiguous(k), _rows_contiguous(v)
    o: Tensor = _attend(q, k, v, cos, sin, min(window, q.shape[2]))[0]
    return o
