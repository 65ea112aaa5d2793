"""Paths that mdtraj's readers in C can open: ASCII letters, and a suffix in lower case."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def suffix_of(path: Path) -> str:
    """Return the suffix in lower case, with the one before ``.gz``: ``.xtc``, ``.pdb.gz``."""
    parts = [part.lower() for part in path.suffixes[-2:]]
    return "".join(parts) if parts and parts[-1] == ".gz" else "".join(parts[-1:])


@contextmanager
def plain_path(path: Path) -> Iterator[str]:
    """Yield a name by which C code can read or write a file: the path itself, or a link to it in a temporary folder.

    A file to be written need not exist; its folder must.
    """
    if str(path).isascii() and path.name.endswith(suffix_of(path)):
        yield str(path)
        return
    kept = tempfile.gettempdir()
    with tempfile.TemporaryDirectory(dir=kept if kept.isascii() else "/tmp") as folder:  # noqa: S108
        link = Path(folder) / f"file{suffix_of(path)}"
        link.symlink_to(path.absolute())
        yield str(link)
