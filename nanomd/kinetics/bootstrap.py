"""Confidence intervals by resampling blocks of time.

The unit is a block: a whole trajectory, or one of the equal parts of a long one. Blocks are made several times longer
than the slowest relaxation, so that they are nearly independent; every statistic is a function of sums over blocks, so
a bootstrap replicate is a multinomial weight per block and costs no pass over the data.

Intervals are symmetric on the natural scale of a quantity (logarithm for times, logit for probabilities): estimate
-+ t * s, with s the bootstrap standard deviation, and t Student's quantile for the number of blocks less one. With few
blocks, percentile intervals cover too little; these keep their promise (tests/test_kinetics_calibration.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nanomd._native import Blocks
from nanomd.base.checks import check_range, check_whole
from nanomd.base.extras import needs
from nanomd.kinetics.interval import Interval

FloatArray = NDArray[np.float64]
Scale = Literal["log", "logit", "linear"]

MAX_BLOCKS = 200
MIN_BLOCKS = 8
BLOCK_TIMESCALES = 5.0  # wanted length of a block, in slowest timescales


def make_blocks(lengths: list[int], timescale: float) -> Blocks:
    """Cut trajectories into at most about 200 blocks of at least about five times `timescale` frames.

    Long trajectories are cut into equal parts; when there are more than 200 short ones, they are dealt to 200 blocks in
    turn. Data too short for 8 such blocks are cut into 8 all the same, where there are not as many trajectories.
    """
    total = int(sum(lengths))
    wanted = BLOCK_TIMESCALES * timescale if np.isfinite(timescale) else 0.0
    length = min(max(wanted, total / MAX_BLOCKS, 1.0), max(total / MIN_BLOCKS, 1.0))
    spans = np.empty((len(lengths), 2), np.int64)
    if len(lengths) >= MAX_BLOCKS:
        spans[:, 0] = np.arange(len(lengths)) % MAX_BLOCKS
        spans[:, 1] = 1
        return Blocks(spans, MAX_BLOCKS)
    spans[:, 1] = [max(1, int(x / length)) for x in lengths]
    spans[:, 0] = np.concatenate([[0], np.cumsum(spans[:-1, 1])])
    return Blocks(spans, int(spans[:, 1].sum()))


@dataclass(frozen=True)
class Bootstrap:
    """Weights of bootstrap replicates over blocks.

    Parameters
    ----------
    weights : ndarray (n_bootstrap, n_blocks)
        How often each block is drawn.
    confidence : float
        Coverage of the intervals.
    """

    weights: FloatArray
    confidence: float

    @classmethod
    def draw(cls, n_blocks: int, n_bootstrap: int, confidence: float, seed: int) -> Bootstrap:
        """Draw the weights from the seed."""
        needs("an interval", "scipy")
        n_bootstrap = check_whole("n_bootstrap", n_bootstrap, 20)
        check_range("confidence", confidence, 0.5, 0.9999)
        rng = np.random.default_rng(seed)
        weights = rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=n_bootstrap)
        return cls(weights.astype(np.float64), confidence)

    def sums(self, per_block: NDArray[np.number]) -> FloatArray:
        """Return weighted sums over blocks: (n_blocks, ...) to (n_bootstrap, ...)."""
        flat = np.asarray(per_block, np.float64).reshape(len(per_block), -1)
        return (self.weights @ flat).reshape(len(self.weights), *per_block.shape[1:])

    def interval(
        self,
        value: FloatArray,
        replicates: FloatArray,
        scale: Scale,
        least_error: FloatArray | None = None,
    ) -> Interval:
        """Return the interval of `value` (...) from `replicates` (n_bootstrap, ...).

        `least_error` is a lower bound of the standard deviation on the scale. Undefined (NaN) ends are returned where
        there is one block only, or fewer than half of the replicates are defined.
        """
        from scipy.stats import t as student

        value = np.asarray(value, np.float64)
        n_blocks = self.weights.shape[1]
        if n_blocks < 2:
            return Interval.undefined(value)
        with np.errstate(all="ignore"):
            centre, spread = to_scale(value, scale), to_scale(replicates, scale)
            finite = np.isfinite(spread)
            number = finite.sum(axis=0)
            mean = np.where(finite, spread, 0.0).sum(axis=0) / number
            variance = np.where(finite, (spread - mean) ** 2, 0.0).sum(axis=0) / (number - 1)
            error = np.sqrt(variance * n_blocks / (n_blocks - 1))
            if least_error is not None:
                error = np.maximum(error, least_error)
            half = student.ppf(0.5 + 0.5 * self.confidence, n_blocks - 1) * error
            low, high = _from(centre - half, scale), _from(centre + half, scale)
        defined = np.isfinite(centre) & (number >= len(replicates) / 2)
        return Interval(value, *(np.where(defined, x, np.nan) for x in (low, high, error)))


def to_scale(value: FloatArray, scale: Scale) -> FloatArray:
    """Return a value on its natural scale."""
    if scale == "log":
        return np.log(value)
    return np.log(value) - np.log1p(-value) if scale == "logit" else value


def _from(value: FloatArray, scale: str) -> FloatArray:
    if scale == "log":
        return np.exp(value)
    return 1 / (1 + np.exp(-value)) if scale == "logit" else value


def ratio(numerator: NDArray[np.number], denominator: NDArray[np.number]) -> FloatArray:
    """Divide, with NaN where the denominator is zero."""
    with np.errstate(all="ignore"):
        return np.where(np.asarray(denominator) != 0, numerator / np.asarray(denominator, np.float64), np.nan)
