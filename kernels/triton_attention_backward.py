"""Attention backward in Triton.

With m, r and c of the forward, do = dL/do, and everything rotated:

    p_ij = 2^(c q_i.k_j - m_i) r_i,   delta_i = do_i.o_i = sum_j p_ij do_i.v_j,   ds_ij = p_ij (do_i.v_j - delta_i)
    dv_j = sum_i p_ij do_i,   dq_i = sum_j ds_ij k_j / sqrt(d_head),   dk_j = sum_i ds_ij q_i / sqrt(d_head)

Every sum has a fixed order and one owner: no atomics, so the same inputs give the same bits. Three routes:

- "one tile", for a sequence no longer than a tile: one program per (sequence, key/value head). delta comes from p, so
  that o is not read.
- "walk", for a window that fits one tile (W <= BLOCK + 1), without groups: one program walks the tiles of a
  (sequence, head) in a zigzag, (query tile 0, key tile 0), (1, 0), (1, 1), (2, 1), ... Each pair's scores are computed
  once, five products instead of seven; dk and dv of a key tile, and dq of a query tile, are each complete after two
  steps, so three sums stay in registers.
- "tiles", for everything: one program per tile sums dk and dv over the query tiles that see its keys, and then dq of
  its queries over the key tiles that they see.

Rows beyond the sequence need no mask: their q, do, m and r read as zero.
"""

from __future__ import annotations

import triton
import triton.language as tl

from nanomd.kernels.triton_attention_tiles import load_rotated, load_tile, own_head, store_tile, store_unrotated


@triton.jit
def _softmax_again(q, k, m, r, rows, columns, WINDOW, scale_log2):
    """Compute p (queries, keys) in float32, zero where nothing is seen."""
    lag = rows[:, None] - columns[None, :]
    s = tl.dot(q, tl.trans(k), input_precision="ieee")
    exponent = tl.where((lag >= 0) & (lag < WINDOW), s * scale_log2 - m[:, None], float("-inf"))
    return tl.exp2(exponent) * r[:, None]


@triton.jit
def _load_stats(STATS, rows, T):
    m = tl.load(STATS + rows, mask=rows < T, other=0.0)
    r = tl.load(STATS + T + rows, mask=rows < T, other=0.0)
    return m, r


@triton.jit
def _load_delta(OUT, do, rows, row_stride, T, D: tl.constexpr, HALF: tl.constexpr):
    o = load_tile(OUT, rows, row_stride, T, D, HALF)
    return tl.sum(do.to(tl.float32) * o.to(tl.float32), 1)


