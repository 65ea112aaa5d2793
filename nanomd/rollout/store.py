"""Generated tokens on disk: .npy shards and a manifest that says how much of each is complete.

A shard holds some trajectories, whole. It is laid out at its full size when begun, written in place, and counted only
as far as the manifest says; the manifest is replaced atomically after the data have reached the disk. Beside an
unfinished shard lies a tail, the latest tokens of its trajectories (unstrided), from which the rollout goes on
bit-identically. Observables, accumulated over all that is complete, lie in a file that the manifest names; a store may
also hold them alone, without any token.

What is complete has a digest in the manifest, made of the tokens as they were drawn, not of what the disk gave back.
Sizes are checked whenever a store is opened, digests by `TokenStore.verify` and before an unfinished shard goes on.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from nanomd.base.arrays import load_array, write_array, write_npz, write_rows
from nanomd.base.errors import InputError, StoreError
from nanomd.base.files import sha256_of, sweep_parts, write_atomic
from nanomd.rollout.digests import CHUNK, RowDigests, changed, check_digest
from nanomd.rollout.manifest import (
    MANIFEST,
    OBSERVABLES,
    OBSERVABLES_NAME,
    SHARD_NAME,
    TAIL_NAME,
    Manifest,
    Shard,
    StoreLayout,
    check_rows,
    read_manifest,
)


class TokenStore:
    """A folder of shards; open it with `create` or `open`, and write to it inside `nanomd.base.files.lock_folder`."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        self._digests: dict[int, RowDigests] = {}  # of unfinished shards that this object has written to

    @property
    def layout(self) -> StoreLayout:
        """What the store is to hold."""
        return self.manifest.layout

    @property
    def shards(self) -> list[Shard]:
        """What is complete, by shard."""
        return self.manifest.shards

    @property
    def run(self) -> dict[str, Any]:
        """What determines the tokens."""
        return self.manifest.run

    @property
    def info(self) -> dict[str, Any]:
        """What describes them."""
        return self.manifest.info

    @property
    def observables(self) -> str | None:
        """The name of the file with the observables of all complete steps, if there is one."""
        return self.manifest.observables

    # --- open --------------------------------------------------------------------------------------------------------
    @classmethod
    def exists(cls, path: str | Path) -> bool:
        """Whether `path` holds a store."""
        return (Path(path) / MANIFEST).exists()

    @classmethod
    def create(cls, path: str | Path, layout: StoreLayout, run: dict[str, Any], info: dict[str, Any]) -> TokenStore:
        """Start an empty store.

        Parameters
        ----------
        path : path
            The folder; made if missing.
        layout : StoreLayout
        run : dict
            What determines the tokens (model, seed, mode, ...); a resumed rollout must have the same.
        info : dict
            What merely describes them.
        """
        path = Path(path)
        if cls.exists(path):
            raise InputError(f"{path} holds a rollout already; resume it, or choose another folder")
        n, rows = layout.n_trajs, layout.shard_trajs
        shards = [
            Shard(f"shard_{i:04d}.npy", first, min(first + rows, n), 0, 0) for i, first in enumerate(range(0, n, rows))
        ]
        store = cls(path, Manifest(layout, run, info, shards))
        store.write_manifest()
        return store

    @classmethod
    def open(cls, path: str | Path) -> TokenStore:
        """Read the manifest of a store and check it against the names and sizes of the files.

        Raises
        ------
        StoreError
            If there is no store, or it is damaged; the message names the file.
        """
        path = Path(path)
        store = cls(path, read_manifest(path))
        store._check_files()
        return store

    @property
    def complete(self) -> bool:
        """Whether every shard is."""
        return all(shard.steps_done == self.layout.n_steps for shard in self.shards)

    def tokens(self, index: int) -> NDArray[Any]:
        """Return the complete part of a shard, (n, states kept so far), as a read-only memory map."""
        shard = self.shards[index]
        n_kept = self.layout.stored_before(shard.steps_done)
        if n_kept == 0:
            return np.zeros((shard.last - shard.first, 0), dtype=self.layout.dtype)
        tokens = load_array(self.path / shard.file, (shard.last - shard.first, self.layout.n_stored), self.layout.dtype)
        return tokens[:, :n_kept]

    def tail(self, index: int) -> NDArray[np.uint16] | None:
        """Return the latest tokens of an unfinished shard, (n, n_history), or None if it has not begun."""
        shard = self.shards[index]
        if shard.tail is None:
            return None
        check_digest(self.path / shard.tail, shard.tail_sha256)
        return np.array(load_array(self.path / shard.tail, (shard.last - shard.first, None), "uint16"))

    # --- write -------------------------------------------------------------------------------------------------------
    def append(
        self,
        index: int,
        steps: int,
        tokens: NDArray[Any],
        tail: NDArray[np.uint16],
        observables: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        """Add `steps` steps to a shard, and declare them complete once they are on the disk.

        Parameters
        ----------
        index : int
        steps : int
        tokens : (n, m)
            The states of these steps that the stride keeps.
        tail : (n, n_history) uint16
            The latest tokens, to resume from.
        observables : mapping of arrays, optional
            What takes the place of the observables declared so far.

        Raises
        ------
        StoreError
            If the disk is full or fails, or the part that is complete has changed since it was written. What the
            manifest declares stays complete.
        """
        shard, layout, before = self.shards[index], self.layout, self.manifest
        done = shard.steps_done + steps
        begin, end = layout.stored_before(shard.steps_done), layout.stored_before(done)
        if done > layout.n_steps or tokens.shape != (shard.last - shard.first, end - begin):
            raise InputError(f"{shard.file} cannot take {steps} steps as tokens of shape {tokens.shape}")
        file, added = self.path / shard.file, replace(shard, steps_done=done, tail=None, tail_sha256=None)
        digests = self._digests.pop(index, None) or self._checked_digests(index)  # after a failure, from the disk again
        with self._writing(file):
            if layout.keeps_tokens:
                rows = np.ascontiguousarray(tokens, dtype=layout.dtype)
                write_rows(file, (shard.last - shard.first, layout.n_stored), layout.dtype, begin, rows)
                added = replace(added, size=file.stat().st_size, rows_sha256=digests.update(rows).value())
            if done < layout.n_steps:
                name = f"tail_{index:04d}_{done}.npy"
                write_array(self.path / name, np.ascontiguousarray(tail, dtype=np.uint16))
                added = replace(added, tail=name, tail_sha256=sha256_of(self.path / name))
            shards = [*self.shards[:index], added, *self.shards[index + 1 :]]
            self.manifest = replace(before, shards=shards)
            try:
                if observables is not None:
                    name = OBSERVABLES if self.complete else f"observables_{index:04d}_{done}.npz"
                    self._write_observables(name, observables)
                self.write_manifest()
            except (StoreError, OSError):
                self.manifest = before
                raise
        if done < layout.n_steps:
            self._digests[index] = digests
        for old, new in ((shard.tail, added.tail), (before.observables, self.manifest.observables)):
            if old is not None and old != new:
                (self.path / old).unlink(missing_ok=True)

    def lengthen(self, n_steps: int, tail: Callable[[int], NDArray[np.uint16]]) -> None:
        """Make room for more steps of every trajectory: what is complete is copied, and checked on the way.

        Killed at any moment, the store is the old one or the new one. The observables are no longer declared, as they
        count the old ends of the trajectories.

        Parameters
        ----------
        n_steps : int
        tail : callable
            Returns the latest tokens of a shard by its index, (n, n_history).

        Raises
        ------
        InputError
            If not every state is kept.
        StoreError
            If the store has changed since it was written, or the disk is full.
        """
        old = self.layout
        if old.stride != 1 or not old.keeps_tokens:
            raise InputError(f"{self.path} does not keep every state, so {old.n_steps} steps cannot become {n_steps}")
        self.verify()
        layout, shards = replace(old, n_steps=n_steps), []
        number = 1 + max(int(shard.file[6:-4]) for shard in self.shards)  # new names, so that the old files stay
        for index, shard in enumerate(self.shards):
            new = replace(shard, file=f"shard_{number + index:04d}.npy", sha256=None)
            file, tokens, rows = self.path / new.file, self.tokens(index), shard.last - shard.first
            with self._writing(file):
                most = max(1, CHUNK // rows)
                for begin in range(0, shard.steps_done, most):
                    shape = (rows, layout.n_stored)
                    write_rows(file, shape, layout.dtype, begin, tokens[:, begin : begin + most])
                if shard.steps_done:
                    digest = shard.rows_sha256 or RowDigests(rows).update(tokens).value()
                    new = replace(new, size=file.stat().st_size, rows_sha256=digest)
                if shard.steps_done and shard.tail is None:
                    name = f"tail_{index:04d}_{shard.steps_done}.npy"
                    write_array(self.path / name, tail(index))
                    new = replace(new, tail=name, tail_sha256=sha256_of(self.path / name))
            shards.append(new)
        info = {**self.info, "config": {**self.info["config"], "n_steps": n_steps}}
        self.manifest = replace(
            self.manifest, layout=layout, shards=shards, info=info, observables=None, observables_sha256=None
        )
        self.write_manifest()
        self.sweep()

    def adopt(self, observables: Mapping[str, NDArray[Any]] | None) -> None:
        """Declare complete what lies in the folder already, and observables of all of it."""
        with self._writing(self.path / OBSERVABLES):
            if observables is not None:
                self._write_observables(OBSERVABLES, observables)
        check_rows(self.path / MANIFEST, self.manifest)
        self._check_files()
        self.write_manifest()

    def sweep(self) -> None:
        """Remove what a killed writer left behind and the manifest does not name. Only under the lock."""
        named = {shard.tail for shard in self.shards} | {shard.file for shard in self.shards} | {self.observables}
        with self._writing(self.path):
            sweep_parts(self.path)
            for file in self.path.iterdir():
                ours = any(name.fullmatch(file.name) for name in (SHARD_NAME, TAIL_NAME, OBSERVABLES_NAME))
                if ours and file.name not in named:
                    file.unlink()

    def write_manifest(self) -> None:
        """Replace the manifest atomically."""
        file = self.path / MANIFEST
        with self._writing(file):
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomic(file, msgspec.json.format(msgspec.json.encode(self.manifest), indent=1))

    def _write_observables(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        write_npz(self.path / name, arrays)
        digest = sha256_of(self.path / name)
        self.manifest = replace(self.manifest, observables=name, observables_sha256=digest)

    @contextmanager
    def _writing(self, file: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                done = sum((s.last - s.first) * s.steps_done for s in self.shards)
                raise StoreError(
                    f"the disk is full while writing {file}; {done} trajectory-steps are complete and usable: "
                    "free some space, then resume"
                ) from None
            raise StoreError(f"cannot write {file}: {error.strerror or error}") from None

    # --- check -------------------------------------------------------------------------------------------------------
    def verify(self) -> None:
        """Check the content of everything that the manifest declares complete against its digest.

        Raises
        ------
        StoreError
            Naming the first file that differs, or has no digest though it is complete.
        """
        for index, shard in enumerate(self.shards):
            if not shard.steps_done:
                continue
            if shard.rows_sha256 is not None or not self.layout.keeps_tokens:
                self._checked_digests(index)
            elif shard.steps_done == self.layout.n_steps and shard.sha256 is None:
                raise StoreError(f"{self.path / shard.file} has no checksum in {MANIFEST}; generate it again")
            else:
                check_digest(self.path / shard.file, shard.sha256)
            self.tail(index)
        if self.observables is not None:
            check_digest(self.path / self.observables, self.manifest.observables_sha256)

    def _checked_digests(self, index: int) -> RowDigests:
        """Hash the complete part of a shard anew, and compare with the manifest."""
        shard = self.shards[index]
        digests = RowDigests(shard.last - shard.first).update(self.tokens(index))
        if shard.rows_sha256 not in (None, digests.value()):
            raise StoreError(changed(self.path / shard.file))
        return digests

    def _check_files(self) -> None:
        for shard in self.shards:
            if not shard.steps_done:
                continue
            if self.layout.keeps_tokens:
                size = self._size(shard.file)
                if size != shard.size:
                    what = "truncated" if size < shard.size else "changed"
                    raise StoreError(
                        f"{self.path / shard.file} must have {shard.size} bytes, got {size}; it was {what}"
                    )
            if shard.steps_done < self.layout.n_steps:
                self._size(str(shard.tail))
        if self.observables is not None:
            self._size(self.observables)

    def _size(self, name: str) -> int:
        try:
            return (self.path / name).stat().st_size
        except OSError:
            raise StoreError(f"{self.path / name} is missing, though {MANIFEST} declares it complete") from None
