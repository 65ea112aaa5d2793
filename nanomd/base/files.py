"""Whole files and folders: written or not at all; the lock of a folder; digests; what the system has against them."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nanomd.base.errors import StoreError

_PART = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}\.part")  # the private folders that `replacing` makes


# --- written or not at all -------------------------------------------------------------------------------------------
@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a path to write a file or a folder to, which takes the place of `path` when it is whole.

    A reader sees the old one or the new one, never a half. The path lies in a private folder beside `path`, so that
    nobody can have planted a link there; it does not exist yet, and what is made there has the usual permissions. After
    an error nothing is left; what a killed process leaves is for `sweep_parts`.

    Parameters
    ----------
    path : str or Path
        A file or folder, there or not, in a folder that exists. Where it is a link to a folder, the folder that it
        points to is replaced.

    Raises
    ------
    IsADirectoryError
        Where a file would take the place of a folder: what is in it is not ours to remove.
    """
    path = Path(path)
    if path.is_symlink() and path.is_dir():
        path = path.resolve()
    private = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    new = private / "new"
    try:
        yield new
        for file in [new, *(new.rglob("*") if new.is_dir() else ())]:
            fsync(file)
        if path.is_dir() and not new.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if path.is_dir():
            path.rename(private / "old")  # a folder cannot be renamed over a full one
            try:
                new.rename(path)
            except OSError:
                (private / "old").rename(path)
                raise
        else:
            new.replace(path)
        fsync(path.parent)
    except OSError as error:
        if str(error.filename).startswith(str(private)):
            error.filename = str(path)  # the name that the user knows
        raise
    finally:
        shutil.rmtree(private, ignore_errors=True)


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Write a file that is either the old one or the new one, also after a crash.

    Parameters
    ----------
    path : str or Path
        The file; its folder exists.
    content : str or bytes
        The whole content; text is written as UTF-8.
    """
    with replacing(path) as new:
        new.write_bytes(content.encode() if isinstance(content, str) else content)


def sweep_parts(folder: str | Path) -> None:
    """Finish or remove what killed processes left half replaced in a folder. Only under its lock."""
    for private in Path(folder).iterdir():
        match = _PART.fullmatch(private.name)
        if match is None or private.is_symlink() or not private.is_dir():
            continue
        path = private.with_name(match["name"])
        if not path.exists() and (private / "old").exists():  # killed between the two renames: the new one is whole
            source = private / "new" if (private / "new").exists() else private / "old"
            source.rename(path)
        shutil.rmtree(private)


def fsync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- one writer at a time --------------------------------------------------------------------------------------------
@contextmanager
def lock_folder(path: str | Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a folder for writing, made if absent; the operating system releases it when the process ends, however.

    `fcntl` itself, since filelock has no shared lock but one that keeps a database, and its exclusive one empties the
    file, in which here the process id of the owner stands.

    Parameters
    ----------
    path : str or Path
        The folder.
    shared : bool
        Allow others that ask for a shared lock too: processes that write to folders of their own in it.

    Raises
    ------
    StoreError
        If another process holds it (its process id is named), or the folder cannot be written.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {explain_os_error(error)}") from None
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            raise StoreError(
                f"{path} is in use by process {owner}; wait for it to end, or use another folder"
            ) from None
        except OSError as error:
            raise StoreError(f"{path} cannot be locked: {explain_os_error(error)}") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


# --- digests ---------------------------------------------------------------------------------------------------------
def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of all files below a folder, hidden ones left out."""
    path = Path(path)
    if not path.is_dir():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path)
        if file.is_file() and not any(part.startswith(".") for part in name.parts):
            digest.update(f"{name.as_posix()}\0".encode())
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
    return digest.hexdigest()


# --- errors ----------------------------------------------------------------------------------------------------------
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
