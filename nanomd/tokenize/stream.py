"""Features of many trajectories, chunk by chunk: from files, or from the user's arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd.base.errors import InputError
from nanomd.tokenize.sources import SourceFile, TimeStamps, chunk_frames, read_chunks

_ARRAY_CHUNK = 4096


class FeatureStream(Protocol):
    """Chunks of features, front to back, one trajectory after the other; can be read several times."""

    @property
    def n_trajectories(self) -> int:
        """How many trajectories."""

    def chunks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield (trajectory, features of shape (n_frames, n_features))."""


class FileStream:
    """Features computed from trajectory files.

    Parameters
    ----------
    groups : list of lists of Path
        For each trajectory, its consecutive files.
    topology : mdtraj.Topology
    compute : function from an mdtraj.Trajectory to (n_frames, n_features)
    stride : int
        Keep every stride-th frame of each trajectory, counted across its files.
    with_times : bool
        Derive the frame interval from the files' time stamps.
    on_frames : function
        Told how many frames were read.
    """

    def __init__(
        self,
        groups: list[list[Path]],
        topology: Any,
        compute: Callable[[Any], NDArray[np.float32]],
        stride: int,
        *,
        with_times: bool,
        on_frames: Callable[[int], object],
    ) -> None:
        self._groups, self._topology, self._compute, self._stride = groups, topology, compute, stride
        self._on_frames = on_frames
        self._with_times = with_times
        self.times = TimeStamps()
        self.sources: list[SourceFile] = []

    @property
    def n_trajectories(self) -> int:
        """How many trajectories."""
        return len(self._groups)

    def chunks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Read the files; the first full reading also collects `sources` and `times`."""
        sources: list[SourceFile] = []
        n_features = 0
        for trajectory, paths in enumerate(self._groups):
            offset = 0
            for path in paths:
                n_frames = 0
                for first, chunk in read_chunks(path, self._topology, chunk_frames(self._topology.n_atoms)):
                    if self._with_times and not self.sources:
                        self.times.add(path, first, chunk.time)
                    n_frames = first + chunk.n_frames
                    self._on_frames(chunk.n_frames)
                    # The stride is counted from the trajectory's first frame, not anew in each chunk or file.
                    kept = chunk[-(offset + first) % self._stride :: self._stride] if self._stride > 1 else chunk
                    if kept.n_frames:
                        features = self._compute(kept)
                        numbers = first + (-(offset + first) % self._stride) + self._stride * np.arange(kept.n_frames)
                        _check(features, n_features, str(path), numbers)
                        n_features = features.shape[1]
                        yield trajectory, features
                sources.append(SourceFile(str(path.resolve()), path.stat().st_size, n_frames, trajectory))
                offset += n_frames
        if self.sources and sources != self.sources:
            raise InputError(
                "a trajectory file changed while it was being read; wait until the simulation has finished"
            )
        self.sources = sources


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
