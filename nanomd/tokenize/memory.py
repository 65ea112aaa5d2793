"""MD frames that the user holds in a program: `mdtraj.Trajectory` objects, and MDAnalysis universes and atom groups.

They stand where files stand. Neither package is imported to recognise its objects.
"""

from __future__ import annotations

import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from nanomd.base.errors import InputError
from nanomd.tokenize.coordinates import check_coordinates
from nanomd.tokenize.times import Stamps

_NM_PER_ANGSTROM = 0.1


def is_trajectory(item: Any) -> bool:
    """Whether `item` is an `mdtraj.Trajectory`."""
    mdtraj = sys.modules.get("mdtraj")  # without it there is no such object
    return mdtraj is not None and isinstance(item, mdtraj.Trajectory)


def is_universe(item: Any) -> bool:
    """Whether `item` is a `Universe` or an `AtomGroup` of MDAnalysis."""
    return "MDAnalysis" in sys.modules and hasattr(item, "universe") and hasattr(item, "select_atoms")


class InMemory(ABC):
    """MD frames without a file; see `nanomd.tokenize.sources.FileSource`.

    Parameters
    ----------
    name : str
        For messages.
    n_frames, n_atoms : int
    """

    def __init__(self, name: str, n_frames: int, n_atoms: int) -> None:
        self.name, self.n_frames, self.n_atoms = name, n_frames, n_atoms

    @abstractmethod
    def take(self, begin: int, end: int, topology: Any) -> Any:
        """Return frames as an `mdtraj.Trajectory`."""

    @abstractmethod
    def stamps(self) -> Stamps | None:
        """Return the time stamps; None where they are only counted."""

    def count(self) -> int:
        """Return the number of frames."""
        return self.n_frames

    def chunks(self, topology: Any, chunk: int) -> Iterator[tuple[int, Any]]:
        """Yield the number of the first frame of each chunk, and the chunk."""
        if not self.n_frames:
            raise InputError(f"{self.name} holds no frames; remove it from the list")
        for first in range(0, self.n_frames, chunk):
            frames = self.take(first, min(first + chunk, self.n_frames), topology)
            check_coordinates(frames.xyz, self.name, first)
            yield first, frames


class TrajectoryInMemory(InMemory):
    """An `mdtraj.Trajectory`."""

    def __init__(self, trajectory: Any, name: str) -> None:
        super().__init__(name, trajectory.n_frames, trajectory.n_atoms)
        self._trajectory = trajectory

    def take(self, begin: int, end: int, topology: Any) -> Any:  # noqa: ARG002
        """See `InMemory`."""
        return self._trajectory[begin:end]

    def stamps(self) -> Stamps | None:
        """See `InMemory`; mdtraj counts 0, 1, 2 ... where a format tells no times."""
        times = np.asarray(self._trajectory.time, dtype=np.float64)
        return None if np.array_equal(times, np.arange(self.n_frames)) else Stamps(self.name, times)


class UniverseInMemory(InMemory):
    """The atoms of a `Universe` or an `AtomGroup` of MDAnalysis, along its trajectory."""

    def __init__(self, group: Any, name: str) -> None:
        self._atoms = group.atoms
        self._frames = self._atoms.universe.trajectory
        super().__init__(name, len(self._frames), len(self._atoms))

    def take(self, begin: int, end: int, topology: Any) -> Any:
        """See `InMemory`."""
        return of_steps(self._frames[begin:end], lambda _: self._atoms.positions, topology)

    def stamps(self) -> Stamps | None:
        """See `InMemory`; MDAnalysis says so with a warning where it made the time step up."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            interval = float(self._frames.dt)
        if caught or not interval > 0:
            return None
        times = np.arange(self.n_frames, dtype=np.float64) * interval
        return Stamps(self.name, times + float(self._frames[0].time))


def of_steps(steps: Any, positions: Callable[[Any], Any], topology: Any) -> Any:
    """Return steps of an MDAnalysis trajectory (Angstrom, ps) as an `mdtraj.Trajectory`."""
    import mdtraj

    n_frames = len(steps)
    xyz = np.empty((n_frames, topology.n_atoms, 3), dtype=np.float32)
    times, cells = np.empty(n_frames), np.zeros((n_frames, 6))
    for row, step in enumerate(steps):
        xyz[row] = positions(step)
        times[row] = step.time
        cells[row] = 0 if step.dimensions is None else step.dimensions
    xyz *= _NM_PER_ANGSTROM
    boxed = bool((cells[:, :3] > 0).all())
    lengths, angles = (cells[:, :3] * _NM_PER_ANGSTROM, cells[:, 3:]) if boxed else (None, None)
    return mdtraj.Trajectory(xyz, topology, times, lengths, angles)


def in_memory(item: Any, name: str) -> InMemory:
    """Wrap an object for which `is_trajectory` or `is_universe` is true."""
    return TrajectoryInMemory(item, name) if is_trajectory(item) else UniverseInMemory(item, name)


def universe_topology(group: Any) -> Any:
    """Return the `mdtraj.Topology` of a Universe or AtomGroup: its segments are chains."""
    import mdtraj

    topology, atoms = mdtraj.Topology(), group.atoms
    elements = atoms.elements if hasattr(atoms, "elements") else np.array([""] * len(atoms))
    made: dict[int, Any] = {}
    chain = residue = last_segment = last_residue = None
    for atom, symbol in zip(atoms, elements, strict=True):
        if chain is None or atom.segindex != last_segment:
            chain, last_segment, last_residue = topology.add_chain(), atom.segindex, None
        if residue is None or atom.resindex != last_residue:
            residue, last_residue = topology.add_residue(atom.resname, chain, int(atom.resid)), atom.resindex
        try:
            element = mdtraj.element.get_by_symbol(str(symbol).capitalize())
        except KeyError:
            element = mdtraj.element.virtual
        made[atom.index] = topology.add_atom(atom.name, element, residue)
    bonds = atoms.bonds.indices if hasattr(atoms, "bonds") else ()  # an attribute that raises where there are none
    for one, other in bonds:
        if int(one) in made and int(other) in made:
            topology.add_bond(made[int(one)], made[int(other)])
    return topology
