"""States put into groups before a training: how many, which, and tokens numbered group by group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError
from nanomd.data.counts import sparse_transition_counts
from nanomd.data.groups import place_and_group
from nanomd.data.states import StateMap

MAX_FLAT_STATES = 4096  # more are put into groups unless asked otherwise: a table of all by all would take 64 MiB
Tokens = NDArray[Any]


class Grouped(NamedTuple):
    """Tokens numbered group by group, what they stand for, and the sizes of the groups.

    And where the states lie, (V, k), among the slow processes. Without groups sizes are empty, and coordinates None.
    """

    state_map: StateMap
    tokens: list[Tokens]
    sizes: tuple[int, ...]
    coordinates: NDArray[np.float64] | None


def resolve_n_groups(n_states: int, n_groups: int | None) -> int:
    """Return the number of groups: as asked, or some sqrt(V) for more than `MAX_FLAT_STATES` states; 0 for none.

    Raises
    ------
    InputError
        For a single group, or more groups than states.
    """
    if n_groups is None:
        return round(n_states**0.5) if n_states > MAX_FLAT_STATES else 0
    if n_groups == 1 or n_groups > n_states:
        raise InputError(
            f"n_groups must be 0 (none) or in [2, {n_states}] (there are {n_states} states), got {n_groups}"
        )
    return n_groups


def group_states(state_map: StateMap, tokens: Sequence[Tokens], n_groups: int, seed: int = 0) -> Grouped:
    """Put states into groups that exchange slowly (`nanomd.data.groups`), and number the tokens group by group.

    Parameters
    ----------
    state_map : StateMap
    tokens : sequence of 1-D integer arrays
        Every frame of the data.
    n_groups : int
        0: nothing is done.
    seed : int
    """
    if not n_groups:
        return Grouped(state_map, list(tokens), (), None)
    counts = sparse_transition_counts(tokens, state_map.n_states)
    groups, coordinates = place_and_group(counts, n_groups, seed=seed)
    order = np.argsort(groups, kind="stable")
    place = np.empty(len(order), state_map.dtype)
    place[order] = np.arange(len(order))
    sizes = tuple(np.bincount(groups, minlength=n_groups).tolist())
    numbered = [place[np.asarray(t)] for t in tokens]
    return Grouped(state_map.reordered(order), numbered, sizes, coordinates[order])
