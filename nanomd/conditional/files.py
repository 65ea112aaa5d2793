r"""A conditional model on disk, and what it is at one condition: an ordinary model.

What depends on the condition c, with features phi (`nanomd.conditional.conditions`), is

.. math:: W + \sum_k \phi_k W_k, \qquad b + \sum_k \phi_k b_k, \qquad T + \sum_k \phi_k T_k, \qquad
          E_s + \sum_k \phi_k C_k

weights and bias of the head, the table of the markov head, and, of categories alone, the embedding of every state s.
The rest is shared. At a given condition all of them are tensors of an ordinary model, so that every engine samples it
and no engine knows of conditions.

Of numbers the embedding knows nothing: what the layers make of the past is then the same at all of them, and logarithms
of the odds of the next state, given the past, are straight lines in phi. With phi = 1/T that is Arrhenius' law, and
between and beyond trained temperatures there is nothing else that it could do. A network that reads its temperature
goes from one to the next as it likes.

The folder holds ``shared/``, a model folder of the shared part (the model at phi = 0), ``conditions.json`` and
``dependence.safetensors``.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
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
from nanomd.conditional.conditions import Axis, Category, Condition, Conditions, Numeric, Scale, Value
from nanomd.model.files import (
    MAX_START_WINDOWS,
    ModelFiles,
    Starts,
    check_model_files,
    check_replaceable,
    load_model_files,
    read_tensors,
    save_model,
    write_tensors,
)

FORMAT = "nanomd-conditional-model"
FORMAT_VERSION = 1
DEPENDENT = ("embedding.weight", "head.weight", "head.bias", "markov.weight")

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ConditionalFiles:
    """Everything in the folder of a conditional model.

    Parameters
    ----------
    shared : ModelFiles
        The model at phi = 0.
    conditions : Conditions
    dependence : dict of (K, d), (K, V, d), (K, V) and (K, V, V) float32
        By the name of the tensor that depends, `DEPENDENT`; the last only with a markov head.
    starts : tuple of Starts
        Of each trained condition.
    """

    shared: ModelFiles
    conditions: Conditions
    dependence: dict[str, Floats]
    starts: tuple[Starts, ...]

    def at(self, condition: Condition) -> ModelFiles:
        """Return the ordinary model of a condition.

        Raises
        ------
        InputError
            For an unknown name or level, and a value that is no number.
        """
        checked = self.conditions.check(condition)
        provenance = dict(self.shared.provenance)
        provenance["condition"] = checked
        provenance["choices"] = [*provenance.get("choices", []), *self.conditions.describe(checked)]
        return dataclasses.replace(
            self.shared,
            tensors=fold(self.shared.tensors, self.dependence, self.conditions.features(checked)),
            starts=self._starts_at(checked),
            provenance=provenance,
        )

    def _starts_at(self, condition: Condition) -> Starts:
        """Return where rollouts start: the populations of near conditions, mixed, and windows of the nearest."""
        shares = self.conditions.shares(condition)
        stationary = shares @ np.stack([one.stationary for one in self.starts])
        return Starts(stationary / stationary.sum(), self.starts[int(shares.argmax())].windows)


def dependence_shapes(config: ModelConfig, n_features: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that says how a model depends on its condition."""
    shapes = config.tensor_shapes()
    shapes["embedding.weight"] = (config.d_model,)  # one vector for all states
    return {name: (n_features, *shapes[name]) for name in DEPENDENT if name in shapes}


def fold(
    tensors: dict[str, Floats], dependence: dict[str, Floats], features: NDArray[np.floating]
) -> dict[str, Floats]:
    """Return the tensors of the model at the features (K,) of a condition."""
    phi = features.astype(np.float32)
    at = {name: (tensors[name] + np.tensordot(phi, value, 1)).astype(np.float32) for name, value in dependence.items()}
    return {**tensors, **at}


def check_conditional_files(files: ConditionalFiles, where: str = "model") -> None:
    """Check everything in `files`.

    Raises
    ------
    InputError
        Naming `where`, the tensor, the constraint and the value.
    """
    check_model_files(files.shared, where)
    shapes = dependence_shapes(files.shared.config, files.conditions.n_features)
    if set(shapes) != set(files.dependence):
        raise InputError(f"{where} must say how {', '.join(shapes)} depend on conditions, got {list(files.dependence)}")
    for name, shape in shapes.items():
        value = files.dependence[name]
        if value.shape != shape or value.dtype != np.float32 or not np.isfinite(value).all():
            raise InputError(
                f"{where}: dependence of {name} must be finite float32 of shape {shape}, "
                f"got {value.dtype} {value.shape}"
            )
    if len(files.starts) != len(files.conditions.trained):
        raise InputError(
            f"{where} must have starts of {len(files.conditions.trained)} trained conditions, got {len(files.starts)}"
        )
    for place, starts in enumerate(files.starts):
        check_model_files(dataclasses.replace(files.shared, starts=starts), f"{where}, trained condition {place}")


