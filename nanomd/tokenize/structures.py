"""Back-mapping: read chosen frames of the MD and write them as one trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd.base.errors import InputError
from nanomd.base.files import replacing, sha256_of
from nanomd.base.paths import expand_home
from nanomd.base.progress import Progress, progress_bar
from nanomd.data.dtrajs import load_dtrajs
from nanomd.tokenize.fitted import Fitted
from nanomd.tokenize.formats import SEEKABLE, open_file
from nanomd.tokenize.frame_index import FrameIndex
from nanomd.tokenize.headers import check_written
from nanomd.tokenize.plain_path import plain_path, suffix_of
from nanomd.tokenize.sources import FilesLike, Item, SourceFile, chunk_frames, group_files, open_source  # fmt: skip
from nanomd.tokenize.topology import load_topology

_BLOCK_BYTES = 128 * 2**20
# Reading over a short gap is cheaper than seeking across it.
_GAP = 4
# XTC stores whole multiples of 0.001 nm in 32 bits.
_XTC_LIMIT_NM = 2.0e6


def find_sources(files: FilesLike | None, fitted: Fitted) -> list[Item]:
    """Return where the frames that the frame index counts are now: files, or frames in memory.

    Raises
    ------
    InputError
        If one is missing, or `files` names another number of them.
    """
    recorded = fitted.sources
    if files is None:
        if not recorded:
            raise InputError("the tokenizer was fitted to arrays; pass topology= and files=, one file per array")
        if any(not source.path and number not in fitted.held for number, source in enumerate(recorded)):
            raise InputError("the tokenizer was fitted to trajectories in memory; pass them as files=, and topology=")
        return [fitted.held.get(number) or _existing(source.path, True) for number, source in enumerate(recorded)]
    items = [files] if isinstance(files, str | Path) or not isinstance(files, Sequence) else files
    expected = len(recorded or fitted.n_frames)
    if len(items) != expected:
        what = "the {} trajectory files that were tokenised" if recorded else "one file per array, {}"
        raise InputError(f"files must name {what.format(expected)}, got {len(items)}")
    return [
        _existing(item, bool(recorded)) if isinstance(item, str | Path) else group_files(item)[0][0] for item in items
    ]


def _existing(path: str | Path, was_there: bool) -> Path:
    found = expand_home(path)
    if not found.is_file():
        gone = "is gone; pass files= with where it is now" if was_there else "does not exist; check the path"
        raise InputError(f"source trajectory {found} {gone}")
    return found


def check_unchanged(item: Item, source: SourceFile) -> None:
    """Refuse a file whose frames are not those that were tokenised: by its size, then by its digest."""
    if not isinstance(item, Path) or not source.path:
        return  # of frames in memory no more is known than their number
    path, size = item, item.stat().st_size
    if size != source.size:
        what = f"{size} bytes, was {source.size}"
    elif source.sha256 and sha256_of(path) != source.sha256:
        what = "the same size, but another SHA-256"
    else:
        return
    raise InputError(
        f"source trajectory {path} has changed since it was tokenised ({what}); "
        "pass files= with the original, or tokenize again"
    )


def find_topology(topology: Any, kept: Any, fitted: Fitted) -> Any:
    """Return the topology given, else the one kept from the fit, else the file that the fit recorded."""
    if topology is None and kept is None:
        if fitted.topology is None:
            raise InputError("the tokenizer was not fitted to a topology file; pass topology=")
        topology = fitted.topology
        path = Path(topology)
        if fitted.topology_sha256 and path.is_file() and sha256_of(path) != fitted.topology_sha256:
            raise InputError(f"topology {path} has changed since the fit (another SHA-256); pass topology=")
    resolved = kept if topology is None else load_topology(topology)
    if fitted.n_atoms and resolved.n_atoms != fitted.n_atoms:
        raise InputError(f"the topology has {resolved.n_atoms} atoms, the tokenised trajectories {fitted.n_atoms}")
    return resolved


def _name(item: Item) -> str:
    return str(item) if isinstance(item, Path) else item.name


class Frames(NamedTuple):
    """Coordinates in nm, float32 (n, n_atoms, 3), and unit cell vectors, (n, 3, 3), or None where a file has none."""

    xyz: NDArray[np.float32]
    box: Any


def read_frames(item: Item, topology: Any, frames: NDArray[np.int64]) -> Frames:
    """Read frames of one file, or of frames in memory.

    Parameters
    ----------
    item : Path or InMemory
    topology : mdtraj.Topology
    frames : int64 array, shape (n,)
        Strictly increasing frame numbers.
    """
    xyz = np.empty((len(frames), topology.n_atoms, 3), dtype=np.float32)
    boxes: list[Any] = []
    n_read = 0

    def keep(first: int, trajectory: Any) -> None:
        nonlocal n_read
        low, high = np.searchsorted(frames, [first, first + trajectory.n_frames])
        if low < high:
            xyz[low:high] = trajectory.xyz[frames[low:high] - first]
            box = trajectory.unitcell_vectors
            boxes.append(None if box is None else box[frames[low:high] - first])
            n_read += int(high - low)

    suffix = suffix_of(item) if isinstance(item, Path) else ""
    if not isinstance(item, Path) or suffix not in SEEKABLE:
        source = open_source(item, topology.n_atoms)
        for first, chunk in source.chunks(topology, chunk_frames(topology.n_atoms)):
            keep(first, chunk)
    else:
        with open_file(item) as file:
            starts = np.flatnonzero(np.diff(frames) > _GAP + 1) + 1
            for run in np.split(frames, starts):
                file.seek(int(run[0]))
                options = {} if suffix == ".h5" else {"topology": topology}
                keep(int(run[0]), file.read_as_traj(n_frames=int(run[-1] - run[0] + 1), **options))
    if n_read != len(frames):
        raise InputError(f"{_name(item)} has fewer frames than when it was tokenised; tokenize again")
    return Frames(xyz, None if not boxes or any(box is None for box in boxes) else np.concatenate(boxes))


def write_structures(
    out: Path,
    labels: ArrayLike,
    fitted: Fitted,
    items: Sequence[Item],
    topology: Any,
    *,
    seed: int,
    write_pdb: bool = False,
    overwrite: bool = False,
    show_progress: bool | None = None,
) -> Path:
    """Write for each label a drawn frame to the XTC file `out`, in nm; see `Tokenizer.to_structures`.

    Frames go through memory in blocks, and the file appears under its name only when it is complete. Time stamps count
    frames where no interval is given.
    """
    import mdtraj

    if out.suffix.lower() != ".xtc":
        raise InputError(f"out must end in .xtc, got {str(out)!r}")
    for path in [out, out.with_suffix(".pdb")] if write_pdb else [out]:
        if path.exists() and not overwrite:
            raise InputError(f"{path} exists; choose another name or overwrite=True")
    dtrajs = load_dtrajs(labels)  # type: ignore[arg-type]
    if len(dtrajs) != 1:
        raise InputError(f"labels must be one trajectory, got {len(dtrajs)}; write one file for each")
    chosen = fitted.index.draw(dtrajs[0], seed)
    for number in np.unique(fitted.index.file[chosen]) if fitted.sources else []:
        check_unchanged(items[number], fitted.sources[number])
    bar = progress_bar(len(chosen), "structures", "frame", show_progress)
    try:
        _write(out, chosen, fitted.index, items, topology, fitted.frame_interval.ps or 1.0, bar)
    finally:
        bar.close()
    if write_pdb:
        with plain_path(out) as name:
            first = mdtraj.load_frame(name, 0, top=topology)
        first.save_pdb(str(out.with_suffix(".pdb")))
    return out


def _write(
    out: Path,
    chosen: NDArray[np.int64],
    index: FrameIndex,
    items: Sequence[Item],
    topology: Any,
    interval_ps: float,
    bar: Progress,
) -> None:
    """Write the chosen entries of the index in blocks of bounded memory."""
    from mdtraj.formats import XTCTrajectoryFile

    block = max(1, _BLOCK_BYTES // (12 * topology.n_atoms))
    try:
        with replacing(out) as new:
            with plain_path(new) as name, XTCTrajectoryFile(name, "w") as file:
                for start in range(0, len(chosen), block):
                    part = chosen[start : start + block]
                    frames = _gather(part, index, items, topology)
                    step = np.arange(start, start + len(part))
                    time = (step * interval_ps).astype(np.float32)
                    file.write(frames.xyz, time=time, step=step.astype(np.int32), box=frames.box)
                    bar.update(len(part))
            check_written(new, len(chosen))
    except OSError as error:
        raise InputError(f"cannot write structures to {out}: {error.strerror or error}") from None
    except RuntimeError as error:  # mdtraj's, where the disk is full
        raise InputError(f"cannot write structures to {out}: {error}; is the disk full?") from None


def _gather(entries: NDArray[np.int64], index: FrameIndex, items: Sequence[Item], topology: Any) -> Frames:
    """Read each frame that is needed once, file by file, and lay them out in the order asked for."""
    xyz = np.empty((len(entries), topology.n_atoms, 3), dtype=np.float32)
    box: Any = np.zeros((len(entries), 3, 3), dtype=np.float32)
    files, frames = index.file[entries], index.frame[entries]
    for number in np.unique(files):
        here = np.flatnonzero(files == number)
        unique, back = np.unique(frames[here], return_inverse=True)
        read = _read_friendly(items[number], topology, unique)
        if not np.isfinite(read.xyz).all() or np.abs(read.xyz).max() > _XTC_LIMIT_NM:
            raise InputError(
                f"{_name(items[number])} has coordinates that XTC cannot hold (not finite, or beyond 2e6 nm)"
            )
        xyz[here] = read.xyz[back]
        if read.box is None:
            box = None
        elif box is not None:
            box[here] = read.box[back]
    return Frames(xyz, box)


def _read_friendly(item: Item, topology: Any, frames: NDArray[np.int64]) -> Frames:
    try:
        return read_frames(item, topology, frames)
    except InputError:
        raise
    except Exception as error:  # mdtraj's readers raise almost any type for a damaged file
        raise InputError(
            f"{_name(item)} cannot be read: {' '.join(str(error).split())[:200]}; tokenize again"
        ) from None
