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
from nanomd.data.counts import transition_counts
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
    counts : ndarray (n, n)
        Unseen transitions from row to column; zero where the training data show the transition.
    by_state : ndarray (n,)
        Probability per step to leave a state so; NaN for a state never visited.
    """

    probability: Interval
    n_unseen: int
    n_steps: int
    counts: IntArray
    by_state: FloatArray

    def worst(self, n: int = 10) -> list[tuple[int, int, int]]:
        """Return the most frequent unseen transitions as (from, to, count), at most n."""
        flat = np.argsort(-self.counts, axis=None, kind="stable")[:n]
        rows, columns = np.unravel_index(flat, self.counts.shape)
        found = zip(rows.tolist(), columns.tolist(), self.counts[rows, columns].tolist(), strict=True)
        return [(i, j, count) for i, j, count in found if count > 0]


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
    return measure(sample, transition_counts(seen, n, lagtime), lagtime, both_ways=both_ways)


def measure(sample: Sample, seen: IntArray, lagtime: int = 1, *, both_ways: bool = False) -> Leakage:
    """Return the leakage of a sample, given the counts (n, n) of the training data."""
    known = (seen > 0) | (seen.T > 0) if both_ways else seen > 0
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
    counts = transition_counts(sample.dtrajs, sample.n_states, lagtime)
    leaks = np.where(known, 0, counts)
    return Leakage(probability, n_unseen, total // sample.views, leaks, ratio(leaks.sum(axis=1), counts.sum(axis=1)))


def _unseen(x: NDArray[np.integer], known: NDArray[np.bool_], lagtime: int) -> NDArray[np.uint8]:
    """Mark every frame: 1 where an unseen transition begins, 0 where another, 2 where none does."""
    out = np.full(len(x), 2, np.uint8)
    if len(x) <= lagtime:
        return out
    a, b = x[:-lagtime], x[lagtime:]
    assigned = (a >= 0) & (b >= 0)
    inner = out[:-lagtime]
    inner[assigned] = ~known[a[assigned], b[assigned]]
    return out
