"""Attention in Triton; the formulae are in `nanomd.kernels.attention`.

Nothing of size T x T touches memory: the forward keeps a running maximum and sum per row (in base 2) and saves only
lse_i = log2 sum_j 2^(s_ij log2 e); the backward recomputes p from it. Every sum has a fixed order and one owner: no
atomics, so the same inputs give the same bits.

A tile's columns are two halves of HALF = next power of two >= max(8, d_head / 2), so that a rotation pairs equal
columns of the two halves and the inner dimension of `tl.dot` is never below 16.

Two backward kernels:

- `backward_walk`, where the window fits one tile (W <= BLOCK + 1): one program walks the tiles of a (sequence, head) in
  a zigzag, (query tile 0, key tile 0), (1, 0), (1, 1), (2, 1), ... Each pair's scores are computed once, five products
  instead of seven; dk and dv of a key tile, and dq of a query tile, are each complete after two steps, so three sums
  stay in registers. A sequence no longer than a tile is a walk of one step, which also serves grouped queries.
- `backward_tiles`, for any window: one program per tile sums dk and dv over the query tiles that see its keys, and then
  dq of its queries over the key tiles that they see.

Programs that share keys are neighbours in the grid, so that their reads meet in the L2 cache.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2E = math.log2(math.e)


@triton.jit
def _inside(rows, inner, T, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Mask of the rows inside the sequence and the columns inside the head (if there is padding)."""
    inside = ((rows >= 0) & (rows < T))[:, None]
    if WIDTH != PADDED:
        inside = inside & (inner < WIDTH)[None, :]
    return inside


@triton.jit
def _load_tile(base, rows, stride, T, D: tl.constexpr, HALF: tl.constexpr):
    """Rows of one head, (BLOCK, 2 HALF), zero outside the sequence and in the padding columns."""
    column = tl.arange(0, 2 * HALF)
    inside = _inside(rows, column, T, D, 2 * HALF)
    return tl.load(base + rows[:, None] * stride + column[None, :], mask=inside, other=0.0)


