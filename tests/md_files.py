"""Small trajectories for tests of reading: walks of a chain of C-alpha atoms, and files as programs leave them."""

from __future__ import annotations

import struct

import mdtraj
import numpy as np

N_ATOMS = 12


def beads(n_residues=N_ATOMS, n_chains=1):
    """Chains of one CA a residue."""
    topology = mdtraj.Topology()
    for _ in range(n_chains):
        chain = topology.add_chain()
        for number in range(1, n_residues + 1):
            topology.add_atom("CA", mdtraj.element.carbon, topology.add_residue("ALA", chain, resSeq=number))
    return topology


def walk(n_frames, seed=0, n_atoms=N_ATOMS):
    """Coordinates of atoms that move about fixed places, correlated over some twenty frames; nm."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_frames, n_atoms, 3)).cumsum(axis=0) * 0.02
    return (5 + x + np.arange(n_atoms)[:, None] * 0.2).astype(np.float32)


def write_top(path, xyz, topology=None):
    """Write the first frame as topology file."""
    mdtraj.Trajectory(xyz[:1], topology or beads(xyz.shape[1])).save(str(path))
    return path


def write_xtc(path, xyz, times):
    """Write an XTC file with given times, ps."""
    path.parent.mkdir(exist_ok=True)
    with mdtraj.formats.XTCTrajectoryFile(str(path), "w") as file:
        file.write(xyz, time=np.asarray(times, np.float32), step=np.arange(len(xyz), dtype=np.int32))
    return path


def write_trr(path, xyz, with_positions, double=False):
    """Write a TRR file whose frames all have velocities, and some have positions, as nstvout < nstxout gives."""
    real, n = (">f8", 8) if double else (">f4", 4)
    data = b""
    for k, (x, keep) in enumerate(zip(xyz, with_positions, strict=True)):
        size = 3 * n * len(x)
        data += struct.pack(">iii", 1993, 13, 12) + b"GMX_trn_file"
        data += struct.pack(">13i", 0, 0, 9 * n, 0, 0, 0, 0, size if keep else 0, size, 0, len(x), k, 0)
        data += np.array([k, 0], real).tobytes() + (np.eye(3) * 9).astype(real).tobytes()
        data += (x.astype(real).tobytes() if keep else b"") + np.zeros_like(x, real).tobytes()
    path.write_bytes(data)
    return path
