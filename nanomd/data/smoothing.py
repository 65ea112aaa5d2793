"""Smoothing of discrete trajectories: what flickers between two states is one stay, as far as slow kinetics go."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nanomd.base.checks import check_choice, check_range
from nanomd.data.dtrajs import Dtraj, DtrajsLike, load_dtrajs

Rule = Literal["majority", "median"]
_CHUNK = 4096  # frames whose windows are sorted at a time


def smooth(dtrajs: DtrajsLike, window: int, rule: Rule = "majority") -> list[Dtraj]:
    """Return trajectories in which every frame has the state of the window of frames around it.

    Frame t sees the frames from t - window // 2 on, `window` of them, as far as the trajectory has them; unassigned
    frames (negative labels) stay what they are and are never crossed.

    Parameters
    ----------
    dtrajs : see `nanomd.data.dtrajs.load_dtrajs`
        Raw labels.
    window : int
        Frames, at least 1; 1 changes nothing.
    rule : str
        ``"majority"``: the commonest state, the frame's own where several are; labels are names. ``"median"``: the
        middle one (the lower of two), which is for states in an order, such as bins of a coordinate.

    Raises
    ------
    InputError
        For a window below 1, another rule, or what `load_dtrajs` refuses.

    Examples
    --------
    >>> smooth([0, 0, 1, 0, 0, 2, 2, 2], 3)
    [array([0, 0, 0, 0, 0, 2, 2, 2])]
    """
    check_range("window", window, 1)
    check_choice("rule", rule, Rule)
    out = []
    for dtraj in load_dtrajs(dtrajs):
        smoothed = dtraj.copy()
        for begin, end in _assigned(dtraj):
            piece = dtraj[begin:end]
            low = np.maximum(np.arange(len(piece)) - window // 2, 0)
            high = np.minimum(np.arange(len(piece)) - window // 2 + window, len(piece))
            smoothed[begin:end] = _commonest(piece, low, high) if rule == "majority" else _median(piece, low, high)
        out.append(smoothed)
    return out


def halve_short_visits(dtrajs: DtrajsLike, longest: int) -> list[Dtraj]:
    """Return trajectories in which visits of at most `longest` frames are given up.

    The first half of such a visit goes to the state before, the second to the state after; a peak between two visits of
    one state vanishes. Of several short visits in a row the first half stays what it was, so that a chain of them is
    moved by half a visit and not lost. The first and the last visit of a trajectory stay, and so do unassigned frames
    (negative labels), which end a trajectory here.

    Parameters
    ----------
    dtrajs : see `nanomd.data.dtrajs.load_dtrajs`
        Raw labels.
    longest : int
        Frames.

    Raises
    ------
    InputError
        For a negative length, or what `load_dtrajs` refuses.

    Examples
    --------
    >>> halve_short_visits([0, 0, 0, 0, 1, 1, 0, 0, 0, 0], 2)
    [array([0, 0, 0, 0, 0, 0, 0, 0, 0, 0])]
    """
    check_range("longest", longest, 0)
    out = []
    for dtraj in load_dtrajs(dtrajs):
        changed = dtraj.copy()
        for begin, end in _assigned(dtraj):
            changed[begin:end] = _without_short_visits(dtraj[begin:end], longest)
        out.append(changed)
    return out


def _without_short_visits(piece: Dtraj, longest: int) -> Dtraj:
    edges = np.flatnonzero(np.diff(piece)) + 1
    short = np.diff(edges) <= longest  # of the visits between two changes
    changed = piece.copy()
    for k in np.flatnonzero(short):
        begin, end = int(edges[k]), int(edges[k + 1])
        middle = begin + (end - begin + 1) // 2
        if k == 0 or not short[k - 1]:
            changed[begin:middle] = piece[begin - 1]
        changed[middle:end] = piece[end]
    return changed


def _assigned(dtraj: Dtraj) -> list[tuple[int, int]]:
    """Return the beginnings and ends of stretches without unassigned frames."""
    inside = np.concatenate(([False], dtraj >= 0, [False]))
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _commonest(piece: Dtraj, low: NDArray[np.int64], high: NDArray[np.int64]) -> Dtraj:
    def number(state: NDArray[np.bool_]) -> NDArray[np.int64]:
        counted = np.concatenate(([0], np.cumsum(state)))
        return np.asarray(counted[high] - counted[low], np.int64)

    states = np.unique(piece)
    best, most = piece.copy(), np.zeros(len(piece), np.int64)
    for state in states:  # a frame's own state first, so that it wins where several are commonest
        own = piece == state
        most[own] = number(own)[own]
    for state in states:
        counts = number(piece == state)
        more = counts > most
        best[more], most[more] = state, counts[more]
    return best


def _median(piece: Dtraj, low: NDArray[np.int64], high: NDArray[np.int64]) -> Dtraj:
    width = int((high - low).max())
    out = np.empty_like(piece)
    beyond = np.iinfo(piece.dtype).max
    for begin in range(0, len(piece), _CHUNK):
        rows = slice(begin, begin + _CHUNK)
        place = low[rows, None] + np.arange(width)
        inside = place < high[rows, None]
        values = np.where(inside, piece[np.minimum(place, len(piece) - 1)], beyond)
        values.sort(axis=1)
        middle = (inside.sum(axis=1) - 1) // 2
        out[rows] = values[np.arange(len(values)), middle]
    return out