def save_conditional(path: str | Path, files: ConditionalFiles) -> Path:
    """Write a folder, atomically; see `nanomd.model.files.save_model`."""
    path = Path(path)
    check_conditional_files(files, "the model to be saved")
    check_replaceable(path, "conditions.json", "the folder of a conditional model")
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "numeric": [dataclasses.asdict(axis) for axis in files.conditions.axes if isinstance(axis, Numeric)],
        "category": [dataclasses.asdict(axis) for axis in files.conditions.axes if isinstance(axis, Category)],
        "names": files.conditions.names,
        "trained": list(files.conditions.trained),
        "windows": [len(one.windows) for one in files.starts],
    }
    tensors: dict[str, NDArray[Any]] = {
        **files.dependence,
        "stationary": np.stack([one.stationary for one in files.starts]),
        "windows": np.concatenate([one.windows for one in files.starts]),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as new:
            new.mkdir()
            save_model(new / "shared", files.shared)
            write_tensors(new / "dependence.safetensors", tensors)
            (new / "conditions.json").write_bytes(
                msgspec.json.format(msgspec.json.encode(description), indent=1) + b"\n"
            )
    except OSError as error:
        raise StoreError(f"cannot write the model to {path}: {explain_os_error(error)}") from error
    return path


@dataclass
class _Numeric:
    name: str
    scale: Scale
    centre: float
    spread: float
    low: float
    high: float


@dataclass
class _Category:
    name: str
    levels: list[str]


@dataclass
class _Description:
    """What conditions.json holds beside its format."""

    numeric: list[_Numeric]
    category: list[_Category]
    names: list[str]
    trained: list[dict[str, Value]]
    windows: list[Annotated[int, Meta(ge=0, le=MAX_START_WINDOWS)]]


def load_conditional_files(path: str | Path) -> ConditionalFiles:
    """Read a folder, trusting nothing in it.

    Raises
    ------
    InputError
        Naming the file and what is wrong with it.
    """
    path = Path(path)
    file = path / "conditions.json"
    if not file.is_file():
        raise InputError(
            f"{path} is not the folder of a conditional model; it must hold shared, conditions.json and "
            "dependence.safetensors"
        )
    try:
        content = read_json(file, dict[str, Any])
        form, version = content.get("format"), content.get("format_version")
        if (form, version) != (FORMAT, FORMAT_VERSION):
            got = f"{shown(form)}, version {shown(version)}"
            raise InputError(f"{file} must say format {FORMAT!r}, version {FORMAT_VERSION}; got {got}")
        description: _Description = convert(content, _Description)
        axes: dict[str, Axis] = {one.name: Numeric(**dataclasses.asdict(one)) for one in description.numeric}
        axes |= {one.name: Category(one.name, tuple(one.levels)) for one in description.category}
        if sorted(axes) != sorted(description.names):
            raise InputError(f"{file} names conditions that it does not describe")
        conditions = Conditions(tuple(axes[name] for name in description.names), tuple(description.trained))
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise error if str(file) in str(error) else InputError(f"{file} is damaged: {one_line(error)}") from None
    shared = load_model_files(path / "shared")
    shapes = dependence_shapes(shared.config, conditions.n_features)
    n = len(conditions.trained)
    expected: dict[str, tuple[str, tuple[int | None, ...]]] = {name: ("F32", shape) for name, shape in shapes.items()}
    expected["stationary"] = ("F64", (n, shared.config.n_states))
    expected["windows"] = ("I32", (None, shared.config.context_length))
    tensors = read_tensors(path / "dependence.safetensors", expected)
    stationary, windows = tensors.pop("stationary"), tensors.pop("windows")
    if len(description.windows) != n or sum(description.windows) != len(windows):
        raise InputError(f"{file} must say how many of {len(windows)} windows each of {n} conditions has")
    parts = np.split(windows, np.cumsum(description.windows)[:-1])
    starts = tuple(Starts(p, w) for p, w in zip(stationary, parts, strict=True))
    files = ConditionalFiles(shared, conditions, tensors, starts)
    check_conditional_files(files, str(path))
    return files
