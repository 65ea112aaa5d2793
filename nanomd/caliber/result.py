"""What a constrained model is, what it cost, and how near it came."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd.base.plain import to_plain
from nanomd.base.units import FrameInterval
from nanomd.kinetics.bootstrap import Scale
from nanomd.kinetics.interval import Interval
from nanomd.kinetics.numbers import format_interval, format_number
from nanomd.model.files import ModelFiles, save_model

FloatArray = NDArray[np.float64]

_RARE = 0.05  # share of effective frames below which a change rests on little
_FAR = 2.0  # errors of the experiment that are worth a word


@dataclass(frozen=True, slots=True)
class Row:
    """A wish, and what became of it.

    Parameters
    ----------
    name : str
    scale : str
        ``"linear"``, ``"logit"`` or ``"log"``: where the error is Gaussian.
    target, target_error : float
        On that scale.
    before, after : Interval
        Of rollouts; times are in steps.
    met : bool
        Whether the rollouts came as near as was asked for. With an error, that is between the model and the wish.
    """

    name: str
    scale: Scale
    target: float
    target_error: float
    before: Interval
    after: Interval
    met: bool

    @property
    def wanted(self) -> float:
        """What was wished for; times in steps."""
        return self._from(self.target)

    @property
    def error(self) -> float:
        """Standard error of the experiment, in the unit of the value."""
        slope = {"linear": 1.0, "log": self.wanted, "logit": self.wanted * (1 - self.wanted)}[self.scale]
        return self.target_error * slope

    def _from(self, value: float) -> float:
        if self.scale == "log":
            return math.exp(value)
        return 1 / (1 + math.exp(-value)) if self.scale == "logit" else value

    def texts(self, interval: FrameInterval) -> list[str]:
        """Return name, wanted, before, after and whether that is near, with times in a readable unit."""
        factor, unit = interval.scale(self.wanted) if self.scale == "log" else (1.0, "")
        error = f" +- {format_number(factor * self.error, 2)}" if self.error > 0 else ""
        cells = [" ".join(format_interval(*_ends(x.scaled(factor)))).strip() for x in (self.before, self.after)]
        name = f"{self.name} ({unit})" if unit else self.name
        return [name, f"{format_number(factor * self.wanted)}{error}", *cells, "yes" if self.met else "NO"]


@dataclass(frozen=True, slots=True)
class Constrained:
    """A model that was changed to meet wishes; printing it shows the table.

    Parameters
    ----------
    files : ModelFiles
        The new model: what `nanomd.Sampler` takes.
    rows : list of Row
        What was wanted, before and after, as fresh rollouts say.
    offsets : ndarray (n_states, n_states)
        What was added to the table of the markov head.
    multipliers : ndarray (n_wishes,)
        For a unit of each wish on its scale: nats a step, or, of populations by maximum entropy, nats.
    relative_entropy, relative_entropy_error : float
        Of the new model to the old one, nats a step, and its standard error.
    timescale : float
        The slowest of the old model, in steps.
    effective : float
        Share of the old model's frames that would be left if its states were reweighted to the new populations (Kish).
    rollouts : int
        How many were made.
    warnings : list of str
    """

    files: ModelFiles
    rows: list[Row]
    offsets: FloatArray = field(repr=False)
    multipliers: FloatArray
    relative_entropy: float
    relative_entropy_error: float
    timescale: float
    effective: float
    rollouts: int
    warnings: list[str]

    def to_files(self) -> ModelFiles:
        """Return the new model, as `nanomd.Sampler` and `nanomd.model.files.save_model` take it."""
        return dataclasses.replace(
            self.files, provenance={**self.files.provenance, "constrained": to_plain(self.describe(), 6)}
        )

    def save(self, path: str | Path) -> Path:
        """Write the new model into a folder of its own; what it was made from is in its provenance."""
        return save_model(path, self.to_files())

    def describe(self) -> dict[str, Any]:
        """Return plain values; times in steps."""
        return {
            "wishes": [
                {
                    "name": row.name,
                    "wanted": row.wanted,
                    "error": row.error,
                    **{
                        name: dict(zip(("value", "low", "high"), _ends(x), strict=True))
                        for name, x in (("before", row.before), ("after", row.after))
                    },
                    "met": row.met,
                }
                for row in self.rows
            ],
            "relative_entropy": self.relative_entropy,
            "relative_entropy_error": self.relative_entropy_error,
            "slowest_timescale": self.timescale,
            "effective_share": self.effective,
            "multipliers": self.multipliers,
            "rollouts": self.rollouts,
            "warnings": self.warnings,
        }

    def __str__(self) -> str:
        """Return the table, what was paid, and the warnings."""
        return "\n".join([self.table(), *(f"warning: {text}" for text in self.warnings)])

    def table(self) -> str:
        """Return what was wanted, before and after, and what was paid, as text."""
        head = ["", "wanted", "before", "after", "met"]
        rows = [head, *(row.texts(self.files.frame_interval) for row in self.rows)]
        widths = [max(len(row[k]) for row in rows) for k in range(len(head))]
        lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        per_time = 2 * self.timescale * self.relative_entropy
        lines.append(
            f"relative entropy paid: {self.relative_entropy:.3g} +- {self.relative_entropy_error:.1g} nats a step, "
            f"{per_time:.3g} in two slowest timescales; {100 * self.effective:.3g} % of the old frames are left when "
            f"reweighted; {self.rollouts} rollouts"
        )
        return "\n".join(lines)


def judge(result: Constrained, *, converged: bool) -> Constrained:
    """Return the result with warnings on what was not met, and on what the new model rests on."""
    notes = list(result.warnings)
    if not converged:
        notes.append("the equations were not solved to the end: the wishes ask for more than the model can give")
    for row in result.rows:
        if any(text.startswith(f"{row.name}: ") for text in result.warnings):
            continue  # out of reach, which says it all
        if not row.met:
            notes.append(
                f"{row.name}: not met: {format_number(float(row.after.value))} in rollouts, "
                f"{format_number(row.wanted)} wanted; other wishes may stand against it"
            )
        elif row.error > 0 and abs(_to(row, float(row.after.value)) - row.target) > _FAR * row.target_error:
            notes.append(
                f"{row.name}: the model and the experiment are far apart: the balance of both, "
                f"{format_number(float(row.after.value))}, is more than {_FAR:g} errors from what was measured"
            )
    if result.effective < _RARE:
        notes.append(
            f"the new populations rest on states that the model hardly visits: {100 * result.effective:.2g} % of its "
            "frames are left when reweighted; more MD there would tell more"
        )
    return dataclasses.replace(result, warnings=notes)


def _to(row: Row, value: float) -> float:
    if row.scale == "linear":
        return value
    if not value > 0:
        return -math.inf
    return math.log(value) if row.scale == "log" else math.log(value / (1 - value)) if value < 1 else math.inf


def _ends(interval: Interval) -> tuple[float, float, float]:
    return float(interval.value), float(interval.low), float(interval.high)
