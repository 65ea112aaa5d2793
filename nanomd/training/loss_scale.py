"""Loss scaling for fp16, on the device alone: gradients of small losses would vanish in 16 bits.

The loss is multiplied by a power of two before the backward pass, and the gradients divided by it after. Where they
overflowed, the step is left out, by the optimiser itself, and the factor halved; after `GROWTH_INTERVAL` steps without
an overflow it is doubled. PyTorch's GradScaler does the same, but keeps Python state that a CUDA graph would not see.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

GROWTH_INTERVAL = 1000
INITIAL = 2.0**12
LOWEST = 2.0**-10  # gradients that overflow even so are not finite themselves


class LossScale:
    """The factor, and the steps since it last changed: `state`, float32 (2,), which a checkpoint keeps."""

    def __init__(self, device: torch.device) -> None:
        self.state = torch.tensor([INITIAL, 0.0], device=device)
        self._overflow = torch.zeros((), device=device)

    def scaled(self, loss: Tensor) -> Tensor:
        """Return the loss times the factor."""
        return loss * self.state[0]

    @torch.no_grad()
    def unscale_and_clip(
        self, parameters: Sequence[torch.nn.Parameter], max_norm: float, optimiser: torch.optim.Optimizer
    ) -> None:
        """Divide the gradients by the factor, clip them, and have the optimiser leave out a step that overflowed."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        torch._foreach_mul_(gradients, self.state[0].reciprocal())
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        self._overflow.copy_(torch.logical_not(torch.isfinite(norm)))
        torch.nn.utils.clip_grads_with_norm_(list(parameters), max_norm, norm, foreach=True)
        optimiser.grad_scale, optimiser.found_inf = None, self._overflow  # type: ignore[attr-defined]  # fused AdamW's

    @torch.no_grad()
    def update(self) -> None:
        """Take the outcome of the step into account."""
        factor, steps = self.state[:1], self.state[1:]
        steps.add_(1.0).mul_(1.0 - self._overflow)
        grown = (steps >= GROWTH_INTERVAL).float()
        steps.mul_(1.0 - grown)
        factor.mul_((1.0 - 0.5 * self._overflow) * (1.0 + grown))

    def to_list(self) -> list[float]:
        """Return the state for a checkpoint."""
        values: list[float] = self.state.tolist()
        return values

    def load(self, values: Sequence[float]) -> None:
        """Take the state of a checkpoint."""
        self.state.copy_(torch.tensor(list(values)))
