"""Windowed attention in plain PyTorch: the definition that every other implementation is compared with."""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (i, i + d/2) of x, shape (..., T, d), by tables (T, d/2), in float32 or the wider type."""
    x1, x2 = x.to(torch.promote_types(x.dtype, cos.dtype)).chunk(2, dim=-1)
    return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1).to(x.dtype)


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, window: int, cos: Tensor | None = None, sin: Tensor | None = None
) -> Tensor:
    """Attend with the whole T x T score matrix; shapes as in `nanomd.kernels.attention`."""
    group = q.shape[1] // k.shape[1]
    if cos is not None and sin is not None:
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    length = q.shape[2]
    position = torch.arange(length, device=q.device)
    lag = position[:, None] - position[None, :]
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    scores = scores.masked_fill((lag < 0) | (lag >= window), float("-inf"))
    return torch.softmax(scores, dim=-1) @ v
