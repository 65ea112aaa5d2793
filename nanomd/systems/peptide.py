"""Alanine dipeptide (ACE-ALA-NME, 22 atoms) built from bond lengths, angles and torsions: no file is needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanomd.systems.dynamics import import_openmm

FORCE_FIELD = ("amber99sb.xml", "amber99_obc.xml")
_DESCRIPTION: dict[str, Any] = {
    "force_field": {"name": "amber99sb, OBC implicit water", "files": list(FORCE_FIELD), "cutoff": "none"},
    "constraints": "bonds of hydrogen atoms, relative tolerance 1e-5",
}

# One atom a row: residue, name, element, the atom it is bonded to with the length (nm), the next one with the angle
# (degrees), the one after with the torsion (degrees, or the name of a torsion that the caller chooses).
# Lengths and angles are textbook values of peptides (Engh and Huber 1991; trans peptide bonds); a short minimisation
# comes before every simulation, so they need only be sensible. C-beta lies at phi - 122 degrees: an L amino acid.
_ATOMS: tuple[tuple[str, str, str, str, float, str, float, str, float | str], ...] = (
    ("ACE", "CH3", "C", "", 0, "", 0, "", 0),
    ("ACE", "C", "C", "ACE:CH3", 0.152, "", 0, "", 0),
    ("ALA", "N", "N", "ACE:C", 0.133, "ACE:CH3", 116, "", 0),
    ("ACE", "O", "O", "ACE:C", 0.123, "ALA:N", 123, "ACE:CH3", 180),
    ("ACE", "HH31", "H", "ACE:CH3", 0.109, "ACE:C", 109.5, "ALA:N", 180),
    ("ACE", "HH32", "H", "ACE:CH3", 0.109, "ACE:C", 109.5, "ALA:N", 60),
    ("ACE", "HH33", "H", "ACE:CH3", 0.109, "ACE:C", 109.5, "ALA:N", -60),
    ("ALA", "CA", "C", "ALA:N", 0.146, "ACE:C", 122, "ACE:CH3", 180),
    ("ALA", "H", "H", "ALA:N", 0.101, "ACE:C", 120, "ACE:CH3", 0),
    ("ALA", "C", "C", "ALA:CA", 0.152, "ALA:N", 111, "ACE:C", "phi"),
    ("ALA", "CB", "C", "ALA:CA", 0.153, "ALA:N", 110, "ACE:C", "phi-122"),
    ("ALA", "HA", "H", "ALA:CA", 0.109, "ALA:N", 109, "ACE:C", "phi+119"),
    ("ALA", "HB1", "H", "ALA:CB", 0.109, "ALA:CA", 109.5, "ALA:N", 180),
    ("ALA", "HB2", "H", "ALA:CB", 0.109, "ALA:CA", 109.5, "ALA:N", 60),
    ("ALA", "HB3", "H", "ALA:CB", 0.109, "ALA:CA", 109.5, "ALA:N", -60),
    ("NME", "N", "N", "ALA:C", 0.133, "ALA:CA", 116, "ALA:N", "psi"),
    ("ALA", "O", "O", "ALA:C", 0.123, "ALA:CA", 121, "ALA:N", "psi+180"),
    ("NME", "H", "H", "NME:N", 0.101, "ALA:C", 120, "ALA:CA", 0),
    ("NME", "CH3", "C", "NME:N", 0.146, "ALA:C", 122, "ALA:CA", 180),
    ("NME", "HH31", "H", "NME:CH3", 0.109, "NME:N", 109.5, "ALA:C", 180),
    ("NME", "HH32", "H", "NME:CH3", 0.109, "NME:N", 109.5, "ALA:C", 60),
    ("NME", "HH33", "H", "NME:CH3", 0.109, "NME:N", 109.5, "ALA:C", -60),
)
_RESIDUES = ("ACE", "ALA", "NME")


class Built(NamedTuple):
    """A molecule: the `mdtraj.Topology`, and positions in nm, float64 (n_atoms, 3), centred on the origin."""

    topology: Any
    positions: NDArray[np.float64]


def alanine_dipeptide(phi: float = -80.0, psi: float = 80.0) -> Built:
    """Build the molecule.

    Parameters
    ----------
    phi, psi : float
        Backbone torsions, degrees.

    Returns
    -------
    Built
        22 atoms with Amber names, 21 bonds.
    """
    import mdtraj
    from mdtraj.core.element import Element

    chosen = {"phi": phi, "psi": psi, "phi-122": phi - 122, "phi+119": phi + 119, "psi+180": psi + 180}
    placed: dict[str, NDArray[np.float64]] = {}
    for residue, name, _, bond, length, angle, degrees, torsion, twist in _ATOMS:
        turn = chosen[twist] if isinstance(twist, str) else twist
        # The first three atoms have no such partners; virtual ones put them into the plane z = 0.
        a = placed.get(bond, np.zeros(3))
        b = placed.get(angle, a + np.array([1.0, 0.0, 0.0]))
        c = placed.get(torsion, b + np.array([0.0, 1.0, 0.0]))
        placed[f"{residue}:{name}"] = place(a, length, b, degrees, c, turn) if bond else np.zeros(3)

    topology = mdtraj.Topology()
    chain = topology.add_chain()
    atoms: dict[str, Any] = {}
    for number, residue in enumerate(_RESIDUES, start=1):
        group = topology.add_residue(residue, chain, resSeq=number)
        for owner, name, element, *_ in _ATOMS:
            if owner == residue:
                atoms[f"{owner}:{name}"] = topology.add_atom(name, Element.getBySymbol(element), group)
    for residue, name, _, bond, *_ in _ATOMS:
        if bond:
            topology.add_bond(atoms[bond], atoms[f"{residue}:{name}"])
    positions = np.array([placed[key] for key in atoms])
    return Built(topology, positions - positions.mean(axis=0))


@dataclass(frozen=True)
class AlanineDipeptide:
    """Alanine dipeptide in implicit water, to be simulated from torsions in degrees."""

    phi: float = -80.0
    psi: float = 80.0

    @property
    def positions(self) -> NDArray[np.float64]:
        """Starting positions, nm, shape (22, 3)."""
        return alanine_dipeptide(self.phi, self.psi).positions

    def topology(self) -> Any:
        """Return the `mdtraj.Topology`."""
        return alanine_dipeptide().topology

    def system(self) -> Any:
        """Return the `openmm.System`: all pairs interact, and bonds of hydrogen atoms are rigid."""
        import_openmm()
        from openmm import app

        field = app.ForceField(*FORCE_FIELD)
        topology = self.topology().to_openmm()
        return field.createSystem(topology, nonbondedMethod=app.NoCutoff, constraints=app.HBonds)

    def description(self) -> dict[str, Any]:
        """Return the force field."""
        return _DESCRIPTION

    def write_files(self, folder: Path) -> list[Path]:  # noqa: ARG002
        """Write nothing: the topology is all that a reader needs."""
        return []


def place(
    a: NDArray[np.float64], length: float, b: NDArray[np.float64], angle: float, c: NDArray[np.float64], torsion: float
) -> NDArray[np.float64]:
    """Return the position x with distance x-a `length`, angle x-a-b and torsion x-a-b-c in degrees (IUPAC sign)."""
    axis = (a - b) / np.linalg.norm(a - b)
    normal = np.cross(b - c, axis)
    normal /= np.linalg.norm(normal)
    bend, turn = np.radians(angle), np.radians(torsion)
    axes = np.stack([axis, np.cross(normal, axis), normal])
    local = length * np.array([-np.cos(bend), np.sin(bend) * np.cos(turn), np.sin(bend) * np.sin(turn)])
    return np.asarray(a + local @ axes)
