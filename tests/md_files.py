"""Small trajectories: peptides that switch shapes, walks of C-alpha atoms, and files as programs leave them."""

from __future__ import annotations

import struct

import mdtraj
import numpy as np

N_ATOMS = 12
N_RESIDUES = 6


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


def chain(n_residues=N_RESIDUES):
    topology = mdtraj.Topology()
    residues = topology.add_chain()
    previous = None
    for _ in range(n_residues):
        residue = topology.add_residue("ALA", residues)
        n, ca, c, o = (
            topology.add_atom(name, mdtraj.element.get_by_symbol(name[0]), residue) for name in ("N", "CA", "C", "O")
        )
        for pair in ((n, ca), (ca, c), (c, o)):
            topology.add_bond(*pair)
        if previous is not None:
            topology.add_bond(previous, n)
        previous = c
    return topology


def trajectory(n_frames, seed, n_residues=N_RESIDUES, spacing=2.0):
    """A chain that switches between two shapes, and which shape each frame has."""
    rng = np.random.default_rng(seed)
    topology = chain(n_residues)
    base = np.random.default_rng(99).normal(size=(topology.n_atoms, 3)).cumsum(axis=0) * 0.1
    bend = np.random.default_rng(98).normal(size=base.shape) * 0.3
    state = (rng.random(n_frames) < 0.1).cumsum() % 2
    xyz = base + state[:, None, None] * bend + rng.normal(size=(n_frames, *base.shape)) * 0.01
    return mdtraj.Trajectory(xyz.astype(np.float32), topology, time=np.arange(n_frames) * spacing), state
