"""The verdict: every quantity of every source beside the MD's, and what follows for the source as a whole.

The rule for one number is that of `nanomd.kinetics.comparison`. A source is compared with the reference, and, where it
learnt from other MD, with that training data too, in which many quantities are sharper. A quantity fails when either
comparison fails, and passes when one of them could have told a model that is off by two. Against the reference, the
sampling error of the training data counts as well: no model can be nearer to the truth than what it learnt from.

The events of the MD decide whether something is judged: it takes five. What the MD shows five times, and a source not
once in a time in which five are expected, fails. A source fails with its first quantity (confidence holds for all of
them together), or with its passage times as a whole; it passes when these could have told a factor of two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nanomd.kinetics.comparison import (
    LEAST_EVENTS,
    UNTOLD,
    Comparison,
    Rule,
    difference,
    expected_events,
    half_width,
    quantile,
)
from nanomd.kinetics.estimates import FEW_EVENTS
from nanomd.kinetics.interval import Interval
from nanomd.kinetics.numbers import format_number
from nanomd.kinetics.results import Cell, MfptError, Outcome, SourceKinetics, SourceVerdict, VerdictRow
from nanomd.kinetics.rows import Quantity

LEAST_MARGIN = 1.1  # numbers that differ by less are the same
SHORT = 5.0
_SHOWN = 6  # reasons


class Finding(NamedTuple):
    """A comparison, and in words what it found."""

    comparison: Comparison
    words: str


@dataclass(frozen=True)
class Judge:
    """What sources are compared with.

    Parameters
    ----------
    sources : dict of SourceKinetics
        The reference first.
    training : str, optional
        Name of the source that the models learnt from, where that is not the reference.
    lengths : dict of float
        Mean length of the trajectories of a source, in slowest timescales. Below `SHORT`, they remember where they
        started, and hold a biased sample of passages and stays: nothing that is counted in those is judged.
    errors : dict of dict of MfptError
        Of the passage times of a source against the reference, and against the training data: by source, then by base.
    floor : MfptError, optional
        Of the training data against the reference.
    slowest : float
        Slowest timescale in frames.
    confidence : float
    """

    sources: dict[str, SourceKinetics]
    training: str | None
    lengths: dict[str, float]
    errors: dict[str, dict[str, MfptError]]
    floor: MfptError | None
    slowest: float
    confidence: float

    @property
    def reference(self) -> SourceKinetics:
        """The first source."""
        return next(iter(self.sources.values()))

    @property
    def margin(self) -> float:
        """The factor within which a source counts as equal to the reference: 1.1, or the noise floor if larger."""
        floor = self.floor.factor if self.floor is not None else math.nan
        return max(LEAST_MARGIN, floor) if math.isfinite(floor) else LEAST_MARGIN

    def _is_short(self, name: str) -> bool:
        return self.lengths.get(name, math.inf) < SHORT

    def _margin(self, name: str, base: str) -> float:
        """Return the logarithm of the margin: the noise floor is that of what learnt from the training data."""
        return math.log(LEAST_MARGIN if self.training in (name, base) else self.margin)

    def _bases(self, name: str) -> list[str]:
        """Return what a source is compared with."""
        return [self.reference.name, *([self.training] if self.training not in (None, name) else [])]

    def rows(self, quantities: list[Quantity], unit: str) -> tuple[list[VerdictRow], dict[str, SourceVerdict]]:
        """Return the table, passage times as a whole first, and the verdict of every source."""
        cells: list[dict[str, Cell]] = [{} for _ in quantities]
        whole, verdicts = {self.reference.name: Cell(1.0, math.nan, math.nan)}, {}
        for name, source in self.sources.items():
            found = [[] if source is self.reference else self._findings(q, name) for q in quantities]
            rule = Rule.of(sum(map(len, found)), self.confidence)
            for row, quantity, findings in zip(cells, quantities, found, strict=True):
                row[name] = _cell(quantity, source, [f.comparison for f in findings], rule)
            if source is self.reference:
                continue
            whole[name], words = self._passages(name)
            failures = [f for findings in found for f in findings if f.comparison.fails(rule)]
            verdicts[name] = _source_verdict([whole[name], *(row[name] for row in cells)], words, failures, rule)
        table = [VerdictRow("MFPT off by (mean factor)", "", whole)]
        table += [
            VerdictRow(q.label, "" if q.frame is None else unit, row) for q, row in zip(quantities, cells, strict=True)
        ]
        return table, verdicts

    # --- One quantity ------------------------------------------------------------------------------------------------
    def _findings(self, quantity: Quantity, name: str) -> list[Finding]:
        if quantity.label == "never visited by MD":
            return self._never_visited(quantity, self.sources[name])
        return [f for base in self._bases(name) if (f := self._against(quantity, name, base)) is not None]

    def _against(self, quantity: Quantity, name: str, base: str) -> Finding | None:
        """Compare a quantity of a source with a base's; None where that says nothing."""
        source, truth = self.sources[name], self.sources[base]
        if not (quantity.comparable(source) and quantity.comparable(truth)):
            return None
        if quantity.of_passages and self._is_short(base):
            return None
        if quantity.one_sided and base == self.training:
            return None  # the training data show no transition that they do not show
        (value, events), (true_value, true_events) = quantity.read(source), quantity.read(truth)
        margin, generated = self._margin(name, base), source.n_trajs > 0
        if quantity.one_sided and true_events == 0 and generated and self.training is not None:
            # The other way round: what the source shows so often, the MD would have shown, too.
            if expected_events(events or 0, source.n_frames, truth.n_frames) < LEAST_EVENTS:
                return None
            return Finding(Comparison(math.inf, 0.0, margin, True), f"{quantity.label}: {events}, of {base} none")
        if true_events is not None and true_events < LEAST_EVENTS:
            return None
        words = _words(quantity, value, true_value, base)
        if generated and (events == 0 or not np.isfinite(value.value)):
            if true_events is None or quantity.one_sided:
                return None
            enough = expected_events(true_events, truth.n_frames, source.n_frames) >= LEAST_EVENTS
            enough &= quantity.of_exits or not self._is_short(name)
            return Finding(Comparison(math.inf if enough else math.nan, math.nan, margin), words)
        if quantity.scale == "logit" and float(value.value) in (0.0, 1.0) and 0 < float(true_value.value) < 1:
            return Finding(Comparison(math.inf, 0.0, margin), words)
        off = difference(value, true_value, quantity.scale)
        half = self._half(quantity, name, base)
        if math.isnan(off) or (math.isnan(half) and not generated):
            return None
        if quantity.of_passages and self._is_short(name):
            half = math.nan
        return Finding(Comparison(off, half, margin, quantity.one_sided), words)

    def _half(self, quantity: Quantity, name: str, base: str) -> float:
        """Return the half-widths behind a comparison, in quadrature; NaN where one is unknown."""
        source, truth = self.sources[name], self.sources[base]
        mine, theirs = self._width(quantity, source), self._width(quantity, truth)
        learnt_from = self.training or self.reference.name
        if source.n_trajs == 0 and base == learnt_from:
            return max(mine, theirs)  # computed from these very data: their errors are the same, not independent
        if base == learnt_from or source.n_trajs == 0 or name == self.training or self.training is None:
            return math.hypot(mine, theirs)
        training = self.sources[self.training]
        learnt = self._width(quantity, training)
        if math.isnan(learnt) or self._is_short(self.training):
            learnt = theirs * math.sqrt(truth.n_frames / training.n_frames)
        return math.hypot(mine, theirs, learnt)

    def _width(self, quantity: Quantity, source: SourceKinetics) -> float:
        """Return the half-width of a source's number, no narrower than that of as many events that come at random."""
        value, events = quantity.read(source)
        width = half_width(value, quantity.scale)
        if source.n_trajs and events is not None and 0 < events < FEW_EVENTS:
            width = max(width, quantile(self.confidence) / math.sqrt(events))
        return width

    def _never_visited(self, quantity: Quantity, source: SourceKinetics) -> list[Finding]:
        """Judge the share of states that the reference never visits by how often it should have been there."""
        share, entries = quantity.read(source)
        frames, margin = self.reference.n_frames, math.log(LEAST_MARGIN)
        looks = float(share.value) * frames / self.slowest  # independent ones
        if source.n_trajs:
            # Entries come in bursts: no more are independent than the scatter of the share (of its logit) tells.
            relative = float(share.error) * (1.0 - float(share.value))
            independent = min(entries or 0, int(1 / relative**2)) if relative > 0 else entries or 0
            looks = max(looks, expected_events(independent, source.n_frames, frames))
        words = f"{100 * float(share.value):.3g} % of it lies in states that {self.reference.name} never visits"
        # A second reference as large would spend as much in states new to it as the first in those that it sees once.
        once, chance = map(float, self.reference.seen_once)
        chance *= 1.0 + quantile(self.confidence) * math.sqrt(2.0 / max(once, 1.0))
        looks *= max(0.0, 1.0 - chance / max(float(share.value), 1e-300))
        if looks >= LEAST_EVENTS:
            return [Finding(Comparison(math.inf, 0.0, margin, True), words)]
        return [Finding(Comparison(0.0, 0.0 if share.value == 0 else math.nan, margin, True), words)]

    # --- Passage times as a whole ------------------------------------------------------------------------------------
    def _passages(self, name: str) -> tuple[Cell, list[str]]:
        """Judge the mean factor of all passage times, and say in words what it is."""
        resolves, failed, words = math.nan, False, []
        for base, error in self.errors[name].items():
            if error.n_pairs + error.n_missing == 0:
                words.append(
                    f"{base} shows fewer than {LEAST_EVENTS} passages between any macrostates that can be judged"
                )
                continue
            if error.n_missing:
                failed = True
                words.append(f"it lacks {error.n_missing} of the passages that {base} makes")
                continue
            margin = self._margin(name, base)
            scatter = 0.0 if math.isnan(error.scatter) else math.log(error.scatter)
            fails = math.log(error.factor) > margin + scatter
            spread = math.log(error.high / error.factor)
            told = math.exp(margin + scatter + Rule.of(1, self.confidence).power * spread)
            resolves = float(np.fmin(resolves, told))
            failed |= fails
            factor = format(Interval(*(np.array(x) for x in (error.factor, error.low, error.high))))
            side = "" if not fails else f" (too {'fast' if error.shift < 1 else 'slow'})"
            words.append(
                f"passage times are off from {base} by a factor of {factor} in the geometric mean{side}; sampling "
                f"alone may give {math.exp(scatter):.3g}, and the margin is {math.exp(margin):.3g}"
            )
        error = self.errors[name][self.reference.name]
        passed = False if failed else True if resolves <= UNTOLD else None
        low, value, high = (x if math.isfinite(x) else math.nan for x in (error.low, error.factor, error.high))
        return Cell(value, low, high, None, passed, passed is None, resolves), words


