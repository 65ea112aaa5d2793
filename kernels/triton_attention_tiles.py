"""Tiles of attention in Triton: how rows of a head are read, rotated, and written back.

A tile's columns are two halves of HALF = next power of two >= max(8, d_head / 2), so that a rotation pairs equal
columns of the two halves and the inner dimension of `tl.dot` is never below 16. Padding, of columns and of rows beyond
the sequence, reads as zero.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def own_head(base, sequence, head, heads, T, D: tl.constexpr):
    """First value of a head in a tensor that the launch allocated, stored as (B, T, heads, D)."""
    return base + (sequence * T * heads + head) * D


@triton.jit
def _inside(rows, inner, T, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Mask of the rows inside the sequence and the columns inside the head (if there is padding)."""
    inside = (rows < T)[:, None]
    if WIDTH != PADDED:
        inside = inside & (inner < WIDTH)[None, :]
    return inside


@triton.jit
def load_tile(base, rows, stride, T, D: tl.constexpr, HALF: tl.constexpr):
    """Rows of one head, (BLOCK, 2 HALF)."""
    column = tl.arange(0, 2 * HALF)
    inside = _inside(rows, column, T, D, 2 * HALF)
    return tl.load(base + rows[:, None] * stride + column[None, :], mask=inside, other=0.0)


@triton.jit
def load_rotated(base, cos, sin, rows, stride, T, D: tl.constexpr, HALF: tl.constexpr, ROTARY: tl.constexpr):
    """As `load_tile`, rotated in float32 and rounded to the tensor's type, each half padded to HALF columns.

    The other half of the pair is read again, from cache: moving it between registers costs more than that.
    """
    if ROTARY:
        column = tl.arange(0, 2 * HALF)
        inner = column % HALF
        upper = column // HALF
        inside = _inside(rows, inner, T, D // 2, HALF)
        start = base + rows[:, None] * stride
        x = tl.load(start + (upper * (D // 2) + inner)[None, :], mask=inside, other=0.0).to(tl.float32)
        y = tl.load(start + ((1 - upper) * (D // 2) + inner)[None, :], mask=inside, other=0.0).to(tl.float32)
        at = rows[:, None] * (D // 2) + inner[None, :]
        c = tl.load(cos + at, mask=inside, other=0.0)
        s = tl.load(sin + at, mask=inside, other=0.0)
        s = tl.where((upper == 0)[None, :], -s, s)
        x = (x * c + y * s).to(base.dtype.element_ty)
    else:
        x = load_tile(base, rows, stride, T, D, HALF)
    return x


@triton.jit
def store_tile(base, x, rows, stride, T, D: tl.constexpr, HALF: tl.constexpr):
    """Write the rows and columns of a tile that exist."""
    column = tl.arange(0, 2 * HALF)
    inside = _inside(rows, column, T, D, 2 * HALF)
    tl.store(base + rows[:, None] * stride + column[None, :], x.to(base.dtype.element_ty), mask=inside)


@triton.jit
def store_unrotated(
    base, dx, cos, sin, rows, stride, T, BLOCK: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr, ROTARY: tl.constexpr
):
    """Write the gradient of a tile, given the gradient of its rotation: the transposed rotation, pair by pair."""
    if ROTARY:
        first, second = tl.split(tl.permute(tl.reshape(dx, (BLOCK, 2, HALF)), (0, 2, 1)))
        inner = tl.arange(0, HALF)
        inside = _inside(rows, inner, T, D // 2, HALF)
        at = rows[:, None] * (D // 2) + inner[None, :]
        c = tl.load(cos + at, mask=inside, other=0.0)
        s = tl.load(sin + at, mask=inside, other=0.0)
        target = base + rows[:, None] * stride + inner[None, :]
        tl.store(target, (first * c + second * s).to(base.dtype.element_ty), mask=inside)
        tl.store(target + D // 2, (second * c - first * s).to(base.dtype.element_ty), mask=inside)
    else:
        store_tile(base, dx, rows, stride, T, D, HALF)
