"""A model on disk: safetensors weights and JSON, never pickle, checked in full when read.

The folder holds ``model.safetensors`` (float32 tensors as named by `ModelConfig.tensor_shapes`), ``config.json`` and
``starts.safetensors`` (the stationary distribution, and windows of the training data to start rollouts from).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from nanomd.base.codec import convert, read_json
from nanomd.base.config import ModelConfig
from nanomd.base.errors import InputError, StoreError, one_line, shown
from nanomd.base.files import explain_os_error, replacing
from nanomd.base.units import FrameInterval
from nanomd.data.states import StateMap

FORMAT = "nanomd-model"
FORMAT_VERSION = 1
MAX_START_WINDOWS = 256
_MAX_HEADER = 16 << 20  # bytes; real headers take a few kilobytes
_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "I32": np.dtype(np.int32),
}


@dataclass(frozen=True, slots=True)
class Starts:
    """What rollouts can start from.

    Parameters
    ----------
    stationary : (V,) float64
        Probability of each token; sums to one.
    windows : (n, W) int32
        Windows of training tokens; n may be 0.
    """

    stationary: NDArray[np.float64]
    windows: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Everything in a model folder: enough to roll out, without PyTorch."""

    config: ModelConfig
    tensors: dict[str, NDArray[np.float32]]
    state_map: StateMap
    starts: Starts
    frame_interval: FrameInterval = field(default_factory=FrameInterval)  # of a step
    provenance: dict[str, Any] = field(default_factory=dict)
    frame_stride: int = 1  # frames of the data a step


def check_model_files(files: ModelFiles, where: str = "model") -> None:
    """Check names, shapes, types and finiteness of everything in `files`.

    Raises
    ------
    InputError
        Naming `where`, the tensor, the constraint and the value.
    """
    shapes = files.config.tensor_shapes()
    if set(shapes) != set(files.tensors):
        missing, extra = sorted(set(shapes) - set(files.tensors)), sorted(set(files.tensors) - set(shapes))
        raise InputError(
            f"{where} does not hold the tensors of its configuration: missing {missing}, unexpected {extra}"
        )
    for name, shape in shapes.items():
        _check_array(where, name, files.tensors[name], np.dtype(np.float32), shape)
    n_states = files.config.n_states
    if files.state_map.n_states != n_states:
        raise InputError(
            f"{where}: state_map has {files.state_map.n_states} states, but the model has n_states = {n_states}"
        )
    stationary, windows = files.starts.stationary, files.starts.windows
    _check_array(where, "stationary", stationary, np.dtype(np.float64), (n_states,))
    if (stationary < 0).any() or abs(float(stationary.sum()) - 1.0) > 1e-6:
        raise InputError(
            f"{where}: stationary must be non-negative and sum to 1, got a sum of {float(stationary.sum()):.9g}"
        )
    if windows.ndim != 2 or len(windows) > MAX_START_WINDOWS:
        raise InputError(
            f"{where}: windows must be an (n, W) array with n <= {MAX_START_WINDOWS}, got shape {windows.shape}"
        )
    _check_array(where, "windows", windows, np.dtype(np.int32), (len(windows), files.config.context_length))
    if windows.size and not (windows.min() >= 0 and windows.max() < n_states):
        raise InputError(
            f"{where}: windows must hold tokens in [0, {n_states - 1}], got [{windows.min()}, {windows.max()}]"
        )


def check_replaceable(path: Path, mark: str, kind: str) -> None:
    """Refuse a path where something lies that is no folder of a kind: one that holds a file named `mark`, or nothing.

    Raises
    ------
    InputError
    """
    if path.exists() and not (path.is_dir() and ((path / mark).exists() or not any(path.iterdir()))):
        raise InputError(f"{path} exists and is not {kind}; choose another path")


def save_model(path: str | Path, files: ModelFiles) -> Path:
    """Write a model folder, atomically: a reader sees the old folder or the new one, never a half of it.

    Parameters
    ----------
    path : path
        The folder; replaced if it exists and holds a model.
    files : ModelFiles
        Checked before anything is written.

    Raises
    ------
    InputError
        If `files` are inconsistent, or `path` is something else than a model folder.
    StoreError
        If the folder cannot be written.
    """
    path = Path(path)
    check_model_files(files, "the model to be saved")
    check_replaceable(path, "config.json", "a model folder")
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "config": files.config.to_dict(),
        "state_map": files.state_map.to_dict(),
        "provenance": files.provenance,
        "frame_interval": {"value": files.frame_interval.value, "unit": files.frame_interval.unit},
        "frame_stride": files.frame_stride,
    }
    starts: dict[str, NDArray[Any]] = {"stationary": files.starts.stationary, "windows": files.starts.windows}
    text = msgspec.json.format(msgspec.json.encode(description), indent=1) + b"\n"  # NaN becomes null: JSON has none
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as new:
            new.mkdir()
            write_tensors(new / "model.safetensors", files.tensors)
            write_tensors(new / "starts.safetensors", starts)
            (new / "config.json").write_bytes(text)
    except OSError as error:
        raise StoreError(f"cannot write the model to {path}: {explain_os_error(error)}") from error
    return path


