"""Generated tokens on disk: .npy shards and a manifest that says how much of each is complete.

A shard holds some trajectories, whole. It is laid out at its full size when begun, written in place, and counted only
as far as the manifest says; the manifest is replaced atomically after the data have reached the disk. Beside an
unfinished shard lies a tail, the latest tokens of its trajectories (unstrided), from which the rollout goes on
bit-identically. Observables, accumulated over all that is complete, lie in a file that the manifest names; a store may
also hold them alone, without any token.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd.base.arrays import load_array, write_array, write_npz, write_rows
from nanomd.base.errors import InputError, StoreError
from nanomd.base.files import sha256_of, sweep_parts, write_atomic

FORMAT = "nanomd-tokens"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
_MAX_MANIFEST = 256 << 20  # bytes
_SHARD_NAME = re.compile(r"shard_[0-9]{4,}\.npy")
_TAIL_NAME = re.compile(r"tail_[0-9]{4,}_[0-9]+\.npy")
_OBSERVABLES_NAME = re.compile(r"observables(_[0-9]{4,}_[0-9]+)?\.npz")
OBSERVABLES = "observables.npz"  # once all is complete


@dataclass(frozen=True, slots=True)
class Shard:
    """One row of the manifest: trajectories [first, last) of the store, of which `steps_done` steps are complete."""

    file: str
    first: int
    last: int
    steps_done: int
    size: int  # bytes of the file
    sha256: str | None = None  # of the file, once complete
    tail: str | None = None  # file with the latest tokens, until complete


@dataclass(frozen=True, slots=True)
class StoreLayout:
    """What a store is to hold: fixed when it is created."""

    n_trajs: int
    n_steps: int
    stride: int
    shard_trajs: int
    dtype: str  # "uint8" or "uint16"
    keeps_tokens: bool = True

    def __post_init__(self) -> None:
        """Refuse what no store can hold."""
        for name in ("n_trajs", "n_steps", "stride", "shard_trajs"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**62:
                raise StoreError(f"{name} of a token store must be a positive whole number, got {value!r}")
        if self.dtype not in ("uint8", "uint16"):
            raise StoreError(f"dtype of a token store must be uint8 or uint16, got {self.dtype!r}")
        if not isinstance(self.keeps_tokens, bool):
            raise StoreError(f"keeps_tokens of a token store must be true or false, got {self.keeps_tokens!r}")

    @property
    def n_stored(self) -> int:
        """States kept per trajectory: those of steps 0, stride, 2 stride, ..., or none."""
        return self.stored_before(self.n_steps)

    def stored_before(self, step: int) -> int:
        """Return how many states of steps below `step` are kept."""
        return -(-step // self.stride) if self.keeps_tokens else 0


class TokenStore:
    """A folder of shards; open it with `create` or `open`, and write to it inside `nanomd.base.files.lock_folder`."""

    def __init__(
        self,
        path: Path,
        layout: StoreLayout,
        run: dict[str, Any],
        info: dict[str, Any],
        shards: list[Shard],
        observables: str | None = None,
    ) -> None:
        self.path, self.layout, self.run, self.info, self.shards = path, layout, run, info, shards
        self.observables = observables  # name of the file with those of all complete steps

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
        store = cls(path, layout, run, info, shards)
        store.write_manifest()
        return store

    @classmethod
    def open(cls, path: str | Path) -> TokenStore:
        """Read the manifest of a store and check it against the files.

        Raises
        ------
        StoreError
            If there is no store, or it is damaged; the message names the file.
        """
        path = Path(path)
        file = path / MANIFEST
        try:
            if file.stat().st_size > _MAX_MANIFEST:
                raise StoreError(f"{file} has {file.stat().st_size} bytes; it is no manifest")
            content = json.loads(file.read_text(encoding="utf-8"))
            if content["format"] != FORMAT or content["format_version"] != FORMAT_VERSION:
                raise StoreError(f"{file} is of format {content['format']!r}, version {content['format_version']!r}")
            layout = StoreLayout(**content["layout"])
            shards = [Shard(**row) for row in content["shards"]]
            observables = content.get("observables")
            if observables is not None and not _OBSERVABLES_NAME.fullmatch(str(observables)):
                raise StoreError(f"{file} is damaged: it names the observables {observables!r}")
            store = cls(path, layout, dict(content["run"]), dict(content["info"]), shards, observables)
        except FileNotFoundError:
            raise StoreError(f"{path} holds no rollout: {MANIFEST} is missing") from None
        except OSError as error:
            raise StoreError(f"{file} cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"{file} is damaged: {error}") from None
        store._check_rows()
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
        return np.array(load_array(self.path / shard.tail, (shard.last - shard.first, None), "uint16"))

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
            If the disk is full or fails. What the manifest declares stays complete.
        """
        shard, layout = self.shards[index], self.layout
        done = shard.steps_done + steps
        begin, end = layout.stored_before(shard.steps_done), layout.stored_before(done)
        if done > layout.n_steps or tokens.shape != (shard.last - shard.first, end - begin):
            raise InputError(f"{shard.file} cannot take {steps} steps as tokens of shape {tokens.shape}")
        file = self.path / shard.file
        finished = done == layout.n_steps
        tail_file, old_observables = None, self.observables
        with self._writing(file):
            if layout.keeps_tokens:
                write_rows(file, (shard.last - shard.first, layout.n_stored), layout.dtype, begin, tokens)
            if not finished:
                tail_file = f"tail_{index:04d}_{done}.npy"
                write_array(self.path / tail_file, np.ascontiguousarray(tail, dtype=np.uint16))
            size, digest = 0, None
            if layout.keeps_tokens:
                size, digest = file.stat().st_size, sha256_of(file) if finished else None
            self.shards[index] = replace(shard, steps_done=done, size=size, sha256=digest, tail=tail_file)
            try:
                if observables is not None:
                    name = OBSERVABLES if self.complete else f"observables_{index:04d}_{done}.npz"
                    write_npz(self.path / name, observables)
                    self.observables = name
                self.write_manifest()
            except (StoreError, OSError):
                self.shards[index], self.observables = shard, old_observables
                raise
        if shard.tail is not None and shard.tail != tail_file:
            (self.path / shard.tail).unlink(missing_ok=True)
        if old_observables is not None and old_observables != self.observables:
            (self.path / old_observables).unlink(missing_ok=True)

    def adopt(self, observables: Mapping[str, NDArray[Any]] | None) -> None:
        """Declare complete what lies in the folder already, and observables of all of it."""
        with self._writing(self.path / OBSERVABLES):
            if observables is not None:
                write_npz(self.path / OBSERVABLES, observables)
                self.observables = OBSERVABLES
        self._check_rows()
        self.write_manifest()

    def sweep(self) -> None:
        """Remove what a killed writer left behind and the manifest does not name. Only under the lock."""
        named = {shard.tail for shard in self.shards} | {self.observables}
        with self._writing(self.path):
            sweep_parts(self.path)
            for file in self.path.iterdir():
                ours = _TAIL_NAME.fullmatch(file.name) or _OBSERVABLES_NAME.fullmatch(file.name)
                if ours and file.name not in named:
                    file.unlink()

    def write_manifest(self) -> None:
        """Replace the manifest atomically."""
        content = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "layout": asdict(self.layout),
            "run": self.run,
            "info": self.info,
            "shards": [asdict(shard) for shard in self.shards],
            "observables": self.observables,
        }
        file = self.path / MANIFEST
        with self._writing(file):
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomic(file, json.dumps(content, indent=1))

    def verify(self) -> None:
        """Check the content of every complete shard against its checksum.

        Raises
        ------
        StoreError
            Naming the first shard that differs.
        """
        for shard in self.shards:
            if shard.sha256 is not None and sha256_of(self.path / shard.file) != shard.sha256:
                raise StoreError(f"{self.path / shard.file} has changed since it was written (its checksum differs)")

    def _check_rows(self) -> None:
        file, layout = self.path / MANIFEST, self.layout
        expected = 0
        for shard in self.shards:
            if not (
                all(isinstance(v, int) for v in (shard.first, shard.last, shard.steps_done, shard.size))
                and _SHARD_NAME.fullmatch(str(shard.file))
                and (shard.tail is None or _TAIL_NAME.fullmatch(str(shard.tail)))
                and shard.first == expected < shard.last <= layout.n_trajs
                and 0 <= shard.steps_done <= layout.n_steps
            ):
                raise StoreError(f"{file} is damaged: its row for trajectory {expected} makes no sense")
            if shard.steps_done:
                self._check_file(shard)
            expected = shard.last
        if self.observables is not None and not (self.path / self.observables).is_file():
            raise StoreError(f"{self.path / self.observables} is missing, though {MANIFEST} declares it complete")
        if expected != layout.n_trajs:
            raise StoreError(f"{file} is damaged: it lists {expected} of {layout.n_trajs} trajectories")

    def _check_file(self, shard: Shard) -> None:
        unfinished = shard.steps_done < self.layout.n_steps
        kept = [shard.file] if self.layout.keeps_tokens else []
        for name in kept + ([str(shard.tail)] if unfinished else []):
            if not (self.path / name).is_file():
                raise StoreError(f"{self.path / name} is missing, though {MANIFEST} declares it complete")
        if not self.layout.keeps_tokens:
            return
        size = (self.path / shard.file).stat().st_size
        if size != shard.size:
            raise StoreError(f"{self.path / shard.file} must have {shard.size} bytes, got {size}; it was truncated")

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
