"""The manifest of a token store: what it is to hold, and how much of each shard is complete; checked when read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from nanomd.base.codec import decode_json, read_text_file
from nanomd.base.errors import StoreError, shown

FORMAT = "nanomd-tokens"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
OBSERVABLES = "observables.npz"  # once all is complete

# Names are matched before anything is opened: a manifest cannot point outside of its folder.
SHARD_NAME = re.compile(r"shard_[0-9]{4,}\.npy")
TAIL_NAME = re.compile(r"tail_[0-9]{4,}_[0-9]+\.npy")
OBSERVABLES_NAME = re.compile(r"observables(_[0-9]{4,}_[0-9]+)?\.npz")
Count = Annotated[int, Meta(ge=0, lt=2**62)]
Positive = Annotated[int, Meta(ge=1, lt=2**62)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Shard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row of the manifest: trajectories [first, last) of the store, of which `steps_done` steps are complete."""

    file: Annotated[str, Meta(pattern=r"^shard_[0-9]{4,}\.npy$")]
    first: Count
    last: Count
    steps_done: Count
    size: Count  # bytes of the file
    rows_sha256: Digest | None = None  # of the complete part; see `nanomd.rollout.digests.RowDigests`
    sha256: Digest | None = None  # of the complete file, in stores of earlier versions
    tail: Annotated[str, Meta(pattern=r"^tail_[0-9]{4,}_[0-9]+\.npy$")] | None = None  # the latest tokens
    tail_sha256: Digest | None = None


class StoreLayout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a store is to hold: fixed when it is created."""

    n_trajs: Positive
    n_steps: Positive
    stride: Positive
    shard_trajs: Positive
    dtype: str  # "uint8" or "uint16"
    keeps_tokens: bool = True

    def __post_init__(self) -> None:
        """Refuse what no store can hold."""
        for name in ("n_trajs", "n_steps", "stride", "shard_trajs"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**62:
                raise StoreError(f"{name} of a token store must be a positive whole number, got {value!r}")
        if self.dtype not in ("uint8", "uint16"):
            raise StoreError(f"dtype of a token store must be uint8 or uint16, got {shown(self.dtype)}")

    @property
    def n_stored(self) -> int:
        """States kept per trajectory: those of steps 0, stride, 2 stride, ..., or none."""
        return self.stored_before(self.n_steps)

    def stored_before(self, step: int) -> int:
        """Return how many states of steps below `step` are kept."""
        return -(-step // self.stride) if self.keeps_tokens else 0


class Manifest(msgspec.Struct, forbid_unknown_fields=True):
    """The whole file."""

    layout: StoreLayout
    run: dict[str, Any]  # what determines the tokens (model, seed, mode, ...); a resumed rollout must have the same
    info: dict[str, Any]  # what merely describes them
    shards: list[Shard]
    observables: Annotated[str, Meta(pattern=rf"^{OBSERVABLES_NAME.pattern}$")] | None = None
    observables_sha256: Digest | None = None
    format: str = FORMAT
    format_version: int = FORMAT_VERSION


class _Version(msgspec.Struct):
    format: str
    format_version: int


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of the store in a folder.

    Raises
    ------
    StoreError
        If there is none, it is damaged, of another version, or its rows make no sense.
    """
    file = path / MANIFEST
    try:
        content = read_text_file(file, StoreError)
    except FileNotFoundError:
        raise StoreError(f"{path} holds no rollout: {MANIFEST} is missing") from None
    version = decode_json(content, _Version, str(file), StoreError)
    if (version.format, version.format_version) != (FORMAT, FORMAT_VERSION):
        raise StoreError(f"{file} is of format {version.format[:40]!r}, version {version.format_version}")
    manifest = decode_json(content, Manifest, str(file), StoreError)
    check_rows(file, manifest)
    return manifest


def check_rows(file: Path, manifest: Manifest) -> None:
    """Raise `StoreError` unless the rows are the trajectories of the layout, one after the other."""
    layout, expected = manifest.layout, 0
    for shard in manifest.shards:
        if not (shard.first == expected < shard.last <= layout.n_trajs and shard.steps_done <= layout.n_steps):
            raise StoreError(f"{file} is damaged: its row for trajectory {expected} makes no sense")
        if shard.tail is None and 0 < shard.steps_done < layout.n_steps:
            raise StoreError(f"{file} is damaged: it names no tail of the unfinished {shard.file}")
        expected = shard.last
    if len({shard.file for shard in manifest.shards}) != len(manifest.shards):
        raise StoreError(f"{file} is damaged: it names a shard twice")
    if expected != layout.n_trajs:
        raise StoreError(f"{file} is damaged: it lists {expected} of {layout.n_trajs} trajectories")
