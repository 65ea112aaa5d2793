"""Which frames of the molecular dynamics a training never sees, so that they can judge it.

Whole trajectories are best: they are independent of what was learnt. Where there is no such choice, the last part of
each trajectory is kept, and a gap before it, a tenth as long, neither trains nor judges.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from nanomd.base.checks import check_range
from nanomd.base.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    DTrajs = list[NDArray[np.int64]]

SHARE = 0.2  # of the frames, where nothing is asked for
_LEAST, _MOST = 0.1, 0.5  # of the frames, for whole trajectories to be held out unasked
_GAP = 0.1  # of what is held out of a trajectory
_SHORTEST = 100  # frames of a part that is worth holding out


@dataclass(frozen=True)
class HeldOut:
    """Pieces of trajectories: number of the trajectory (from 0), first frame, and the frame after the last.

    Parameters
    ----------
    training, judging : list of (int, int, int)
        What trains, and what is held out; empty where nothing is.
    n_trajs : int
        Trajectories that there are.
    """

    training: list[tuple[int, int, int]]
    judging: list[tuple[int, int, int]]
    n_trajs: int

    def split(self, dtrajs: DTrajs) -> tuple[DTrajs, DTrajs]:
        """Return the pieces that train, and those that judge."""
        training, judging = (
            [dtrajs[number][first:last] for number, first, last in pieces] for pieces in (self.training, self.judging)
        )
        return training, judging

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a record."""
        return {
            "n_trajs": self.n_trajs,
            "training": [list(piece) for piece in self.training],
            "judging": [list(piece) for piece in self.judging],
        }

    @classmethod
    def from_dict(cls, value: Any) -> Self:
        """Read what `to_dict` returned; `ValueError` for anything else."""
        from nanomd.base.codec import convert

        found: Self = convert(value, cls)
        if any(not (0 <= i < found.n_trajs and 0 <= a < b) for i, a, b in [*found.training, *found.judging]):
            raise ValueError("it names frames that there cannot be")
        return found

    def describe(self) -> str:
        """Return what judges, in words."""
        if not self.judging:
            return "nothing"
        n_frames = sum(last - first for _, first, last in self.judging)
        total = n_frames + sum(last - first for _, first, last in self.training)
        whole = not {number for number, _, _ in self.judging} & {number for number, _, _ in self.training}
        share = f"{n_frames:,} frames, {100 * n_frames / total:.0f} %"
        if whole:
            return f"{len(self.judging)} of {self.n_trajs} trajectories ({share})"
        each = "the trajectory" if self.n_trajs == 1 else f"{len(self.judging)} of {self.n_trajs} trajectories"
        return f"the last part of {each} ({share})"


def hold_out(lengths: Sequence[int], what: int | str) -> HeldOut:
    """Choose the frames to hold out.

    Parameters
    ----------
    lengths : sequence of int
        Frames of each trajectory.
    what : int or str
        The last so many trajectories; ``"20%"``, the last part of each; or ``"auto"``: a fifth of the trajectories,
        spread evenly, at least one, where that is a tenth to a half of the frames, otherwise the last fifth of each. A
        single trajectory is held out nothing of unasked: its slow events are few, and halves of it are not independent.
    """
    n = len(lengths)
    if what == "auto":
        if n == 1:
            return _whole(lengths, [])
        number = max(1, round(SHARE * n))
        chosen = [int((k + 0.5) * n / number) for k in range(number)]
        share = sum(lengths[k] for k in chosen) / sum(lengths)
        return _whole(lengths, chosen) if _LEAST <= share <= _MOST else _ends(lengths, SHARE)
    if isinstance(what, str):
        return _ends(lengths, _share(what))
    check_range("hold_out", what, 0, n - 1, f"there are {n} trajectories, and training needs one")
    return _whole(lengths, range(n - what, n))


def hold_out_within(lengths: Sequence[int], groups: Sequence[Sequence[int]], what: int | str) -> HeldOut:
    """Choose the frames to hold out of every group of trajectories (their numbers), as `hold_out` does of one."""
    training, judging = [], []
    for own in groups:
        found = hold_out([lengths[number] for number in own], what)
        training += [(own[number], first, last) for number, first, last in found.training]
        judging += [(own[number], first, last) for number, first, last in found.judging]
    return HeldOut(sorted(training), sorted(judging), len(lengths))


def _share(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,2}(?:\.[0-9]+)?)\s*%", text)
    if match is None or not 0 < float(match.group(1)) <= 50:
        raise InputError(f'hold_out must be "auto", a number of trajectories or a share of at most 50%, got {text!r}')
    return float(match.group(1)) / 100


def _whole(lengths: Sequence[int], chosen: Sequence[int]) -> HeldOut:
    pieces = [(number, 0, length) for number, length in enumerate(lengths)]
    return HeldOut([p for p in pieces if p[0] not in chosen], [p for p in pieces if p[0] in chosen], len(lengths))


def _ends(lengths: Sequence[int], share: float) -> HeldOut:
    """Hold out the last part of every trajectory that is long enough for it."""
    training, judging = [], []
    for number, length in enumerate(lengths):
        held = round(share * length)
        if held < _SHORTEST:
            training.append((number, 0, length))
        else:
            training.append((number, 0, length - held - round(_GAP * held)))
            judging.append((number, length - held, length))
    if not judging:
        raise InputError(
            f"no trajectory is long enough to hold out {share:.0%} of it, at least {_SHORTEST} frames; hold out a "
            "number of whole trajectories, or 0"
        )
    return HeldOut(training, judging, len(lengths))
