"""Relaxation processes by their eigenvectors: which is which, and how many events each rests on.

Timescales are compared process by process, never by rank: the slowest one of a sample may be a trap that was visited
once. A process of a source is the one of the reference whose eigenvector it resembles most, in the scalar product
weighted by the reference's populations; the pairing that makes the sum of squared overlaps largest is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from nanomd.kinetics import markov
from nanomd.kinetics.inputs import check_lagtime, recoded, trajectories, usable_length

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

HANDFUL = 5  # fewer passages than this are no statistics


@dataclass(frozen=True, slots=True)
class Processes:
    """The slow processes of a source in the order of the reference's.

    Parameters
    ----------
    timescales : ndarray (k,)
        Frames; NaN where the source has no process left.
    overlap : ndarray (k,)
        Cosine between the eigenvectors, 0 to 1: 1 is the very same process.
    rank : ndarray (k,)
        Place among the source's own processes, slowest 0; -1 for none.
    events : ndarray (k,)
        Passages between the two ends of the reference's process, both ways.
    """

    timescales: FloatArray
    overlap: FloatArray
    rank: IntArray
    events: IntArray


def overlaps(right: FloatArray, reference: FloatArray, stationary: FloatArray) -> FloatArray:
    """Return |cosines| (k_reference, k) between eigenvectors (n, k), weighted by the populations `stationary` (n,)."""
    weight = stationary[:, None]
    size = np.sqrt((weight * right**2).sum(axis=0)[None, :] * (weight * reference**2).sum(axis=0)[:, None])
    return np.asarray(np.abs(reference.T @ (weight * right)) / np.maximum(size, 1e-300), np.float64)


def match_processes(right: FloatArray, reference: FloatArray, stationary: FloatArray) -> IntArray:
    """Return, for every reference process, the process of `right` that is paired with it, -1 where none is left."""
    from scipy.optimize import linear_sum_assignment

    out = np.full(reference.shape[1], -1, np.int64)
    rows, columns = linear_sum_assignment(-(overlaps(right, reference, stationary) ** 2))
    out[rows] = columns
    return out


def paired_overlap(right: FloatArray, reference: FloatArray, stationary: FloatArray) -> FloatArray:
    """Return the overlap (k_reference,) of every reference process with the one paired with it; 0 for none."""
    order = match_processes(right, reference, stationary)
    out = np.zeros(len(order))
    found = np.flatnonzero(order >= 0)
    out[found] = overlaps(right, reference, stationary)[found, order[found]]
    return out


def process_ends(right: FloatArray, stationary: FloatArray) -> IntArray:
    """Return the two ends between which a process moves population: 0 and 1, -1 between them, (k, n).

    An end holds the states whose eigenvector exceeds half of its typical value on that side, sum pi r^2 / sum pi |r|
    over the side: one state for a trap and all others against it, the two wells for a barrier.
    """
    out = np.full((right.shape[1], len(right)), -1, np.int64)
    for k, vector in enumerate(right.T):
        for end, side in enumerate((vector < 0, vector > 0)):
            weight = stationary * np.abs(vector) * side
            if weight.sum() > 0:
                typical = (weight * np.abs(vector)).sum() / weight.sum()
                out[k, side & (np.abs(vector) >= typical / 2) & (stationary > 0)] = end
    return out


def process_events(dtrajs: Sequence[Any], ends: IntArray, stride: int, views: int = 1) -> IntArray:
    """Count passages between the ends (k, n) of every process, both ways, as seen every stride-th frame: (k,).

    `views` trajectories in a row are views of one and the same.
    """
    out = np.zeros(len(ends), np.int64)
    for k, labels in enumerate(ends):
        table = np.append(labels, -1).astype(np.int32)  # a negative state takes the last entry
        coarse = [Derived(np.asarray(x), partial(recoded, table=table)) for x in dtrajs]
        _, passages = _native.count_passages(coarse, 2, stride)
        out[k] = -(-int(passages.sum()) // (stride * views))  # every offset of the stride sees nearly the same
    return out


def describe_process(ends: IntArray, stationary: FloatArray, names: list[str] | None = None) -> str:
    """Name a process by its smaller end: its states, or as many as can be read, and their population."""
    share = [float(stationary[ends == end].sum()) for end in (0, 1)]
    small = int(share[1] < share[0])
    states = np.flatnonzero(ends == small)
    states = states[np.argsort(-stationary[states], kind="stable")]
    shown = ", ".join(names[i] if names else str(i) for i in states[:4]) + (", ..." if len(states) > 4 else "")
    return f"state{'s' if len(states) > 1 else ''} {shown} ({100 * share[small]:.2g} %) against the rest"


def match_timescales(
    reference: Any,
    sources: Mapping[str, Any],
    lagtime: Duration,
    n_timescales: int = 3,
    *,
    spare: int = 6,
    frame_interval: GivenInterval = None,
) -> dict[str, Processes]:
    """Compare implied timescales process by process.

    Parameters
    ----------
    reference : list of arrays
        The MD, states 0..n-1 (negative: unassigned). Its reversible Markov model at `lagtime` has the processes that
        all are compared with; the first entry of the result, "reference".
    sources : mapping of lists of arrays
        By name.
    lagtime : int or str
        Frames, or a time such as ``"10 ns"``.
    n_timescales : int
    spare : int
        How many processes of a source, beyond n_timescales, are searched.
    frame_interval : str or FrameInterval, optional
        Time of a frame, such as ``"0.2 ns"``; needed for a lag that is a time.

    Returns
    -------
    dict of Processes
        A process of the reference with fewer than `HANDFUL` events should be set apart.
    """
    lagtime = in_frames(lagtime, frame_interval, "lagtime")
    if "reference" in sources:
        raise InputError("sources must not be named 'reference', which is taken")
    inputs = {"reference": trajectories("reference", reference)}
    inputs |= {name: trajectories(f"sources[{name!r}]", trajs) for name, trajs in sources.items()}
    n = 1 + max(int(x.max()) for trajs in inputs.values() for x in trajs)
    out: dict[str, Processes] = {}
    slow, pi, ends = np.zeros((n, 0)), np.zeros(n), np.zeros((0, n), np.int64)
    for name, trajs in inputs.items():
        check_lagtime(lagtime, usable_length(trajs))
        model = markov.estimate_markov_model(model_counts(trajs, n, lagtime), lagtime)
        values, right, _ = model.eigen(n_timescales if name == "reference" else n_timescales + spare)
        if name == "reference":
            slow, pi = right, model.stationary
            ends = process_ends(slow, pi)
        order = match_processes(right, slow, pi)
        times = np.full(len(order), np.nan)
        times[order >= 0] = markov.eigenvalue_timescales(values[order[order >= 0]], lagtime)
        out[name] = Processes(times, paired_overlap(right, slow, pi), order, process_events(trajs, ends, lagtime))
    return out


def processes_between(right: FloatArray, stationary: FloatArray, macrostate: IntArray, m: int) -> IntArray:
    """Return the m - 1 processes, slowest first, that lie most within the span of the macrostates' indicator functions.

    The slowest eigenvectors of molecular dynamics are often traps that were visited once or twice; these are those that
    move populations between macrostates, whatever their rank.

    Parameters
    ----------
    right : ndarray (n, k)
        Right eigenvectors, slowest first, without the stationary one.
    stationary : ndarray (n,)
    macrostate : ndarray (n,)
        Negative: in none.
    m : int
        Number of macrostates.
    """
    member = (macrostate[:, None] == np.arange(m)).astype(np.float64)
    weight = stationary[:, None]
    share = (weight * member).sum(axis=0)
    # Indicators are orthogonal: the part of a vector in their span is the sum of its parts along each.
    along = (right.T @ (weight * member)) ** 2 / np.maximum(share, 1e-300)
    within = along.sum(axis=1) / np.maximum((weight * right**2).sum(axis=0), 1e-300)
    return np.sort(np.argsort(-within, kind="stable")[: m - 1])
