"""Leakage: how often a model makes transitions that the MD it learnt from never showed.

A model that gives every transition some probability leaks through barriers; each leak may be rare, and all together
shorten the passage times. MD that the model has not seen leaks, too, for no sample shows every transition: it is the
yardstick, so look at held-out MD beside the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd import _native
from nanomd._native import Derived
from nanomd.base.errors import InputError
from nanomd.base.units import Duration, GivenInterval, in_frames
from nanomd.data.counts import model_counts
from nanomd.kinetics.bootstrap import ratio
from nanomd.kinetics.estimates import FEW_EVENTS, Sample
from nanomd.kinetics.inputs import check_lagtime, trajectories, usable_length
from nanomd.kinetics.interval import Interval

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Leakage:
    """Transitions never seen in training.

    Parameters
    ----------
    probability : Interval, scalar
        Share of all steps.
    n_unseen, n_steps : int
        Steps that made such a transition, and all steps.
    counts : ndarray or csr_array (n, n)
        Unseen transitions from row to column; zero where the training data show the transition. Sparse where there are
        more than `nanomd.data.counts.SPARSE_STATES` states.
    by_state : ndarray (n,)
        Probability per step to leave a state so; NaN for a state never visited.
    """

    probability: Interval
    n_unseen: int
    n_steps: int
    counts: Any
    by_state: FloatArray

    def worst(self, n: int = 10) -> list[tuple[int, int, int]]:
        """Return the most frequent unseen transitions as (from, to, count), at most n."""
        rows, columns = self.counts.nonzero()
        number = self.counts[rows, columns]
        order = np.lexsort((columns, rows, -number))[:n]
        found = zip(rows[order].tolist(), columns[order].tolist(), number[order].tolist(), strict=True)
        return [(i, j, count) for i, j, count in found]


def leakage(
    dtrajs: Any,
    training: Any,
    *,
    lagtime: Duration = 1,
    both_ways: bool = False,
    n_states: int | None = None,
    timescale: float = np.nan,
    confidence: float = 0.95,
    n_bootstrap: int = 200,
    seed: int = 0,
    frame_interval: GivenInterval = None,
) -> Leakage:
    """Measure the probability per step of transitions that the training data never show.

    Parameters
    ----------
    dtrajs, training : list of arrays
        What the model generated, and what it was trained on, of states 0..n-1 (negative: unassigned).
    lagtime : int or str
        Frames between the two ends of a transition, or a time such as ``"1 ns"``.
    both_ways : bool
        A transition that training shows in the opposite direction counts as seen, as for a model that was trained
        forwards and backwards.
    n_states : int, optional
        By default the highest state plus one.
    timescale : float
        Slowest relaxation in frames, if known: the blocks of the bootstrap are made longer.
    confidence, n_bootstrap, seed :
        Of the interval.
    frame_interval : str or FrameInterval, optional
        Time of a frame, such as ``"0.2 ns"``; needed for a lag that is a time.
    """
    lagtime = in_frames(lagtime, frame_interval, "lagtime")
    made, seen = trajectories("dtrajs", dtrajs), trajectories("training", training)
    highest = 1 + max(int(x.max()) for x in [*made, *seen])
    if n_states is not None and n_states < highest:
        raise InputError(f"n_states must be at least {highest}, the highest state plus one, got {n_states}")
    n = highest if n_states is None else n_states
    check_lagtime(lagtime, usable_length(made))
    sample = Sample.make(made, n, timescale=timescale, confidence=confidence, n_bootstrap=n_bootstrap, seed=seed)
    return measure(sample, model_counts(seen, n, lagtime), lagtime, both_ways=both_ways)


def measure(sample: Sample, seen: Any, lagtime: int = 1, *, both_ways: bool = False) -> Leakage:
    """Return the leakage of a sample, given the counts (n, n) of the training data, dense or sparse."""
    known = Known.of(seen + seen.T if both_ways else seen)
    unseen = [Derived(np.asarray(x), partial(_unseen, known=known, lagtime=lagtime)) for x in sample.dtrajs]
    per_block = _native.count_visits(unseen, 3, sample.blocks)[:, :2]
    number, total = int(per_block[:, 1].sum()), int(per_block.sum())
    n_unseen = int(sample.events(np.asarray(number)))
    replicates = sample.bootstrap.sums(per_block)
    least = np.asarray(1 / np.sqrt(n_unseen) if 0 < n_unseen < FEW_EVENTS else 0.0)
    probability = sample.bootstrap.interval(
        np.asarray(number / total if total else np.nan),
        np.asarray(ratio(replicates[:, 1], replicates.sum(axis=1))),
        "log",
        least,
    )
    counts = model_counts(sample.dtrajs, sample.n_states, lagtime)
    leaks = known.without(counts)
    return Leakage(probability, n_unseen, total // sample.views, leaks, ratio(leaks.sum(axis=1), counts.sum(axis=1)))


@dataclass(frozen=True, slots=True)
class Known:
    """Transitions that were seen: a table (n, n), or the sorted places i n + j of those that were, where n is large."""

    n_states: int
    table: NDArray[np.bool_] | None
    places: IntArray | None

    @classmethod
    def of(cls, counts: Any) -> Known:
        """Take counts (n, n), dense or sparse."""
        n = counts.shape[0]
        if isinstance(counts, np.ndarray):
            return cls(n, counts > 0, None)
        pairs = counts.tocoo()
        row, column = (index.astype(np.int64) for index in pairs.coords)
        return cls(n, None, np.sort((row * n + column)[pairs.data > 0]))

    def __call__(self, source: NDArray[np.integer], target: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Tell of which transitions (t,) are known."""
        if self.table is not None:
            return np.asarray(self.table[source, target])
        assert self.places is not None
        if not len(self.places):
            return np.zeros(len(source), np.bool_)
        place = source.astype(np.int64) * self.n_states + target
        found = np.minimum(np.searchsorted(self.places, place), len(self.places) - 1)
        return np.asarray(self.places[found] == place)

    def without(self, counts: Any) -> Any:
        """Return counts (n, n), dense or sparse, of the transitions that are not known."""
        if self.table is not None:
            return np.where(self.table, 0, counts)
        pairs = counts.tocoo()
        pairs.data = np.where(self(*pairs.coords), 0, pairs.data)
        pairs.eliminate_zeros()
        return pairs.tocsr()


def _unseen(x: NDArray[np.integer], known: Known, lagtime: int) -> NDArray[np.uint8]:
    """Mark every frame: 1 where an unseen transition begins, 0 where another, 2 where none does."""
    out = np.full(len(x), 2, np.uint8)
    if len(x) <= lagtime:
        return out
    a, b = x[:-lagtime], x[lagtime:]
    assigned = (a >= 0) & (b >= 0)
    inner = out[:-lagtime]
    inner[assigned] = ~known(a[assigned], b[assigned])
    return out
