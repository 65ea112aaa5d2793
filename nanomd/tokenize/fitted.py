"""What a fit is, what it found, and how that is stored and checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError
from nanomd.base.files import sha256_of
from nanomd.base.paths import expand_home
from nanomd.base.units import FrameInterval
from nanomd.tokenize import storage
from nanomd.tokenize.clustering import assign, kmeans_centers
from nanomd.tokenize.frame_index import FrameIndex
from nanomd.tokenize.memory import InMemory
from nanomd.tokenize.reduction import Method, Reduction, ReductionFit
from nanomd.tokenize.sources import SourceFile
from nanomd.tokenize.stream import FeatureStream, FileStream, collect


class Fitted:
    """What a fit found.

    Parameters
    ----------
    centers : float64 array, shape (n_states, n_coordinates)
    reduction : Reduction or None
    n_features : int
        Values per frame before the reduction.
    """

    def __init__(self, centers: NDArray[np.float64], reduction: Reduction | None, n_features: int) -> None:
        self.centers, self.reduction, self.n_features = centers, reduction, n_features
        self.index = FrameIndex(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int64))
        self.frame_interval = FrameInterval()
        self.sources: list[SourceFile] = []
        self.held: dict[int, InMemory] = {}  # sources in memory, by their number; not stored
        self.n_frames: list[int] = []  # of the arrays, when fitted to arrays
        self.stride = 1
        self.n_atoms = 0
        self.topology: str | None = None
        self.topology_sha256 = ""

    def summary(self) -> str:
        """Say in a line what there is."""
        width = "" if self.reduction is None else f" -> {self.reduction.n_components} slow coordinates"
        each = "" if self.frame_interval.unit == "frame" else f" of {self.frame_interval}"
        return f"{self.n_features} features{width}; {self.index.counts.sum():,} frames{each}"

    def take_files(self, stream: FileStream, topology: Any, n_atoms: int, stride: int, interval: FrameInterval) -> None:
        """Record where the frames came from, so that they are found again."""
        self.sources, self.held = stream.sources(), stream.held
        self.stride, self.n_atoms, self.frame_interval = stride, n_atoms, interval
        if isinstance(topology, str | Path):
            path = expand_home(topology).resolve()
            self.topology, self.topology_sha256 = str(path), sha256_of(path)

    def assign(self, stream: FeatureStream) -> list[NDArray[np.int64]]:
        """Give each frame of a stream its state."""
        return self._each(stream, lambda values: assign(values, self.centers))

    def project(self, stream: FeatureStream) -> list[NDArray[np.float64]]:
        """Return where each frame of a stream lies: (n_frames, n_coordinates) for each trajectory."""
        return self._each(stream, lambda values: np.array(values, np.float64))

    def _each(self, stream: FeatureStream, function: Callable[[NDArray[Any]], NDArray[Any]]) -> list[NDArray[Any]]:
        found: list[list[NDArray[Any]]] = [[] for _ in range(stream.n_trajectories)]
        for trajectory, chunk in stream.chunks():
            if chunk.shape[1] != self.n_features:
                raise InputError(
                    f"{chunk.shape[1]} features per frame, but the tokenizer was fitted to {self.n_features}"
                )
            found[trajectory].append(function(chunk if self.reduction is None else self.reduction.transform(chunk)))
        return [np.concatenate(parts) for parts in found]

    def settings(self) -> dict[str, Any]:
        """Return the JSON part."""
        return {
            "n_features": self.n_features,
            "stride": self.stride,
            "n_atoms": self.n_atoms,
            "topology": self.topology,
            "topology_sha256": self.topology_sha256,
            "sources": [vars(source) for source in self.sources],
            "array_frames": self.n_frames,
            "frame_interval": {"value": self.frame_interval.value, "unit": self.frame_interval.unit},
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the npz part."""
        return {"centers": self.centers, **({} if self.reduction is None else self.reduction.arrays())}

    @classmethod
    def restore(
        cls,
        settings: dict[str, Any],
        arrays: dict[str, NDArray[Any]],
        index: dict[str, NDArray[Any]],
        n_states: int,
        lagtime: int | None,
        folder: Path,
    ) -> Fitted:
        """Build from the files' content, checked piece by piece; `lagtime` is None without a reduction."""
        where = str(folder / storage.ARRAYS_FILE)
        n_features = int(settings["n_features"])
        reduction = None
        if lagtime is not None:
            take = storage.take_array
            matrix = take(arrays, "reduction_matrix", np.float64, (n_features, None), where)
            reduction = Reduction(
                take(arrays, "reduction_mean", np.float64, (n_features,), where),
                matrix,
                take(arrays, "reduction_offset", np.float64, (matrix.shape[1],), where),
                take(arrays, "reduction_singular_values", np.float64, (None,), where),
                lagtime,
            )
        width = n_features if reduction is None else reduction.n_components
        fitted = cls(storage.take_array(arrays, "centers", np.float64, (n_states, width), where), reduction, n_features)
        interval = settings["frame_interval"]
        fitted.frame_interval = FrameInterval(float(interval["value"]), str(interval["unit"]))
        fitted.sources = [SourceFile(**source) for source in settings["sources"]]
        fitted.n_frames = [int(count) for count in settings["array_frames"]]
        fitted.stride, fitted.n_atoms = int(settings["stride"]), int(settings["n_atoms"])
        fitted.topology, fitted.topology_sha256 = settings["topology"], settings.get("topology_sha256", "")
        where = str(folder / storage.INDEX_FILE)
        for name, dtype in (("offsets", np.int64), ("files", np.int32), ("frames", np.int64)):
            storage.take_array(index, name, dtype, (None,), where)
        frames_in = [int(source.n_frames) for source in fitted.sources] or fitted.n_frames
        fitted.index = FrameIndex.from_arrays(index, n_states, frames_in, where)
        return fitted


class Fit(NamedTuple):
    """The labels of each trajectory, int64 (n_frames,), and what gives them to other frames."""

    dtrajs: list[NDArray[np.int64]]
    fitted: Fitted


class Clusters(NamedTuple):
    """How microstates are found: see `nanomd.tokenize.clustering.kmeans_centers`."""

    n_states: int
    seed: int
    two_levels: bool | None = None


def fit(
    stream: FeatureStream, method: Method | None, lagtime: int, n_components: int | None, clusters: Clusters
) -> Fit:
    """Find slow coordinates (with a method) and microstates of a stream of features."""
    reduction: Reduction | None = None
    if method is not None:
        slow = ReductionFit(method, lagtime, n_components)
        for trajectory, chunk in stream.chunks():
            slow.add(trajectory, chunk)
        reduction = slow.finish()
    coordinates, n_features = collect(stream, reduction.transform if reduction else None)
    centers = kmeans_centers(coordinates, *clusters)
    return Fit([assign(values, centers) for values in coordinates], Fitted(centers, reduction, n_features))
