"""Atoms by selection, and the pairs of them whose distance is measured."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError

#: The C-alpha atoms of a protein. ``name CA`` alone would take calcium ions, and atoms CA of ligands, too.
ALPHA = "protein and name CA"
_CALCIUM = {"CA", "CAL", "CA2", "CA2+"}  # residue names of the ion


def select_atoms(topology: Any, atoms: str) -> NDArray[np.int64]:
    """Return the indices of the atoms that an mdtraj selection names, ascending.

    `ALPHA` also takes residues that mdtraj does not know as protein, if they have the atoms N, CA and C (modified
    residues); and in a model of one bead a residue, whatever its residues are called, the beads CA.

    Raises
    ------
    InputError
        If it is no selection. An empty one is not an error here.
    """
    try:
        selected = topology.select(atoms)
    except Exception as error:  # the selection parser raises many types
        raise InputError(
            f"atoms = {atoms!r} is not an mdtraj selection: {' '.join(str(error).split())[:120]}"
        ) from None
    chosen = {int(index) for index in selected}
    if atoms == ALPHA:
        named = [a for a in topology.atoms if a.name == "CA" and not _is_calcium(a.residue)]
        chosen &= {a.index for a in named}
        chosen |= {a.index for a in named if {"N", "C"} <= {other.name for other in a.residue.atoms}}
        chosen = chosen or {a.index for a in named if a.residue.n_atoms == 1}
    return np.array(sorted(chosen), dtype=np.int64)


def _is_calcium(residue: Any) -> bool:
    """Whether a residue is an ion; mdtraj takes CAL, CHARMM's name of it, for an amino acid."""
    return residue.n_atoms == 1 and residue.name in _CALCIUM


def resolve_pairs(
    topology: Any, pairs: tuple[tuple[int, int], ...] | None, atoms: str, min_separation: int
) -> NDArray[np.int64]:
    """Return atom pairs, shape (n_pairs, 2), given or chosen by selection and separation along the sequence."""
    if pairs is not None:
        chosen = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        if not len(chosen):
            raise InputError("pairs is empty; give at least one pair of atoms")
        if chosen.min() < 0 or chosen.max() >= topology.n_atoms or np.any(chosen[:, 0] == chosen[:, 1]):
            raise InputError(f"pairs must name two different atoms in [0, {topology.n_atoms - 1}]")
        return chosen
    selected = select_atoms(topology, atoms)
    residue = np.array([topology.atom(index).residue.index for index in selected], dtype=np.int64)
    chain = np.array([topology.atom(index).residue.chain.index for index in selected], dtype=np.int64)
    first, second = np.triu_indices(len(selected), k=1)
    far = (np.abs(residue[first] - residue[second]) >= min_separation) | (chain[first] != chain[second])
    if not far.any():
        raise InputError(
            f"no pair of atoms {atoms!r} is at least {min_separation} residues apart ({len(selected)} atoms selected); "
            "choose other atoms, another min_separation (0 pairs atoms of one residue too), or pairs"
        )
    return np.stack([selected[first[far]], selected[second[far]]], axis=1)
