"""Features of many trajectories, chunk by chunk: from files, or from the user's arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd.base.arrays import map_npy
from nanomd.base.errors import InputError
from nanomd.base.units import FrameInterval
from nanomd.tokenize.colvar import is_colvar, read_colvar
from nanomd.tokenize.memory import InMemory
from nanomd.tokenize.sources import Source, SourceFile, chunk_frames, record
from nanomd.tokenize.times import Stamps, common_interval

_ARRAY_CHUNK = 4096


class FeatureStream(Protocol):
    """Chunks of features, front to back, one trajectory after the other; can be read several times."""

    @property
    def n_trajectories(self) -> int:
        """How many trajectories."""

    def chunks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield (trajectory, features of shape (n_frames, n_features))."""


class Part(NamedTuple):
    """A part of a trajectory, and how many of its frames are used, from the first; None stands for all."""

    source: Source
    n_frames: int | None


class FileStream:
    """Features computed from trajectory files.

    Parameters
    ----------
    trajectories : list of lists of Part
        For each trajectory, its consecutive files.
    topology : mdtraj.Topology
    compute : function from an mdtraj.Trajectory to (n_frames, n_features)
    stride : int
        Keep every stride-th frame of each trajectory, counted across its files.
    on_frames : function
        Told how many frames were read.
    """

    def __init__(
        self,
        trajectories: list[list[Part]],
        topology: Any,
        compute: Callable[[Any], NDArray[np.float32]],
        stride: int,
        *,
        on_frames: Callable[[int], object],
    ) -> None:
        self._trajectories, self._topology, self._compute, self._stride = trajectories, topology, compute, stride
        self._on_frames = on_frames
        self._used: list[list[int]] = []  # frames of each file of each trajectory

    @property
    def n_trajectories(self) -> int:
        """How many trajectories."""
        return len(self._trajectories)

    @property
    def parts(self) -> list[list[tuple[int, int]]]:
        """For each trajectory, its (file index, frames used of it), files counted through; after a reading."""
        numbers = count()
        return [[(next(numbers), n_frames) for n_frames in used] for used in self._used]

    def chunks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Read the files."""
        used: list[list[int]] = []
        n_features = 0
        for trajectory, parts in enumerate(self._trajectories):
            used.append([])
            for part in parts:
                offset, n_frames = sum(used[-1]), 0
                for first, chunk in _limited(part, self._topology):
                    n_frames = first + chunk.n_frames
                    self._on_frames(chunk.n_frames)
                    # The stride is counted from the trajectory's first frame, not anew in each chunk or file.
                    begin = -(offset + first) % self._stride
                    kept = chunk[begin :: self._stride] if self._stride > 1 else chunk
                    if kept.n_frames:
                        features = self._compute(kept)
                        numbers = first + begin + self._stride * np.arange(kept.n_frames)
                        _check(features, n_features, part.source.name, numbers)
                        n_features = features.shape[1]
                        yield trajectory, features
                used[-1].append(n_frames)
        if self._used and used != self._used:
            raise InputError(
                "a trajectory file changed while it was being read; wait until the simulation has finished"
            )
        self._used = used

    def sources(self) -> list[SourceFile]:
        """Return what was read, with digests of the files."""
        return [
            record(part.source, trajectory, n_frames)
            for trajectory, (parts, used) in enumerate(zip(self._trajectories, self._used, strict=True))
            for part, n_frames in zip(parts, used, strict=True)
        ]

    @property
    def held(self) -> dict[int, InMemory]:
        """The parts in memory, by their number among all parts."""
        parts = [part.source for parts in self._trajectories for part in parts]
        return {number: source for number, source in enumerate(parts) if isinstance(source, InMemory)}

    def frame_interval(self) -> FrameInterval:
        """Return the time between the frames of the stream, in frames where the files do not tell it."""
        stamps = []
        for part in (part for parts in self._trajectories for part in parts):
            found = part.source.stamps()
            stamps.append(None if found is None else Stamps(found.where, found.times[: part.n_frames]))
        return common_interval(stamps, self._stride)


def _limited(part: Part, topology: Any) -> Iterator[tuple[int, Any]]:
    """Read the frames of a part that are used."""
    for first, chunk in part.source.chunks(topology, chunk_frames(topology.n_atoms)):
        left = chunk.n_frames if part.n_frames is None else part.n_frames - first
        if left < chunk.n_frames:
            if left > 0:
                yield first, chunk[:left]
            return
        yield first, chunk


class ArrayStream:
    """Features that the user computed: one array of shape (n_frames, n_features) for each trajectory."""

    def __init__(self, arrays: Sequence[ArrayLike] | NDArray[Any]) -> None:
        if isinstance(arrays, np.ndarray) and arrays.ndim in (1, 2):
            arrays = [arrays]
        self.arrays: list[NDArray[Any]] = []
        for index, item in enumerate(arrays):
            array = np.asarray(item)
            if array.ndim == 1:
                array = array[:, None]
            if array.ndim != 2 or array.dtype.kind not in "biuf":
                raise InputError(
                    f"features[{index}] must be numbers of shape (n_frames, n_features), got shape {array.shape} of "
                    f"{array.dtype}"
                )
            if array.size == 0:
                raise InputError(f"features[{index}] is empty, shape {array.shape}; remove it")
            self.arrays.append(array)
        if not self.arrays:
            raise InputError("no features given: the list is empty")

    @property
    def n_trajectories(self) -> int:
        """How many trajectories."""
        return len(self.arrays)

    def chunks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Cut the arrays."""
        n_features = 0
        for trajectory, array in enumerate(self.arrays):
            for first in range(0, len(array), _ARRAY_CHUNK):
                part = np.asarray(array[first : first + _ARRAY_CHUNK], dtype=np.float32)
                _check(part, n_features, f"features[{trajectory}]", first + np.arange(len(part)))
                n_features = part.shape[1]
                yield trajectory, part


