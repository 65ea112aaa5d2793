"""What the training loop keeps of time, of losses on their way from the device, and on disk."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nanomd.base.config import TrainConfig
from nanomd.base.errors import StoreError
from nanomd.base.files import write_atomic
from nanomd.base.progress import Progress
from nanomd.training.averaging import WeightAverage
from nanomd.training.checkpoint import TrainingState
from nanomd.training.schedule import Choice, Due
from nanomd.training.setup import learning_rate


@dataclass(frozen=True, slots=True)
class Numbers:
    """The mean loss since the last record, the latest loss, the loss scale, and the part of the horizon heads."""

    mean: float
    latest: float
    scale: float
    term: float


class Pending:
    """Numbers on their way from the device to a record, while the next step is under way.

    Parameters
    ----------
    step : int
        Steps done.
    losses : list of Tensor
        Those since the last record.
    due : Due
        What is due after that step.
    scale : Tensor, optional
        The loss scale.
    term : Tensor, optional
        The part of the horizon heads in the latest loss.
    """

    def __init__(
        self, step: int, losses: list[Tensor], due: Due, scale: Tensor | None = None, term: Tensor | None = None
    ) -> None:
        self.step, self.due = step, due
        mean = torch.stack(losses).mean() if due.record else losses[-1]
        one = torch.ones_like(mean)
        numbers = torch.stack([mean, losses[-1], one if scale is None else scale, one if term is None else term])
        self._arrived = None
        if numbers.is_cuda:
            self._numbers = torch.empty(4, pin_memory=True)
            self._numbers.copy_(numbers, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()
        else:
            self._numbers = numbers

    def values(self) -> Numbers:
        """Return the numbers, waiting for no more than them."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return Numbers(*self._numbers.tolist())


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


class MetricsFile:
    """Records as lines of JSON, ``logs/metrics.jsonl`` of a run folder; with no path nothing is written."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def begin(self, records: Sequence[dict[str, float]]) -> None:
        """Write the records that a checkpoint knows, dropping what came after it."""
        self._write(records, anew=True)

    def append(self, record: dict[str, float]) -> None:
        """Add one record."""
        self._write([record], anew=False)

    def _write(self, records: Sequence[dict[str, float]], anew: bool) -> None:
        if self.path is None:
            return
        text = "".join(json.dumps(record) + "\n" for record in records)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if anew:
                write_atomic(self.path, text)
            else:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(text)
        except OSError as error:
            raise StoreError(f"cannot write {self.path}: {error.strerror or error}") from error


def in_words(record: dict[str, float]) -> str:
    """Return a record as a progress bar shows it."""
    held_out = f", held out {record['validation_loss']:.4f}" if "validation_loss" in record else ""
    held_out += f", kinetics {record['kinetics_score']:.2f}" if "kinetics_score" in record else ""
    return f"loss {record['loss']:.4f}{held_out} nats/frame, {record['frames_per_second'] / 1e3:.0f}k frames/s"


@dataclass(frozen=True, slots=True)
class Records:
    """Makes the records of a training, and keeps the weights where one is the best so far.

    Parameters
    ----------
    config : TrainConfig
    length : int
        Targets of a window.
    choice : Choice
    average : WeightAverage
    metrics : MetricsFile
    """

    config: TrainConfig
    length: int
    choice: Choice
    average: WeightAverage
    metrics: MetricsFile

    def begin(self, pending: Pending, numbers: Numbers, clock: Clock) -> dict[str, float]:
        """Return what every record holds of a step."""
        return {
            "step": pending.step,
            "loss": numbers.mean,
            "learning_rate": learning_rate(pending.step - 1, self.config),
            "frames_per_second": clock.steps_per_second(pending.step) * self.config.batch_size * self.length,
        }

    def keep(self, record: dict[str, float], state: TrainingState, clock: Clock, progress: Progress | None) -> None:
        """Choose, write and show a record that is complete."""
        step = int(record["step"])
        if self.choice.takes(record, state.history, last=step == self.config.n_steps):
            state.best_loss = record.get("validation_loss", math.inf)
            state.best_step, state.best = state.step, self.average.weights()
        record["seconds"] = clock.seconds()
        self.metrics.append(record)
        state.history.append(record)
        clock.start(step)
        if progress is not None:
            progress.note(in_words(record))
