"""The iterations of k-means."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nanomd._native.core import CORE, core_errors

Floats = NDArray[np.float32]


def lloyd(
    points: Floats, centers: Floats, norms: Floats, labels: NDArray[np.int32], isa: str = ""
) -> tuple[Floats, Floats, Floats]:
    """Give each point its nearest centre, and return the means of the centres' points.

    Parameters
    ----------
    points : (n, d) float32
    centers : (k, d) float32
    norms : (k,) float32
        The centres' squared lengths.
    labels : (n,) int32
        Takes the nearest centre of each point.
    isa : str
        ``""`` for the best that the processor has (or NANOMD_ISA), ``"sse2"``, ``"avx2"`` or ``"avx512"``.

    Returns
    -------
    means : (k, d) float32
        A centre without points keeps its place.
    counts : (k,) float32
    shifts : (k,) float32
        How far each centre moved.
    """
    with core_errors():
        means, counts, shifts = CORE.lloyd(points, centers, norms, labels, isa)
    return means, counts, shifts
