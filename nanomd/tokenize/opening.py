"""From what the user names to a stream of features: topology, trajectories in the order of their times, features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from nanomd.base.errors import InputError
from nanomd.base.progress import Progress, progress_bar
from nanomd.tokenize import features as feature_kinds
from nanomd.tokenize.sources import FilesLike, Item, group_files, open_source
from nanomd.tokenize.stream import FileStream, Part
from nanomd.tokenize.times import arrange
from nanomd.tokenize.topology import load_topology


class Opened(NamedTuple):
    """The `mdtraj.Topology`, the stream of features, and a bar that follows it."""

    topology: Any
    stream: FileStream
    bar: Progress


def open_stream(
    features: Sequence[Any],
    topology: Any,
    files: FilesLike | None,
    stride: int,
    passes: int,
    *,
    regardless: bool,
    progress: bool | None,
) -> Opened:
    """Open trajectories for `passes` readings; without `files` the trajectories in memory bring the topology.

    For `regardless` see `nanomd.tokenize.times.arrange`.
    """
    if any(item is None for item in features):
        raise InputError(
            "the tokenizer was made with a function as feature, and functions are not stored; "
            "pass it again: Tokenizer.load(folder, features=...)"
        )
    if files is None:
        files, topology = topology, topology[0] if isinstance(topology, list | tuple) and topology else topology
    resolved = load_topology(topology)
    trajectories = open_parts(group_files(files), resolved.n_atoms, regardless=regardless)
    compute = feature_kinds.prepare(features, resolved)
    total = passes * sum(part.n_frames or part.source.count() for parts in trajectories for part in parts)
    bar = progress_bar(total or None, "tokenize", "frame", progress)  # type: ignore[arg-type]
    return Opened(resolved, FileStream(trajectories, resolved, compute, stride, on_frames=bar.update), bar)


def open_parts(groups: Sequence[Sequence[Item]], n_atoms: int, *, regardless: bool) -> list[list[Part]]:
    """Open the parts of each trajectory, in the order of their times where they tell them.

    Parameters
    ----------
    groups : sequence of sequences of files, or of frames in memory
        For each trajectory, its parts.
    n_atoms : int
    regardless : bool
        See `nanomd.tokenize.times.arrange`.
    """
    trajectories = []
    for group in groups:
        sources = [open_source(item, n_atoms) for item in group]
        stamps = [source.stamps() for source in sources] if len(sources) > 1 else []
        known = [item for item in stamps if item is not None and len(item.times)]
        if len(known) > 1 and len(known) == len(sources):
            pieces = arrange(known, regardless=regardless)
            trajectories.append([Part(sources[piece.place], piece.n_frames) for piece in pieces])
        else:
            trajectories.append([Part(source, None) for source in sources])
    return trajectories
