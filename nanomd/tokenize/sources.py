"""Trajectory files: read in chunks through mdtraj, with the errors that MD files make."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from nanomd.base.errors import InputError
from nanomd.base.files import sha256_of
from nanomd.base.paths import expand_paths
from nanomd.tokenize.coordinates import check_coordinates, frame_list
from nanomd.tokenize.formats import IN_CHUNKS, SEEKABLE, check_format, open_file, open_h5md, quiet, read_times
from nanomd.tokenize.headers import Headers, read_headers
from nanomd.tokenize.memory import InMemory, in_memory, is_trajectory, is_universe, of_steps
from nanomd.tokenize.plain_path import plain_path, suffix_of
from nanomd.tokenize.times import Stamps

#: Paths, patterns, and objects that `nanomd.tokenize.memory` knows; a sequence inside is one trajectory in parts.
FilesLike: TypeAlias = "Any"
Item: TypeAlias = "Path | InMemory"

_CHUNK_BYTES = 32 * 2**20
_MAX_CHUNK = 4096


@dataclass(frozen=True)
class SourceFile:
    """A trajectory file that was read: where it is, and what was in it.

    Parameters
    ----------
    path : str
        Absolute path; empty for frames in memory.
    size : int
        Bytes.
    n_frames : int
        Frames in the file, before any stride.
    trajectory : int
        Index of the trajectory the file belongs to.
    sha256 : str
        Of its content; a file of another content is refused later, since its frames are others. Empty where it was
        not recorded.
    """

    path: str
    size: int
    n_frames: int
    trajectory: int
    sha256: str = ""


def group_files(files: FilesLike) -> list[list[Item]]:
    """Expand paths and patterns into trajectories, each a list of consecutive files or objects.

    A sequence inside the sequence holds the consecutive parts of one trajectory; everything else is one trajectory by
    itself.

    Raises
    ------
    InputError
        If there is none, or a file is given twice: its frames would count twice.
    """
    groups: list[list[Item]] = []
    for item in files if _is_collection(files) else [files]:
        if not _is_collection(item):
            groups.extend([part] for part in _expand(item, len(groups)))
        else:
            groups.append([part for one in item for part in _expand(one, len(groups))])
    if not groups or not all(groups):
        raise InputError("no trajectory given: the list is empty")
    _check_given_once([part for group in groups for part in group])
    return groups


def _is_collection(item: Any) -> bool:
    single = isinstance(item, str | Path) or is_trajectory(item) or is_universe(item)
    return isinstance(item, Iterable) and not single


def _expand(item: Any, number: int) -> list[Item]:
    if is_trajectory(item) or is_universe(item):
        return [in_memory(item, f"trajectory {number}")]
    if not isinstance(item, str | Path):
        raise InputError(
            "trajectories must be paths, patterns, mdtraj trajectories or MDAnalysis universes, got "
            f"{type(item).__name__}; features that you measured go into fit_transform_arrays"
        )
    return list(expand_paths(item, "trajectory"))


def _check_given_once(items: Sequence[Item]) -> None:
    seen: dict[tuple[int, int], Path] = {}
    for path in (item for item in items if isinstance(item, Path)):
        status = path.stat()
        first = seen.setdefault((status.st_dev, status.st_ino), path)
        if first is not path:
            also = f" (as {first})" if str(first) != str(path) else ""
            raise InputError(f"{path} is given twice{also}, so its frames would count twice; name every file once")


def chunk_frames(n_atoms: int) -> int:
    """Frames read at a time; a function of the system alone, so that results never depend on free memory."""
    return max(1, min(_MAX_CHUNK, _CHUNK_BYTES // (12 * max(n_atoms, 1))))


class FileSource:
    """A trajectory file, opened for reading front to back.

    Parameters
    ----------
    path : Path
    n_atoms : int
        Of the topology.

    Raises
    ------
    InputError
        If the file is of a format that cannot be read here; and as far as headers tell, if it is empty, damaged or
        truncated, has another number of atoms, or frames without positions.
    """

    def __init__(self, path: Path, n_atoms: int) -> None:
        self.path, self.name, self.n_atoms = path, str(path), n_atoms
        check_format(path)
        self._headers = read_headers(path)
        if self._headers is not None:
            _check_headers(path, self._headers, n_atoms)

    def count(self) -> int:
        """Return the number of frames where the format tells it cheaply, else 0."""
        if self._headers is not None:
            return len(self._headers.times)
        if suffix_of(self.path) not in SEEKABLE:
            return 0
        try:
            with open_file(self.path) as file:
                return len(file)
        except Exception:  # the reader names the fault when the file is read
            return 0

    def stamps(self) -> Stamps | None:
        """Return the time stamps; None where the format has none: mdtraj then counts and calls it picoseconds."""
        if self._headers is not None:
            return Stamps(str(self.path), self._headers.times)
        times = read_times(self.path)
        return None if times is None else Stamps(str(self.path), times)

    def chunks(self, topology: Any, chunk: int | None = None) -> Iterator[tuple[int, Any]]:
        """Read the file front to back.

        Yields
        ------
        first : int
            Number of the chunk's first frame in the file.
        trajectory : mdtraj.Trajectory
            Up to `chunk` frames, every coordinate such that it can be one.

        Raises
        ------
        InputError
            If the file is damaged, truncated or empty, has another number of atoms than the topology, or frames that
            cannot be coordinates (they are named).
        """
        first = 0
        with plain_path(self.path) as name:
            chunks = _read(name, suffix_of(self.path), topology, chunk or chunk_frames(self.n_atoms))
            while True:
                try:
                    with quiet():
                        trajectory = next(chunks)
                except StopIteration:
                    break
                except Exception as error:  # mdtraj's readers raise almost any type for a damaged file
                    raise InputError(self._explain(name, error)) from None
                if trajectory.n_atoms != self.n_atoms:
                    raise InputError(_wrong_atoms(self.path, trajectory.n_atoms, self.n_atoms))
                check_coordinates(trajectory.xyz, str(self.path), first)
                yield first, trajectory
                first += trajectory.n_frames
        if first == 0:
            raise InputError(f"{self.path} holds no frames; remove it from the list")

    def _explain(self, name: str, error: Exception) -> str:
        """Say in one line what is wrong with a file that mdtraj cannot read."""
        if self.path.stat().st_size == 0:
            return f"{self.path} is an empty file; copy or simulate it again"
        found = _intact(self.path)
        if found.n_atoms and found.n_atoms != self.n_atoms:
            return _wrong_atoms(self.path, found.n_atoms, self.n_atoms)
        return _damaged(self.path, found.n_frames, _one_line(error).replace(name, str(self.path)))


Source: TypeAlias = "FileSource | InMemory"


def open_source(item: Item, n_atoms: int) -> Source:
    """Return what reads a file, or the frames in memory."""
    if isinstance(item, Path):
        return FileSource(item, n_atoms)
    if item.n_atoms != n_atoms:
        raise InputError(_wrong_atoms(item.name, item.n_atoms, n_atoms))
    return item


def record(source: Source, trajectory: int, n_used: int) -> SourceFile:
    """Return what has to be known to find the frames again; `n_used` of them were read."""
    if isinstance(source, InMemory):
        return SourceFile("", 0, source.n_frames, trajectory)
    path, stamps = source.path.resolve(), source.stamps()
    n_frames = n_used if stamps is None else max(n_used, len(stamps.times))
    return SourceFile(str(path), path.stat().st_size, n_frames, trajectory, sha256_of(path))


def read_chunks(path: Path, topology: Any, chunk: int | None = None) -> Iterator[tuple[int, Any]]:
    """Read a trajectory file front to back: see `FileSource.chunks`."""
    return FileSource(path, topology.n_atoms).chunks(topology, chunk)


def _read(name: str, suffix: str, topology: Any, chunk: int) -> Iterator[Any]:
    import mdtraj

    if suffix == ".h5md":
        with open_h5md(name) as reader:
            if reader.n_atoms != topology.n_atoms:
                raise ValueError(_wrong_atoms(name, reader.n_atoms, topology.n_atoms))
            for first in range(0, len(reader), chunk):
                yield of_steps(reader[first : first + chunk], lambda step: step.positions, topology)
        return
    if suffix in IN_CHUNKS:
        yield from mdtraj.iterload(name, top=topology, chunk=chunk)
        return
    whole = mdtraj.load(name, top=topology)
    for first in range(0, whole.n_frames, chunk):
        yield whole[first : first + chunk]


def _check_headers(path: Path, headers: Headers, n_atoms: int) -> None:
    if len(headers.n_atoms) and headers.n_atoms[0] != n_atoms:
        raise InputError(_wrong_atoms(path, int(headers.n_atoms[0]), n_atoms))
    empty = np.flatnonzero(~headers.has_positions)
    if empty.size:
        raise InputError(
            f"{path}: {frame_list(empty)} of {len(headers.times)} {'have' if len(empty) > 1 else 'has'} velocities or "
            f"forces but no positions; keep those with positions: `gmx trjconv -f {path.name} -o {path.stem}.xtc`"
        )
    if headers.fault:
        raise InputError(_damaged(path, len(headers.times), headers.fault))


def _damaged(path: Path, n_intact: int, reason: str) -> str:
    intact = f"its first {n_intact} frames are intact" if n_intact else "no frame is intact"
    return (
        f"{path} is damaged or truncated after frame {n_intact}, counted from 1: {intact} ({reason}); "
        "copy it again, or cut it to its intact frames"
    )


def _wrong_atoms(path: Path | str, found: int, expected: int) -> str:
    return (
        f"{path} has {found} atoms but the topology has {expected}; "
        "give the topology that the trajectory was written with (solvent stripped from both or from neither)"
    )


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (text[:197] + "...") if len(text) > 200 else text or type(error).__name__


@dataclass(frozen=True)
class _Intact:
    """What can be read of a damaged file."""

    n_frames: int
    n_atoms: int


def _intact(path: Path) -> _Intact:
    """Count the frames that can be read one by one; only used to explain another error."""
    n_frames = n_atoms = 0
    with suppress(Exception), open_file(path) as file:  # any type is raised where the damage begins
        while len(xyz := np.asarray(file.read(n_frames=1)[0])):
            n_frames, n_atoms = n_frames + 1, int(xyz.shape[-2])
    return _Intact(n_frames, n_atoms)
