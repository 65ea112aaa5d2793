"""What a model can be brought to at all: averages between the least and the largest value of the states it visits."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from nanomd.caliber.wishes import Wish
from nanomd.data.states import StateMap
from nanomd.kinetics.numbers import format_number

_EDGE = 0.01  # of the range; nearer to its ends a single state would have to hold everything


def within_reach(wishes: list[Wish], visits: NDArray[np.integer], states: StateMap) -> tuple[list[Wish], list[str]]:
    """Return wishes that can be met, and a line on each that had to be moved.

    Parameters
    ----------
    wishes : list of Wish
    visits : ndarray (n,)
        Frames of the model's rollouts in every state.
    states : StateMap
    """
    out, notes = [], []
    seen = visits > 0
    for wish in wishes:
        if wish.values is None:
            out.append(wish)
            continue
        low, high = float(wish.values[seen].min()), float(wish.values[seen].max())
        aim = float(np.clip(wish.wanted, low + _EDGE * (high - low), high - _EDGE * (high - low)))
        if aim != wish.wanted:
            end = int(np.argmin(np.where(seen, abs(wish.values - wish.wanted), np.inf)))
            notes.append(
                f"{wish.name}: {format_number(wish.wanted)} is out of reach: the states that the model visits have "
                f"{format_number(low)} to {format_number(high)} (nearest: state {states.symbols[end]}); "
                f"{format_number(aim)} is aimed at"
            )
        out.append(dataclasses.replace(wish, wanted=aim))
    return out, notes
