"""Alanine dipeptide in explicit water: backbone torsions (phi, psi) of two independent 250 ns trajectories.

The slow process is the crossing of phi = 0, with a timescale near 1.4 ns; the next ones take 69 and 37 ps.
Data: mdshare (Nuske et al. 2017; Wehmeyer and Noe 2018), CC BY 4.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd.errors import InputError
from nanomd.systems.data import data_folder
from nanomd.units import FrameInterval

NAME = "alanine_dipeptide"
FRAME_INTERVAL = FrameInterval(1.0, "ps")
FILES = ("phi_psi_0.npy", "phi_psi_1.npy")
_SOURCE = (
    "They hold the backbone torsions (phi, psi) in radians, float32, one frame per ps, shape (n_frames, 2); "
    "the mdshare package offers them (alanine-dipeptide-3x250ns-backbone-dihedrals.npz, CC BY 4.0)"
)


def paths(data_dir: str | Path | None = None) -> list[Path]:
    """Return where the trajectories lie; see `load`."""
    folder = data_folder(NAME, FILES, data_dir, _SOURCE)
    return [folder / name for name in FILES]


def load(data_dir: str | Path | None = None) -> list[NDArray[np.float32]]:
    """Return the torsions of each trajectory, shape (250000, 2): phi and psi in radians, one frame per ps.

    Parameters
    ----------
    data_dir : path, optional
        The folder with the files, or the one above; default NANOMD_DATA, else ``../shared/data``.

    Raises
    ------
    InputError
        If the files are absent or hold something else.
    """
    trajectories = []
    for path in paths(data_dir):
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise InputError(f"{path} cannot be read: {error}. {_SOURCE}") from None
        trajectories.append(_check(array, str(path)))
    return trajectories


def tokenize(
    phi_psi: Sequence[ArrayLike] | NDArray[np.floating], n_states: int = 100, seed: int = 0
) -> tuple[list[NDArray[np.int64]], NDArray[np.float64]]:
    """Cluster the torsions by k-means on (cos phi, sin phi, cos psi, sin psi), so that -180 and 180 degrees are one.

    Parameters
    ----------
    phi_psi : sequence of arrays, shape (n_frames, 2)
        Radians.
    n_states : int
    seed : int
        Of k-means++.

    Returns
    -------
    dtrajs : list of int64 arrays, shape (n_frames,)
        Labels in [0, n_states).
    centers : float64 array, shape (n_states, 2)
        phi and psi of the centres, in degrees.
    """
    from nanomd.tokenize.clustering import assign, kmeans_centers

    items = [phi_psi] if isinstance(phi_psi, np.ndarray) and phi_psi.ndim == 2 else list(phi_psi)
    if not items:
        raise InputError("phi_psi is empty; give at least one trajectory")
    circles = [on_circle(_check(np.asarray(item), f"phi_psi[{index}]")) for index, item in enumerate(items)]
    centers = kmeans_centers(circles, n_states, seed)
    return [assign(values, centers) for values in circles], np.degrees(
        np.stack([np.arctan2(centers[:, 1], centers[:, 0]), np.arctan2(centers[:, 3], centers[:, 2])], axis=1)
    )


def on_circle(phi_psi: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return (cos phi, sin phi, cos psi, sin psi), shape (n_frames, 4), of torsions in radians."""
    phi, psi = phi_psi[:, 0], phi_psi[:, 1]
    return np.stack([np.cos(phi), np.sin(phi), np.cos(psi), np.sin(psi)], axis=1).astype(np.float32)


def _check(array: NDArray[np.floating], name: str) -> NDArray[np.float32]:
    if array.ndim != 2 or array.shape[1] != 2 or not len(array) or array.dtype.kind not in "fiu":
        raise InputError(
            f"{name} must hold (phi, psi) of shape (n_frames, 2), got shape {array.shape} of {array.dtype}"
        )
    values = np.array(array, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if bad.size:
        raise InputError(f"{name}: frame {bad[0]} is not finite (NaN or infinite); remove or repair it")
    if np.abs(values).max() > 2 * np.pi + 1e-3:
        raise InputError(f"{name} must be in radians, got values up to {np.abs(values).max():g}; use numpy.radians")
    return values
