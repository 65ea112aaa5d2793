"""The interval of a rate from independent repetitions."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from nanomd.kinetics.interval import Interval


def student_quantile(confidence: float, freedom: int) -> float:
    """Return t with P(-t < T < t) = confidence for Student's T with `freedom` degrees of freedom.

    From the finite sums of M. Abramowitz and I. A. Stegun, 26.7.3 and 26.7.4, by bisection: needs no SciPy.

    Examples
    --------
    >>> round(student_quantile(0.95, 7), 4)
    2.3646
    """
    low, high = 0.0, 1.0
    while _within(high, freedom) < confidence:
        low, high = high, 2 * high
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < confidence else (low, middle)
    return (low + high) / 2


def _within(t: float, freedom: int) -> float:
    angle = math.atan(t / math.sqrt(freedom))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= square * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def mean_of_repeats(values: ArrayLike, confidence: float) -> Interval:
    """Return the mean over the first axis of positive numbers, with Student's interval of its logarithm.

    Rates of few events are skewed: mean times exp(+- t error / mean) covers the truth more often than mean +- t error,
    and is never negative. The error is that of the logarithm; NaN with a single repetition, or where all are zero.
    """
    values = np.asarray(values, np.float64)
    mean, n = values.mean(axis=0), len(values)
    if n < 2:
        return Interval.undefined(mean)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = values.std(axis=0, ddof=1) / math.sqrt(n) / mean
    factor = np.exp(student_quantile(confidence, n - 1) * error)
    return Interval(mean, mean / factor, mean * factor, error)
