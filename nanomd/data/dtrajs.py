"""Discrete trajectories: load, check, save, split, and map raw labels to tokens.

A `dtraj` is a 1-D integer array of raw labels, one per frame; a negative label marks an unassigned frame. Models and
samplers work with tokens 0..V-1 instead, and `StateMap` is the only translation between the two.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd.base.config import MAX_STATES
from nanomd.base.errors import InputError
from nanomd.base.file_lists import expand_paths, natural_key

Dtraj: TypeAlias = NDArray[np.int64]
Tokens: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16]
DtrajsLike: TypeAlias = "NDArray[Any] | str | Path | Sequence[int] | Sequence[ArrayLike] | Sequence[str | Path]"

MAX_LABEL = 2**31 - 1
_SUFFIXES = (".npy", ".npz", ".txt")


def token_dtype(n_states: int) -> np.dtype[Any]:
    """Return the type tokens are stored in: uint8 up to 256 states, else uint16."""
    if not 1 <= n_states <= MAX_STATES:
        raise InputError(f"n_states must be in [1, {MAX_STATES}] (tokens are stored in 16 bits), got {n_states}")
    return np.dtype(np.uint8 if n_states <= 256 else np.uint16)


def load_dtrajs(source: DtrajsLike) -> list[Dtraj]:
    """Load discrete trajectories from memory or from files.

    Parameters
    ----------
    source : array, sequence of arrays, path, pattern, or sequence of paths and patterns
        One 1-D array is one trajectory. Files are ``.npy`` (one array), ``.npz`` (one trajectory per array) or ``.txt``
        (one label per line or separated by blanks). Files of a pattern are sorted naturally.

    Returns
    -------
    list of int64 arrays, shape (n_frames,)
        Raw labels; negative ones are unassigned frames. No array is empty.

    Raises
    ------
    InputError
        For missing files, several dimensions, empty trajectories, labels that are no whole numbers, NaN, labels above
        2^31 - 1, or files that hold Python objects.
    """
    if isinstance(source, str | Path):
        return _load_files([source])
    if isinstance(source, np.ndarray):
        return [check_dtraj(source, "dtrajs")]
    if not isinstance(source, Iterable):
        raise InputError(f"dtrajs must be arrays, paths or a pattern, got {type(source).__name__}")
    items: list[Any] = list(source)
    if not items:
        raise InputError("dtrajs is empty; give at least one trajectory")
    if all(isinstance(item, str | Path) for item in items):
        return _load_files(items)
    if any(isinstance(item, str | Path) for item in items):
        raise InputError("dtrajs mixes arrays and paths; give either arrays or paths")
    if all(np.ndim(item) == 0 for item in items):
        return [check_dtraj(items, "dtrajs")]
    return [check_dtraj(item, f"dtrajs[{index}]") for index, item in enumerate(items)]


def check_dtraj(values: ArrayLike, name: str) -> Dtraj:
    """Return `values` as an int64 array of shape (n_frames,), or say what is wrong with `name`."""
    try:
        array = np.asarray(values)
    except ValueError:
        raise InputError(f"{name} is a ragged nesting of lists; give a list of 1-D arrays") from None
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} must hold integers, got {array.dtype}; save labels as an integer array")
    if array.ndim != 1:
        hint = "; if each row is a trajectory, pass list(array)" if array.ndim == 2 else ""
        raise InputError(f"{name} must be 1-D, one label per frame, got shape {array.shape}{hint}")
    if array.size == 0:
        raise InputError(f"{name} is empty; remove it or give at least one frame")
    if array.dtype.kind == "f":
        wrong = np.flatnonzero(~np.isfinite(array) | (array != np.floor(array)))
        if wrong.size:
            raise InputError(
                f"{name} must hold whole numbers, got {array[wrong[0]]} at frame {wrong[0]}; "
                "give discrete states (see Tokenizer for coordinates)"
            )
    if array.max() > MAX_LABEL or array.min() < -MAX_LABEL:
        raise InputError(f"{name} has labels outside [-{MAX_LABEL}, {MAX_LABEL}], got {array.min()} to {array.max()}")
    return array.astype(np.int64)


def _load_files(sources: Sequence[str | Path]) -> list[Dtraj]:
    dtrajs: list[Dtraj] = []
    for path in expand_paths(sources, "dtraj file"):
        suffix = path.suffix.lower()
        if suffix not in _SUFFIXES:
            raise InputError(
                f"{path}: a dtraj file must be one of {', '.join(_SUFFIXES)}, got {path.suffix or 'no suffix'!r}"
            )
        arrays: dict[str, NDArray[Any]]
        try:
            if suffix == ".npy":
                # Memory mapping checks the size that the header promises against the file's, before allocating.
                arrays = {"": np.lib.format.open_memmap(path, mode="r")}
            elif suffix == ".npz":
                with zipfile.ZipFile(path) as archive:
                    names = sorted(archive.namelist(), key=natural_key)
                    arrays = {f"[{name.removesuffix('.npy')}]": _read_member(archive, name) for name in names}
            else:
                arrays = {"": _read_text(path)}
        except InputError:
            raise
        except (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile, OverflowError) as error:
            reason = (
                "it holds Python objects" if "Object arrays" in str(error) or "pickle" in str(error) else str(error)
            )
            raise InputError(
                f"{path} cannot be read as a dtraj: {reason}; save it with numpy.save as integers"
            ) from None
        if not arrays:
            raise InputError(f"{path} holds no array; save each trajectory as one 1-D integer array")
        dtrajs.extend(check_dtraj(array, f"{path}{name}") for name, array in arrays.items())
    return dtrajs


def _read_member(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(name) as file:
        array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _read_text(path: Path) -> NDArray[Any]:
    lines = [line.split("#", 1)[0].split() for line in path.read_text(encoding="utf-8").splitlines()]
    widths = {len(line) for line in lines if line}
    if not widths:
        raise InputError(f"{path} is empty; write one label per line")
    if len(widths) > 1 or (widths != {1} and sum(map(bool, lines)) > 1):
        raise InputError(
            f"{path} must hold one label per line, or one line of labels; got lines of {sorted(widths)} columns"
        )
    words = [word for line in lines for word in line]
    try:
        return np.array(words, dtype=np.int64)
    except ValueError:
        return np.array(words, dtype=np.float64)


def save_dtrajs(dtrajs: DtrajsLike, folder: str | Path, prefix: str = "md_", *, overwrite: bool = False) -> list[Path]:
    """Write each trajectory as ``folder/<prefix>0000.npy``, in the smallest integer type that holds its labels.

    Parameters
    ----------
    dtrajs : see `load_dtrajs`
        Raw labels.
    folder : path
        Made if absent.
    prefix : str
        Start of the file names.
    overwrite : bool
        Replace trajectories that are there under the same prefix (all of them, so that none of an older set stays).

    Returns
    -------
    list of Path
        The files, in the order of `dtrajs`.
    """
    arrays, folder = load_dtrajs(dtrajs), Path(folder)
    present = [path for path in folder.glob(f"{prefix}*.npy") if re.fullmatch(r"\d{4,}", path.stem[len(prefix) :])]
    if present and not overwrite:
        raise InputError(
            f"{folder} already holds {len(present)} trajectories {prefix}*.npy; use another folder or overwrite=True"
        )
    low, high = min(int(array.min()) for array in arrays), max(int(array.max()) for array in arrays)
    kinds = [np.dtype(name) for name in ("u1", "i1", "u2", "i2", "i4")]
    dtype = next(kind for kind in kinds if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
    paths = [folder / f"{prefix}{index:04d}.npy" for index in range(len(arrays))]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, array in zip(paths, arrays, strict=True):
            # Written beside and renamed: an interrupted save never leaves half a trajectory under its name.
            partial = path.with_suffix(".npy.partial")
            with partial.open("wb") as file:
                np.save(file, array.astype(dtype), allow_pickle=False)
            partial.replace(path)
        for path in set(present) - set(paths):
            path.unlink()
    except OSError as error:
        raise InputError(f"cannot write trajectories to {folder}: {error.strerror or error}") from None
    return paths


@dataclass(frozen=True, eq=False)
class StateMap:
    """The two-way map between raw labels and tokens: token k stands for ``symbols[k]``.

    Parameters
    ----------
    symbols : int64 array, shape (n_states,)
        The raw labels that occur, non-negative and strictly increasing.
    """

    symbols: Dtraj

    def __post_init__(self) -> None:
        """Check that the labels are distinct, sorted and few enough."""
        symbols = check_dtraj(self.symbols, "symbols")
        token_dtype(symbols.size)
        if symbols[0] < 0 or np.any(np.diff(symbols) <= 0):
            raise InputError("symbols must be non-negative and strictly increasing")
        symbols.setflags(write=False)
        object.__setattr__(self, "symbols", symbols)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StateMap) and np.array_equal(self.symbols, other.symbols)

    def __hash__(self) -> int:
        return hash(self.symbols.tobytes())

    @property
    def n_states(self) -> int:
        """Number of states, V."""
        return int(self.symbols.size)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the tokens."""
        return token_dtype(self.n_states)

    @classmethod
    def fit(cls, dtrajs: DtrajsLike) -> StateMap:
        """Map the labels that occur in `dtrajs`, in increasing order, to 0..V-1; unassigned frames are left out."""
        found = np.unique(np.concatenate([np.unique(array) for array in load_dtrajs(dtrajs)]))
        found = found[found >= 0]
        if found.size == 0:
            raise InputError("every frame of the dtrajs is unassigned (negative); nothing can be learnt")
        if found.size > MAX_STATES:
            raise InputError(f"dtrajs have {found.size} states, at most {MAX_STATES} are supported; use coarser states")
        return cls(found)

    def encode_labels(self, labels: ArrayLike) -> NDArray[Any]:
        """Map raw labels of any shape to tokens, element by element.

        Raises
        ------
        InputError
            For a label that the map does not know, negative ones included.
        """
        values = np.asarray(labels)
        flat = check_dtraj(values.reshape(-1), "labels") if values.size else np.empty(0, np.int64)
        tokens = np.minimum(np.searchsorted(self.symbols, flat), self.n_states - 1)
        unknown = np.unique(flat[self.symbols[tokens] != flat])
        if unknown.size:
            raise InputError(
                f"unknown state {', '.join(map(str, unknown[:5]))}{', ...' if unknown.size > 5 else ''}: the model "
                f"knows {self.n_states} states, {self.symbols[0]} to {self.symbols[-1]}; "
                "use the tokenizer and the states it was trained with"
            )
        return tokens.astype(self.dtype).reshape(values.shape)

    def encode(self, dtrajs: DtrajsLike) -> list[NDArray[Any]]:
        """Turn raw labels into tokens, never joining what an unassigned frame separates.

        Returns
        -------
        list of uint8 or uint16 arrays
            Trajectories, split at unassigned frames; pieces of fewer than two frames hold no transition: dropped.
        """
        pieces: list[NDArray[Any]] = []
        for array in load_dtrajs(dtrajs):
            edges = np.flatnonzero(np.diff(np.concatenate(([False], array >= 0, [False])).astype(np.int8)))
            for start, stop in edges.reshape(-1, 2):
                if stop - start >= 2:
                    pieces.append(self.encode_labels(array[start:stop]))
        return pieces

    def decode(self, tokens: ArrayLike) -> Dtraj:
        """Turn tokens of any shape back into raw labels (int64)."""
        array = np.asarray(tokens)
        if array.size == 0:
            return np.empty(array.shape, np.int64)
        if array.dtype.kind not in "iu":
            raise InputError(f"tokens must be integers, got {array.dtype}")
        if array.min() < 0 or array.max() >= self.n_states:
            raise InputError(f"tokens must be in [0, {self.n_states - 1}], got {array.min()} to {array.max()}")
        labels: Dtraj = self.symbols[array]
        return labels

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {"symbols": self.symbols.tolist()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> StateMap:
        """Build from `to_dict`'s values, checked as if they came from a hostile file."""
        symbols = values.get("symbols")
        if not isinstance(symbols, list) or not all(isinstance(s, int) and not isinstance(s, bool) for s in symbols):
            raise InputError("state_map must be a table with 'symbols', a list of integers")
        if not all(0 <= s <= MAX_LABEL for s in symbols):
            raise InputError(f"state_map.symbols must be in [0, {MAX_LABEL}]")
        return cls(np.array(symbols, dtype=np.int64))


def split_dtrajs(
    dtrajs: Sequence[NDArray[Any]], fraction: float, min_length: int = 2
) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """Split trajectories (raw labels or tokens) into training and validation.

    With five or more trajectories of similar length (longest at most twice the shortest) whole ones are held out,
    spread evenly over the list; otherwise the last part of each, so that validation lies later in time.

    Parameters
    ----------
    dtrajs : sequence of 1-D arrays
        Trajectories.
    fraction : float
        Part of the frames to hold out, in [0, 1); 0 holds out nothing.
    min_length : int
        Shortest useful piece in frames. Trajectories that cannot give one to both sides stay in training whole.

    Returns
    -------
    train, validation : lists of arrays
        Views of the input. `validation` is empty only for ``fraction = 0``.

    Raises
    ------
    InputError
        If nothing can be held out.
    """
    if not 0 <= fraction < 1:
        raise InputError(f"validation fraction must be in [0, 1), got {fraction}")
    if min_length < 1:
        raise InputError(f"min_length must be at least 1 frame, got {min_length}")
    if fraction == 0 or not len(dtrajs):
        return list(dtrajs), []
    usable = [index for index, array in enumerate(dtrajs) if len(array) >= min_length]
    lengths = [len(dtrajs[index]) for index in usable]
    train: list[NDArray[Any]] = []
    validation: list[NDArray[Any]] = []
    if len(usable) >= 5 and max(lengths) <= 2 * min(lengths):
        n_held = min(max(round(fraction * len(usable)), 1), len(usable) - 1)
        held = {usable[int((k + 0.5) * len(usable) / n_held)] for k in range(n_held)}
        for index, array in enumerate(dtrajs):
            (validation if index in held else train).append(array)
        return train, validation
    for array in dtrajs:
        n_held = round(fraction * len(array))
        if n_held < min_length or len(array) - n_held < min_length:
            train.append(array)
        else:
            train.append(array[:-n_held])
            validation.append(array[-n_held:])
    if not validation:
        raise InputError(
            f"no trajectory is long enough to hold out a fraction of {fraction} as a piece of at least {min_length} "
            f"frames (longest has {max(map(len, dtrajs))}); give longer trajectories, five of them, or another fraction"
        )
    return train, validation
