"""Residence and first-passage times as counts and histograms: the tables that observables are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_DECADES = 12
_PER_DECADE = 10


def log_bin_edges() -> tuple[int, ...]:
    """Return the edges of the logarithmic bins: 0, 1, ..., 10 exactly, then ten a decade up to 10^12 steps."""
    edges = [round(10 ** (k / _PER_DECADE)) for k in range(_PER_DECADE, _DECADES * _PER_DECADE + 1)]
    return (*range(10), *edges)


@dataclass(frozen=True)
class Durations:
    """Residence times in sets, or first-passage times between them; in steps.

    Parameters
    ----------
    exposure : int64 array
        Steps spent in it, in events that were completed or cut by the end of a trajectory.
    events : int64 array
        Completed events; ``exposure / events`` estimates the mean duration, unbiased by the end of the data.
    total : int64 array
        Sum of the durations in `completed`.
    completed, cut : int64 array, (..., n_bins)
        Durations of events completed, and of those cut by the end. Residences whose entry was not seen are left out.
    bin_edges : (n_bins,) int64
        Bin b holds durations in [bin_edges[b], bin_edges[b + 1]); the last one is open.
    """

    exposure: NDArray[np.int64]
    events: NDArray[np.int64]
    total: NDArray[np.int64]
    completed: NDArray[np.int64]
    cut: NDArray[np.int64]
    bin_edges: NDArray[np.int64]

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean duration in steps; NaN where nothing was seen."""
        known = self.events > 0
        return np.where(known, self.exposure / np.where(known, self.events, 1), np.nan)
