"""From frames to states: observables averaged over the frames of each state, and couplings from torsions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd.base.errors import InputError
from nanomd.data.dtrajs import DtrajsLike, load_dtrajs

FloatArray = NDArray[np.float64]

# Hz: A, B, C of the coupling between HN and H-alpha, and the phase in degrees.
# G. W. Vuister, A. Bax, J. Am. Chem. Soc. 115, 7772 (1993).
VUISTER_BAX = (6.51, -1.76, 1.60)
PHASE = -60.0


def karplus(
    torsion: ArrayLike, coefficients: tuple[float, float, float] = VUISTER_BAX, phase: float = PHASE
) -> FloatArray:
    """Return three-bond couplings from torsions, J = A cos^2(t) + B cos(t) + C with t = torsion + phase.

    By default the coupling 3J(HN, H-alpha) of a peptide from its phi. (M. Karplus, *J. Am. Chem. Soc.* 85, 2870 (1963);
    coefficients of Vuister and Bax, 1993.)

    Parameters
    ----------
    torsion : array
        Radians.
    coefficients : (float, float, float)
        A, B and C in Hz.
    phase : float
        Degrees.

    Returns
    -------
    ndarray
        Hz, of the shape of `torsion`.

    Examples
    --------
    >>> karplus(np.deg2rad([-120.0, -60.0])).round(2)
    array([9.87, 4.11])
    """
    a, b, c = coefficients
    cosine = np.cos(np.asarray(torsion, np.float64) + np.deg2rad(phase))
    return np.asarray(a * cosine**2 + b * cosine + c)


def state_averages(dtrajs: DtrajsLike, values: ArrayLike | Sequence[ArrayLike]) -> FloatArray:
    """Return the mean of an observable over the frames of every state, as `Average` takes it.

    Parameters
    ----------
    dtrajs : arrays or paths
        Labels; unassigned frames (negative) count for none.
    values : array, or sequence of arrays
        The observable at every frame, a 1-D array a trajectory.

    Returns
    -------
    ndarray
        By label, up to the largest that occurs; NaN for a label without frames.

    Raises
    ------
    InputError
        Where values do not fit the frames, or are not finite.
    """
    labels = load_dtrajs(dtrajs)
    whole = isinstance(values, np.ndarray) and values.ndim == 1 and len(labels) == 1
    rows = [np.asarray(row, np.float64) for row in ([values] if whole else values)]  # type: ignore[union-attr]
    if len(rows) != len(labels):
        raise InputError(f"values must be an array for each of {len(labels)} trajectories, got {len(rows)}")
    for k, (own, frames) in enumerate(zip(rows, labels, strict=True)):
        if own.shape != frames.shape:
            raise InputError(f"values[{k}] must be one number for each of {len(frames)} frames, got shape {own.shape}")
        if not np.isfinite(own).all():
            raise InputError(f"values[{k}] must be finite, got {own[~np.isfinite(own)][0]}")
    label, value = np.concatenate(labels), np.concatenate(rows)
    label, value = label[label >= 0], value[label >= 0]
    if not label.size:
        raise InputError("every frame of the dtrajs is unassigned (negative); no state has an average")
    number = np.bincount(label)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.bincount(label, value) / number)
