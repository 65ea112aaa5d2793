"""Digests of what a store declares complete."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import StoreError
from nanomd.base.files import sha256_of

CHUNK = 1 << 22  # tokens that are read from the disk at a time


class RowDigests:
    """The digest of a shard that grows: the SHA-256 of the SHA-256s of its trajectories, each as far as it goes.

    A trajectory is hashed as it is drawn, so the digest depends on the tokens alone, not on the steps between two
    declarations.
    """

    def __init__(self, n_rows: int) -> None:
        self._rows = [hashlib.sha256() for _ in range(n_rows)]

    def update(self, tokens: NDArray[Any]) -> Self:
        """Take up the next tokens (n_rows, n) of each trajectory."""
        for digest, row in zip(self._rows, tokens, strict=True):
            for begin in range(0, len(row), CHUNK):
                digest.update(np.ascontiguousarray(row[begin : begin + CHUNK]).data)
        return self

    def value(self) -> str:
        """Return the digest, in hexadecimal."""
        return hashlib.sha256(b"".join(row.digest() for row in self._rows)).hexdigest()


def check_digest(file: Path, digest: str | None) -> None:
    """Raise `StoreError` unless a file has the digest; stores of earlier versions record none for some files."""
    try:
        if digest is not None and sha256_of(file) != digest:
            raise StoreError(changed(file))
    except OSError as error:
        raise StoreError(f"{file} cannot be read: {error.strerror or error}") from None


def changed(file: Path) -> str:
    """Say that a file differs from its digest."""
    return f"{file} has changed since it was written (its checksum differs); restore it, or generate again with --force"