def _cell(quantity: Quantity, source: SourceKinetics, comparisons: list[Comparison], rule: Rule) -> Cell:
    value, events = quantity.read(source)
    scale = 1.0 if quantity.frame is None else quantity.frame
    passed: bool | None = None
    resolves = math.nan
    if comparisons:
        resolves = min(c.resolves(rule) for c in comparisons)
        passed = False if any(c.fails(rule) for c in comparisons) else True if resolves <= UNTOLD else None
    number = None if events is None or source.n_trajs == 0 else int(events)
    low, middle, high = (float(x) * scale for x in (value.low, value.value, value.high))
    return Cell(middle, low, high, number, passed, bool(comparisons) and passed is None, resolves)


def _words(quantity: Quantity, value: Interval, truth: Interval, base: str) -> str:
    mine, theirs = float(value.value), float(truth.value)
    if not math.isfinite(mine):
        return f"{quantity.label}: none seen, of {base} {format_number(theirs)} frames"
    if quantity.scale == "logit":
        return f"{quantity.label}: {format_number(mine)}, of {base} {format_number(theirs)}"
    return f"{quantity.label} is {format_number(mine / theirs)} times that of {base}"


def _source_verdict(cells: list[Cell], words: list[str], failures: list[Finding], rule: Rule) -> SourceVerdict:
    """Put a source's cells, passage times as a whole first, into one word, and say why."""
    n_failed = sum(cell.passed is False for cell in cells)
    n_passed, n_undecided = sum(cell.passed is True for cell in cells), sum(cell.undecided for cell in cells)
    resolves = cells[0].resolves
    outcome: Outcome = "fail" if n_failed else "pass" if cells[0].passed else "undecided"
    if n_failed:
        worst = sorted(failures, key=lambda f: -f.comparison.weight(rule))
        shown = list(dict.fromkeys(f.words for f in worst))
        shown = [*shown[:_SHOWN], *([f"and {len(shown) - _SHOWN} more"] if len(shown) > _SHOWN else [])]
        words = [*words, *shown] if cells[0].passed is False else [*shown, *words]
    elif outcome == "pass":
        words = [*words, f"a model {resolves:.3g} times off would have failed"]
    else:
        could = f"it takes {resolves:.3g} times" if math.isfinite(resolves) else "nothing can be told"
        words = [f"could not tell a model {UNTOLD:g} times off from this one: {could}", *words]
    return SourceVerdict(outcome, words, n_passed, n_failed, n_undecided, resolves)
