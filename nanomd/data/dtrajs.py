"""Discrete trajectories: read, check, write and split.

A `dtraj` is a 1-D integer array of raw labels, one per frame; a negative label marks an unassigned frame. Models and
samplers work with tokens 0..V-1 instead (`nanomd.data.states`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd.base.arrays import map_npy, read_npz
from nanomd.base.errors import InputError, one_line
from nanomd.base.files import replacing
from nanomd.base.paths import expand_paths, natural_key

Dtraj: TypeAlias = NDArray[np.int64]
DtrajsLike: TypeAlias = "NDArray[Any] | str | Path | Sequence[int] | Sequence[ArrayLike] | Sequence[str | Path]"

MAX_LABEL = 2**31 - 1
_SUFFIXES = (".npy", ".npz", ".txt")


def unwrapped(source: Any) -> Any:
    """Return the trajectories within a `Rollout` or a dataset of deeptime, and anything else as it is.

    Raises
    ------
    InputError
        For a dataset that holds pairs of frames and no trajectories.
    """
    if hasattr(source, "dtrajs"):
        return source.dtrajs
    if hasattr(source, "lagtime"):
        for name in ("trajectories", "trajectory"):  # of a TrajectoriesDataset and a TrajectoryDataset
            if hasattr(source, name):
                return getattr(source, name)
    if hasattr(source, "data_lagged"):
        raise InputError(
            f"dtrajs are pairs of frames without their order ({type(source).__name__}); give the trajectories, or a "
            "TrajectoriesDataset"
        )
    return source


def load_dtrajs(source: DtrajsLike) -> list[Dtraj]:
    """Load discrete trajectories from memory or from files.

    Parameters
    ----------
    source : array, sequence of arrays, path, pattern, or sequence of paths and patterns
        One 1-D array is one trajectory. Files are ``.npy`` (one array), ``.npz`` (one trajectory per array) or ``.txt``
        (one label per line or separated by blanks). Files of a pattern are sorted naturally. A `nanomd.Rollout`, and
        deeptime's TrajectoriesDataset and TrajectoryDataset, are taken for the trajectories within them.

    Returns
    -------
    list of int64 arrays, shape (n_frames,)
        Raw labels; negative ones are unassigned frames. No array is empty.

    Raises
    ------
    InputError
        For missing files, several dimensions, empty trajectories, labels that are no whole numbers, NaN, labels above
        2^31 - 1, or files that hold Python objects.

    Examples
    --------
    >>> load_dtrajs([[0, 0, 1], [2, 1]])
    [array([0, 0, 1]), array([2, 1])]
    >>> load_dtrajs("md/run_*.npy")  # doctest: +SKIP
    """
    source = unwrapped(source)
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
        raise InputError(f"{name} must be 1-D, one label per frame, got shape {array.shape}{_hint(array)}")
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


def _hint(array: NDArray[Any]) -> str:
    """Say what to do with an array of two dimensions."""
    if array.ndim != 2 or not array.size:
        return ""
    if 1 in array.shape:
        return f"; for one trajectory pass {'array[:, 0]' if array.shape[1] == 1 else 'array[0]'}"
    if array.dtype.kind == "f":
        return "; features of frames are made into states by Tokenizer (`nanomd tokenize --features arrays`)"
    return "; if each row is a trajectory, pass list(array); if each column is one, list(array.T)"


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
                arrays = {"": map_npy(path)}
            elif suffix == ".npz":
                found = read_npz(path, compressed=True)
                arrays = {f"[{name}]": found[name] for name in sorted(found, key=natural_key)}
            else:
                arrays = {"": _read_text(path)}
        except InputError as error:
            raise InputError(f"{error}; save dtrajs with numpy.save as integers") from None
        except (ValueError, OSError, OverflowError) as error:
            raise InputError(f"{path} cannot be read as a dtraj: {one_line(error)}; write one label per line") from None
        if not arrays:
            raise InputError(f"{path} holds no array; save each trajectory as one 1-D integer array")
        dtrajs.extend(check_dtraj(array, f"{path}{name}") for name, array in arrays.items())
    return dtrajs


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
            with replacing(path) as new, new.open("wb") as file:
                np.save(file, array.astype(dtype), allow_pickle=False)
        for path in set(present) - set(paths):
            path.unlink()
    except OSError as error:
        raise InputError(f"cannot write trajectories to {folder}: {error.strerror or error}") from None
    return paths


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


def stride_trajectories(trajectories: Sequence[NDArray[Any]], stride: int) -> list[NDArray[Any]]:
    """Return trajectories of every stride-th frame, all offsets of each in turn; those of one frame are left out."""
    parts = [np.asarray(t)[offset::stride] for t in trajectories for offset in range(stride)]
    return [part for part in parts if len(part) > 1] if stride > 1 else parts
