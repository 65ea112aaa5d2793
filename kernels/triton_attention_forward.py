"""Attention forward in Triton.

For each row i a running shift m_i (the largest score so far) and sum, in base 2, with c = log2(e) / sqrt(d_head):

    p~_ij = 2^(c q_i.k_j - m_i),   r_i = 1 / sum_j p~_ij,   o_i = r_i sum_j p~_ij v_j

Nothing of size T x T touches memory; m and r are kept for the backward, which makes p_ij = p~_ij r_i again. Their
log-sum-exp m - log2 r would be one number instead of two, but its rounding, of the order of 8 in magnitude, would be
an error of every p in the row.
"""

from __future__ import annotations

import triton
import triton.language as tl

from nanomd.kernels.triton_attention_tiles import load_rotated, load_tile, own_head, store_tile


@triton.jit(do_not_specialize=["T", "H", "WINDOW"])
def forward(
    Q, K, V, COS, SIN, OUT, STATS,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, T, H, WINDOW, scale_log2,
    GROUP: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr, ROTARY: tl.constexpr,
):  # fmt: skip
    """One program per query tile of a head: o (BLOCK, D), m and r (BLOCK,). Neighbours share keys, in the L2 cache."""
    n_tiles = tl.cdiv(T, BLOCK)
    tile = tl.program_id(0) % n_tiles
    sequence = (tl.program_id(0) // n_tiles // H).to(tl.int64)
    head = (tl.program_id(0) // n_tiles % H).to(tl.int64)
    Q += sequence * q_batch + head * q_head
    K += sequence * k_batch + head // GROUP * k_head
    V += sequence * v_batch + head // GROUP * v_head
    OUT = own_head(OUT, sequence, head, H, T, D)
    STATS += (sequence * H + head) * 2 * T

    rows = tile * BLOCK + tl.arange(0, BLOCK)
    q = load_rotated(Q, COS, SIN, rows, q_row, T, D, HALF, ROTARY)
    m = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    o = tl.zeros((BLOCK, 2 * HALF), tl.float32)
    first = tl.maximum(tile * BLOCK - WINDOW + 1, 0) // BLOCK
    for key_tile in range(first, tile + 1):
        columns = key_tile * BLOCK + tl.arange(0, BLOCK)
        k = load_rotated(K, COS, SIN, columns, k_row, T, D, HALF, ROTARY)
        v = load_tile(V, columns, v_row, T, D, HALF)
        lag = rows[:, None] - columns[None, :]
        s = tl.dot(q, tl.trans(k), input_precision="ieee")
        s = tl.where((lag >= 0) & (lag < WINDOW), s, float("-inf"))
        raised = tl.maximum(m, tl.max(s, 1) * scale_log2)
        finite = tl.where(raised == float("-inf"), 0.0, raised)  # rows whose window begins in a later tile
        p = tl.exp2(s * scale_log2 - finite[:, None])  # one fused multiply-add: the product is not rounded
        shrink = tl.exp2(m - finite)
        total = total * shrink + tl.sum(p, 1)
        o = tl.dot(p.to(v.dtype), v, o * shrink[:, None], input_precision="ieee")
        m = raised
    r = tl.div_rn(1.0, total)
    store_tile(OUT, o * r[:, None], rows, H * D, T, D, HALF)
    tl.store(STATS + rows, m, mask=rows < T)
    tl.store(STATS + T + rows, r, mask=rows < T)