@triton.jit
def _load_rotated(base, cos, sin, rows, stride, T, D: tl.constexpr, HALF: tl.constexpr, ROTARY: tl.constexpr):
    """As `_load_tile`, rotated in float32 and rounded to the tensor's type, each half padded to HALF columns.

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
        x = _load_tile(base, rows, stride, T, D, HALF)
    return x


@triton.jit
def _store_tile(base, x, rows, stride, T, D: tl.constexpr, HALF: tl.constexpr):
    column = tl.arange(0, 2 * HALF)
    inside = _inside(rows, column, T, D, 2 * HALF)
    tl.store(base + rows[:, None] * stride + column[None, :], x.to(base.dtype.element_ty), mask=inside)


@triton.jit
def _store_unrotated(
    base, dx, cos, sin, rows, stride, T, BLOCK: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr, ROTARY: tl.constexpr
):
    """Store the gradient of a tile, given the gradient of its rotation: the transposed rotation, pair by pair."""
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
        _store_tile(base, dx, rows, stride, T, D, HALF)


@triton.jit(do_not_specialize=["T", "H", "WINDOW"])
def forward(
    Q, K, V, COS, SIN, OUT, LSE,
    q_batch, q_head, q_row, kv_batch, kv_head, kv_row, v_batch, v_head, v_row, o_batch, o_head, o_row,
    T, H, WINDOW, scale_log2,
    GROUP: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr, ROTARY: tl.constexpr,
):  # fmt: skip
    """One program per query tile of a head: o (BLOCK, D) and lse (BLOCK,)."""
    n_tiles = tl.cdiv(T, BLOCK)
    tile = tl.program_id(0) % n_tiles
    sequence = (tl.program_id(0) // n_tiles // H).to(tl.int64)
    head = (tl.program_id(0) // n_tiles % H).to(tl.int64)
    Q += sequence * q_batch + head * q_head
    K += sequence * kv_batch + head // GROUP * kv_head
    V += sequence * v_batch + head // GROUP * v_head
    OUT += sequence * o_batch + head * o_head
    LSE += (sequence * H + head) * T

    rows = tile * BLOCK + tl.arange(0, BLOCK)
    q = _load_rotated(Q, COS, SIN, rows, q_row, T, D, HALF, ROTARY)
    highest = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    o = tl.zeros((BLOCK, 2 * HALF), tl.float32)
    first = tl.maximum(tile * BLOCK - WINDOW + 1, 0) // BLOCK
    for key_tile in range(first, tile + 1):
        columns = key_tile * BLOCK + tl.arange(0, BLOCK)
        k = _load_rotated(K, COS, SIN, columns, kv_row, T, D, HALF, ROTARY)
        v = _load_tile(V, columns, v_row, T, D, HALF)
        lag = rows[:, None] - columns[None, :]
        s = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
        s = tl.where((lag >= 0) & (lag < WINDOW), s, float("-inf"))
        raised = tl.maximum(highest, tl.max(s, 1))
        finite = tl.where(raised == float("-inf"), 0.0, raised)  # rows whose window begins in a later tile
        p = tl.exp2(s - finite[:, None])
        shrink = tl.exp2(highest - finite)
        total = total * shrink + tl.sum(p, 1)
        o = tl.dot(p.to(v.dtype), v, o * shrink[:, None], input_precision="ieee")
        highest = raised
    _store_tile(OUT, o / total[:, None], rows, o_row, T, D, HALF)
    tl.store(LSE + rows, highest + tl.log2(total), mask=rows < T)


@triton.jit
def _load_query_side(
    Q,
    DO,
    OUT,
    LSE,
    COS,
    SIN,
    rows,
    q_row,
    do_row,
    o_row,
    T,
    D: tl.constexpr,
    HALF: tl.constexpr,
    ROTARY: tl.constexpr,
):
    """Load what the backward needs of a query tile: rotated q, do, lse, and delta = rowsum(do * o)."""
    q = _load_rotated(Q, COS, SIN, rows, q_row, T, D, HALF, ROTARY)
    do = _load_tile(DO, rows, do_row, T, D, HALF)
    o = _load_tile(OUT, rows, o_row, T, D, HALF)
    delta = tl.sum(do.to(tl.float32) * o.to(tl.float32), 1)
    lse = tl.load(LSE + rows, mask=rows < T, other=0.0)
    return q, do, lse, delta


@triton.jit
def _scores_and_gradient(q, k, v, do, lse, delta, rows, columns, T, WINDOW, scale_log2):
    """Return p and ds without the factor scale, (queries, keys) float32, zero where nothing is seen."""
    lag = rows[:, None] - columns[None, :]
    visible = (lag >= 0) & (lag < WINDOW) & (rows < T)[:, None]
    s = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
    p = tl.exp2(tl.where(visible, s - lse[:, None], float("-inf")))
    dp = tl.dot(do, tl.trans(v), input_precision="ieee")
    return p, p * (dp - delta[:, None])


@triton.jit(do_not_specialize=["T", "H", "WINDOW"])
def backward_tiles(
    Q, K, V, COS, SIN, OUT, LSE, DO, DQ, DK, DV,
    q_batch, q_head, q_row, kv_batch, kv_head, kv_row, v_batch, v_head, v_row, o_batch, o_head, o_row,
    do_batch, do_head, do_row, dq_batch, dq_head, dq_row, dk_batch, dk_head, dk_row,
    T, H, WINDOW, scale_log2, scale,
    GROUP: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr, ROTARY: tl.constexpr,
):  # fmt: skip
    """One program per tile of a key/value head: dk and dv of its keys, then dq of its queries in all heads."""
    n_tiles = tl.cdiv(T, BLOCK)
    n_kv_head = H // GROUP
    tile = tl.program_id(0) % n_tiles
    sequence = (tl.program_id(0) // n_tiles // n_kv_head).to(tl.int64)
    kv_index = (tl.program_id(0) // n_tiles % n_kv_head).to(tl.int64)
    Q += sequence * q_batch + kv_index * GROUP * q_head
    K += sequence * kv_batch + kv_index * kv_head
    V += sequence * v_batch + kv_index * v_head
    OUT += sequence * o_batch + kv_index * GROUP * o_head
    DO += sequence * do_batch + kv_index * GROUP * do_head
    LSE += (sequence * H + kv_index * GROUP) * T
    DQ += sequence * dq_batch + kv_index * GROUP * dq_head
    DK += sequence * dk_batch + kv_index * dk_head
    DV += sequence * dk_batch + kv_index * dk_head

    columns = tile * BLOCK + tl.arange(0, BLOCK)
    k = _load_rotated(K, COS, SIN, columns, kv_row, T, D, HALF, ROTARY)
    v = _load_tile(V, columns, v_row, T, D, HALF)
    dk = tl.zeros((BLOCK, 2 * HALF), tl.float32)
    dv = tl.zeros((BLOCK, 2 * HALF), tl.float32)
    last = tl.minimum((tile * BLOCK + BLOCK - 1 + WINDOW - 1) // BLOCK, n_tiles - 1)
    for member in range(GROUP):
        for query_tile in range(tile, last + 1):
            rows = query_tile * BLOCK + tl.arange(0, BLOCK)
            q, do, lse, delta = _load_query_side(
                Q + member * q_head, DO + member * do_head, OUT + member * o_head, LSE + member * T,
                COS, SIN, rows, q_row, do_row, o_row, T, D, HALF, ROTARY,
            )  # fmt: skip
            p, ds = _scores_and_gradient(q, k, v, do, lse, delta, rows, columns, T, WINDOW, scale_log2)
            dv = tl.dot(tl.trans(p.to(do.dtype)), do, dv, input_precision="ieee")
            dk = tl.dot(tl.trans(ds.to(q.dtype)), q, dk, input_precision="ieee")
    _store_unrotated(DK, dk * scale, COS, SIN, columns, dk_row, T, BLOCK, D, HALF, ROTARY)
    _store_tile(DV, dv, columns, dk_row, T, D, HALF)

    rows = tile * BLOCK + tl.arange(0, BLOCK)
    first = tl.maximum(tile * BLOCK - WINDOW + 1, 0) // BLOCK
    for member in range(GROUP):
        q, do, lse, delta = _load_query_side(
            Q + member * q_head, DO + member * do_head, OUT + member * o_head, LSE + member * T,
            COS, SIN, rows, q_row, do_row, o_row, T, D, HALF, ROTARY,
        )  # fmt: skip
        dq = tl.zeros((BLOCK, 2 * HALF), tl.float32)
        for key_tile in range(first, tile + 1):
            columns = key_tile * BLOCK + tl.arange(0, BLOCK)
            k = _load_rotated(K, COS, SIN, columns, kv_row, T, D, HALF, ROTARY)
            v = _load_tile(V, columns, v_row, T, D, HALF)
            lag = rows[:, None] - columns[None, :]
            s = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
            p = tl.exp2(tl.where((lag >= 0) & (lag < WINDOW), s - lse[:, None], float("-inf")))
            dp = tl.dot(do, tl.trans(v), input_precision="ieee")
            ds = p * (dp - delta[:, None])
            dq = tl.dot(ds.to(k.dtype), k, dq, input_precision="ieee")
        _store_unrotated(DQ + member * dq_head, dq * scale, COS, SIN, rows, dq_row, T, BLOCK, D, HALF, ROTARY)


@triton.jit(do_not_specialize=["T", "H", "WINDOW"])
def backward_walk(
    Q, K, V, COS, SIN, OUT, LSE, DO, DQ, DK, DV,
    q_batch, q_head, q_row, kv_batch, kv_head, kv_row, v_batch, v_head, v_row, o_batch, o_head, o_row,
    do_batch, do_head, do_row, dq_batch, dq_head, dq_row, dk_batch, dk_head, dk_row,
    T, H, WINDOW, scale_log2, scale,
    GROUP: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr, ROTARY: tl.constexpr,
    ONE_TILE: tl.constexpr,
):  # fmt: skip
    """One program per key/value head; needs WINDOW <= BLOCK + 1. ONE_TILE: T <= BLOCK."""
    n_kv_head = H // GROUP
    sequence = (tl.program_id(0) // n_kv_head).to(tl.int64)
    kv_index = (tl.program_id(0) % n_kv_head).to(tl.int64)
    Q += sequence * q_batch + kv_index * GROUP * q_head
    K += sequence * kv_batch + kv_index * kv_head
    V += sequence * v_batch + kv_index * v_head
    OUT += sequence * o_batch + kv_index * GROUP * o_head
    DO += sequence * do_batch + kv_index * GROUP * do_head
    LSE += (sequence * H + kv_index * GROUP) * T
    DQ += sequence * dq_batch + kv_index * GROUP * dq_head
    DK += sequence * dk_batch + kv_index * dk_head
    DV += sequence * dk_batch + kv_index * dk_head

    if ONE_TILE:
        rows = tl.arange(0, BLOCK)
        k = _load_rotated(K, COS, SIN, rows, kv_row, T, D, HALF, ROTARY)
        v = _load_tile(V, rows, v_row, T, D, HALF)
        dk = tl.zeros((BLOCK, 2 * HALF), tl.float32)
        dv = tl.zeros((BLOCK, 2 * HALF), tl.float32)
        for member in range(GROUP):
            q, do, lse, delta = _load_query_side(
                Q + member * q_head, DO + member * do_head, OUT + member * o_head, LSE + member * T,
                COS, SIN, rows, q_row, do_row, o_row, T, D, HALF, ROTARY,
            )  # fmt: skip
            p, ds = _scores_and_gradient(q, k, v, do, lse, delta, rows, rows, T, WINDOW, scale_log2)
            dv = tl.dot(tl.trans(p.to(do.dtype)), do, dv, input_precision="ieee")
            ds = ds.to(q.dtype)
            dk = tl.dot(tl.trans(ds), q, dk, input_precision="ieee")
            dq = tl.dot(ds, k, input_precision="ieee")
            _store_unrotated(DQ + member * dq_head, dq * scale, COS, SIN, rows, dq_row, T, BLOCK, D, HALF, ROTARY)
        _store_unrotated(DK, dk * scale, COS, SIN, rows, dk_row, T, BLOCK, D, HALF, ROTARY)
        _store_tile(DV, dv, rows, dk_row, T, D, HALF)
    else:
        dq = tl.zeros((BLOCK, 2 * HALF), tl.float32)
        dk = tl.zeros((BLOCK, 2 * HALF), tl.float32)
        dv = tl.zeros((BLOCK, 2 * HALF), tl.float32)
        for step in range(2 * tl.cdiv(T, BLOCK)):
            columns = step // 2 * BLOCK + tl.arange(0, BLOCK)
            rows = (step + 1) // 2 * BLOCK + tl.arange(0, BLOCK)
            k = _load_rotated(K, COS, SIN, columns, kv_row, T, D, HALF, ROTARY)
            v = _load_tile(V, columns, v_row, T, D, HALF)
            q, do, lse, delta = _load_query_side(
                Q, DO, OUT, LSE, COS, SIN, rows, q_row, do_row, o_row, T, D, HALF, ROTARY
            )
            p, ds = _scores_and_gradient(q, k, v, do, lse, delta, rows, columns, T, WINDOW, scale_log2)
            dv = tl.dot(tl.trans(p.to(do.dtype)), do, dv, input_precision="ieee")
            ds = ds.to(q.dtype)
            dk = tl.dot(tl.trans(ds), q, dk, input_precision="ieee")
            dq = tl.dot(ds, k, dq, input_precision="ieee")
            if step % 2 == 0:
                _store_unrotated(DQ, dq * scale, COS, SIN, rows, dq_row, T, BLOCK, D, HALF, ROTARY)
                dq = tl.zeros((BLOCK, 2 * HALF), tl.float32)
            else:
                _store_unrotated(DK, dk * scale, COS, SIN, columns, dk_row, T, BLOCK, D, HALF, ROTARY)
                _store_tile(DV, dv, columns, dk_row, T, D, HALF)
                dk = tl.zeros((BLOCK, 2 * HALF), tl.float32)
                dv = tl.zeros((BLOCK, 2 * HALF), tl.float32)


@dataclass(frozen=True)
class Launch:
    """Which kernel, with which tile: a pure function of the problem, so that the compile-time checks see what runs."""

    kernel: Any
    block: int
    num_warps: int
    num_stages: int
    one_tile: bool | None = None

    def constants(self, group: int, d_head: int, rotary: bool) -> dict[str, Any]:
        """Compile-time arguments of the kernel."""
        values: dict[str, Any] = {
            "GROUP": group, "D": d_head, "HALF": half_columns(d_head), "BLOCK": self.block, "ROTARY": rotary,
        }  # fmt: skip
        if self.one_tile is not None:
            values["ONE_TILE"] = self.one_tile
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
    """Choose the backward's kernel and tile: the largest walk that holds the window in registers, else tiles.

    The limits are those at which the compiler spills nothing of ungrouped rotary heads on any architecture. Grouped
    queries walk only a single tile, since the dq of several heads cannot travel along the walk at once.
    """
    half = half_columns(d_head)
    single = dtype == torch.float32
    whole = 32 if single else (64 if half > 16 else 128)  # the largest sequence that is one tile
    if length <= whole:
        warps = 8 if length > 64 or (single and half > 16) else 4
        return Launch(backward_walk, _tile(length), warps, 1, one_tile=True)
    return _plan_long(single, d_head, window, group)


def _plan_long(single: bool, d_head: int, window: int, group: int) -> Launch:
    half = half_columns(d_head)
    if single:
        if window <= 33 and group == 1:
            return Launch(backward_walk, 32, 8 if half > 16 else 4, 1, one_tile=False)
        # The masks of heads of 8, padded to 16, take registers that four warps do not leave.
        return Launch(backward_tiles, 32, 8 if half > 16 or d_head == 8 else 4, 1)
    if window <= 33 and half > 16 and group == 1:
        return Launch(backward_walk, 32, 4, 1, one_tile=False)
    if window <= 65 and half <= 16 and group == 1:
        return Launch(backward_walk, 64, 4, 1, one_tile=False)
    if window <= 129 and half == 8 and group == 1:
        return Launch(backward_walk, 128, 8, 1, one_tile=False)
    # Heads of 40 to 56 are padded to 64, and the masks of the padding take registers that tiles of 64 do not leave.
    padded = half > 16 and d_head < 2 * half
    return Launch(backward_tiles, 32 if padded else 64, 8 if half > 16 else 4, 1)


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


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, cos: Tensor | None, sin: Tensor | None, window: int
    ) -> Tensor:
        q, k, v = _rows_contiguous(q), _rows_contiguous(k), _rows_contiguous(v)
        batch, n_head, length, d_head = q.shape
        o = _like(q)
        lse = torch.empty((batch, n_head, length), dtype=torch.float32, device=q.device)
        launch = plan_forward(q.dtype, d_head, length)
        tables = (q, q) if cos is None else (cos, sin)  # unused without rotation, but a pointer is needed
        group = n_head // k.shape[1]
        launch.kernel[(triton.cdiv(length, launch.block) * batch * n_head,)](
            q, k, v, *tables, o, lse,
            *_head_strides(q), *_head_strides(k), *_head_strides(v), *_head_strides(o),
            length, n_head, window, d_head**-0.5 * LOG2E,
            **launch.constants(group, d_head, cos is not None),
            num_warps=launch.num_warps, num_stages=launch.num_stages,
        )  # fmt: skip
        ctx.save_for_backward(q, k, v, cos, sin, o, lse)
        ctx.window = window
        return o

    @staticmethod
    def backward(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, cos, sin, o, lse = ctx.saved_tensors
        do = _rows_contiguous(do)
        batch, n_head, length, d_head = q.shape
        n_kv_head = k.shape[1]
        dq, dk, dv = _like(q), _like(k), _like(v)
        launch = plan_backward(q.dtype, d_head, length, ctx.window, n_head // n_kv_head)
        n_tiles = 1 if launch.kernel is backward_walk else triton.cdiv(length, launch.block)
        tables = (q, q) if cos is None else (cos, sin)
        launch.kernel[(n_tiles * batch * n_kv_head,)](
            q, k, v, *tables, o, lse, do, dq, dk, dv,
            *_head_strides(q), *_head_strides(k), *_head_strides(v), *_head_strides(o),
            *_head_strides(do), *_head_strides(dq), *_head_strides(dk),
            length, n_head, ctx.window, d_head**-0.5 * LOG2E, d_head**-0.5,
            **launch.constants(n_head // n_kv_head, d_head, cos is not None),
            num_warps=launch.num_warps, num_stages=launch.num_stages,
        )  # fmt: skip
        return dq, dk, dv, None, None, None


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, window: int, cos: Tensor | None = None, sin: Tensor | None = None
) -> Tensor:
    """Attend with the kernels above; arguments as in `nanomd.kernels.attention`, already checked there."""
    if q.numel() == 0:
        return torch.empty_like(q)
    if cos is not None and sin is not None:
        cos, sin = cos.float().contiguous(), sin.float().contiguous()
    return _Attention.apply(q, k, v, cos, sin, min(window, q.shape[2]))