@triton.jit
def _one_tile(
    Q, K, V, COS, SIN, STATS, DO, DQ, DK, DV, q_head, q_row, k_row, v_row, do_head, do_row,
    T, H, WINDOW, scale_log2, scale,
    GROUP: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr, ROTARY: tl.constexpr,
):  # fmt: skip
    rows = tl.arange(0, BLOCK)
    k = load_rotated(K, COS, SIN, rows, k_row, T, D, HALF, ROTARY)
    v = load_tile(V, rows, v_row, T, D, HALF)
    dk = tl.zeros((BLOCK, 2 * HALF), tl.float32)
    dv = tl.zeros((BLOCK, 2 * HALF), tl.float32)
    for member in range(GROUP):
        q = load_rotated(Q + member * q_head, COS, SIN, rows, q_row, T, D, HALF, ROTARY)
        do = load_tile(DO + member * do_head, rows, do_row, T, D, HALF)
        m, r = _load_stats(STATS + member * 2 * T, rows, T)
        p = _softmax_again(q, k, m, r, rows, rows, WINDOW, scale_log2)
        dv = tl.dot(tl.trans(p.to(do.dtype)), do, dv, input_precision="ieee")
        dp = tl.dot(do, tl.trans(v), input_precision="ieee")
        delta = tl.sum(p * dp, 1)
        ds = (p * (dp - delta[:, None])).to(q.dtype)
        dk = tl.dot(tl.trans(ds), q, dk, input_precision="ieee")
        dq = tl.dot(ds, k, input_precision="ieee") * scale
        store_unrotated(DQ + member * D, dq, COS, SIN, rows, H * D, T, BLOCK, D, HALF, ROTARY)
    store_unrotated(DK, dk * scale, COS, SIN, rows, H // GROUP * D, T, BLOCK, D, HALF, ROTARY)
    store_tile(DV, dv, rows, H // GROUP * D, T, D, HALF)


@triton.jit
def _walk(
    Q, K, V, COS, SIN, OUT, STATS, DO, DQ, DK, DV, q_row, k_row, v_row, do_row, T, H, WINDOW, scale_log2, scale,
    D: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr, ROTARY: tl.constexpr,
):  # fmt: skip
    dq = tl.zeros((BLOCK, 2 * HALF), tl.float32)
    dk = tl.zeros((BLOCK, 2 * HALF), tl.float32)
    dv = tl.zeros((BLOCK, 2 * HALF), tl.float32)
    for step in range(2 * tl.cdiv(T, BLOCK)):
        columns = step // 2 * BLOCK + tl.arange(0, BLOCK)
        rows = (step + 1) // 2 * BLOCK + tl.arange(0, BLOCK)
        k = load_rotated(K, COS, SIN, columns, k_row, T, D, HALF, ROTARY)
        v = load_tile(V, columns, v_row, T, D, HALF)
        q = load_rotated(Q, COS, SIN, rows, q_row, T, D, HALF, ROTARY)
        do = load_tile(DO, rows, do_row, T, D, HALF)
        delta = _load_delta(OUT, do, rows, H * D, T, D, HALF)
        m, r = _load_stats(STATS, rows, T)
        p = _softmax_again(q, k, m, r, rows, columns, WINDOW, scale_log2)
        dv = tl.dot(tl.trans(p.to(do.dtype)), do, dv, input_precision="ieee")
        dp = tl.dot(do, tl.trans(v), input_precision="ieee")
        ds = (p * (dp - delta[:, None])).to(q.dtype)
        dk = tl.dot(tl.trans(ds), q, dk, input_precision="ieee")
        dq = tl.dot(ds, k, dq, input_precision="ieee")
        if step % 2 == 0:
            store_unrotated(DQ, dq * scale, COS, SIN, rows, H * D, T, BLOCK, D, HALF, ROTARY)
            dq = tl.zeros((BLOCK, 2 * HALF), tl.float32)
        else:
            store_unrotated(DK, dk * scale, COS, SIN, columns, H * D, T, BLOCK, D, HALF, ROTARY)
            store_tile(DV, dv, columns, H * D, T, D, HALF)
            dk = tl.zeros((BLOCK, 2 * HALF), tl.float32)
            dv = tl.zeros((BLOCK, 2 * HALF), tl.float32)


@triton.jit
def _tiles(
    Q, K, V, COS, SIN, OUT, STATS, DO, DQ, DK, DV, q_head, q_row, k_row, v_row, do_head, do_row,
    tile, T, H, WINDOW, scale_log2, scale,
    GROUP: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr, ROTARY: tl.constexpr,
):  # fmt: skip
    own = tile * BLOCK + tl.arange(0, BLOCK)
    k = load_rotated(K, COS, SIN, own, k_row, T, D, HALF, ROTARY)
    v = load_tile(V, own, v_row, T, D, HALF)
    dk = tl.zeros((BLOCK, 2 * HALF), tl.float32)
    dv = tl.zeros((BLOCK, 2 * HALF), tl.float32)
    last = tl.minimum((tile * BLOCK + BLOCK - 1 + WINDOW - 1) // BLOCK, tl.cdiv(T, BLOCK) - 1)
    for member in range(GROUP):
        for query_tile in range(tile, last + 1):
            rows = query_tile * BLOCK + tl.arange(0, BLOCK)
            q = load_rotated(Q + member * q_head, COS, SIN, rows, q_row, T, D, HALF, ROTARY)
            do = load_tile(DO + member * do_head, rows, do_row, T, D, HALF)
            delta = _load_delta(OUT + member * D, do, rows, H * D, T, D, HALF)
            m, r = _load_stats(STATS + member * 2 * T, rows, T)
            p = _softmax_again(q, k, m, r, rows, own, WINDOW, scale_log2)
            dv = tl.dot(tl.trans(p.to(do.dtype)), do, dv, input_precision="ieee")
            dp = tl.dot(do, tl.trans(v), input_precision="ieee")
            ds = p * (dp - delta[:, None])
            dk = tl.dot(tl.trans(ds.to(q.dtype)), q, dk, input_precision="ieee")
    store_unrotated(DK, dk * scale, COS, SIN, own, H // GROUP * D, T, BLOCK, D, HALF, ROTARY)
    store_tile(DV, dv, own, H // GROUP * D, T, D, HALF)

    first = tl.maximum(tile * BLOCK - WINDOW + 1, 0) // BLOCK
    for member in range(GROUP):
        q = load_rotated(Q + member * q_head, COS, SIN, own, q_row, T, D, HALF, ROTARY)
        do = load_tile(DO + member * do_head, own, do_row, T, D, HALF)
        delta = _load_delta(OUT + member * D, do, own, H * D, T, D, HALF)
        m, r = _load_stats(STATS + member * 2 * T, own, T)
        dq = tl.zeros((BLOCK, 2 * HALF), tl.float32)
        for key_tile in range(first, tile + 1):
            columns = key_tile * BLOCK + tl.arange(0, BLOCK)
            k = load_rotated(K, COS, SIN, columns, k_row, T, D, HALF, ROTARY)
            v = load_tile(V, columns, v_row, T, D, HALF)
            p = _softmax_again(q, k, m, r, own, columns, WINDOW, scale_log2)
            dp = tl.dot(do, tl.trans(v), input_precision="ieee")
            ds = p * (dp - delta[:, None])
            dq = tl.dot(ds.to(k.dtype), k, dq, input_precision="ieee")
        store_unrotated(DQ + member * D, dq * scale, COS, SIN, own, H * D, T, BLOCK, D, HALF, ROTARY)


@triton.jit(do_not_specialize=["T", "H", "WINDOW"])
def backward(
    Q, K, V, COS, SIN, OUT, STATS, DO, DQ, DK, DV,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, do_batch, do_head, do_row,
    T, H, WINDOW, scale_log2, scale,
    GROUP: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr, ROTARY: tl.constexpr,
    ROUTE: tl.constexpr,
):  # fmt: skip
    """One program per key/value head, or per tile of one; neighbours share keys, in the L2 cache."""
    n_tiles = tl.cdiv(T, BLOCK) if ROUTE == "tiles" else 1
    n_kv_head = H // GROUP
    tile = tl.program_id(0) % n_tiles
    sequence = (tl.program_id(0) // n_tiles // n_kv_head).to(tl.int64)
    kv_index = (tl.program_id(0) // n_tiles % n_kv_head).to(tl.int64)
    first_head = kv_index * GROUP
    Q += sequence * q_batch + first_head * q_head
    K += sequence * k_batch + kv_index * k_head
    V += sequence * v_batch + kv_index * v_head
    DO += sequence * do_batch + first_head * do_head
    OUT = own_head(OUT, sequence, first_head, H, T, D)
    DQ = own_head(DQ, sequence, first_head, H, T, D)
    DK = own_head(DK, sequence, kv_index, n_kv_head, T, D)
    DV = own_head(DV, sequence, kv_index, n_kv_head, T, D)
    STATS += (sequence * H + first_head) * 2 * T
    if ROUTE == "one tile":
        _one_tile(
            Q, K, V, COS, SIN, STATS, DO, DQ, DK, DV, q_head, q_row, k_row, v_row, do_head, do_row,
            T, H, WINDOW, scale_log2, scale, GROUP, D, HALF, BLOCK, ROTARY,
        )  # fmt: skip
    elif ROUTE == "walk":
        tl.static_assert(GROUP == 1, "the dq of several heads cannot travel along one walk")
        _walk(
            Q, K, V, COS, SIN, OUT, STATS, DO, DQ, DK, DV, q_row, k_row, v_row, do_row,
            T, H, WINDOW, scale_log2, scale, D, HALF, BLOCK, ROTARY,
        )  # fmt: skip
    else:
        _tiles(
            Q, K, V, COS, SIN, OUT, STATS, DO, DQ, DK, DV, q_head, q_row, k_row, v_row, do_head, do_row,
            tile, T, H, WINDOW, scale_log2, scale, GROUP, D, HALF, BLOCK, ROTARY,
        )  # fmt: skip
