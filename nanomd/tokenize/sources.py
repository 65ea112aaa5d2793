"""Trajectory files: read in chunks through mdtraj, with the errors that MD files make."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from nanomd.base.errors import InputError
from nanomd.base.paths import expand_paths
from nanomd.base.units import FrameInterval

FilesLike: TypeAlias = "str | Path | Sequence[str | Path | Sequence[str | Path]]"

# Formats whose frames carry real time stamps; for the others mdtraj counts 0, 1, 2, ... and calls it picoseconds.
_TIMED = (".xtc", ".trr")
_CHUNK_BYTES = 32 * 2**20
_MAX_CHUNK = 4096


@dataclass(frozen=True)
class SourceFile:
    """A trajectory file that was read: where it is, its size, and what was in it.

    Parameters
    ----------
    path : str
        Absolute path.
    size : int
        Bytes; a file of another size is refused later, since its frames may have moved.
    n_frames : int
        Frames in the file, before any stride.
    trajectory : int
        Index of the trajectory the file belongs to.
    """

    path: str
    size: int
    n_frames: int
    trajectory: int


def load_topology(topology: Any) -> Any:
    """Return an `mdtraj.Topology` from a file (PDB, GRO, PSF, prmtop, H5...), a Topology or a Trajectory.

    Raises
    ------
    InputError
        If the file is missing or cannot be read.
    """
    import mdtraj

    if isinstance(topology, mdtraj.Topology):
        return topology
    if isinstance(topology, mdtraj.Trajectory):
        return topology.topology
    if not isinstance(topology, str | Path):
        raise InputError(f"topology must be a file, an mdtraj Topology or Trajectory, got {type(topology).__name__}")
    if not Path(topology).expanduser().is_file():
        raise InputError(f"topology {str(topology)!r} does not exist; give a PDB, GRO, PSF or prmtop file")
    with warnings.catch_warnings():
        # mdtraj leaves a PDB file open when it cannot be parsed.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            loaded = mdtraj.load_topology(str(Path(topology).expanduser()))
            reason = "" if loaded.n_atoms else "it holds no atoms"
        except Exception as error:  # mdtraj's parsers raise almost any type for a damaged file
            reason = _one_line(error)
    if reason:
        raise InputError(f"topology {str(topology)!r} cannot be read: {reason}")
    return loaded


def group_files(files: FilesLike) -> list[list[Path]]:
    """Expand paths and patterns into trajectories, each a list of consecutive files.

    A sequence inside the sequence holds the consecutive parts of one trajectory; everything else is one trajectory per
    file.
    """
    if isinstance(files, str | Path):
        return [[path] for path in expand_paths(files, "trajectory")]
    groups: list[list[Path]] = []
    for item in files:
        if isinstance(item, str | Path):
            groups.extend([path] for path in expand_paths(item, "trajectory"))
        else:
            groups.append(expand_paths(item, "trajectory"))
    if not groups:
        raise InputError("no trajectory given: the list is empty")
    return groups


def chunk_frames(n_atoms: int) -> int:
    """Frames read at a time; a function of the system alone, so that results never depend on free memory."""
    return max(1, min(_MAX_CHUNK, _CHUNK_BYTES // (12 * max(n_atoms, 1))))


def count_frames(path: Path) -> int:
    """Frames in a file where the format tells it cheaply, else 0. For progress bars only."""
    import mdtraj

    if path.suffix.lower() not in (".xtc", ".trr", ".dcd", ".nc", ".h5"):
        return 0
    try:
        with mdtraj.open(str(path)) as file:
            return len(file)
    except Exception:  # the reader names the fault when the file is read
        return 0


def read_chunks(path: Path, topology: Any, chunk: int | None = None) -> Iterator[tuple[int, Any]]:
    """Read a trajectory file front to back.

    Yields
    ------
    first : int
        Number of the chunk's first frame in the file.
    trajectory : mdtraj.Trajectory
        Up to `chunk` frames, every coordinate finite.

    Raises
    ------
    InputError
        If the file is missing, damaged, truncated or empty, has another number of atoms than the topology, or a
        coordinate is not finite (the frame is named).
    """
    import mdtraj

    n_atoms = topology.n_atoms
    first = 0
    chunks = mdtraj.iterload(str(path), top=topology, chunk=chunk or chunk_frames(n_atoms))
    while True:
        try:
            trajectory = next(chunks)
        except StopIteration:
            break
        except Exception as error:
            raise InputError(_explain(path, first, n_atoms, error)) from None
        if trajectory.n_atoms != n_atoms:
            raise InputError(_wrong_atoms(path, trajectory.n_atoms, n_atoms))
        bad = np.flatnonzero(~np.isfinite(trajectory.xyz).all(axis=(1, 2)))
        if bad.size:
            raise InputError(
                f"{path}: frame {first + int(bad[0])} has coordinates that are not finite (NaN or infinite); "
                "repair the trajectory or cut it before this frame"
            )
        yield first, trajectory
        first += trajectory.n_frames
    if first == 0:
        raise InputError(f"{path} holds no frames; remove it from the list")


def _explain(path: Path, first: int, n_atoms: int, error: Exception) -> str:
    atoms = _atoms_in(path)
    if atoms and atoms != n_atoms:
        return _wrong_atoms(path, atoms, n_atoms)
    if path.stat().st_size == 0:
        return f"{path} is an empty file; copy or simulate it again"
    if isinstance(error, OSError) and "No loader" in str(error):
        return f"{path}: {_one_line(error)}"
    return (
        f"{path} is damaged or truncated after frame {first} ({_one_line(error)}); "
        "copy it again, or cut it to its intact frames"
    )


def _atoms_in(path: Path) -> int:
    import mdtraj

    try:
        with mdtraj.open(str(path)) as file:
            return int(np.asarray(file.read(n_frames=1)[0]).shape[-2])
    except Exception:  # only used to explain another error
        return 0


def _wrong_atoms(path: Path, found: int, expected: int) -> str:
    return (
        f"{path} has {found} atoms but the topology has {expected}; "
        "give the topology that the trajectory was written with (solvent stripped from both or from neither)"
    )


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (text[:197] + "...") if len(text) > 200 else text or type(error).__name__


class TimeStamps:
    """Collects the time stamps of files and derives one frame interval from them."""

    def __init__(self) -> None:
        self._interval = 0.0  # ps
        self._where = ""
        self._last: tuple[str, float] | None = None
        self._known = True

    def add(self, path: Path, first: int, times: Any) -> None:
        """Take the time stamps (ps) of consecutive frames of a file."""
        if path.suffix.lower() not in _TIMED:
            self._known = False
        if not self._known:
            return
        times = np.asarray(times, dtype=np.float64)
        if self._last is not None and self._last[0] == str(path):
            times, first = np.concatenate(([self._last[1]], times)), first - 1
        self._last = (str(path), float(times[-1]))
        steps = np.diff(times)
        if not steps.size:
            return
        if not self._interval:
            self._interval, self._where = float(np.median(steps)), str(path)
            if not self._interval > 0:
                self._known = False
                return
        # Time stamps are 32-bit: late ones are rounded to about 1e-7 of the time itself.
        tolerance = 1e-3 * self._interval + 4e-7 * np.abs(times).max()
        wrong = np.flatnonzero(np.abs(steps - self._interval) > tolerance)
        if wrong.size:
            raise InputError(
                f"{path}: the time stamps advance by {steps[wrong[0]]:g} ps after frame {first + int(wrong[0])}, but "
                f"by {self._interval:g} ps in {self._where}; use files with one frame interval, or give "
                "frame_interval= to count frames regardless"
            )

    def frame_interval(self, stride: int) -> FrameInterval:
        """Return the interval of every stride-th frame, in frames where the files do not tell the time."""
        if not self._known or not self._interval > 0:
            return FrameInterval()
        return FrameInterval(float(f"{self._interval * stride:.6g}"), "ps")
