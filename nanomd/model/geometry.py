r"""Embeddings that begin where the states lie: near states look alike before any transition between them is seen.

Of V states with some coordinates, whitened, the embedding begins at random Fourier features (Rahimi and Recht, NIPS
2007), with directions drawn uniformly and wavelengths from 0.6 to 10 standard deviations:

.. math:: E_{ik} = s \sqrt 2 \cos(w_k \cdot x_i + b_k)

whose products are a kernel of the distance. With thousands of states few are seen often enough to be placed by
transitions alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError

FloatArray = NDArray[np.float64]

_SCALE = 0.3  # as embeddings begin without coordinates (`NanoGPT.initialise`)
_FREQUENCIES = (0.6, 10.0)  # radians a standard deviation
_FARTHEST = 3.0  # standard deviations: hardly seen states lie as far off as they like


def check_coordinates(coordinates: NDArray[np.floating], symbols: NDArray[np.int64]) -> FloatArray:
    """Return the coordinates (V, k) of the states with raw labels `symbols`: rows of an array by label.

    Raises
    ------
    InputError
        For anything but a finite array of two dimensions with a row for every label.
    """
    try:
        values = np.asarray(coordinates, np.float64)
    except (TypeError, ValueError):
        raise InputError("coordinates must be numbers, a row for every label") from None
    if values.ndim != 2 or not values.shape[1]:
        raise InputError(f"coordinates must have shape (n_labels, k), a row for every label, got {values.shape}")
    if symbols.max() >= len(values):
        raise InputError(f"coordinates must have a row for every label, up to {symbols.max()}, got {len(values)} rows")
    chosen = values[symbols]
    if not np.isfinite(chosen).all():
        raise InputError("coordinates must be finite")
    return np.ascontiguousarray(chosen)


def fourier_features(coordinates: FloatArray, width: int, seed: int) -> FloatArray:
    """Return initial embeddings (V, width) of states with the given coordinates (V, k); see the head of this module."""
    centred = coordinates - coordinates.mean(axis=0)
    vectors, values, _ = np.linalg.svd(centred, full_matrices=False)
    kept = values > 1e-6 * max(float(values[0]), 1e-300)
    white = np.clip(vectors[:, kept] * np.sqrt(len(centred)), -_FARTHEST, _FARTHEST)
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(white.shape[1], width))
    direction /= np.maximum(np.linalg.norm(direction, axis=0), 1e-300)
    lowest, highest = np.log(_FREQUENCIES)
    frequency = np.exp(rng.uniform(lowest, highest, width))
    phase = rng.uniform(0.0, 2.0 * np.pi, width)
    return np.asarray(_SCALE * np.sqrt(2.0) * np.cos(white @ direction * frequency + phase))
