"""Frames that cannot be coordinates: not finite, far outside any simulation, or zero."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError

#: No simulated molecule is a tenth of a millimetre away from the origin; memory that nobody wrote to is.
LIMIT_NM = 1.0e5
_ZERO_NM = 1e-30  # memory that nobody wrote to also holds numbers like 1e-41


def check_coordinates(xyz: NDArray[np.float32], where: str, first: int) -> None:
    """Refuse frames whose numbers are no positions of atoms.

    Parameters
    ----------
    xyz : float32 array, shape (n_frames, n_atoms, 3)
        nm.
    where : str
        The file.
    first : int
        Number of the first of these frames in it.

    Raises
    ------
    InputError
        With the frames, and what is wrong with the first of them.
    """
    if not xyz.size:
        return
    with np.errstate(invalid="ignore"):  # NaN and infinity are found below
        largest = np.maximum(-xyz.min(axis=(1, 2)), xyz.max(axis=(1, 2)))  # NaN where a coordinate is NaN
    not_finite = ~np.isfinite(largest)
    too_far = largest > LIMIT_NM
    # Atoms that lie together at the origin are a frame that nobody wrote; only a model may start like that.
    zero = (np.abs(xyz) < _ZERO_NM).all(axis=2).mean(axis=1) > 0.5 if xyz.shape[1] > 1 else np.zeros(len(xyz), bool)
    if first == 0:
        zero[0] = False
    bad = np.flatnonzero(not_finite | too_far | zero)
    if not bad.size:
        return
    one = bad[0]
    if not_finite[one]:
        what = "has coordinates that are not finite (NaN or infinite)"
    elif too_far[one]:
        what = f"has coordinates of {largest[one]:.3g} nm, which no simulation has"
    else:
        what = "has its atoms at the origin"
    more = f" (and so {'do' if len(bad) > 2 else 'does'} {frame_list(first + bad[1:])})" if len(bad) > 1 else ""
    raise InputError(
        f"{where}: frame {first + one} {what}{more}; repair the trajectory, or write it anew without such frames"
    )


def frame_list(frames: NDArray[Any]) -> str:
    """Name frames: ``frame 7``, or ``frames 1, 3, 5 and 47 more``."""
    shown = ", ".join(str(int(frame)) for frame in frames[:3])
    more = f" and {len(frames) - 3} more" if len(frames) > 3 else ""
    return f"{'frames' if len(frames) > 1 else 'frame'} {shown}{more}"
