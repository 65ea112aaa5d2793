"""The rule by which one number of a source is compared with that of the MD.

On the natural scale of a quantity (the logarithm of a time, the logit of a probability) let d be the difference, H the
half-widths of all confidence intervals that it rests on, added in quadrature, and M the margin within which numbers
count as equal. With z the factor that widens H so that all comparisons of a source hold together at the confidence,

    fail        |d| > M + z H : off by more than the margin, whatever the sampling errors;
    pass        not so, and a model that is off by a factor of two would have failed, nine times in ten;
    undecided   not so, and the data could not have told a model that is off by two.

The factor exp(M + (z + p) H) is what the comparison *resolves*: a model that is off by that much fails nine times in
ten, with p the 90 % quantile of the normal distribution over that of the half-widths (0.65 at 95 % confidence). Of a
probability it is a factor of the odds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from nanomd.kinetics.bootstrap import Scale, to_scale
from nanomd.kinetics.interval import Interval

LEAST_EVENTS = 5  # of the MD, for anything to be judged by them
UNTOLD = 2.0  # a model that is so many times off must be told, for a quantity to pass
POWER = 0.9  # with this probability


def quantile(confidence: float) -> float:
    """Return how many standard errors make the half-width of a normal confidence interval."""
    from scipy.stats import norm

    return float(norm.ppf(0.5 + 0.5 * confidence))


@dataclass(frozen=True, slots=True)
class Rule:
    """How many half-widths count: `widening` (z) for a failure, `power` (p) more for a model to be told."""

    widening: float
    power: float

    @classmethod
    def of(cls, n: int, confidence: float) -> Self:
        """Make n comparisons hold together at the confidence (Bonferroni's correction)."""
        one, tail = quantile(confidence), (1 - confidence) / max(n, 1)
        return cls(quantile(1 - tail) / one, quantile(2 * POWER - 1) / one)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A difference on the natural scale, the half-width behind it, and the margin; see above.

    Parameters
    ----------
    off : float
        Source less reference; infinite for what the reference shows and the source never does.
    half : float
        NaN where unknown: nothing can be told.
    margin : float
        On the same scale.
    one_sided : bool
        Only too much is wrong.
    """

    off: float
    half: float
    margin: float
    one_sided: bool = False

    def fails(self, rule: Rule) -> bool:
        """Tell whether the difference exceeds margin and widened half-width."""
        off = self.off if self.one_sided else abs(self.off)
        return bool(off == math.inf or off > self.margin + rule.widening * self.half)

    def resolves(self, rule: Rule) -> float:
        """Return the factor that would be told, infinite where none would."""
        if self.off == math.inf:
            return math.exp(self.margin)
        told = self.margin + (rule.widening + rule.power) * self.half
        return math.inf if math.isnan(told) else math.exp(min(told, 700.0))

    def weight(self, rule: Rule) -> float:
        """Return by how many times a difference exceeds what is allowed."""
        return math.inf if self.off == math.inf else abs(self.off) / (self.margin + rule.widening * self.half)


def half_width(interval: Interval, scale: Scale) -> float:
    """Return half the width of a scalar interval on its scale, NaN where undefined."""
    with np.errstate(all="ignore"):
        width = to_scale(interval.high, scale) - to_scale(interval.low, scale)
    return float(width) / 2 if np.isfinite(width) else math.nan


def difference(value: Interval, reference: Interval, scale: Scale) -> float:
    """Return source less reference on the scale, NaN where undefined."""
    with np.errstate(all="ignore"):
        off = to_scale(value.value, scale) - to_scale(reference.value, scale)
    return float(off) if np.isfinite(off) else math.nan


def expected_events(reference_events: int, reference_frames: int, frames: int) -> float:
    """Return how many events a source of so many frames would show at the reference's rate."""
    return reference_events * frames / max(reference_frames, 1)
