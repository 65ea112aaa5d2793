"""Cross-entropy with a markov head in plain PyTorch; the formula is in `nanomd.kernels.cross_entropy`."""

from __future__ import annotations

import torch
from torch import Tensor


def cross_entropy(
    logits: Tensor, targets: Tensor, *, current: Tensor | None = None, markov: Tensor | None = None
) -> Tensor:
    """Arguments as `nanomd.kernels.cross_entropy`; at least float32 inside."""
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if current is not None and markov is not None:
        scores = scores + torch.nn.functional.embedding(current, markov)
    return torch.nn.functional.cross_entropy(scores, targets, reduction="none")
