"""A C-alpha structure-based (Go) model: one bead a residue, whose forces are made from one native structure.

Energies in kJ/mol, lengths in nm, angles in radians; index 0 is the native value:

- bonds k/2 (r - r0)^2 with k = 20000, angles k/2 (a - a0)^2 with k = 40,
- dihedrals (1 - cos(p - p0)) + 0.5 (1 - cos 3(p - p0)),
- native contacts 5 (r0/r)^12 - 6 (r0/r)^10,
- every other pair at least four residues apart (0.4/r)^12, cut off at 0.8.

The form is that of Clementi, Nymeyer and Onuchic, J. Mol. Biol. 298, 937 (2000).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError
from nanomd.base.files import write_atomic
from nanomd.systems.dynamics import import_openmm

BEAD_MASS = 100.0  # amu
BOND_STIFFNESS = 20_000.0  # kJ/mol/nm^2
ANGLE_STIFFNESS = 40.0  # kJ/mol/rad^2
TORSION_STRENGTHS = ((1, 1.0), (3, 0.5))  # (multiplicity, kJ/mol)
CONTACT_STRENGTH = 1.0  # kJ/mol
REPULSION_LENGTH = 0.4  # nm
REPULSION_CUTOFF = 0.8  # nm
MIN_SEPARATION = 4  # residues between the partners of a repulsion
CONTACTS_FILE = "contacts.csv"

_DESCRIPTION: dict[str, Any] = {
    "force_field": {
        "name": "C-alpha structure-based model",
        "bead_mass": {"value": BEAD_MASS, "unit": "amu"},
        "bond": {"value": BOND_STIFFNESS, "unit": "kJ/mol/nm^2"},
        "angle": {"value": ANGLE_STIFFNESS, "unit": "kJ/mol/rad^2"},
        "torsion": {"value": [list(term) for term in TORSION_STRENGTHS], "unit": "multiplicity, kJ/mol"},
        "contact": {"value": CONTACT_STRENGTH, "unit": "kJ/mol"},
        "repulsion": {"length": REPULSION_LENGTH, "cutoff": REPULSION_CUTOFF, "unit": "nm"},
    },
    "constraints": "none",
}


@dataclass(frozen=True, eq=False)
class GoModel:
    """A native structure and its contacts.

    Parameters
    ----------
    residues : list of (str, int)
        Name and number of each residue.
    positions : float64 array, shape (n, 3)
        Native C-alpha positions, nm; also where simulations start.
    pairs : int64 array, shape (m, 2)
        Native contacts, zero-based.
    distances : float64 array, shape (m,)
        Their native distances, nm.
    """

    residues: list[tuple[str, int]]
    positions: NDArray[np.float64]
    pairs: NDArray[np.int64]
    distances: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Check the sizes."""
        n = len(self.residues)
        if n < 5 or self.positions.shape != (n, 3) or not np.isfinite(self.positions).all():
            raise InputError(f"a Go model needs at least 5 residues with finite positions, got {n}")
        if self.pairs.shape != (len(self.distances), 2) or np.any(self.pairs < 0) or np.any(self.pairs >= n):
            raise InputError(f"native contacts must name two residues in [0, {n - 1}] each")
        if np.any(self.pairs[:, 0] >= self.pairs[:, 1]) or len(np.unique(self.pairs, axis=0)) != len(self.pairs):
            raise InputError("native contacts must be different pairs with the smaller residue first")

    def fingerprint(self) -> str:
        """Return a hash of the native structure, so that a simulation of another one is not taken for this one's."""
        digest = hashlib.sha256(repr(self.residues).encode())
        for array in (self.positions.round(5), self.pairs, self.distances.round(5)):
            digest.update(array.tobytes())
        return digest.hexdigest()[:16]

    def repelled(self) -> NDArray[np.int64]:
        """Return the pairs that repel each other, shape (k, 2)."""
        native = set(map(tuple, self.pairs.tolist()))
        first, second = np.triu_indices(len(self.residues), k=MIN_SEPARATION)
        return np.array([pair for pair in zip(first.tolist(), second.tolist(), strict=True) if pair not in native])

    def topology(self) -> Any:
        """Return the `mdtraj.Topology`: one CA a residue."""
        import mdtraj
        from mdtraj.core.element import carbon

        topology = mdtraj.Topology()
        chain = topology.add_chain()
        atoms = [
            topology.add_atom("CA", carbon, topology.add_residue(name, chain, resSeq=number))
            for name, number in self.residues
        ]
        for one, other in pairwise(atoms):
            topology.add_bond(one, other)
        return topology

    def system(self) -> Any:
        """Return the `openmm.System`."""
        mm = import_openmm()
        x = self.positions
        system = mm.System()
        for _ in self.residues:
            system.addParticle(BEAD_MASS)
        bonds, angles, torsions = mm.HarmonicBondForce(), mm.HarmonicAngleForce(), mm.PeriodicTorsionForce()
        for i in range(len(x) - 1):
            bonds.addBond(i, i + 1, float(np.linalg.norm(x[i + 1] - x[i])), BOND_STIFFNESS)
        for i in range(len(x) - 2):
            angles.addAngle(i, i + 1, i + 2, _angle(x[i], x[i + 1], x[i + 2]), ANGLE_STIFFNESS)
        for i in range(len(x) - 3):
            native = _torsion(x[i], x[i + 1], x[i + 2], x[i + 3])
            for n, strength in TORSION_STRENGTHS:
                # OpenMM has 1 + cos(n p - phase): a phase half a turn further gives 1 - cos(n (p - p0)).
                torsions.addTorsion(i, i + 1, i + 2, i + 3, n, n * native + np.pi, strength)
        contacts = mm.CustomBondForce(f"{CONTACT_STRENGTH}*(5*(r0/r)^12 - 6*(r0/r)^10)")
        contacts.addPerBondParameter("r0")
        for (i, j), distance in zip(self.pairs.tolist(), self.distances.tolist(), strict=True):
            contacts.addBond(i, j, [distance])
        # A list of pairs: for tens of beads on the Reference platform six times faster than a neighbour list.
        repulsion = mm.CustomBondForce(f"step({REPULSION_CUTOFF} - r)*({REPULSION_LENGTH}/r)^12")
        for i, j in self.repelled().tolist():
            repulsion.addBond(i, j, [])
        for force in (bonds, angles, torsions, contacts, repulsion):
            system.addForce(force)
        system.addForce(mm.CMMotionRemover())  # keeps the molecule near the origin, where XTC files are precise
        return system

    def description(self) -> dict[str, Any]:
        """Return the force field, and which native structure it was made of."""
        return {**_DESCRIPTION, "native": self.fingerprint()}

    def write_files(self, folder: Path) -> list[Path]:
        """Write the native contacts."""
        self.write_contacts(folder / CONTACTS_FILE)
        return [folder / CONTACTS_FILE]

    def write_contacts(self, path: Path) -> None:
        """Write the native contacts as CSV."""
        rows = [f"{i},{j},{r:.4f}" for (i, j), r in zip(self.pairs.tolist(), self.distances.tolist(), strict=True)]
        write_atomic(path, "residue_i,residue_j,native_ca_distance_nm\n" + "\n".join(rows) + "\n")


