"""validation.json: what a validation found, as plain lists and numbers; NaN and infinity are null."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from nanomd.base.errors import InputError
from nanomd.base.files import write_atomic
from nanomd.kinetics.results import FORMAT_VERSION, ValidationResult

# Scalars that are null where undefined; arrays, in which null stands for NaN too, are read by `_array`.
_SCALARS = {
    "MfptError": ("factor", "low", "high", "shift", "worst_factor"),
    "SourceKinetics": ("unseen_fraction",),
    "Cell": ("value", "low", "high"),
}


def to_plain(result: ValidationResult) -> dict[str, Any]:
    """Return a result as plain lists and numbers."""
    plain = _plain(dataclasses.asdict(result))
    assert isinstance(plain, dict)
    return plain


def write(result: ValidationResult, path: Path) -> None:
    """Write a result, whole or not at all."""
    write_atomic(path, json.dumps(to_plain(result), indent=1, allow_nan=False) + "\n")


def read(path: Path) -> ValidationResult:
    """Read what `write` wrote, of this version or an older one.

    Raises
    ------
    InputError
        If the file is no validation result, naming what is wrong.
    """
    try:
        value = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        version = value.pop("format_version", 1)
        if version not in range(1, FORMAT_VERSION + 1):
            raise ValueError(f"its format version is {version}, this nanomd reads 1 to {FORMAT_VERSION}")
        _undefined(value)
        return msgspec.convert(value, ValidationResult, dec_hook=_array)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is not a validation result of nanomd ({error}); validate again") from None


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _undefined(value: dict[str, Any]) -> None:
    """Put NaN where a scalar is null."""
    tables = [
        *((error, "MfptError") for error in [*value.get("mfpt_errors", {}).values(), value.get("noise_floor")]),
        *((source, "SourceKinetics") for source in value["sources"].values()),
        *((cell, "Cell") for row in value["rows"] for cell in row["cells"].values()),
    ]
    for table, kind in tables:
        for name in _SCALARS[kind]:
            if table is not None and table.get(name, 0) is None:
                table[name] = math.nan
        if table is not None and isinstance(table.get("worst_pair"), list):
            table["worst_pair"] = tuple(table["worst_pair"])
    lengths = value["chain_length_over_slowest"]
    value["chain_length_over_slowest"] = {k: math.nan if v is None else v for k, v in lengths.items()}


def _array(kind: Any, value: Any) -> Any:
    """Read an array of the annotated type; null becomes NaN."""
    _, dtype = typing.get_args(kind)
    (scalar,) = typing.get_args(dtype)
    return np.array(value, scalar)