def write_tensors(file: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write a safetensors file."""
    from safetensors.numpy import save

    # Written here, for the permissions that all files get: safetensors makes its own readable by their owner alone.
    file.write_bytes(save({name: np.ascontiguousarray(values) for name, values in tensors.items()}))


def load_model_files(path: str | Path) -> ModelFiles:
    """Read a model folder, trusting nothing in it.

    Raises
    ------
    InputError
        Naming the file and what is wrong with it: missing, truncated, of another format, wrong names, shapes or types,
        values that are not finite.
    """
    path = Path(path)
    file = path / "config.json"
    if not file.is_file():
        inner = path / "model"  # of a run folder
        remedy = (
            f"the model of this run folder is {inner}"
            if (inner / "config.json").is_file()
            else "it must hold config.json, model.safetensors and starts.safetensors"
        )
        raise InputError(f"{path} is not a model folder; {remedy}")
    try:
        content = read_json(file, dict[str, Any])
        form, version = content.get("format"), content.get("format_version")
        if (form, version) != (FORMAT, FORMAT_VERSION):
            got = f"{shown(form)}, version {shown(version)}"
            raise InputError(f"{file} must say format {FORMAT!r}, version {FORMAT_VERSION}; got {got}")
        description: _Description = convert(content, _Description)
        config = ModelConfig.from_dict(description.config)
        state_map = StateMap.from_dict(description.state_map)
        frame_interval = FrameInterval(description.frame_interval.value, description.frame_interval.unit)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise error if str(file) in str(error) else InputError(f"{file} is damaged: {one_line(error)}") from None
    shapes = {name: ("F32", shape) for name, shape in config.tensor_shapes().items()}
    tensors = read_tensors(path / "model.safetensors", shapes)
    starts = read_tensors(
        path / "starts.safetensors",
        {"stationary": ("F64", (config.n_states,)), "windows": ("I32", (None, config.context_length))},
    )
    files = ModelFiles(
        config,
        tensors,
        state_map,
        Starts(starts["stationary"], starts["windows"]),
        frame_interval,
        description.provenance,
        description.frame_stride,
    )
    check_model_files(files, str(path))
    return files


def read_tensors(file: Path, expected: Mapping[str, tuple[str, tuple[int | None, ...]]]) -> dict[str, NDArray[Any]]:
    """Read a safetensors file whose tensors are known beforehand; None in a shape means any length."""
    from safetensors import SafetensorError, safe_open

    try:
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            start = stream.read(8)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None
    header = int.from_bytes(start, "little")
    if len(start) < 8 or header > min(size - 8, _MAX_HEADER):
        raise InputError(f"{file} is truncated or no safetensors file: {size} bytes, header said to take {header}")
    try:
        with safe_open(file, framework="numpy") as reader:
            names = set(reader.keys())
            if names != set(expected):
                raise InputError(
                    f"{file} does not hold the tensors of its configuration: "
                    f"missing {sorted(set(expected) - names)[:5]}, unexpected {sorted(names - set(expected))[:5]}"
                )
            tensors = {}
            for name, (dtype, shape) in expected.items():
                entry = reader.get_slice(name)
                found = (entry.get_dtype(), tuple(entry.get_shape()))
                fits = len(found[1]) == len(shape) and all(w in (None, g) for w, g in zip(shape, found[1], strict=True))
                if found[0] != dtype or not fits:
                    raise InputError(
                        f"{file}: tensor {name} must be {dtype} of shape {shape}, got {found[0]} {found[1]}"
                    )
                tensors[name] = np.ascontiguousarray(reader.get_tensor(name), dtype=_DTYPES[dtype])
            return tensors
    except InputError:
        raise
    except (SafetensorError, OSError, ValueError, OverflowError, MemoryError) as error:
        raise InputError(f"{file} is damaged: {error}") from None


@dataclass
class _Interval:
    value: float
    unit: str


@dataclass
class _Description:
    """What config.json holds beside its format."""

    config: dict[str, Any]
    state_map: dict[str, Any]
    frame_interval: _Interval
    provenance: dict[str, Any]
    frame_stride: Annotated[int, Meta(ge=1)] = 1


def _check_array(where: str, name: str, array: NDArray[Any], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise InputError(f"{where}: {name} must be {dtype} of shape {shape}, got {array.dtype} of shape {array.shape}")
    if dtype.kind == "f" and not np.isfinite(array).all():
        count = int(array.size - np.isfinite(array).sum())
        raise InputError(
            f"{where}: {name} holds {count} values that are not finite; the training diverged or the file is damaged"
        )
