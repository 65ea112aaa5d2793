"""Topologies: read from files, with the ends of chains where the molecules end."""

from __future__ import annotations

import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError
from nanomd.base.extras import needs
from nanomd.base.paths import expand_home
from nanomd.tokenize.formats import check_module
from nanomd.tokenize.memory import is_universe, universe_topology
from nanomd.tokenize.plain_path import plain_path, suffix_of

# A peptide bond is 0.133 nm long; residues further apart are not bonded.
_BONDED_NM = 0.2
_BROKEN_NM = 0.25
# Formats that carry a structure, so that the distance from C to the next N is known, and those that carry bonds; in the
# others mdtraj derives bonds from the names of standard residues.
_WITH_STRUCTURE = {".pdb", ".pdb.gz", ".gro", ".cif", ".cif.gz", ".mmcif", ".mmcif.gz", ".h5", ".hdf5"}
_WITH_BONDS = {".prmtop", ".parm7", ".prm7", ".psf", ".mol2"}


def load_topology(topology: Any) -> Any:
    """Return an `mdtraj.Topology` from a file (PDB, GRO, PSF, prmtop, H5...), or from an object that has one.

    GRO files know no chains, and in PDB files with missing residues mdtraj joins what lies on both sides of a gap. The
    chains of the result end there: see `split_chains`.

    Raises
    ------
    InputError
        If the file is missing or cannot be read.
    """
    needs("reading molecular dynamics", "mdtraj")
    import mdtraj

    if isinstance(topology, mdtraj.Topology):
        return split_chains(topology)
    if isinstance(topology, mdtraj.Trajectory):
        return split_chains(topology.topology, topology[:1])
    if is_universe(topology):
        return split_chains(universe_topology(topology))
    if not isinstance(topology, str | Path):
        raise InputError(
            "topology must be a file, an mdtraj Topology or Trajectory or an MDAnalysis Universe, got "
            f"{type(topology).__name__}"
        )
    path = expand_home(topology)
    if not path.is_file():
        raise InputError(f"topology {str(topology)!r} does not exist; give a PDB, GRO, PSF or prmtop file")
    check_module(path)
    structure = None
    with warnings.catch_warnings(), plain_path(path) as name:
        # mdtraj leaves a PDB file open when it cannot be parsed.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            if suffix_of(path) in _WITH_STRUCTURE:
                structure = mdtraj.load(name)[0] if suffix_of(path) == ".gro" else mdtraj.load_frame(name, 0)
            loaded = mdtraj.load_topology(name) if structure is None else structure.topology
            reason = "" if loaded.n_atoms else "it holds no atoms"
        except Exception as error:  # mdtraj's parsers raise almost any type for a damaged file
            reason = " ".join(str(error).replace(name, str(path)).split())[:200] or type(error).__name__
    if reason:
        raise InputError(f"topology {str(topology)!r} cannot be read: {reason}")
    return split_chains(loaded, structure, bonds_known=suffix_of(path) in _WITH_BONDS)


def split_chains(topology: Any, structure: Any = None, *, bonds_known: bool = False) -> Any:
    """Return the topology with chains that end where the backbone does.

    A residue with an atom C and the next one in the chain with an atom N are taken as bonded by the best evidence there
    is: the bonds of the topology, if they are known; the distance from C to N in `structure`, where most neighbours are
    as close as bonded ones; else residue numbers that go on. What is no amino acid (a ligand that has an atom N) is
    never bonded.

    Parameters
    ----------
    topology : mdtraj.Topology
    structure : mdtraj.Trajectory, optional
        One frame of it.
    bonds_known : bool
        The topology's bonds come from a force field, not from the names of residues.
    """
    neighbours = [pair for chain in topology.chains for pair in pairwise(chain.residues)]
    atoms = [(_atom(one, "C"), _atom(other, "N")) for one, other in neighbours]
    links = [k for k, (c, n) in enumerate(atoms) if c is not None and n is not None]
    if not links:
        return topology
    pairs = np.array([(atoms[k][0].index, atoms[k][1].index) for k in links])
    lengths = _lengths(structure, pairs)
    if bonds_known:
        bonds = {frozenset((one.index, other.index)) for one, other in topology.bonds}
        whole = np.array([frozenset(pair) in bonds for pair in pairs.tolist()])
    elif lengths is not None and np.median(lengths) < _BONDED_NM:
        whole = lengths < _BROKEN_NM
    else:
        # Residues with insertion codes share a number.
        whole = np.array([neighbours[k][1].resSeq - neighbours[k][0].resSeq in (0, 1) for k in links])
    whole &= np.array([all(map(_has_backbone, neighbours[k])) for k in links])
    return topology if whole.all() else _cut(topology, {neighbours[links[k]][1].index for k in np.flatnonzero(~whole)})


def _atom(residue: Any, name: str) -> Any:
    return next((atom for atom in residue.atoms if atom.name == name), None)


def _has_backbone(residue: Any) -> bool:
    """Whether a residue is an amino acid, by name or by its atoms, or a cap (which has no CA)."""
    names = {atom.name for atom in residue.atoms}
    return residue.is_protein or "CA" not in names or {"N", "C"} <= names


def _lengths(structure: Any, pairs: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Return the distance of each pair in nm, to the nearest image where there is a box."""
    import mdtraj

    if structure is None or not structure.n_frames or not np.isfinite(structure.xyz[0]).all():
        return None
    lengths: NDArray[np.float64] = mdtraj.compute_distances(structure[0], pairs)[0]
    return lengths if np.isfinite(lengths).all() else None


def _cut(topology: Any, starts: set[int]) -> Any:
    """Return a copy whose chains also begin at the residues `starts`; no bond is left across a cut backbone."""
    import mdtraj

    copy = mdtraj.Topology()
    atoms = []
    for chain in topology.chains:
        new = None
        for residue in chain.residues:
            if new is None or residue.index in starts:
                new = copy.add_chain(chain.chain_id)
            kept = copy.add_residue(residue.name, new, residue.resSeq, residue.segment_id)
            atoms += [copy.add_atom(atom.name, atom.element, kept, atom.serial) for atom in residue.atoms]
    for bond in topology.bonds:
        one, other = (atoms[atom.index] for atom in bond)
        across = other.residue.index if other.residue.index > one.residue.index else one.residue.index
        if not (across in starts and {one.name, other.name} == {"C", "N"}):
            copy.add_bond(one, other, type=bond.type, order=bond.order)
    return copy