class NativeContacts(NamedTuple):
    """Atom pairs, int64 (m, 2), zero-based, and their distances in the native structure, float64 (m,), nm."""

    pairs: NDArray[np.int64]
    distances: NDArray[np.float64]


def read_contacts(path: Path, explain: str = "") -> NativeContacts:
    """Read native contacts; `explain` is added to what is said of a file that holds none."""
    try:
        table = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read: {error}. {explain}".strip()) from None
    if table.shape[0] < 1 or table.shape[1] != 3 or not np.isfinite(table).all() or np.any(table[:, 2] <= 0):
        raise InputError(f"{path} must have rows of residue_i, residue_j, native_ca_distance_nm. {explain}".strip())
    return NativeContacts(table[:, :2].astype(np.int64), table[:, 2])


def load_model(topology: Path, contacts: Path) -> GoModel:
    """Make a model of a PDB file with one C-alpha a residue, and a table of native contacts.

    Raises
    ------
    InputError
        If a file cannot be read, or they do not fit each other.
    """
    import mdtraj

    from nanomd.tokenize.topology import load_topology

    load_topology(topology)  # with friendly errors
    native = mdtraj.load_pdb(str(topology), frame=0)
    selected = native.topology.select("protein and name CA")
    residues = [(native.topology.atom(i).residue.name, native.topology.atom(i).residue.resSeq) for i in selected]
    return GoModel(residues, native.xyz[0][selected].astype(np.float64), *read_contacts(contacts))


def ww_domain() -> GoModel:
    """Return the Pin1 WW domain (PDB 1PIN, residues 6-39) that comes with the package."""
    folder = resources.files("nanomd") / "systems" / "ww_native"
    with resources.as_file(folder) as path:
        return load_model(path / "ww_native.pdb", path / CONTACTS_FILE)


def _angle(a: NDArray[np.float64], b: NDArray[np.float64], c: NDArray[np.float64]) -> float:
    one, other = a - b, c - b
    return float(np.arctan2(np.linalg.norm(np.cross(one, other)), one @ other))


def _torsion(a: NDArray[np.float64], b: NDArray[np.float64], c: NDArray[np.float64], d: NDArray[np.float64]) -> float:
    """Return the torsion a-b-c-d in radians, IUPAC sign."""
    first, axis, last = b - a, c - b, d - c
    m, n = np.cross(first, axis), np.cross(axis, last)
    return float(np.arctan2(np.linalg.norm(axis) * (first @ n), m @ n))
