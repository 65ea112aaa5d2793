"""Whole files: written or not at all, their digest, and what the operating system has against them."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Write a file that is either the old one or the new one, also after a crash.

    Parameters
    ----------
    path : str or Path
        The file; its folder exists.
    content : str or bytes
        The whole content; text is written as UTF-8.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of every file below a folder."""
    path = Path(path)
    digest = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        if path.is_dir():
            digest.update(f"{file.relative_to(path).as_posix()}\0".encode())
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def explain_os_error(error: OSError) -> str:
    """Say in one line what the operating system refused, and what helps."""
    name = f" {error.filename}" if error.filename else ""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            where = f" (writing{name})" if name else ""
            return f"the disk is full{where}: free some space and repeat the command; what is complete is kept"
        case errno.EROFS | errno.EACCES | errno.EPERM:
            return f"no permission for{name or ' this file'}: choose another folder, or change its permissions"
        case errno.ENOENT:
            return f"no such file or folder:{name}"
        case _:
            return f"{error.strerror or error}{f':{name}' if name else ''}"
