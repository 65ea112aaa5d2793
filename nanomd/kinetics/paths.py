"""Transition paths: how long the crossing itself takes, apart from the waiting before it.

A transition path from A to B runs from the last frame in A to the first frame in B, with neither between them. Its
duration is short and quite independent of the height of the barrier, and says whether a model crosses barriers the
way the MD does. Where macrostates touch, most paths would be one frame long: use cores, the deep parts of macrostates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd.base.errors import InputError
from nanomd.base.units import Duration, GivenInterval, in_frames
from nanomd.data.counts import submatrix
from nanomd.kinetics.bootstrap import ratio
from nanomd.kinetics.estimates import FEW_EVENTS, Sample
from nanomd.kinetics.inputs import check_lagtime, lags_in_frames, trajectories, usable_length
from nanomd.kinetics.interval import Interval
from nanomd.kinetics.reversible import solve_within

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

GAP = -2  # label of a frame whose state is unknown
QUANTILES = (0.1, 0.5, 0.9)
FOLLOWED = 200  # steps of a sparse chain


@dataclass(frozen=True, slots=True)
class PathTimes:
    """Durations of transition paths between m cores, in frames.

    Parameters
    ----------
    mean : Interval (m, m)
        From row to column; NaN on the diagonal and where no path was seen.
    quantiles : Interval (q, m, m)
        At `QUANTILES`: the least duration that at least this share of the paths does not exceed.
    events : ndarray (m, m)
        Numbers of paths.
    times : ndarray (t,)
        Durations at which the curves are given.
    longer : ndarray (m, m, t)
        Share of paths that take longer.
    """

    mean: Interval
    quantiles: Interval
    events: IntArray
    times: IntArray
    longer: FloatArray


def transition_times(
    dtrajs: Any,
    core: ArrayLike,
    *,
    times: ArrayLike | Sequence[Duration] | None = None,
    stride: Duration = 1,
    timescale: float = np.nan,
    confidence: float = 0.95,
    n_bootstrap: int = 200,
    seed: int = 0,
    frame_interval: GivenInterval = None,
) -> PathTimes:
    """Measure the durations of transition paths between cores.

    Parameters
    ----------
    dtrajs : list of arrays
        States 0..n-1 (negative: unassigned; see `paths`).
    core : array (n,)
        Core of every state, 0..m-1, and -1 for the states between cores.
    times : array (t,), optional
        Durations of the curves, in frames or as times (``"1 ns"``); by default 40 up to the longest path that was seen.
    stride : int or str
        Look at every stride-th frame only; frames, or a time.
    timescale : float
        Slowest relaxation in frames, if known: the blocks of the bootstrap are made longer.
    confidence, n_bootstrap, seed :
        Of the intervals.
    frame_interval : str or FrameInterval, optional
        Time of a frame, such as ``"0.2 ns"``; needed for a lag that is a time.
    """
    stride = in_frames(stride, frame_interval, "stride", 1)
    trajs = [x[::stride] for x in trajectories("dtrajs", dtrajs)]
    labels = np.asarray(core, np.int64)
    highest = 1 + max(int(x.max()) for x in trajs)
    if labels.ndim != 1 or len(labels) < highest or labels.max() < 1:
        raise InputError(f"core must name two cores or more, for each of {highest} states, got shape {labels.shape}")
    check_lagtime(1, usable_length(trajs))
    sample = Sample.make(
        trajs, len(labels), timescale=timescale / stride, confidence=confidence, n_bootstrap=n_bootstrap, seed=seed
    )
    at = None if times is None else lags_in_frames(times, frame_interval, "times")
    return measure(sample, labels, int(labels.max()) + 1, at, stride)


def measure(sample: Sample, core: IntArray, n_cores: int, times: IntArray | None = None, stride: int = 1) -> PathTimes:
    """Return the durations of paths between cores (n,) of the states of a sample, whose frames are `stride` apart."""
    cores = sample.coarse(core, n_cores, gap=GAP)
    m, n_blocks = cores.n_states, cores.blocks.n_blocks
    parts = [
        # Long rollouts cross hundreds of millions of times: half the memory, and no path is 2^31 frames long.
        tuple(part.astype(np.int32) for part in paths(np.asarray(x), m, int(first), int(number)))
        for x, (first, number) in zip(cores.dtrajs, cores.blocks.spans, strict=True)
    ]
    pair, duration, block = (np.concatenate(p) for p in zip(*parts, strict=True))
    del parts
    numbers = np.bincount(block * m * m + pair, minlength=n_blocks * m * m).reshape(n_blocks, m, m)
    sums = np.bincount(block * m * m + pair, duration, n_blocks * m * m).reshape(n_blocks, m, m)
    events = numbers.sum(axis=0)
    seen = cores.events(events)
    few = np.where((events > 0) & (seen < FEW_EVENTS), 1 / np.sqrt(np.maximum(seen, 1)), 0.0)
    boot = cores.bootstrap
    mean = boot.interval(
        stride * ratio(sums.sum(axis=0), events), stride * ratio(boot.sums(sums), boot.sums(numbers)), "log", few
    )
    if times is None:
        longest = int(duration.max()) if len(duration) else 1
        times = stride * np.unique(np.round(np.geomspace(1, longest, 40)).astype(np.int64))
    shape = (len(QUANTILES), m, m)
    value, spread = np.full(shape, np.nan), np.full((len(boot.weights), *shape), np.nan)
    longer = np.full((m, m, len(times)), np.nan)
    order = np.argsort(pair, kind="stable")
    edges = np.searchsorted(pair[order], np.arange(m * m + 1))
    for p in range(m * m):
        mine = order[edges[p] : edges[p + 1]]
        if not len(mine):
            continue
        a, b = divmod(p, m)
        lengths, which = np.unique(duration[mine], return_inverse=True)
        table = np.zeros((n_blocks, len(lengths)))
        np.add.at(table, (block[mine], which), 1)
        value[:, a, b] = stride * _quantiles(lengths, table.sum(axis=0)[None])[:, 0]
        spread[:, :, a, b] = stride * _quantiles(lengths, boot.sums(table)).T
        rising = np.append(0, np.cumsum(table.sum(axis=0)))
        longer[a, b] = 1 - rising[np.searchsorted(lengths * stride, times, side="right")] / len(mine)
    return PathTimes(mean, boot.interval(value, spread, "log", few[None]), seen, np.asarray(times, np.int64), longer)


def _quantiles(lengths: IntArray, weights: FloatArray) -> FloatArray:
    """Return the quantiles (q, w) of lengths (l,) with weights (w, l); NaN where all weights are zero."""
    total = weights.sum(axis=1)
    shares = np.cumsum(weights, axis=1) / np.where(total > 0, total, 1.0)[:, None]
    out = np.full((len(QUANTILES), len(weights)), np.nan)
    for q, share in enumerate(QUANTILES):
        at = np.minimum((shares < share - 1e-12).sum(axis=1), len(lengths) - 1)
        out[q] = np.where(total > 0, lengths[at], np.nan)
    return out


def paths(x: NDArray[np.integer], n_cores: int, first_block: int, n_blocks: int) -> tuple[IntArray, IntArray, IntArray]:
    """Return pair (from n_cores + to), duration in frames and block of every path in one trajectory of core labels.

    Negative labels are on the way. Of a path that begins or ends beside a frame whose state is unknown (`GAP`), nobody
    knows how long it is: it is left out. Gaps on the way do no harm. The block is that in which the path ends, of the
    `n_blocks` equal parts of the trajectory.
    """
    x = np.asarray(x, np.int64)
    frames = np.flatnonzero(x >= 0)
    label = x[frames]
    if not len(label):
        nothing = np.zeros(0, np.int64)
        return nothing, nothing, nothing
    # Visits: frames in one core, without another core between them.
    begins = np.flatnonzero(np.append(True, label[1:] != label[:-1]))
    ends = np.append(begins[1:], len(label)) - 1
    core, first, last = label[begins], frames[begins], frames[ends]
    latest = np.full((n_cores, len(core)), -1, np.int64)  # index of the latest visit to each core before this one
    for a in range(n_cores):
        index = np.where(core == a, np.arange(len(core)), -1)
        latest[a, 1:] = np.maximum.accumulate(index)[:-1]
    out: list[tuple[IntArray, IntArray, IntArray]] = []
    for b in range(n_cores):
        arrivals = np.flatnonzero(core == b)
        for a in range(n_cores):
            before = latest[a, arrivals]
            good = arrivals[(before > latest[b, arrivals]) & (a != b)]
            leaves, arrives = last[latest[a, good]], first[good]
            certain = (x[leaves + 1] != GAP) & (x[arrives - 1] != GAP)
            good, duration = good[certain], (arrives - leaves)[certain]
            block = first_block + first[good] * n_blocks // len(x)
            out.append((np.full(len(good), a * n_cores + b), duration, block))
    pair, duration, block = (np.concatenate(part) for part in zip(*out, strict=True))
    return pair, duration, block


# --- Of a Markov chain -----------------------------------------------------------------------------------------------


def markov_path_times(
    transition: Any, stationary: FloatArray, core: IntArray, n_cores: int, steps: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Return mean durations (m, m) of the transition paths of a Markov chain, and the shares (m, m, t) that are longer.

    Parameters
    ----------
    transition : ndarray or csr_array (n, n)
        Sparse: reversible.
    stationary : ndarray (n,)
    core : ndarray (n,)
        -1 for the states between cores.
    n_cores : int
    steps : ndarray (t,)
        Rising numbers of steps at which the shares are given; those of a sparse chain are NaN beyond `FOLLOWED`.
    """
    mean = np.full((n_cores, n_cores), np.nan)
    longer = np.full((n_cores, n_cores, len(steps)), np.nan)
    occupied = stationary > 0
    inside = [(core == a) & occupied for a in range(n_cores)]
    leave = np.array([np.where(here, stationary, 0.0) for here in inside]) @ transition
    for a in range(n_cores):
        for b in range(a + 1, n_cores):
            if not (inside[a].any() and inside[b].any()):
                continue
            free = np.flatnonzero(~(inside[a] | inside[b]) & occupied)
            inner = submatrix(transition, free)
            ends = np.stack([(transition @ inside[c].astype(np.float64))[free] for c in (a, b)], axis=1)
            # Step n + 1, n > 0, ends a path with the weight present inner^(n-1) end; the sums over n in closed form.
            ever = solve_within(transition, stationary, free, ends) if len(free) else ends
            later = solve_within(transition, stationary, free, ever) if len(free) else ends
            known = steps if isinstance(inner, np.ndarray) else np.minimum(steps, FOLLOWED)
            for source, target, column in ((a, b, 1), (b, a, 0)):
                direct, present = leave[source, inside[target]].sum(), leave[source, free]
                total = direct + present @ ever[:, column]
                if total > 0:
                    mean[source, target] = (direct + present @ (later + ever)[:, column]) / total
                    shares = _arrivals(present, inner, ends[:, column], known)
                    arrived = (np.where(steps > 0, direct, 0.0) + shares) / total
                    longer[source, target] = np.where(steps > known, np.nan, 1 - arrived)
    return mean, longer


def _arrivals(present: FloatArray, inner: Any, end: FloatArray, steps: IntArray) -> FloatArray:
    """Return the weight that has arrived by way of other states after each of the rising numbers of steps."""
    out = np.zeros(len(steps))
    done, share = 1, 0.0
    ahead = inner.T if isinstance(inner, np.ndarray) else inner.T.tocsr()
    for t, wanted in enumerate(steps):
        while done < wanted:
            share += float(present @ end)
            present = ahead @ present
            done += 1
        out[t] = share
    return out
