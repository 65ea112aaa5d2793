r"""Causal, windowed attention with grouped queries and rotary positions.

For a query position i and a key position j of one sequence, head h reading key/value head h // (n_head / n_kv_head):

.. math::

    s_{ij} = \frac{(R_i q_i) \cdot (R_j k_j)}{\sqrt{d_{head}}}, \qquad
    p_{ij} = \frac{e^{s_{ij}}}{\sum_{0 \le i - j' < W} e^{s_{ij'}}} \ \text{if}\ 0 \le i - j < W,\ \text{else}\ 0,\quad
    o_i = \sum_j p_{ij} v_j

R_p rotates the pairs (x_a, x_{a + d_head/2}) by the angle whose cosine and sine are row p of the tables; without tables
(learned positions) R is the identity. Gradients, for do = dL/do:

.. math::

    \delta_i = do_i \cdot o_i, \quad ds_{ij} = p_{ij} (do_i \cdot v_j - \delta_i) / \sqrt{d_{head}}, \quad
    dv_j = \sum_i p_{ij} do_i, \quad dq_i = R_i^T \sum_j ds_{ij} R_j k_j, \quad dk_j = R_j^T \sum_i ds_{ij} R_i q_i

summed over the query heads of a group for dk and dv.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from nanomd.base.errors import InputError
from nanomd.kernels import registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

MAX_D_HEAD = 64
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: int,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Attend from every position to the last `window` positions, itself included.

    Parameters
    ----------
    q
        Queries before rotation, shape (B, n_head, T, d_head).
    k, v
        Keys before rotation, and values, shape (B, n_kv_head, T, d_head), n_kv_head a divisor of n_head.
    window
        W >= 1: position i sees j if 0 <= i - j < W. May exceed T.
    cos, sin
        Rotary tables, float32, shape (T, d_head / 2), or None for no rotation.
    backend
        "auto", "reference" or "triton".

    Returns
    -------
    Tensor
        Shape (B, n_head, T, d_head), the type of q. Differentiable in q, k and v.

    Raises
    ------
    InputError
        If shapes, types or the window do not fit together.
    BackendUnavailableError
        If a backend asked for by name cannot run here.
    """
    _check(q, k, v, window, cos, sin)
    request = registry.Request(q.device, q.dtype, {"d_head": q.shape[-1]})
    return registry.resolve("attention", backend, request).run(q, k, v, window=window, cos=cos, sin=sin)


def _check(q: Tensor, k: Tensor, v: Tensor, window: int, cos: Tensor | None, sin: Tensor | None) -> None:
    if q.dim() != 4 or k.dim() != 4 or k.shape != v.shape:
        raise InputError(
            "q must be (B, n_head, T, d_head), k and v (B, n_kv_head, T, d_head), got "
            f"{tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}"
        )
    batch, n_head, length, d_head = q.shape
    if (k.shape[0], k.shape[2], k.shape[3]) != (batch, length, d_head) or n_head % k.shape[1]:
        raise InputError(
            f"k and v must be ({batch}, a divisor of {n_head}, {length}, {d_head}) to match q, got {tuple(k.shape)}"
        )
    if not (q.dtype == k.dtype == v.dtype) or not (q.device == k.device == v.device):
        raise InputError(
            f"q, k and v must share type and device, got {q.dtype}, {k.dtype}, {v.dtype} "
            f"on {q.device}, {k.device}, {v.device}"
        )
    if window < 1:
        raise InputError(f"window must be at least 1 (a position always sees itself), got {window}")
    if (cos is None) != (sin is None):
        raise InputError("cos and sin must be given together, or neither for learned positions")
    for name, table in (("cos", cos), ("sin", sin)):
        if table is not None and (tuple(table.shape) != (length, d_head // 2) or d_head % 2):
            wanted = f"(T, d_head / 2) = ({length}, {d_head / 2:g})"
            raise InputError(f"{name} must have shape {wanted}, got {tuple(table.shape)}")


def _refuse_triton(request: registry.Request) -> str | None:
    d_head = request.sizes["d_head"]
    if d_head % 8 or not 8 <= d_head <= MAX_D_HEAD:
        return f"d_head must be a multiple of 8 in [8, {MAX_D_HEAD}], got {d_head}"
    return registry.refuse_triton(request, DTYPES)


def _load_triton() -> Callable[..., Tensor]:
    from nanomd.kernels.triton_attention import attention as implementation

    return implementation


def _load_reference() -> Callable[..., Tensor]:
    from nanomd.kernels.sdpa_attention import attention as implementation

    return implementation


registry.register("attention", "triton", _load_triton, _refuse_triton)
registry.register("attention", "reference", _load_reference)
