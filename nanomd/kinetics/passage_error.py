"""One number for a table of passage times: the factor by which they are off, in the geometric mean over all pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd.base.checks import check_range
from nanomd.base.errors import InputError
from nanomd.kinetics.estimates import FEW_EVENTS
from nanomd.kinetics.interval import Interval
from nanomd.kinetics.processes import HANDFUL
from nanomd.kinetics.results import MfptError

FloatArray = NDArray[np.float64]


def mfpt_error(
    reference: Any,
    other: Any,
    *,
    events: ArrayLike | None = None,
    reference_replicates: FloatArray | None = None,
    other_replicates: FloatArray | None = None,
    confidence: float = 0.95,
    n_draws: int = 1000,
    seed: int = 0,
) -> MfptError:
    """Compare two tables of mean first passage times.

    Parameters
    ----------
    reference, other : mapping, array (m, m) or Interval (m, m)
        Passage times in one unit, from row to column, or by key. The diagonal, and what is not finite and positive in
        the reference, is left out. What the other lacks is worse than anything: it makes the factor infinite.
    events : array (m, m), optional
        Passages behind the reference's times: pairs with fewer than `HANDFUL` are left out.
    reference_replicates, other_replicates : ndarray (r, m, m), optional
        Bootstrap replicates of either table, which carry the correlations between pairs. Without them, and with
        intervals, replicates are drawn from independent log-normal distributions of the intervals' widths; with
        plain arrays, the table counts as exact.
    confidence : float
    n_draws : int
        Replicates that are drawn where there are none.
    seed : int

    Returns
    -------
    MfptError
        The interval is symmetric in the logarithm, of the spread of the factor over the replicates of both tables,
        and ends at 1, a perfect agreement, below. Scatter alone gives a factor above 1: compare it with that of MD
        with MD, the noise floor.
    """
    check_range("confidence", confidence, 0.5, 0.9999)
    keys: list[Any] | None = None
    if isinstance(reference, Mapping) or isinstance(other, Mapping):
        if not (isinstance(reference, Mapping) and isinstance(other, Mapping)):
            raise InputError("reference and other must both be mappings, or both be arrays")
        keys = list(reference)
        reference, other = ([float(x.get(key, np.nan)) for key in keys] for x in (reference, other))
    a, b = _values(reference), _values(other)
    if a.shape != b.shape or (keys is None and (a.ndim != 2 or a.shape[0] != a.shape[1])):
        raise InputError(f"passage times must be two tables (m, m), got shapes {a.shape} and {b.shape}")
    usable = _usable(a)
    if keys is None:
        np.fill_diagonal(usable, False)
    if events is not None:
        usable &= np.asarray(events) >= HANDFUL
    if not usable.any():
        return MfptError(np.nan, np.nan, np.nan, np.nan, None, np.nan, 0, 0)
    both = usable & _usable(b)
    off = np.log(b[both] / a[both])
    shift = float(np.exp(off.mean())) if len(off) else np.nan
    places = np.argwhere(usable)
    with np.errstate(all="ignore"):
        sizes = np.where(both, abs(np.log(b / a)), np.inf)[usable]
    worst = int(sizes.argmax())
    pair = keys[int(places[worst][0])] if keys is not None else tuple(int(x) for x in places[worst])
    n_missing = int(usable.sum() - both.sum())
    if n_missing:
        return MfptError(np.inf, np.inf, np.inf, shift, pair, np.inf, int(both.sum()), n_missing)
    error = float(sizes.mean())
    rng = np.random.default_rng(seed)
    spread_a = _replicates(reference, reference_replicates, both, confidence, n_draws, rng)
    if spread_a is not None and events is not None:
        spread_a = _at_least_poisson(spread_a, np.asarray(events)[both])
    spread_b = _replicates(other, other_replicates, both, confidence, n_draws, rng)
    low = high = scatter = np.nan
    if spread_a is not None or spread_b is not None:
        low, high, scatter = _interval(error, off, spread_a, spread_b, np.log(a[both]), np.log(b[both]), confidence)
    return MfptError(
        float(np.exp(error)),
        low,
        high,
        shift,
        pair,
        float(np.exp(sizes[worst])),
        int(both.sum()),
        0,
        scatter,
    )


def _values(table: Any) -> FloatArray:
    return np.asarray(table.value if isinstance(table, Interval) else table, np.float64)


def _usable(table: FloatArray) -> NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):
        return np.isfinite(table) & (table > 0)


def _replicates(
    table: Any,
    replicates: FloatArray | None,
    both: NDArray[np.bool_],
    confidence: float,
    n_draws: int,
    rng: np.random.Generator,
) -> FloatArray | None:
    """Return logarithms of replicates (r, pairs), or None where the table is taken for exact."""
    if replicates is not None:
        with np.errstate(all="ignore"):
            logs = np.log(np.asarray(replicates, np.float64)[:, both])
        return np.where(np.isfinite(logs), logs, np.nan)
    if not isinstance(table, Interval):
        return None
    from scipy.stats import norm

    with np.errstate(all="ignore"):
        width = (np.log(table.high) - np.log(table.low))[both] / (2 * norm.ppf(0.5 + 0.5 * confidence))
    centre = np.log(table.value[both])
    drawn: FloatArray = centre + np.where(np.isfinite(width), width, 0.0) * rng.normal(size=(n_draws, len(centre)))
    return drawn


def _at_least_poisson(spread: FloatArray, events: NDArray[np.integer]) -> FloatArray:
    """Spread replicates (r, pairs) that scatter less than as many events that come at random."""
    mean, deviation = np.nanmean(spread, axis=0), np.nanstd(spread, axis=0)
    least = np.where(events < FEW_EVENTS, 1 / np.sqrt(np.maximum(events, 1)), 0.0)
    return np.asarray(mean + (spread - mean) * np.maximum(1.0, least / np.maximum(deviation, 1e-9)), np.float64)


def _interval(
    error: float,
    off: FloatArray,
    spread_a: FloatArray | None,
    spread_b: FloatArray | None,
    a: FloatArray,
    b: FloatArray,
    confidence: float,
) -> tuple[float, float, float]:
    """Return the ends of the factor's interval, and the factor that a source without any error would stay below.

    Replicates are centred on the estimates, and those of a table with fewer are used again. A replicate without a
    passage of some pair leaves the pair as estimated.
    """
    from scipy.stats import norm

    number = max(len(x) for x in (spread_a, spread_b) if x is not None)
    noise = np.zeros((number, len(off)))
    rows = np.arange(number)
    for sign, spread, centre in ((-1, spread_a, a), (1, spread_b, b)):
        if spread is not None:
            noise += sign * np.nan_to_num(spread[rows % len(spread)] - centre, nan=0.0)
    quantile = float(norm.ppf(0.5 + 0.5 * confidence))
    half = quantile * float(abs(off + noise).mean(axis=1).std(ddof=1))
    alone = abs(noise - noise.mean(axis=0)).mean(axis=1)
    scatter = float(np.exp(alone.mean() + quantile * alone.std(ddof=1)))
    return float(np.exp(max(error - half, 0.0))), float(np.exp(error + half)), scatter
