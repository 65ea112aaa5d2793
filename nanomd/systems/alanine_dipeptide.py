"""Alanine dipeptide: backbone torsions (phi, psi) of two 250 ns trajectories in explicit water, or of your own.

In explicit water the slow process is the crossing of phi = 0, with a timescale near 1.4 ns; the next ones take 69 and
37 ps. Data: mdshare (Nuske et al. 2017; Wehmeyer and Noe 2018), CC BY 4.0.

`simulate` makes trajectories from scratch, in implicit water: another force field and no friction of real water, so
other populations and other rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd.base.arrays import map_npy
from nanomd.base.errors import InputError
from nanomd.base.paths import natural_key
from nanomd.base.units import FrameInterval
from nanomd.systems.data import data_folder
from nanomd.systems.replicas import Recipe

if TYPE_CHECKING:
    from nanomd.systems.dynamics import Molecule

NAME = "alanine_dipeptide"
FRAME_INTERVAL = FrameInterval(1.0, "ps")
FILES = ("phi_psi_0.npy", "phi_psi_1.npy")
_SOURCE = (
    "They hold the backbone torsions (phi, psi) in radians, float32, one frame per ps, shape (n_frames, 2); "
    "the mdshare package offers them (alanine-dipeptide-3x250ns-backbone-dihedrals.npz, CC BY 4.0). "
    "`nanomd simulate alanine-dipeptide --out DIR` makes trajectories that do as well"
)


def _molecule(data_dir: str | Path | None) -> Molecule:
    from nanomd.systems.peptide import AlanineDipeptide

    if data_dir is not None:
        raise InputError("alanine-dipeptide is built from scratch: leave out --data")
    return AlanineDipeptide()


#: amber99sb in implicit water (OBC), no cutoff, rigid bonds of hydrogens. The start is built, with phi = -80 and
#: psi = 80 degrees, and minimised.
RECIPE = Recipe(
    system="alanine-dipeptide",
    stem=NAME,
    molecule=_molecule,
    ns=20.0,
    temperature=300.0,
    friction=1.0,
    time_step=2.0,
    frame_interval="1 ps",
    equilibration=100.0,
    minimize=True,
)
simulate = RECIPE.simulate


class Clustered(NamedTuple):
    """Labels of each trajectory, int64 (n_frames,), and phi and psi of the centres in degrees, (n_states, 2)."""

    dtrajs: list[NDArray[np.int64]]
    centers: NDArray[np.float64]


def paths(data_dir: str | Path | None = None) -> list[Path]:
    """Return where the torsions lie; of a folder that `simulate` made, the topology and then the trajectories."""
    folder = data_folder(NAME, FILES, data_dir, _SOURCE, instead=(f"{NAME}.pdb", f"{NAME}_0.xtc"))
    if (folder / FILES[0]).is_file():
        return [folder / name for name in FILES]
    return [folder / f"{NAME}.pdb", *sorted(folder.glob(f"{NAME}_*.xtc"), key=natural_key)]


def frame_interval(data_dir: str | Path | None = None) -> FrameInterval:
    """Return the time between frames: 1 ps, or what the time stamps of simulated trajectories say."""
    found = paths(data_dir)
    if found[0].suffix == ".npy":
        return FRAME_INTERVAL
    from nanomd.tokenize.sources import FileSource
    from nanomd.tokenize.times import common_interval
    from nanomd.tokenize.topology import load_topology

    topology, *trajectories = found
    n_atoms = load_topology(topology).n_atoms
    return common_interval([FileSource(path, n_atoms).stamps() for path in trajectories], 1)


def load(data_dir: str | Path | None = None) -> list[NDArray[np.float32]]:
    """Return the torsions of each trajectory, shape (n_frames, 2): phi and psi in radians.

    The data in explicit water have two trajectories of 250,000 frames, one per ps.

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
    found = paths(data_dir)
    if found[0].suffix != ".npy":
        return [_torsions(found[0], path) for path in found[1:]]
    for path in found:
        try:
            array = map_npy(path)
        except InputError as error:
            raise InputError(f"{error}. {_SOURCE}") from None
        trajectories.append(_check(array, str(path)))
    return trajectories


def _torsions(topology_file: Path, path: Path) -> NDArray[np.float32]:
    """Measure phi and psi of a trajectory file, chunk by chunk."""
    from mdtraj.geometry import dihedral

    from nanomd.tokenize.sources import read_chunks
    from nanomd.tokenize.topology import load_topology

    topology = load_topology(topology_file)
    quads = np.concatenate([np.asarray(dihedral.indices_phi(topology)), np.asarray(dihedral.indices_psi(topology))])
    if quads.shape != (2, 4):
        raise InputError(f"{topology_file} has {len(quads)} backbone torsions, alanine dipeptide has 2. {_SOURCE}")
    return np.concatenate(
        [dihedral.compute_dihedrals(chunk, quads, periodic=False) for _, chunk in read_chunks(path, topology)]
    ).astype(np.float32)


def tokenize(phi_psi: Sequence[ArrayLike] | NDArray[np.floating], n_states: int = 100, seed: int = 0) -> Clustered:
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
    Clustered
        Labels in [0, n_states), and the centres.
    """
    from nanomd.tokenize.clustering import assign, kmeans_centers

    items = [phi_psi] if isinstance(phi_psi, np.ndarray) and phi_psi.ndim == 2 else list(phi_psi)
    if not items:
        raise InputError("phi_psi is empty; give at least one trajectory")
    circles = [on_circle(_check(np.asarray(item), f"phi_psi[{index}]")) for index, item in enumerate(items)]
    centers = kmeans_centers(circles, n_states, seed)
    angles = np.stack([np.arctan2(centers[:, 1], centers[:, 0]), np.arctan2(centers[:, 3], centers[:, 2])], axis=1)
    return Clustered([assign(values, centers) for values in circles], np.degrees(angles))


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
