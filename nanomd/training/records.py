"""What the training loop keeps of time, and of losses on their way from the device."""

from __future__ import annotations

import time

import torch
from torch import Tensor


class Pending:
    """Numbers on their way from the device to a record, while the next step is under way.

    Parameters
    ----------
    step : int
        Steps done.
    losses : list of Tensor
        Those since the last record.
    scale : Tensor, optional
        The loss scale.
    record, validate : bool
        Whether a record is due, with a validation.
    """

    def __init__(self, step: int, losses: list[Tensor], scale: Tensor | None, record: bool, validate: bool) -> None:
        self.step, self.record, self.validate = step, record, validate
        mean = torch.stack(losses).mean() if record else losses[-1]
        numbers = torch.stack([mean, losses[-1], torch.ones_like(mean) if scale is None else scale])
        self._arrived = None
        if numbers.is_cuda:
            self._numbers = torch.empty(3, pin_memory=True)
            self._numbers.copy_(numbers, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()
        else:
            self._numbers = numbers

    def values(self) -> tuple[float, float, float]:
        """Return (mean loss since the last record, latest loss, loss scale), waiting for no more than them."""
        if self._arrived is not None:
            self._arrived.synchronize()
        mean, latest, scale = self._numbers.tolist()
        return mean, latest, scale


class Clock:
    """Time since the last record, and of the whole training.

    Parameters
    ----------
    step : int
        Steps done.
    seconds : float
        What the training took before an interruption.
    """

    def __init__(self, step: int, seconds: float) -> None:
        self._begin, self._before = time.perf_counter(), seconds
        self.start(step)

    def start(self, step: int) -> None:
        """Take the time of a record."""
        self._since, self._step = time.perf_counter(), step

    def steps_per_second(self, step: int) -> float:
        """Return the speed since the last record."""
        return (step - self._step) / (time.perf_counter() - self._since)

    def seconds(self) -> float:
        """Return how long the training took so far."""
        return self._before + time.perf_counter() - self._begin
