"""One rollout made by many processes or machines that know nothing of each other, and the check that puts it together.

Part i of n holds a contiguous range of the trajectories, in a folder of its own, with its own manifest and lock. A
trajectory depends only on its global index, so the union is the rollout that one process would have made.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from nanomd.base.checks import check_whole
from nanomd.base.errors import InputError, StoreError
from nanomd.base.files import lock_folder, write_atomic
from nanomd.rollout.manifest import Manifest, Shard
from nanomd.rollout.observables import ObservablesResult
from nanomd.rollout.result import Rollout
from nanomd.rollout.store import TokenStore

_PART_NAME = re.compile(r"part_([0-9]{4,})_of_([0-9]{4,})")


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """Part `index` (from 0) of `count` of the trajectories of a rollout; the public keyword is ``shard=(i, n)``."""

    index: int
    count: int

    @classmethod
    def of(cls, shard: Any) -> Part:
        """Return the part (i, n) if 0 <= i < n."""
        if isinstance(shard, str) or len(tuple(shard)) != 2:
            raise InputError(f"shard must be two numbers (i, n), got {shard!r}")
        index, count = (check_whole("shard", number) for number in shard)
        if not 0 <= index < count:
            raise InputError(f"shard i/n must have 0 <= i < n, counted from 0, got {index}/{count}")
        return cls(index, count)

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read ``"3/16"``: part 3 of 16, counted from 0.

        Raises
        ------
        InputError
            For anything else.
        """
        match = re.fullmatch(r"\s*([0-9]{1,9})\s*/\s*([0-9]{1,9})\s*", text)
        if match is None:
            raise InputError(f"shard must look like 3/16 (part 3 of 16, counted from 0), got {text!r}")
        return cls.of((int(match.group(1)), int(match.group(2))))

    def trajectories(self, n_trajs: int) -> range:
        """Return which of `n_trajs` trajectories are this part."""
        if self.count > n_trajs:
            raise InputError(f"shard i/n must have n <= n_trajs = {n_trajs}, so that none is empty, got {self}")
        return range(n_trajs * self.index // self.count, n_trajs * (self.index + 1) // self.count)

    def folder(self, out: str | Path) -> Path:
        """Return the folder of this part in that of the rollout."""
        return Path(out) / f"part_{self.index:04d}_of_{self.count:04d}"

    def to_list(self) -> list[int]:
        """Return [i, n], as stores record it."""
        return [self.index, self.count]

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def find_parts(out: str | Path) -> dict[Part, Path]:
    """Return the parts in a folder and their own folders, in order."""
    out = Path(out)
    if not out.is_dir():
        return {}
    matches = [(_PART_NAME.fullmatch(path.name), path) for path in out.iterdir() if path.is_dir()]
    return dict(sorted((Part(int(m.group(1)), int(m.group(2))), path) for m, path in matches if m is not None))


def refuse_parts(out: str | Path) -> None:
    """Raise if a folder holds parts that have not been merged."""
    parts = find_parts(out)
    if parts and not TokenStore.exists(out):
        raise InputError(
            f"{out} holds {len(parts)} parts of a sharded rollout; merge them (`nanomd generate --merge`), "
            "or choose another folder"
        )


def prompts_digest(prompts: NDArray[np.uint16], first_trajectory: int) -> str:
    """Return a digest of the starts, a sum over trajectories: that of a union is the sum of the digests."""
    total = 0
    for index, row in enumerate(np.ascontiguousarray(prompts, dtype="<u2"), start=first_trajectory):
        total += int.from_bytes(hashlib.sha256(index.to_bytes(8, "little") + row.tobytes()).digest(), "little")
    return f"{total % 2**256:064x}"


def merge_parts(out: str | Path, keep: Mapping[str, str] | None = None) -> Rollout:
    """Check that all parts of a rollout are complete and fit together, and make them one.

    Tokens are not copied: the files move into the folder. Killed at any moment, it can be repeated.

    Parameters
    ----------
    out : path
        The folder that the parts lie in.
    keep : mapping of str to str, optional
        Small files (name: text) to write there before anything is changed.

    Raises
    ------
    StoreError
        If a part is missing, unfinished, damaged, being written, or belongs to another rollout. Nothing is changed.
    """
    out = Path(out)
    parts = find_parts(out)
    counts = sorted({part.count for part in parts})
    with lock_folder(out):
        if TokenStore.exists(out):
            store = TokenStore.open(out)
            # Parts beside a merged store: an earlier merge was killed while it cleaned up.
            merged = store.info.get("merged_parts")
            if merged is not None and counts in ([], [merged]) and store.complete:
                _clean_up(parts.values())
                return Rollout.from_store(store)
            raise StoreError(f"{out} holds another rollout beside its parts; move one of them elsewhere")
        if len(counts) != 1:
            found = "no parts" if not parts else f"parts of several rollouts, of {' and '.join(map(str, counts))}"
            raise StoreError(f"{out} holds {found}; make all parts with `nanomd generate --shard i/n`, with one n")
        missing = [part for i in range(counts[0]) if (part := Part(i, counts[0])) not in parts]
        if missing:
            raise StoreError(f"{out} lacks {_named(missing)}: generate with the same options, then merge")
        with ExitStack() as locks:
            for path in parts.values():
                locks.enter_context(lock_folder(path))
            stores = {part: _open_part(path, part) for part, path in parts.items()}
            unfinished = [part for part, store in stores.items() if store is None or not store.complete]
            if unfinished:
                raise StoreError(f"{out} has unfinished parts: resume {_named(unfinished)}, then merge")
            for name, text in (keep or {}).items():
                write_atomic(out / name, text)
            store = _join(out, [store for store in stores.values() if store is not None])
        _clean_up(parts.values())
        return Rollout.from_store(store)


def _open_part(path: Path, part: Part) -> TokenStore | None:
    if not TokenStore.exists(path):
        return None
    store = TokenStore.open(path)
    if store.info.get("shard") != part.to_list():
        raise StoreError(f"{path} does not hold shard {part}, but {store.info.get('shard')}")
    return store


def _join(out: Path, stores: list[TokenStore]) -> TokenStore:
    """Link the files of all parts into `out` and declare them complete."""
    first, n_trajs, digest = stores[0], 0, 0
    shards: list[Shard] = []
    total: ObservablesResult | None = None
    begin = int(first.run["first_trajectory"])
    for store in stores:
        _check_fits(first, store, begin + n_trajs)
        store.verify()
        digest += int(str(store.run["prompts_digest"]), 16)
        if store.observables is not None:
            result = ObservablesResult.load(store.path / store.observables)
            total = result if total is None else total + result
        for shard in store.shards:
            name = f"shard_{len(shards):04d}.npy"
            if store.layout.keeps_tokens:
                _link(store.path / shard.file, out / name)
            shards.append(replace(shard, file=name, first=shard.first + n_trajs, last=shard.last + n_trajs))
        n_trajs += store.layout.n_trajs
    layout = replace(first.layout, n_trajs=n_trajs, shard_trajs=max(s.last - s.first for s in shards))
    run = {**first.run, "prompts_digest": f"{digest % 2**256:064x}"}
    info: dict[str, Any] = {k: v for k, v in first.info.items() if k != "shard"}
    info |= {
        "config": {**info["config"], "n_trajs": n_trajs},
        "seconds": sum(float(store.info["seconds"]) for store in stores),
        "merged_parts": len(stores),
    }
    merged = TokenStore(out, Manifest(layout, run, info, shards))
    merged.adopt(None if total is None else total.to_arrays())
    return merged


def _check_fits(first: TokenStore, store: TokenStore, begin: int) -> None:
    own = {"first_trajectory", "prompts_digest"}
    for key in sorted({*first.run, *store.run} - own):
        if first.run.get(key) != store.run.get(key):
            raise StoreError(
                f"{store.path} was made with {key} = {store.run.get(key)!r}, but {first.path} with "
                f"{first.run.get(key)!r}; they are no parts of one rollout"
            )
    for key, what in {"state_map": "labels of its states", "frame_interval": "frame interval"}.items():
        if first.info.get(key) != store.info.get(key):
            raise StoreError(f"{store.path} has another {what} than {first.path}; they are no parts of one rollout")
    for key in ("n_steps", "stride", "dtype", "keeps_tokens"):
        here, there = getattr(store.layout, key), getattr(first.layout, key)
        if here != there:
            raise StoreError(f"{store.path} has {key} = {here!r}, but {first.path} {there!r}")
    if store.run.get("first_trajectory") != begin:
        raise StoreError(
            f"{store.path} begins at trajectory {store.run.get('first_trajectory')}, but the parts before it end at "
            f"{begin}; all must be made with the same n_trajs"
        )


def _link(source: Path, target: Path) -> None:
    """Give a file a second name; where the file system cannot, copy it."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _clean_up(folders: Iterable[Path]) -> None:
    for path in folders:
        shutil.rmtree(path)


def _named(parts: list[Part]) -> str:
    shown = ", ".join(map(str, parts[:8]))
    return f"shard{'s' if len(parts) > 1 else ''} {shown}{' and others' if len(parts) > 8 else ''}"
