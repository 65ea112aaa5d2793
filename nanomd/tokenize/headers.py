"""Headers of GROMACS files (XTC and TRR): the time of each frame, its atoms, and what it holds beside them.

mdtraj reads velocity frames of a TRR file as uninitialised memory, and does not say how many frames of a file that was
cut are intact. Headers tell both before anything is read, at a microsecond a frame.
"""

from __future__ import annotations

import errno
import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

_XTC_MAGIC, _XTC_LARGE_MAGIC = 1995, 2023
_TRR_MAGIC = 1993
_XTC_HEAD, _INT32, _INT64 = struct.Struct(">iiif"), struct.Struct(">i"), struct.Struct(">q")
_XTC_PLAIN_ATOMS = 9  # frames of so few atoms are stored as plain floats


class Headers(NamedTuple):
    """What the headers of the intact frames say.

    Parameters
    ----------
    times : float64 array, shape (n_frames,)
        ps; of 32-bit precision in most files.
    n_atoms : int64 array, shape (n_frames,)
    has_positions : bool array, shape (n_frames,)
    fault : str
        Why the rest of the file cannot be read; empty where there is none.
    """

    times: NDArray[np.float64]
    n_atoms: NDArray[np.int64]
    has_positions: NDArray[np.bool_]
    fault: str


#: One frame's header: where the next one begins, time, atoms, and whether it has positions.
_Frame: TypeAlias = tuple[int, float, int, bool]


class _FaultError(Exception):
    """Bytes that are no frame."""


def read_headers(path: Path, suffix: str | None = None) -> Headers | None:
    """Return the headers of an XTC or TRR file (by its suffix, or the one given); None for other or empty files."""
    reader = {".xtc": _xtc_frame, ".trr": _trr_frame}.get((suffix or path.suffix).lower())
    if reader is None or not path.stat().st_size:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _walk(data, reader)


def _walk(data: mmap.mmap, reader: Callable[[mmap.mmap, int], _Frame]) -> Headers:
    times: list[float] = []
    atoms: list[int] = []
    positions: list[bool] = []
    begin, size, fault = 0, len(data), ""
    while begin < size:
        try:
            end, time, n_atoms, has_positions = reader(data, begin)
        except (_FaultError, struct.error) as error:
            fault = str(error) if isinstance(error, _FaultError) else "it ends inside a header"
            break
        if end > size:
            fault = f"it ends {end - size} bytes before the end of a frame"
            break
        times.append(time)
        atoms.append(n_atoms)
        positions.append(has_positions)
        begin = end
    return Headers(np.array(times), np.array(atoms, np.int64), np.array(positions, bool), fault)


def _xtc_frame(data: mmap.mmap, begin: int) -> _Frame:
    """Read the header of an XTC frame: magic, atoms, step, time, box; then a count of bytes."""
    magic, n_atoms, _, time = _XTC_HEAD.unpack_from(data, begin)
    if magic not in (_XTC_MAGIC, _XTC_LARGE_MAGIC) or n_atoms < 1:
        raise _FaultError(f"byte {begin} begins no XTC frame")
    if n_atoms <= _XTC_PLAIN_ATOMS:
        return begin + 56 + 12 * n_atoms, time, n_atoms, True
    large = magic == _XTC_LARGE_MAGIC  # more than 298 million atoms, whose bytes are counted in 64 bits
    (n_bytes,) = (_INT64 if large else _INT32).unpack_from(data, begin + 88)
    if n_bytes < 0:
        raise _FaultError(f"byte {begin} begins no XTC frame")
    return begin + (96 if large else 92) + (n_bytes + 3) // 4 * 4, time, n_atoms, True


def _trr_frame(data: mmap.mmap, begin: int) -> _Frame:
    """Read the header of a TRR frame: magic, version, the sizes of ten blocks, atoms, step, time."""
    magic, _, length = struct.unpack_from(">iii", data, begin)
    if magic != _TRR_MAGIC or not 0 < length < 256:
        raise _FaultError(f"byte {begin} begins no TRR frame")
    at = begin + 12 + (length + 3) // 4 * 4
    *sizes, n_atoms, _, _ = struct.unpack_from(">13i", data, at)
    box, (x, v, f) = sizes[2], sizes[7:]
    if n_atoms < 1 or min(sizes) < 0:
        raise _FaultError(f"byte {begin} begins no TRR frame")
    # The header does not say which precision it has; the blocks that are there do.
    values = next((size // count for size, count in ((box, 9), *((s, 3 * n_atoms) for s in (x, v, f))) if size), 4)
    if values not in (4, 8):
        raise _FaultError(f"the frame at byte {begin} has {values} bytes a number")
    (time,) = struct.unpack_from(">d" if values == 8 else ">f", data, at + 52)
    return at + 52 + 2 * values + sum(sizes), time, n_atoms, x > 0


def check_written(path: Path, n_frames: int) -> None:
    """Raise OSError unless an XTC file is whole: its writer in C does not say so when the last bytes find no room."""
    headers = read_headers(path, ".xtc")
    if headers is None or headers.fault or len(headers.times) != n_frames:
        raise OSError(errno.ENOSPC, "the file was not written whole; is the disk full?")
