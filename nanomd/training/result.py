"""What a training gives, or how it fails."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from nanomd.base.config import TrainConfig
from nanomd.base.errors import NanomdError
from nanomd.model.network import NanoGPT
from nanomd.training.loss_scale import LOWEST


class TrainingDivergedError(NanomdError, ArithmeticError):
    """The loss is no longer a finite number."""


@dataclass(slots=True)
class TrainingResult:
    """What a training gives.

    Parameters
    ----------
    model : NanoGPT
        With the chosen weights; see `TrainConfig.select`.
    last : dict of Tensor
        The weights after the last step; their mean where weights are averaged.
    history : list of dict
        Records of ``step``, ``loss``, ``lookahead_loss`` (the term of horizon heads, in the last step) and, after
        validations, ``validation_loss`` (nats per frame; with the hidden objective also ``mixed_validation_loss``, of
        its two passes), with ``learning_rate``, ``mix`` (replacement probability of the token objective), ``seconds``
        and ``frames_per_second``. Where rollouts were scored, ``kinetics_score``, ``kinetics_held_out`` (1, or 0 where
        the training MD had to judge) and ``kinetics_seconds``.
    best_step, best_loss : int, float
        The step of `model`'s weights, and its validation loss (NaN where nothing was held out).
    selection : dict
        How the weights were chosen: ``select``, and with kinetics what `KineticsSelector.describe` says.
    kept : dict
        The weights after the epochs of `keep_epochs`.
    """

    model: NanoGPT
    last: dict[str, Tensor]
    history: list[dict[str, float]]
    best_step: int
    best_loss: float
    selection: dict[str, Any]
    kept: dict[int, dict[str, Tensor]] = field(default_factory=dict)


def check_finite(loss: float, scale: float, step: int, config: TrainConfig) -> None:
    """Raise `TrainingDivergedError` unless the loss of a step is finite, and in fp16 its scale above the lowest."""
    if math.isfinite(loss) and scale >= LOWEST:
        return
    what = f"the loss is {loss}" if not math.isfinite(loss) else "gradients are not finite"
    raise TrainingDivergedError(
        f"{what} at step {step}: the training diverged; lower learning_rate (now {config.learning_rate:g}) "
        f"or raise warmup_steps (now {config.warmup_steps})"
    )
