"""Cross-entropy with a markov head in Triton; the formula is in `nanomd.kernels.cross_entropy`.

The table's gradient is PyTorch's embedding gradient of the logits' gradient, which sorts and adds in a fixed order.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, library

MAX_BLOCK = 1024


@triton.jit
def _scores(LOGITS, MARKOV, row, current, states, N, N_STATES, logits_row, HAS_MARKOV: tl.constexpr):
    """Sum of logits and table, (ROWS, BLOCK) float32, -inf outside."""
    inside = (row < N)[:, None] & (states < N_STATES)[None, :]
    a = tl.load(LOGITS + row[:, None] * logits_row + states[None, :], mask=inside, other=float("-inf")).to(tl.float32)
    if HAS_MARKOV:
        a += tl.load(MARKOV + current[:, None] * N_STATES + states[None, :], mask=inside, other=0.0).to(tl.float32)
    return a


@triton.jit(do_not_specialize=["N", "N_STATES"])
def loss_forward(
    LOGITS, MARKOV, TARGETS, CURRENT, NLL, LSE, N, N_STATES, logits_row,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, HAS_MARKOV: tl.constexpr,
):  # fmt: skip
    """ROWS rows a program, states in blocks: nll and log-sum-exp of each row."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    target = tl.load(TARGETS + row, mask=row < N, other=0)
    current = tl.load(CURRENT + row, mask=row < N, other=0)
    highest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    chosen = tl.zeros((ROWS,), tl.float32)
    for start in range(0, N_STATES, BLOCK):
        states = start + tl.arange(0, BLOCK)
        a = _scores(LOGITS, MARKOV, row, current, states, N, N_STATES, logits_row, HAS_MARKOV)
        raised = tl.maximum(highest, tl.max(a, 1))
        finite = tl.where(raised == float("-inf"), 0.0, raised)
        total = total * tl.exp(highest - finite) + tl.sum(tl.exp(a - finite[:, None]), 1)
        chosen += tl.sum(tl.where(states[None, :] == target[:, None], a, 0.0), 1)
        highest = raised
    lse = tl.where(row < N, highest, 0.0) + tl.log(tl.where(row < N, total, 1.0))
    tl.store(LSE + row, lse, mask=row < N)
    tl.store(NLL + row, lse - chosen, mask=row < N)


@triton.jit(do_not_specialize=["N", "N_STATES"])
def loss_backward(
    LOGITS, MARKOV, TARGETS, CURRENT, DNLL, LSE, DLOGITS, N, N_STATES, logits_row, dnll_row,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, HAS_MARKOV: tl.constexpr,
):  # fmt: skip
    """ROWS rows and BLOCK states a program: gradient of the logits, contiguous."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    states = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    target = tl.load(TARGETS + row, mask=row < N, other=0)
    current = tl.load(CURRENT + row, mask=row < N, other=0)
    weight = tl.load(DNLL + row * dnll_row, mask=row < N, other=0.0)
    lse = tl.load(LSE + row, mask=row < N, other=0.0)
    a = _scores(LOGITS, MARKOV, row, current, states, N, N_STATES, logits_row, HAS_MARKOV)
    hit = tl.where(states[None, :] == target[:, None], 1.0, 0.0)
    gradient = (tl.exp(a - lse[:, None]) - hit) * weight[:, None]
    inside = (row < N)[:, None] & (states < N_STATES)[None, :]
    tl.store(DLOGITS + row[:, None] * N_STATES + states[None, :], gradient.to(DLOGITS.dtype.element_ty), mask=inside)


def plan(n_states: int) -> tuple[int, int]:
    """Rows of a program and states of a block: about 1024 values at a time."""
    block = min(MAX_BLOCK, max(16, triton.next_power_of_2(n_states)))
    return max(1, MAX_BLOCK // block), block


@library.custom_op("nanomd::cross_entropy", mutates_args=())
def _loss(logits: Tensor, markov: Tensor | None, targets: Tensor, current: Tensor | None) -> tuple[Tensor, Tensor]:
    """Compute nll and log-sum-exp, (N,) float32."""
    n_rows, n_states = logits.shape
    nll, lse = _empty_losses(logits)
    rows, block = plan(n_states)
    loss_forward[(triton.cdiv(n_rows, rows),)](
        logits, logits if markov is None else markov, targets, targets if current is None else current, nll, lse,
        n_rows, n_states, logits.stride(0),
        ROWS=rows, BLOCK=block, HAS_MARKOV=markov is not None, num_warps=4,
    )  # fmt: skip
    return nll, lse


@_loss.register_fake
def _empty_losses(logits: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    nll = logits.new_empty(logits.shape[0], dtype=torch.float32)
    return nll, torch.empty_like(nll)


@library.custom_op("nanomd::cross_entropy_backward", mutates_args=())
def _gradient(
    dnll: Tensor, logits: Tensor, markov: Tensor | None, targets: Tensor, current: Tensor | None, lse: Tensor
) -> Tensor:
    """Compute the gradient of the logits (N, V); with a table, whose gradient sums many rows of it, in float32."""
    n_rows, n_states = logits.shape
    dlogits = _empty_gradient(dnll, logits, markov)
    rows, block = plan(n_states)
    loss_backward[(triton.cdiv(n_rows, rows), triton.cdiv(n_states, block))](
        logits, logits if markov is None else markov, targets, targets if current is None else current,
        dnll, lse, dlogits, n_rows, n_states, logits.stride(0), dnll.stride(0),
        ROWS=rows, BLOCK=block, HAS_MARKOV=markov is not None, num_warps=4,
    )  # fmt: skip
    return dlogits


@_gradient.register_fake
def _empty_gradient(_dnll: Tensor, logits: Tensor, markov: Tensor | None, *_: object) -> Tensor:
    return logits.new_empty(logits.shape, dtype=logits.dtype if markov is None else torch.float32)


def _keep(ctx: Any, inputs: tuple[Tensor | None, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[1])
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, dnll: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    logits, markov, targets, current, lse = ctx.saved_tensors
    dlogits = _gradient(dnll, logits, markov, targets, current, lse)
    dmarkov = None
    if markov is not None and ctx.needs_input_grad[1]:
        n_states = logits.shape[1]
        dmarkov = torch.ops.aten.embedding_dense_backward(dlogits, current, n_states, -1, False).to(markov.dtype)
    return dlogits.to(logits.dtype), dmarkov, None, None


_loss.register_autograd(_differentiate, setup_context=_keep)


def cross_entropy(
    logits: Tensor, targets: Tensor, *, current: Tensor | None = None, markov: Tensor | None = None
) -> Tensor:
    """Arguments as `nanomd.kernels.cross_entropy`; already checked there."""
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    markov = None if markov is None else markov.contiguous()
    nll: Tensor = _loss(logits, markov, targets.contiguous(), None if current is None else current.contiguous())[0]
    return nll
