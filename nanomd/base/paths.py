"""Lists of files from paths and patterns, in the order a person expects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from nanomd.base.errors import InputError


def natural_key(path: str | Path) -> list[tuple[int, int, str]]:
    """Sort key that puts ``run_2`` before ``run_10``."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", str(path)) if part]


def expand_home(path: str | Path) -> Path:
    """Return a path with ``~`` and ``~name`` as home folders.

    Raises
    ------
    InputError
        If there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"{str(path)!r} names a user that there is not; write ./{path} for a name with ~") from None


def expand_paths(source: str | Path | Sequence[str | Path], what: str = "file") -> list[Path]:
    """Expand files and globs into existing files.

    Parameters
    ----------
    source : str, Path, or a sequence of them
        Paths, or patterns with ``*``, ``?`` or ``[...]``. What one pattern matches is sorted naturally; the order of a
        sequence is kept.
    what : str
        What the files are, for the error messages.

    Raises
    ------
    InputError
        If a file is missing, a pattern matches nothing, or a folder is given.
    """
    from glob import glob, has_magic

    paths: list[Path] = []
    for item in [source] if isinstance(source, str | Path) else source:
        path = expand_home(item)
        if path.is_file():
            paths.append(path)
        elif path.is_dir():
            raise InputError(f"{item} is a folder; give its {what}s as a pattern, such as '{path}/*'")
        elif has_magic(str(item)):
            # Path.glob cannot start from an absolute pattern.
            matches = sorted((Path(name) for name in glob(str(path), recursive=True)), key=natural_key)  # noqa: PTH207
            found = [match for match in matches if match.is_file()]
            if not found:
                raise InputError(f"no {what} matches {str(item)!r}; check the pattern and the working folder")
            paths.extend(found)
        else:
            raise InputError(f"{what} {str(item)!r} does not exist; check the path")
    if not paths:
        raise InputError(f"no {what} given: the list is empty")
    return paths


def by_folder(paths: Sequence[Path]) -> list[list[Path]]:
    """Group files by folder; folders in the order of their first file, files of a folder sorted naturally."""
    groups: dict[Path, list[Path]] = {}
    for path in paths:
        groups.setdefault(path.parent, []).append(path)
    return [sorted(group, key=natural_key) for group in groups.values()]
