"""Arrays with a JSON header in one file, written whole: the checkpoint of an ensemble, and a result."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd.base.arrays import read_npz, write_npz
from nanomd.base.codec import decode_json
from nanomd.base.errors import InputError, StoreError
from nanomd.base.files import explain_os_error, replacing

EVERY = 20.0  # seconds between two checkpoints

Arrays = dict[str, NDArray[Any]]


def write_file(path: Path, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a file that takes the place of an older one when it is whole."""
    text = json.dumps(header).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as new:
            write_npz(new, {"header": np.frombuffer(text, np.uint8), **arrays})
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {explain_os_error(error)}") from None


def read_file(path: Path) -> tuple[dict[str, Any], Arrays]:
    """Read such a file.

    Raises
    ------
    StoreError
        If it is damaged or something else.
    """
    try:
        arrays = read_npz(path)
    except InputError as error:
        raise StoreError(str(error)) from None
    header = arrays.pop("header", None)
    if header is None or header.dtype != np.uint8 or header.ndim != 1:
        raise StoreError(f"{path} is damaged: it has no header")
    return decode_json(header.tobytes(), dict[str, Any], str(path), StoreError), arrays


class Checkpoint:
    """Where an interrupted sampling goes on; without a folder, nowhere.

    Parameters
    ----------
    folder : Path, optional
    settings : mapping
        All that decides the result, of plain values; a checkpoint of others is refused.
    resume : bool
        Go on from what is there; else a checkpoint that is there is an error.
    """

    def __init__(self, folder: Path | None, settings: Mapping[str, Any], resume: bool) -> None:
        self._file = None if folder is None else folder / "checkpoint.npz"
        self._settings = json.loads(json.dumps(settings))
        self._last = time.monotonic()
        self._stage, self._found = "", None
        if self._file is not None and self._file.exists():
            if not resume:
                raise StoreError(f"{folder} holds an unfinished sampling; go on with resume=True, or remove it")
            header, self._found = read_file(self._file)
            self._stage = str(header.get("stage"))
            if header.get("settings") != self._settings:
                raise StoreError(
                    f"{self._file} was made with other settings or another model; use the same, or remove it"
                )

    def load(self, stage: str) -> Arrays | None:
        """Return what was saved at a stage, if the checkpoint stands there."""
        return self._found if self._stage == stage else None

    @property
    def due(self) -> bool:
        """Whether it is time for the next one."""
        return self._file is not None and time.monotonic() - self._last >= EVERY

    def save(self, stage: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep the state of the sampling."""
        if self._file is not None:
            write_file(self._file, {"stage": stage, "settings": self._settings}, arrays)
            self._last = time.monotonic()

    def remove(self) -> None:
        """Remove it: the result is there."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    @staticmethod
    def check(found: Arrays, expected: Mapping[str, tuple[tuple[int, ...], Any]]) -> None:
        """Raise `StoreError` unless arrays have these shapes and types."""
        for name, (shape, dtype) in expected.items():
            array = found.get(name)
            if array is None or array.shape != shape or array.dtype != dtype:
                raise StoreError(f"the checkpoint is damaged: {name} is not {np.dtype(dtype)} of shape {shape}")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise StoreError(f"the checkpoint is damaged: {name} holds numbers that are not finite")


def pack(rows: Sequence[NDArray[np.uint16]]) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """Return rows of different lengths as one array, and the lengths."""
    flat = np.concatenate([np.zeros(0, np.uint16), *rows]).astype(np.uint16)
    return flat, np.array([len(row) for row in rows], np.int64)


def unpack(
    flat: NDArray[Any] | None, length: NDArray[Any] | None, n_rows: int, n_states: int, *, least: int = 1
) -> list[NDArray[np.uint16]]:
    """Return the rows of `pack`, none shorter than `least`, after checking them.

    Raises
    ------
    StoreError
        If they are damaged.
    """
    if not (
        flat is not None
        and length is not None
        and flat.dtype == np.uint16
        and length.dtype == np.int64
        and flat.ndim == 1
        and length.shape == (n_rows,)
        and ((length >= least) & (length <= flat.size)).all()
        and int(length.sum()) == flat.size
        and (flat.max(initial=0) < n_states)
    ):
        raise StoreError("the checkpoint is damaged: its trajectories do not fit together")
    return np.split(flat, np.cumsum(length)[:-1]) if n_rows else []
