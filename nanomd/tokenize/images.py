"""Distances to periodic images that no one meant: of whole molecules that are longer than half the box."""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import NanomdWarning

_FRAMES_A_CHUNK = 8
_FRAMES = 64  # so many frames with a broken molecule, and the files are not those of whole ones
_SAME_NM = 1e-3


class _Molecule(NamedTuple):
    """Atoms whose distances are measured, their pairs, and the bonded neighbours of the whole molecule."""

    atoms: NDArray[np.int64]
    pairs: NDArray[np.int64]
    edges: NDArray[np.int64]


class ImageCheck:
    """Looks for distances within a whole molecule that the minimum image makes too short, and warns once.

    A molecule is whole in a frame if none of its bonded neighbours needs an image. Neighbours are the bonds of the
    topology, or, where the atoms have none, atoms of residues that follow each other.

    Parameters
    ----------
    topology : mdtraj.Topology
    pairs : int64 array, shape (n_pairs, 2)
        Whose distances are measured.
    """

    def __init__(self, topology: Any, pairs: NDArray[np.int64]) -> None:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        edges = np.array([(a.index, b.index) for a, b in topology.bonds], dtype=np.int64).reshape(-1, 2)
        if not np.isin(pairs, edges).any():
            edges = _sequence_neighbours(topology, np.unique(pairs))
        n = topology.n_atoms
        graph = coo_array((np.ones(len(edges), np.int8), (edges[:, 0], edges[:, 1])), shape=(n, n))
        _, molecule = connected_components(graph, directed=False)
        of_pair, of_edge = molecule[pairs[:, 0]], molecule[edges[:, 0]]
        within = of_pair == molecule[pairs[:, 1]]
        self._molecules = [
            _Molecule(np.unique(pairs[mine]), pairs[mine], edges[of_edge == number])
            for number in np.unique(of_pair[within])
            if (mine := within & (of_pair == number)).any() and (of_edge == number).any()
        ]
        self._left = _FRAMES if self._molecules else 0

    def look(self, chunk: Any) -> None:
        """Look at the frames of a chunk in which a molecule is longer than half the box."""
        box = chunk.unitcell_vectors
        if not self._left or box is None:
            return
        half = 0.5 * np.abs(np.diagonal(box, axis1=1, axis2=2)).astype(np.float64)
        for atoms, pairs, edges in self._molecules:
            xyz = chunk.xyz[:, atoms]
            long = ((xyz.max(axis=1) - xyz.min(axis=1)) > half).any(axis=1) & (half > 0).all(axis=1)
            for frame in np.flatnonzero(long)[:_FRAMES_A_CHUNK]:
                self._left -= 1
                if not self._left or self._warn(chunk[int(frame)], pairs, edges):
                    self._left = 0
                    return

    @staticmethod
    def _warn(frame: Any, pairs: NDArray[np.int64], edges: NDArray[np.int64]) -> bool:
        """Warn and return True if the molecule is whole and some of its distances are to images."""
        if _to_images(frame, edges).any():
            return False
        n_wrong = int(_to_images(frame, pairs).sum())
        if n_wrong:
            warnings.warn(
                f"a molecule is whole in these files, but longer than half the box: the minimum image takes {n_wrong} "
                f"of its {len(pairs)} distances to a periodic copy instead; use periodic=False (--no-periodic)",
                NanomdWarning,
                stacklevel=2,
            )
        return bool(n_wrong)


def _to_images(frame: Any, pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return for which pairs the nearest image is nearer than the atom itself."""
    import mdtraj

    plain, nearest = (mdtraj.compute_distances(frame, pairs, periodic=periodic)[0] for periodic in (False, True))
    return np.asarray(plain - nearest > _SAME_NM)


def _sequence_neighbours(topology: Any, atoms: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return pairs of atoms of residues that follow each other in a chain: atoms of the names that `atoms` have."""
    names = {topology.atom(int(index)).name for index in atoms}
    found = []
    for chain in topology.chains:
        beads = [next((atom.index for atom in residue.atoms if atom.name in names), None) for residue in chain.residues]
        found += [(one, other) for one, other in pairwise(beads) if one is not None and other is not None]
    return np.array(found, dtype=np.int64).reshape(-1, 2)
