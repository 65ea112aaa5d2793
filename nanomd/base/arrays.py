"""NumPy files of a known type and shape: laid out whole, written in place, waited for, read with checks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import StoreError


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


def load_array(file: Path, shape: tuple[int | None, ...], dtype: str) -> NDArray[Any]:
    """Map a .npy file of a known type and shape (None: any length), read-only."""
    try:
        array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise StoreError(f"{file} cannot be read: {error}") from None
    fits = array.ndim == len(shape) and all(w in (None, g) for w, g in zip(shape, array.shape, strict=True))
    if not fits or array.dtype != np.dtype(dtype):
        raise StoreError(f"{file} must hold {dtype} of shape {shape}, got {array.dtype} of shape {array.shape}")
    return array
