"""JSON and TOML into checked values and back: wrong types are one-line errors, whatever the file holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from nanomd.base.errors import InputError, NanomdError, one_line

T = TypeVar("T")
MAX_JSON = 256 << 20  # bytes; the largest honest file is the manifest of a million shards


def decode_json(content: bytes | str, kind: type[T], where: str, error: type[NanomdError] = InputError) -> T:
    """Return JSON as a value of a type: a dataclass, a dictionary of known values, a number ...

    Parameters
    ----------
    content : bytes or str
        JSON proper: NaN and infinity are none.
    kind : type
        What is expected, as `msgspec` reads types. Nothing is converted: "1" is no number, and 1 is no text.
    where : str
        What the content is, for the error message.
    error : type
        Of the exception.

    Raises
    ------
    InputError, or `error`
        Naming `where`, the constraint and the place in the content.
    """
    import msgspec

    try:
        return msgspec.json.decode(content, type=kind, strict=True)
    except (msgspec.MsgspecError, RecursionError, UnicodeError, ValueError, OverflowError, TypeError) as problem:
        raise error(f"{where} is damaged: {one_line(problem)}") from None


def read_json(path: str | Path, kind: type[T], error: type[NanomdError] = InputError, largest: int = MAX_JSON) -> T:
    """Read a JSON file as a value of a type; see `decode_json`. A file that is absent is a `FileNotFoundError`."""
    return decode_json(read_text_file(path, error, largest), kind, str(path), error)


def read_text_file(path: str | Path, error: type[NanomdError] = InputError, largest: int = MAX_JSON) -> bytes:
    """Read a file of at most `largest` bytes. One that is absent is a `FileNotFoundError`."""
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > largest:
            raise error(f"{path} has {size} bytes, more than such a file ever takes")
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror or problem}") from None


def convert(value: object, kind: Any) -> Any:
    """Return plain values (of JSON or TOML) as a value of a type; `ValueError` if they do not fit."""
    import msgspec

    try:
        return msgspec.convert(value, kind, strict=True)
    except (msgspec.MsgspecError, RecursionError, OverflowError, TypeError) as problem:
        raise ValueError(one_line(problem)) from None


def load_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file into a dictionary."""
    import tomllib

    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError, ValueError) as problem:
        raise InputError(f"{path} is not valid TOML: {one_line(problem)}") from None


def load_sections(path: str | Path, known: Sequence[str]) -> dict[str, Any]:
    """Read a TOML file that a user wrote, of sections with known names.

    Raises
    ------
    InputError
        For a file that is not there or no TOML, and a section with another name.
    """
    try:
        content = load_toml(path)
    except FileNotFoundError:
        raise InputError(f"file {str(path)!r} does not exist; check the path") from None
    for section in content:
        if section not in known:
            raise InputError(f"{path} has the unknown section {section!r}; it may have {', '.join(known)}")
    return content


def dump_toml(sections: Mapping[str, Mapping[str, Any]]) -> str:
    """Write sections of strings, numbers, booleans and lists as TOML; None is left out."""
    import tomli_w

    present = {name: {k: v for k, v in values.items() if v is not None} for name, values in sections.items()}
    return tomli_w.dumps(cast("Mapping[str, Any]", present))