class Loaded(NamedTuple):
    """Feature arrays of shape (n_frames, n_features), one a file, and the time between frames if the files tell it."""

    arrays: list[NDArray[Any]]
    interval: FrameInterval | None


def load_arrays(paths: Sequence[Path], columns: Sequence[str] | None = None) -> Loaded:
    """Map features from .npy files, or read them from PLUMED's COLVAR files.

    Parameters
    ----------
    paths : sequence of Path
    columns : sequence of str, optional
        Variables of COLVAR files; all by default.

    Raises
    ------
    InputError
        If a file is no .npy file of numbers of two dimensions, or is shorter than its header says; and for COLVAR files
        that differ in their variables or the time between their lines.
    """
    arrays: list[NDArray[Any]] = []
    names, intervals = set(), set()
    for path in paths:
        if is_colvar(path):
            found = read_colvar(path, columns)
            arrays.append(found.features)
            names.add(tuple(found.names))
            intervals.add(found.interval)
            continue
        if columns is not None:
            raise InputError(f"{path} is no COLVAR file of PLUMED, which columns are for")
        array = map_npy(path)
        if array.dtype.kind not in "biuf" or array.ndim != 2 or not array.size:
            raise InputError(
                f"{path} must hold numbers of shape (n_frames, n_features), got shape {array.shape} of {array.dtype}; "
                "discrete states, one whole number a frame, are given without --features arrays"
            )
        arrays.append(array)
    if len(names) > 1 or len(intervals) > 1:
        said = [" ".join(map(str, one)) for one in names] if len(names) > 1 else [str(one) for one in intervals]
        raise InputError(f"the COLVAR files differ: {' and '.join(sorted(said)[:2])}")
    return Loaded(arrays, intervals.pop() if intervals else None)


class Collected(NamedTuple):
    """Coordinates of each trajectory, (n_frames, n_dimensions), and features per frame before the transformation."""

    coordinates: list[NDArray[np.float32]]
    n_features: int


def collect(stream: FeatureStream, transform: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None) -> Collected:
    """Read all coordinates, transformed chunk by chunk."""
    parts: list[list[NDArray[np.float32]]] = [[] for _ in range(stream.n_trajectories)]
    n_features = 0
    for trajectory, chunk in stream.chunks():
        n_features = chunk.shape[1]
        parts[trajectory].append(chunk if transform is None else transform(chunk))
    return Collected([np.concatenate(part) for part in parts], n_features)


def _check(features: NDArray[Any], n_features: int, where: str, frames: NDArray[Any]) -> None:
    if n_features and features.shape[1] != n_features:
        raise InputError(
            f"{where}, frame {frames[0]}: {features.shape[1]} features, but {n_features} in the frames before; "
            "they must agree"
        )
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if bad.size:
        raise InputError(
            f"{where}, frame {frames[bad[0]]}: the features are not finite (NaN or infinite); "
            "remove or repair this frame"
        )
