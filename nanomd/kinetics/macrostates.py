"""Macrostates: PCCA+ on the reference's Markov model, guarded where data are disconnected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd.base.errors import InputError
from nanomd.kinetics import deeptime_adapter, memberships
from nanomd.kinetics.markov import MarkovModel

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

MAX_MACROSTATES = 26  # named by letters
CORE_MEMBERSHIP = 0.9  # of the largest membership in the macrostate


def choose_n_macrostates(timescales: FloatArray, n_active: int) -> int:
    """Return the number of macrostates: up to five states stand alone; else the largest gap in the first timescales."""
    if n_active <= 5:
        return max(n_active, 2)
    known = timescales[np.isfinite(timescales)][:6]
    if len(known) < 2:
        return 2
    return int(np.argmax(known[:-1] / known[1:])) + 2


def macrostates(model: MarkovModel, counts: Any, visits: IntArray, n_macrostates: int) -> IntArray:
    """Assign every microstate to a macrostate, numbered by falling population.

    Active states go to their largest PCCA+ membership. A visited state outside the largest connected set goes to the
    macrostate with which it exchanges most transitions; a state never visited, or without transitions to any of those,
    gets -1: such frames count as "on the way", and belong to the macrostate before them in residence times.

    Parameters
    ----------
    model : MarkovModel
    counts : ndarray or csr_array (n, n)
        The transition counts behind it.
    visits : ndarray (n,)
        Frames in every state.
    n_macrostates : int
    """
    n_active = len(model.active)
    if not 2 <= n_macrostates <= min(n_active, MAX_MACROSTATES):
        raise InputError(
            f"n_macrostates must be in [2, {min(n_active, MAX_MACROSTATES)}] (the largest connected set has {n_active} "
            f"states), got {n_macrostates}"
        )
    pi = model.stationary[model.active]
    if n_macrostates == n_active:
        crisp = np.arange(n_active)
    else:
        crisp = np.argmax(_memberships(model, n_macrostates), axis=1)
        empty = sorted(set(range(n_macrostates)) - set(crisp.tolist()))
        if empty:
            raise InputError(f"PCCA+ leaves {len(empty)} of {n_macrostates} macrostates empty; use fewer macrostates")
    weight = np.bincount(crisp, pi, n_macrostates)
    rank = np.empty(n_macrostates, np.int64)
    rank[np.argsort(-weight, kind="stable")] = np.arange(n_macrostates)
    out = np.full(model.n_states, -1, np.int64)
    out[model.active] = rank[crisp]
    _join(out, counts, visits, n_macrostates)
    return out


def _memberships(model: MarkovModel, n_macrostates: int) -> FloatArray:
    """Return the PCCA+ memberships (a, m) of the active states."""
    if not isinstance(model.transition, np.ndarray):
        return memberships.pcca_memberships(model.eigen(n_macrostates - 1)[1][model.active])
    inner = model.transition[np.ix_(model.active, model.active)]
    return deeptime_adapter.pcca_memberships(inner, model.stationary[model.active], n_macrostates)


def _join(macrostate: IntArray, counts: Any, visits: IntArray, n_macrostates: int) -> None:
    """Give visited states without a macrostate, in place, that with which they exchange most; strongest links first."""
    pending = np.flatnonzero((visits > 0) & (macrostate < 0))
    if not len(pending):
        return
    from scipy.sparse import csr_array

    matrix = csr_array(counts).astype(np.float64)
    both = csr_array(matrix + matrix.T)[pending]
    member = (macrostate[:, None] == np.arange(n_macrostates)).astype(np.float64)
    links = both @ member  # (p, m) transitions with each macrostate
    among = both[:, pending].tocsc()
    strength = links.sum(axis=1)
    for _ in pending:
        best = int(np.argmax(strength))  # of equals the first
        if strength[best] <= 0:
            break
        joined = macrostate[pending[best]] = int(np.argmax(links[best]))
        start, end = among.indptr[best : best + 2]
        neighbours, number = among.indices[start:end], among.data[start:end]
        links[neighbours, joined] += number
        strength[neighbours[strength[neighbours] >= 0]] += number[strength[neighbours] >= 0]
        strength[best] = -1.0


def pcca_cores(model: MarkovModel, macrostate: IntArray, n_macrostates: int) -> IntArray:
    """Return the core (n,) that a state belongs to, -1 where to none: the deep part of every macrostate of PCCA+.

    A core holds the active states whose PCCA+ membership is at least nine tenths of the largest in their macrostate.
    """
    n_active = len(model.active)
    strength = np.zeros(model.n_states)
    if n_macrostates == n_active:
        strength[model.active] = 1.0
    else:
        strength[model.active] = _memberships(model, n_macrostates).max(axis=1)
    return _deep(macrostate, np.repeat(strength[:, None], n_macrostates, axis=1))


def given_cores(right: FloatArray, stationary: FloatArray, macrostate: IntArray, n_macrostates: int) -> IntArray:
    """Return the core (n,) that a state belongs to, of macrostates that a user gave, -1 where to none.

    The indicator function of a macrostate, projected onto the slow processes between the macrostates, is large where
    the dynamics commits to it: a core holds the states of the macrostate at which it is at least nine tenths of its
    largest value there. (Memberships of PCCA+ know nothing of the user's macrostates.)

    Parameters
    ----------
    right : ndarray (n, k)
        Eigenvectors of those processes, orthonormal in the weight of `stationary` (n,).
    """
    member = (macrostate[:, None] == np.arange(n_macrostates)) * stationary[:, None]
    return _deep(np.where(stationary > 0, macrostate, -1), member.sum(axis=0) + right @ (right.T @ member))


def _deep(macrostate: IntArray, strength: FloatArray) -> IntArray:
    """Return the states whose strength (n, m) in their own macrostate is near the largest there, as labels (n,)."""
    out = np.full(len(macrostate), -1, np.int64)
    for a in range(strength.shape[1]):
        inside = (macrostate == a) & (strength[:, a] > 0)
        if inside.any():
            out[inside & (strength[:, a] >= CORE_MEMBERSHIP * strength[inside, a].max())] = a
    return out


def check_macrostates(given: ArrayLike, n_states: int, n_macrostates: int | None = None) -> IntArray:
    """Return macrostates (n_states,) that a user gave: whole numbers 0..m-1, each with a state; negative for none."""
    labels = np.asarray(given)
    if labels.dtype.kind not in "iu" or labels.shape != (n_states,):
        raise InputError(
            f"macrostate_of_state must give a whole number for each of {n_states} states, "
            f"got {labels.dtype} of shape {labels.shape}"
        )
    labels = labels.astype(np.int64)
    present = np.unique(labels[labels >= 0])
    if not 2 <= len(present) <= MAX_MACROSTATES or present[-1] != len(present) - 1:
        raise InputError(
            f"macrostate_of_state must hold every number from 0 to m - 1, m in [2, {MAX_MACROSTATES}], "
            f"got {present.tolist()}"
        )
    if n_macrostates not in (None, len(present)):
        raise InputError(f"n_macrostates is {n_macrostates}, but macrostate_of_state has {len(present)}: leave it out")
    return labels


def macrostate_names(n_macrostates: int, populations: FloatArray, given: Sequence[str] = ()) -> list[str]:
    """Name macrostates ``A (54 %)``, ``B (31 %)``, ..., or as given with their populations."""
    names = given or [chr(ord("A") + k) for k in range(n_macrostates)]
    return [f"{name} ({100 * share:.3g} %)" for name, share in zip(names, populations, strict=True)]


def short_names(names: Sequence[str]) -> list[str]:
    """Return names without their populations."""
    return [name.rsplit(" (", 1)[0] for name in names]
