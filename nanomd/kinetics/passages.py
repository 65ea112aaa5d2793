"""Tables of passage times as a whole, of trajectories long and short, and how far they are from one another."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from nanomd.kinetics.comparison import LEAST_EVENTS, expected_events
from nanomd.kinetics.estimates import Sample
from nanomd.kinetics.interval import Interval
from nanomd.kinetics.memory_source import passages_of_pieces
from nanomd.kinetics.passage_error import mfpt_error
from nanomd.kinetics.results import MfptError, SourceKinetics
from nanomd.kinetics.sources import Measured
from nanomd.kinetics.yardstick import Yardstick

FloatArray = NDArray[np.float64]

PIECES = 20.0  # slowest timescales; trajectories shorter than this hold a biased sample of whole passages


class PassageTable:
    """Passage times (m, m) of a source, with bootstrap replicates (w, m, m) where there are any.

    Whole passages in short pieces are a biased sample: there, excursions are counted (`passages_of_pieces`).
    """

    def __init__(self, source: SourceKinetics, times: FloatArray, replicates: FloatArray | None) -> None:
        self.source, self.times, self.replicates = source, times, replicates

    @classmethod
    def of(cls, measured: Measured, sample: Sample | None, yardstick: Yardstick, slowest: float) -> Self:
        """Take the table of a source; `sample` holds its trajectories, if it has any."""
        source = measured.kinetics
        if sample is not None and sample.n_frames / sample.n_trajs < PIECES * slowest:
            found = passages_of_pieces(sample, yardstick)
            nothing = np.full(source.mfpt.value.shape, np.nan)
            return cls(source, *(found or (nothing, None)))
        return cls(source, source.mfpt.value, measured.passages)

    def error_of(self, other: PassageTable, confidence: float) -> MfptError:
        """Compare another table with this one; pairs that the other source is too short to show are left out."""
        mine, theirs = self.source, other.source
        events = mine.mfpt_events
        if theirs.n_trajs:
            enough = [expected_events(int(n), mine.n_frames, theirs.n_frames) >= LEAST_EVENTS for n in events.flat]
            events = np.where(np.isfinite(other.times) | np.reshape(enough, events.shape), events, 0)
        return mfpt_error(
            self.times if self.replicates is not None else Interval.undefined(self.times),
            other.times,
            events=events,
            reference_replicates=self.replicates,
            other_replicates=other.replicates,
            confidence=confidence,
        )
