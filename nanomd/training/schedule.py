"""When a training records, validates, rolls out and saves; and which weights it keeps."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from nanomd.base.config import TrainConfig

METRICS_INTERVAL = 20  # steps between records of the training loss
# Relative to the lowest validation loss: how much more the chosen, latest weights may have.
SELECTION_TOLERANCE = 0.002


@dataclass(frozen=True, slots=True)
class Due:
    """What is due after a step: a record; a validation and a rollout, which go into it; a checkpoint."""

    record: bool
    validate: bool
    roll_out: bool
    save: bool

    @property
    def at_once(self) -> bool:
        """Whether the next step must wait for it: it needs the weights of this one."""
        return self.validate or self.roll_out or self.save


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is due when; the last step has everything.

    Parameters
    ----------
    config : TrainConfig
    held_out : bool
        Whether there are data to validate on.
    rollouts : collection of int
        Steps after which a model is rolled out and scored; it is validated there too.
    """

    config: TrainConfig
    held_out: bool
    rollouts: Collection[int] = ()

    def due(self, step: int) -> Due:
        """Return what is due after `step` steps, counted from 1."""
        last = step == self.config.n_steps
        roll_out = step in self.rollouts
        validate = self.held_out and (last or roll_out or step % self.config.validation_interval == 0)
        save = last or step % self.config.checkpoint_interval == 0
        # A checkpoint has a record, so that no mean of losses is cut in two by an interruption.
        record = validate or roll_out or save or step % METRICS_INTERVAL == 0
        return Due(record, validate, roll_out, save)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which weights a training keeps: the last, or the latest whose score is within a tolerance of the lowest.

    The lowest loss itself is often a lucky step before the learning rate had fallen to zero: its rates, on a chain of
    known kinetics, were wrong by 6 % where those of the last step, 0.03 % worse in loss, were right to 1 %.

    Parameters
    ----------
    score : str, optional
        A key of the records, ``"validation_loss"`` or ``"kinetics_score"``; the last weights are kept when None.
    relative, absolute : float
        The tolerance: in parts of the lowest score, and in its units.
    """

    score: str | None = None
    relative: float = 0.0
    absolute: float = 0.0

    @classmethod
    def of(cls, config: TrainConfig, held_out: bool, tolerance: float | None) -> Self:
        """Return the choice that `select` names; `tolerance` is that of scored rollouts, None where there are none."""
        if tolerance is not None:
            return cls("kinetics_score", absolute=tolerance)
        return cls() if config.select == "last" or not held_out else cls("validation_loss", SELECTION_TOLERANCE)

    def takes(self, record: Mapping[str, float], before: Sequence[Mapping[str, float]], last: bool) -> bool:
        """Say whether the weights of a new record take the place of those kept so far.

        Parameters
        ----------
        record : mapping
        before : sequence of mappings
            Earlier records.
        last : bool
            Whether it is that of the last step.
        """
        if self.score is None:
            return last
        if self.score not in record:
            return False
        lowest = min([record[self.score], *(earlier[self.score] for earlier in before if self.score in earlier)])
        return record[self.score] <= lowest + self.relative * abs(lowest) + self.absolute
