"""Epochs: what a training that is said in readings of its windows comes to in optimiser steps, and weights on the way.

An epoch is one reading of all windows of the grid (`window_shift`), or, where windows start at random, of as many
frames as the data have. Its last batch is a whole one: what is missing comes from the next reading.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from nanomd.base.config import ModelConfig, TrainConfig
from nanomd.base.errors import InputError
from nanomd.base.files import write_atomic
from nanomd.training.setup import resolve_burn_in, resolve_train_length
from nanomd.training.windows import count_windows


def steps_per_epoch(model: ModelConfig, config: TrainConfig, trajectories: Sequence[NDArray[Any]]) -> int:
    """Return the optimiser steps that read the training windows of trajectories of tokens once, at least 1."""
    length = resolve_train_length(model, config, max(map(len, trajectories), default=0))
    scored = max(1, length - resolve_burn_in(model, config, length))
    n_targets = [len(trajectory) - 1 for trajectory in trajectories if len(trajectory) >= 2]
    if config.window_shift is None:
        windows = math.ceil(sum(max(n, scored) for n in n_targets) / scored)
    else:
        windows = sum(count_windows(n, scored, config.window_shift) for n in n_targets)
    return max(1, math.ceil(windows / config.batch_size))


def resolve_epochs(model: ModelConfig, config: TrainConfig, trajectories: Sequence[NDArray[Any]]) -> TrainConfig:
    """Return the configuration with the steps of an epoch, and of the training where it is said in epochs.

    One that does not speak of epochs comes back as it is, and one that is resolved too.

    Raises
    ------
    InputError
        For weights to keep after the end of the training.
    """
    counts = config.objective == "two_pass_hidden" and config.hidden_schedule == "epoch"
    if not counts and config.n_epochs is None and not config.keep_epochs:
        return config
    steps = config.steps_per_epoch or steps_per_epoch(model, config, trajectories)
    n_steps = config.n_steps if config.n_epochs is None else config.n_epochs * steps
    if config.keep_epochs and config.keep_epochs[-1] * steps > n_steps:
        raise InputError(
            f"keep_epochs must be at most {n_steps // steps} ({n_steps} steps, {steps} an epoch), "
            f"got {config.keep_epochs[-1]}; train longer"
        )
    return config.replace(steps_per_epoch=steps, n_steps=n_steps)


class KeptEpochs:
    """The weights after some epochs of a training.

    Parameters
    ----------
    config : TrainConfig
        Resolved.
    folder : Path, optional
        Gets ``epoch_0010.safetensors`` and so on, so that a training that is taken up has them.
    """

    def __init__(self, config: TrainConfig, folder: Path | None) -> None:
        steps = config.steps_per_epoch or 0
        self._steps = {epoch * steps: epoch for epoch in config.keep_epochs}
        self._folder = folder
        self.weights: dict[int, dict[str, Tensor]] = {}

    def is_due(self, step: int) -> bool:
        """Say whether the weights after `step` steps are to be kept."""
        return step in self._steps

    def keep(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Keep the weights after `step` steps."""
        from safetensors.torch import save

        epoch = self._steps[step]
        self.weights[epoch] = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomic(self._path(epoch), save(self.weights[epoch]))

    def take_up(self, step: int, like: Mapping[str, Tensor]) -> None:
        """Read what a training kept in its first `step` steps; `like` has the names and shapes of its tensors.

        Raises
        ------
        InputError
            For a file that is missing or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        for epoch in (epoch for at, epoch in self._steps.items() if at <= step):
            try:
                weights: dict[str, Tensor] = load_file(self._path(epoch))
            except (OSError, ValueError, SafetensorError) as error:
                raise InputError(f"{self._path(epoch)} cannot be read: {error}; train in a new run folder") from None
            if {n: x.shape for n, x in weights.items()} != {n: torch.as_tensor(x).shape for n, x in like.items()}:
                raise InputError(f"{self._path(epoch)} does not hold the tensors of this model; train anew")
            self.weights[epoch] = weights

    def _path(self, epoch: int) -> Path:
        assert self._folder is not None
        return self._folder / f"epoch_{epoch:04d}.safetensors"
