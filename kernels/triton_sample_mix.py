"""Softmax, sample with Philox, mix, in one Triton kernel; the formula is in `nanomd.kernels.sample_mix`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor, library

MAX_BLOCK = 1024


@triton.jit
def _uniform53(high, low):
    bits = (high.to(tl.uint64) << 32) | low.to(tl.uint64)
    return (bits >> 11).to(tl.int64).to(tl.float64) * 1.1102230246251565e-16  # 2^-53


@triton.jit
def _scores(LOGITS, MARKOV, at, current, states, N_STATES, wanted, HAS_MARKOV: tl.constexpr):
    """Logits of some rows and states, (ROWS, BLOCK) float32, -inf where there is none or none is wanted."""
    inside = wanted[:, None] & (states < N_STATES)[None, :]
    z = tl.load(LOGITS + at[:, None] + states[None, :], mask=inside, other=float("-inf")).to(tl.float32)
    if HAS_MARKOV:
        z += tl.load(MARKOV + current[:, None] * N_STATES + states[None, :], mask=inside, other=0.0).to(tl.float32)
    return z


@triton.jit(do_not_specialize=["key", "first_sequence", "N", "T", "N_STATES"])
def sample_and_mix(
    LOGITS, MARKOV, TOKENS, MIXED, PROBABILITY, STEP, key, first_sequence, N, T, N_STATES, logits_batch, logits_row,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, HAS_MARKOV: tl.constexpr,
):  # fmt: skip
    """ROWS positions a program, states in blocks: once for the maximum and the sum, once to find the state."""
    key = tl.full((ROWS,), key, tl.int64)  # whatever width the launcher gave it
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    sequence = row // T
    position = row % T
    token = tl.load(TOKENS + row, mask=row < N, other=0)
    step = tl.load(STEP) + tl.zeros((ROWS,), tl.int64)
    w0, w1, w2, w3 = tl.philox(  # the same bits as csrc/include/nanomd/philox.h: low words first, ten rounds
        key, step.to(tl.uint32), (step >> 32).to(tl.uint32), position.to(tl.uint32),
        (sequence + first_sequence).to(tl.uint32),
    )  # fmt: skip
    wanted = (row < N) & (position > 0) & (_uniform53(w2, w3) < tl.load(PROBABILITY))
    at = sequence * logits_batch + (position - 1) * logits_row
    current = tl.load(TOKENS + row - 1, mask=wanted, other=0).to(tl.int64)

    highest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float64)
    for start in range(0, N_STATES, BLOCK):
        z = _scores(LOGITS, MARKOV, at, current, start + tl.arange(0, BLOCK), N_STATES, wanted, HAS_MARKOV)
        raised = tl.maximum(highest, tl.max(z, 1))
        finite = tl.where(raised == float("-inf"), 0.0, raised)
        shrink = tl.exp(highest - finite).to(tl.float64)
        total = total * shrink + tl.sum(tl.exp(z - finite[:, None]).to(tl.float64), 1)
        highest = raised

    target = _uniform53(w0, w1) * total
    finite = tl.where(highest == float("-inf"), 0.0, highest)
    below = tl.zeros((ROWS,), tl.float64)
    drawn = tl.zeros((ROWS,), tl.int64)
    last = tl.zeros((ROWS,), tl.int64)
    for start in range(0, N_STATES, BLOCK):
        states = start + tl.arange(0, BLOCK)
        z = _scores(LOGITS, MARKOV, at, current, states, N_STATES, wanted, HAS_MARKOV)
        p = tl.exp(z - finite[:, None]).to(tl.float64)
        cumulative = below[:, None] + tl.cumsum(p, 1)
        drawn += tl.sum(((cumulative <= target[:, None]) & (states < N_STATES)[None, :]).to(tl.int64), 1)
        last = tl.maximum(last, tl.max(tl.where(p > 0, states[None, :].to(tl.int64), 0), 1))
        below += tl.sum(p, 1)
    drawn = tl.minimum(drawn, last)
    mixed = tl.where(wanted, drawn, token.to(tl.int64))
    tl.store(MIXED + row, mixed.to(MIXED.dtype.element_ty), mask=row < N)


def plan(n_states: int) -> tuple[int, int]:
    """Rows of a program and states of a block: about 1024 values at a time."""
    block = min(MAX_BLOCK, max(16, triton.next_power_of_2(n_states)))
    return max(1, MAX_BLOCK // block), block


@library.custom_op("nanomd::sample_mix", mutates_args=())
def _mix(
    logits: Tensor, tokens: Tensor, probability: Tensor, step: Tensor, markov: Tensor | None,
    key: int, first_sequence: int,
) -> Tensor:  # fmt: skip
    """Launch the kernel: an operator, so that torch.compile takes it whole."""
    batch, length, n_states = logits.shape
    mixed = torch.empty_like(tokens)
    rows, block = plan(n_states)
    sample_and_mix[(triton.cdiv(batch * length, rows),)](
        logits, logits if markov is None else markov, tokens, mixed, probability, step,
        key, first_sequence, batch * length, length, n_states, logits.stride(0), logits.stride(1),
        ROWS=rows, BLOCK=block, HAS_MARKOV=markov is not None, num_warps=4,
    )  # fmt: skip
    return mixed


@_mix.register_fake
def _empty_mixed(_logits: Tensor, tokens: Tensor, *_: object) -> Tensor:
    return torch.empty_like(tokens)


def sample_mix(
    logits: Tensor,
    tokens: Tensor,
    *,
    probability: Tensor,
    step: Tensor,
    key: int,
    first_sequence: int,
    markov: Tensor | None,
) -> Tensor:
    """Arguments as the reference's; already checked by `nanomd.kernels.sample_mix`."""
    logits = logits if logits.stride(-1) == 1 else logits.contiguous()
    markov = None if markov is None else markov.contiguous()
    signed_key = key - (1 << 64) if key >= 1 << 63 else key
    mixed: Tensor = _mix(logits, tokens.contiguous(), probability, step, markov, signed_key, first_sequence)
    return mixed
