"""A tokenizer on disk: JSON settings and two npz files of arrays, tied together by checksums; never pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd.base.arrays import read_npz
from nanomd.base.errors import InputError
from nanomd.base.files import lock_folder, replacing, sha256_of

FORMAT, FORMAT_VERSION = "nanomd-tokenizer", 1
SETTINGS_FILE, ARRAYS_FILE, INDEX_FILE = "tokenizer.json", "tokenizer.npz", "frames_index.npz"
_MAX_SETTINGS_BYTES = 256 * 2**20


def save_folder(
    folder: Path, settings: dict[str, Any], arrays: dict[str, NDArray[Any]], index: dict[str, NDArray[Any]]
) -> None:
    """Write the three files under private names, then rename them; the settings, which vouch for the others, last."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (
            lock_folder(folder),  # files of two tokenizers would not fit each other
            replacing(folder / SETTINGS_FILE) as new_settings,
            replacing(folder / INDEX_FILE) as new_index,
            replacing(folder / ARRAYS_FILE) as new_arrays,
        ):
            checksums = {}
            for name, new, content in ((ARRAYS_FILE, new_arrays, arrays), (INDEX_FILE, new_index, index)):
                with new.open("wb") as file:
                    # Stored, not compressed: a file can then not claim to hold more than its size on disk.
                    np.savez(file, allow_pickle=False, **content)
                checksums[name] = sha256_of(new)
            text = json.dumps(
                {"format": FORMAT, "format_version": FORMAT_VERSION, **settings, "sha256": checksums}, indent=1
            )
            new_settings.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write the tokenizer to {folder}: {error.strerror or error}") from None


def load_folder(folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Read and check the three files.

    Raises
    ------
    InputError
        If one is missing, damaged, of another version, or does not belong to the others.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        raise InputError(f"{folder} holds no tokenizer ({SETTINGS_FILE} is missing); make one with Tokenizer.save")
    try:
        if path.stat().st_size > _MAX_SETTINGS_BYTES:
            raise InputError(f"{path} is too large for a tokenizer's settings")
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read: {error}; tokenize again") from None
    if not isinstance(settings, dict) or settings.get("format") != FORMAT:
        raise InputError(f"{path} is not the settings of a tokenizer (format {FORMAT!r})")
    if settings.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {settings.get('format_version')}, this nanomd reads {FORMAT_VERSION}; "
            "tokenize again"
        )
    checksums = settings.get("sha256")
    loaded = []
    for name in (ARRAYS_FILE, INDEX_FILE):
        file = folder / name
        if not file.is_file():
            raise InputError(f"{file} is missing; tokenize again")
        if not isinstance(checksums, dict) or checksums.get(name) != sha256_of(file):
            raise InputError(f"{file} does not belong to {path} or is damaged (its checksum differs); tokenize again")
        try:
            loaded.append(read_npz(file))
        except InputError as error:
            raise InputError(f"{error}; tokenize again") from None
    return settings, loaded[0], loaded[1]


def take_array(
    arrays: dict[str, NDArray[Any]], name: str, dtype: type[Any], shape: tuple[int | None, ...], where: str
) -> NDArray[Any]:
    """Return a stored array after checking its name, type, shape (None: any length) and that it is finite."""
    array = arrays.get(name)
    if array is None:
        raise InputError(f"{where} has no array {name!r}; tokenize again")
    fits = len(array.shape) == len(shape) and all(w is None or w == h for w, h in zip(shape, array.shape, strict=True))
    if array.dtype != dtype or not fits:
        raise InputError(
            f"{where}: array {name!r} must be {np.dtype(dtype)} of shape {shape}, got {array.dtype} of {array.shape}"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"{where}: array {name!r} is not finite; tokenize again")
    return array
