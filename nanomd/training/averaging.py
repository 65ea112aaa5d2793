r"""Averages of the weights over the training: less noise of single steps, at the price of one copy of the weights.

Both rules are running means. With w_s the weights after step s, counted from 1,

.. math:: a_s = a_{s-1} + (w_s - a_{s-1}) / k_s

``ema``
    k_s = min(s, m): the plain mean of the first m steps, and from then on an exponential mean that forgets within m
    steps. The initial weights therefore never enter.
``tail``
    k_s = max(1, s - (n - m)): the weights themselves until the last m of the n steps, then their plain mean.

m is `average_span` times n, at least 1. The model has no statistics of batches, so that a mean of weights is a model
like any other, and needs no data to be put right.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nanomd.base.config import TrainConfig
from nanomd.base.errors import InputError


def averaged_steps(config: TrainConfig) -> int:
    """Return m: over how many steps weights are averaged, at least 1."""
    return max(1, round(config.average_span * config.n_steps))


def averaging_count(step: int, config: TrainConfig) -> int:
    """Return k: the mean takes in the weights after `step` steps (from 1) with a share of 1 / k."""
    if config.average == "ema":
        return min(step, averaged_steps(config))
    if config.average == "tail":
        return max(1, step - (config.n_steps - averaged_steps(config)))
    return 1


class WeightAverage:
    """The running mean of a model's parameters; with ``average="none"`` the parameters themselves, at no cost.

    Parameters
    ----------
    model : nn.Module
        Without buffers, which a mean of parameters would not fit.
    config : TrainConfig
        `average`, `average_span` and `n_steps`.
    """

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        if any(True for _ in model.buffers()):
            raise InputError("average must be none for a model with buffers: they are no parameters to be averaged")
        self.model, self.config = model, config
        self.active = config.average != "none"
        self._mean = {name: value.detach().clone() for name, value in model.named_parameters()} if self.active else {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` steps, counted from 1."""
        if not self.active:
            return
        weights = [parameter.detach() for parameter in self.model.parameters()]
        torch._foreach_lerp_(list(self._mean.values()), weights, 1.0 / averaging_count(step, self.config))

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of the mean, by name."""
        own = self._mean if self.active else dict(self.model.named_parameters())
        return {name: value.detach().clone() for name, value in own.items()}

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint must carry; nothing where nothing is averaged."""
        return self._mean

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the mean for a while, as for a validation, and its own weights back afterwards."""
        if not self.active:
            yield
            return
        parameters = dict(self.model.named_parameters())
        own = {name: value.detach().clone() for name, value in parameters.items()}
        try:
            _copy(self._mean, parameters)
            yield
        finally:
            _copy(own, parameters)


@torch.no_grad()
def _copy(values: dict[str, Tensor], into: dict[str, nn.Parameter]) -> None:
    for name, value in values.items():
        into[name].copy_(value)
