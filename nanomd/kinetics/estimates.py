"""Kinetics of trajectories, each with an interval and a number of events. Times are in frames.

All functions take a `Sample`: trajectories cut into blocks, with bootstrap weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from nanomd import _native
from nanomd._native import Blocks, Derived
from nanomd.data.counts import model_counts
from nanomd.kinetics.bootstrap import Bootstrap, make_blocks, ratio
from nanomd.kinetics.inputs import Traj, recoded
from nanomd.kinetics.interval import Interval
from nanomd.kinetics.markov import (
    MarkovModel,
    eigenvalue_timescales,
    estimate_markov_model,
)
from nanomd.kinetics.processes import match_processes

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SPARE_PROCESSES = 6  # of a source, beyond those of the reference, among which the like ones are looked for
_AT_ONCE = 1 << 22  # numbers by block, state and process that are in memory together
_STATES_AT_ONCE = 4096
FEW_EVENTS = 20  # below, the relative error of a mean time is at least that of as many Poisson events


@dataclass(frozen=True)
class Sample:
    """Trajectories of states, cut into blocks of time, with bootstrap weights.

    Parameters
    ----------
    dtrajs : list of arrays
        States 0..n_states-1, negative: unassigned; or what is derived from them when it is read.
    n_states : int
    blocks : Blocks
    bootstrap : Bootstrap
    views : int
        So many trajectories in a row are views of one, at every views-th frame from different offsets: they share their
        blocks, and all see nearly the same events.
    """

    dtrajs: Sequence[Traj]
    n_states: int
    blocks: Blocks
    bootstrap: Bootstrap
    views: int = 1

    @classmethod
    def make(
        cls,
        dtrajs: Sequence[Traj],
        n_states: int,
        *,
        timescale: float = np.nan,
        confidence: float = 0.95,
        n_bootstrap: int = 200,
        seed: int = 0,
        views: int = 1,
    ) -> Sample:
        """Cut into blocks several times longer than `timescale` (frames), the slowest relaxation."""
        spans, n_blocks = make_blocks([len(x) for x in dtrajs[::views]], timescale)
        blocks = Blocks(np.repeat(spans, views, axis=0), n_blocks)
        return cls(dtrajs, n_states, blocks, Bootstrap.draw(n_blocks, n_bootstrap, confidence, seed), views)

    def coarse(self, macrostate: IntArray, n_macrostates: int, gap: int = -1) -> Sample:
        """Map states to macrostates, and unassigned frames to `gap`; same blocks and weights."""
        table = np.append(macrostate, gap).astype(np.int32)
        mapped = [Derived(np.asarray(x), partial(recoded, table=table)) for x in self.dtrajs]
        return Sample(mapped, n_macrostates, self.blocks, self.bootstrap, self.views)

    def with_rest(self, macrostate: IntArray, n_macrostates: int) -> Sample:
        """Map states to macrostates, and those in none (-1) to one more, which tells them from unassigned frames."""
        return self.coarse(np.where(macrostate < 0, n_macrostates, macrostate), n_macrostates + 1)

    @property
    def n_trajs(self) -> int:
        """Trajectories, views of one counted once."""
        return len(self.dtrajs) // self.views

    @property
    def n_frames(self) -> int:
        """All frames together, views of one trajectory counted once."""
        return int(sum(len(x) for x in self.dtrajs)) // self.views

    def events(self, counted: IntArray, stride: int = 1) -> IntArray:
        """Return numbers of events that were counted at all offsets of a stride in all views, which see the same ones.

        Rounded up: what was seen at all is one event.
        """
        return np.asarray(-(-counted // (stride * self.views)), np.int64)


def populations(sample: Sample) -> Interval:
    """Return shares (n,) of the frames whose state is known."""
    visits = _native.count_visits(sample.dtrajs, sample.n_states, sample.blocks)
    value = ratio(visits.sum(axis=0), np.asarray(visits.sum()))
    frames = sample.bootstrap.sums(visits.sum(axis=1))[:, None]
    parts = []
    for begin in range(0, sample.n_states, _STATES_AT_ONCE):
        some = slice(begin, begin + _STATES_AT_ONCE)
        shares = ratio(sample.bootstrap.sums(visits[:, some]), frames)
        parts.append(sample.bootstrap.interval(value[some], shares, "logit"))
    return Interval.joined(parts)


def entries(sample: Sample, inside: NDArray[np.bool_]) -> int:
    """Count how often trajectories enter a set of states (n,) from outside of it."""
    table = np.append(inside, False)
    number = 0
    for trajectory in sample.dtrajs:
        x = np.asarray(trajectory)
        known = x if x.dtype.kind == "u" else x[x >= 0]
        number += int((~table[known[:-1]] & table[known[1:]]).sum())
    return int(sample.events(np.asarray(number)))


def seen_once(sample: Sample) -> FloatArray:
    """Return the number of states that are visited in a single block, and the share of frames spent in them, (2,).

    A second sample as large spends about as much in states that this one never visits (I. J. Good, *Biometrika* 40,
    237 (1953)), which is much where many states are seen rarely. Visits within a block, which is longer than the
    slowest relaxation, come in bursts, and count as one.
    """
    visits = _native.count_visits(sample.dtrajs, sample.n_states, sample.blocks)
    once = (visits > 0).sum(axis=0) == 1
    return np.array([once.sum(), visits[:, once].sum() / max(1, visits.sum())], np.float64)


def timescales(
    sample: Sample, lagtime: int, n_timescales: int, match: tuple[FloatArray, FloatArray] | None = None
) -> tuple[Interval, MarkovModel | None]:
    """Return implied timescales (n_timescales,) at a lag, and the Markov model behind them.

    The estimate is of the reversible maximum-likelihood model. A replicate takes the row-normalised counts of its
    blocks in the subspace of that model's slow processes, so that it needs the eigenvalues of a small matrix only,
    which stay with their processes.

    Parameters
    ----------
    match : (right (n, n_timescales), stationary (n,)), optional
        Processes of a reference: columns are put in their order, by the overlap of eigenvectors.
    """
    empty = np.full(n_timescales, np.nan)
    if all(len(x) <= lagtime for x in sample.dtrajs):
        return Interval.undefined(empty), None
    counts = model_counts(sample.dtrajs, sample.n_states, lagtime)
    if counts.sum() == 0:
        return Interval.undefined(empty), None
    model = estimate_markov_model(counts, lagtime)
    del counts  # as large as the model
    # A source may have slow processes that the reference lacks, such as a trap: those stand in the queue, too.
    values, right, left = model.eigen(n_timescales + (SPARE_PROCESSES if match is not None else 2))
    k = len(values)
    if k == 0:
        return Interval.undefined(empty), model
    replicates = tracked_eigenvalues(_slow_steps(sample, lagtime, model, right, left))
    order = np.arange(min(k, n_timescales)) if match is None else match_processes(right, *match)
    spread = np.full((len(replicates), n_timescales), np.nan)
    value = empty.copy()
    for column, process in enumerate(order[:n_timescales]):
        if process >= 0:
            value[column] = eigenvalue_timescales(values[process : process + 1], lagtime)[0]
            spread[:, column] = eigenvalue_timescales(replicates[:, process], lagtime)
    return sample.bootstrap.interval(value, spread, "log"), model


def _slow_steps(sample: Sample, lagtime: int, model: MarkovModel, right: FloatArray, left: FloatArray) -> FloatArray:
    """Return left^T T right (w, k, k) of replicates, T the row-normalised counts of their blocks.

    A row without data keeps the model's. With many states, a column and some thousand states at a time.
    """
    n, k = right.shape
    model_steps = model.transition @ right
    columns, states = (k, n) if sample.blocks.n_blocks * n * k <= _AT_ONCE else (1, _STATES_AT_ONCE)
    out = np.zeros((len(sample.bootstrap.weights), k, k))
    for column in range(0, k, columns):
        now = slice(column, column + columns)
        product, rows = _native.project_transitions(sample.dtrajs, n, lagtime, right[:, now], blocks=sample.blocks)
        for begin in range(0, n, states):
            some = slice(begin, begin + states)
            product_w, rows_w = sample.bootstrap.sums(product[:, some]), sample.bootstrap.sums(rows[:, some])[..., None]
            stepped = np.where(rows_w > 0, product_w / np.maximum(rows_w, 1e-300), model_steps[some, now])
            out[:, :, now] += left[some].T @ stepped
    return out


def tracked_eigenvalues(small: FloatArray) -> FloatArray:
    """Return real parts of the eigenvalues of (w, k, k) nearly diagonal matrices, each with its diagonal element."""
    from scipy.optimize import linear_sum_assignment

    values, vectors = np.linalg.eig(small)
    out = np.empty(values.shape)
    for w in range(len(small)):
        process, column = linear_sum_assignment(-np.abs(vectors[w]))
        out[w, process] = values[w, column].real
    return out


def passage_times(macro: Sample, stride: int) -> tuple[Interval, IntArray]:
    """Return empirical mean first passage times (m, m) in frames, as seen every stride-th frame, and passages.

    A passage from A to B begins with the first visit to A after B and ends with the next visit to B. The estimate is
    the time spent on the way, completed or cut by the end of the data, over the number of completed passages.
    Frames before the first visit to either count for the one that is visited first.
    """
    interval, number, _ = passage_samples(macro, stride)
    return interval, number


def passage_samples(macro: Sample, stride: int) -> tuple[Interval, IntArray, FloatArray]:
    """Return what `passage_times` does, and the bootstrap replicates (w, m, m) of the times."""
    exposure, passages = _native.count_passages(macro.dtrajs, macro.n_states, stride, blocks=macro.blocks)
    events = passages.sum(axis=0)
    replicates = ratio(macro.bootstrap.sums(exposure), macro.bootstrap.sums(passages))
    number = macro.events(events, stride)
    interval = macro.bootstrap.interval(ratio(exposure.sum(axis=0), events), replicates, "log", _least_error(number))
    return interval, number, replicates


def residence_in_macrostates(
    sample: Sample, macrostate: IntArray, n_macrostates: int, stride: int, times: IntArray
) -> tuple[Interval, IntArray, FloatArray]:
    """Return the `residence_times` in the macrostates (n,) of states, where states may be in none (-1).

    A stay ends with the first frame outside, whether that lies in another macrostate or in none. An unassigned frame
    does not say where it is, and belongs to the state before it.
    """
    macro = sample.with_rest(macrostate, n_macrostates)
    interval, exits, survival = residence_times(macro, stride, times)
    return interval[:n_macrostates], exits[:n_macrostates], survival[:n_macrostates]


def residence_times(macro: Sample, stride: int, times: IntArray) -> tuple[Interval, IntArray, FloatArray]:
    """Return mean residence times (m,) in frames seen every stride-th frame, exits, and survival (m, t) at `times`.

    The mean is the time spent in a macrostate over the number of exits. The survival curve is Kaplan and Meier's, of
    the stays whose beginning was seen.
    """
    n_bins = int(times.max() // stride) + 2
    exposure, exits, completed, cut = _native.count_stays(
        macro.dtrajs, macro.n_states, stride, n_bins=n_bins, blocks=macro.blocks
    )
    events = exits.sum(axis=0)
    replicates = ratio(macro.bootstrap.sums(exposure), macro.bootstrap.sums(exits))
    number = macro.events(events, stride)
    interval = macro.bootstrap.interval(ratio(exposure.sum(axis=0), events), replicates, "log", _least_error(number))
    at_risk = np.cumsum((completed + cut)[:, ::-1], axis=1)[:, ::-1]
    hazard = completed / np.maximum(at_risk, 1)
    survival = np.asarray(np.cumprod(1 - hazard, axis=1), np.float64)  # to stay longer than a number of strides
    survival[(at_risk == 0) & (survival > 0)] = np.nan  # nothing was followed for so long
    return interval, number, survival[:, times // stride]


def _least_error(events: IntArray) -> FloatArray:
    return np.where((events > 0) & (events < FEW_EVENTS), 1 / np.sqrt(np.maximum(events, 1)), 0.0)


def self_transitions(macro: Sample, lagtimes: IntArray) -> Interval:
    """Return the probabilities (c, m) to be in a macrostate a lag after being in it."""
    parts = []
    for lagtime in lagtimes:
        counts = _native.count_transitions(macro.dtrajs, macro.n_states, int(lagtime), blocks=macro.blocks)
        stay, leave = np.diagonal(counts, axis1=1, axis2=2), counts.sum(axis=2)
        replicates = ratio(macro.bootstrap.sums(stay), macro.bootstrap.sums(leave))
        value = ratio(stay.sum(axis=0), leave.sum(axis=0))
        parts.append(macro.bootstrap.interval(value, replicates, "logit"))
    return Interval.stack(parts)
