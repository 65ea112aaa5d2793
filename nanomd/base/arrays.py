"""NumPy files of a known type and shape: laid out whole, written in place, waited for, read with checks."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError, StoreError, one_line


# --- written -------------------------------------------------------------------------------------------------------
def _lay_out(file: Path, shape: tuple[int, int], dtype: str) -> int:
    """Make a shard of its full size, so that a full disk shows at once; return where its data begin."""
    kind = np.dtype(dtype)
    total = shape[0] * shape[1] * kind.itemsize
    with file.open("r+b" if file.exists() else "w+b", buffering=0) as stream:
        header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        offset = stream.tell()
        os.posix_fallocate(stream.fileno(), 0, offset + total)
        stream.truncate(offset + total)
    return offset


def write_rows(file: Path, shape: tuple[int, int], dtype: str, begin: int, tokens: NDArray[Any]) -> None:
    """Write columns of a shard, from column `begin` on, and wait for the disk."""
    offset = _lay_out(file, shape, dtype)
    rows = np.ascontiguousarray(tokens, dtype=dtype)
    with file.open("r+b", buffering=0) as stream:
        for row, values in enumerate(rows):
            _write_all(stream.fileno(), values.tobytes(), offset + (row * shape[1] + begin) * rows.dtype.itemsize)
        os.fsync(stream.fileno())


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def write_array(file: Path, array: NDArray[Any]) -> None:
    """Write a .npy file and wait for the disk."""
    with file.open("wb") as stream:
        np.lib.format.write_array(stream, array, version=(1, 0), allow_pickle=False)
        stream.flush()
        os.fsync(stream.fileno())


def write_npz(file: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a .npz file and wait for the disk."""
    with file.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)
        stream.flush()
        os.fsync(stream.fileno())


# --- read -----------------------------------------------------------------------------------------------------------
def map_npy(path: str | Path) -> NDArray[Any]:
    """Map a .npy file read-only, after checking that its header makes sense and fits its size.

    Raises
    ------
    InputError
        For anything but numbers or text of a plain type in a whole file. Nothing is allocated on a header's word.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            shape, fortran, dtype = _read_header(stream)
            offset, size = stream.tell(), os.fstat(stream.fileno()).st_size
            if offset + math.prod(shape) * dtype.itemsize > size:
                raise InputError(f"its header promises shape {shape} of {dtype}, which {size} bytes do not hold")
            order: Literal["F", "C"] = "F" if fortran else "C"
            if 0 in shape:
                return np.empty(shape, dtype, order)
            return np.memmap(stream, dtype, "r", offset, shape, order)
    except (OSError, ValueError, OverflowError, MemoryError) as error:
        raise InputError(f"{path} cannot be read: {one_line(error)}") from None


def read_npz(path: str | Path, *, compressed: bool = False) -> dict[str, NDArray[Any]]:
    """Read all arrays of a .npz file, each after checking that its header makes sense and fits its size.

    Parameters
    ----------
    path : path
    compressed : bool
        Accept compressed arrays. nanomd writes none, so that a file cannot claim to hold more than its size on disk.

    Raises
    ------
    InputError
        As `map_npy`.
    """
    path, arrays = Path(path), {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.compress_type != zipfile.ZIP_STORED and not compressed:
                    raise InputError("it is compressed, which such files never are")
                with archive.open(member) as stream:
                    shape, fortran, dtype = _read_header(stream)
                    if stream.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
                        raise InputError(f"the header of {member.filename} promises another size than it has")
                    flat = np.frombuffer(stream.read(), dtype)
                    array = flat.reshape(shape, order="F" if fortran else "C")
                arrays[member.filename.removesuffix(".npy")] = array.copy() if array.ndim else array
    except Exception as error:  # a damaged archive raises almost any type
        raise InputError(f"{path} cannot be read: {one_line(error)}") from None
    return arrays


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of a .npy file: shape, whether columns come first, and type."""
    try:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(stream)
    except Exception as error:  # the header is parsed as Python, and raises as parsers do
        raise InputError(f"it has no valid .npy header ({one_line(error)})") from None
    if dtype.hasobject:
        raise InputError("it holds Python objects")
    if dtype.kind not in "biufcSU" or dtype.itemsize == 0 or dtype.shape:
        raise InputError(f"it holds {dtype}, which is no plain type")
    if any(isinstance(n, bool) or n < 0 for n in shape):
        raise InputError(f"its header has the impossible shape {shape}")
    return shape, fortran, dtype


def load_array(file: Path, shape: tuple[int | None, ...], dtype: str) -> NDArray[Any]:
    """Map a .npy file of a known type and shape (None: any length), read-only.

    Raises
    ------
    StoreError
        If it is damaged or holds something else.
    """
    try:
        array = map_npy(file)
    except InputError as error:
        raise StoreError(str(error)) from None
    fits = array.ndim == len(shape) and all(w in (None, g) for w, g in zip(shape, array.shape, strict=True))
    if not fits or array.dtype != np.dtype(dtype):
        raise StoreError(f"{file} must hold {dtype} of shape {shape}, got {array.dtype} of shape {array.shape}")
    return array
