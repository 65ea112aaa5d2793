"""validation.json: what a validation found, as plain lists and numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nanomd.base.codec import read_json
from nanomd.base.errors import InputError
from nanomd.base.files import write_atomic
from nanomd.base.plain import from_plain, to_plain
from nanomd.kinetics.results import FORMAT_VERSION, ValidationResult


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
        value = read_json(path, dict[str, Any])
        version = value.pop("format_version", 1)
        if version not in range(1, FORMAT_VERSION + 1):
            raise ValueError(f"its format version is {version}, this nanomd reads 1 to {FORMAT_VERSION}")
        return from_plain(value, ValidationResult)
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is not a validation result of nanomd ({error}); validate again") from None
