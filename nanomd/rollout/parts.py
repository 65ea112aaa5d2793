"""One rollout made by many processes or machines that know nothing of each other, and the check that puts it together.

Part i of n holds a contiguous range of the trajectories, in a folder of its own, with its own manifest and lock. A
trajectory depends only on its global index, so the union is the rollout that one process would have made.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError, StoreError
from nanomd.base.files import write_atomic
from nanomd.rollout.observables import ObservablesResult
from nanomd.rollout.result import Rollout
from nanomd.rollout.store import Shard, StoreLayout, TokenStore, lock_folder

_PART_NAME = re.compile(r"part_([0-9]{4,})_of_([0-9]{4,})")


def parse_shard(text: str) -> tuple[int, int]:
    """Read ``"3/16"``: part 3 of 16, counted from 0.

    Raises
    ------
    InputError
        For anything else.
    """
    match = re.fullmatch(r"\s*([0-9]{1,9})\s*/\s*([0-9]{1,9})\s*", text)
    if match is None:
        raise InputError(f"shard must look like 3/16 (part 3 of 16, counted from 0), got {text!r}")
    return check_shard((int(match.group(1)), int(match.group(2))))


def check_shard(shard: tuple[int, int]) -> tuple[int, int]:
    """Return (i, n) if 0 <= i < n."""
    index, count = int(shard[0]), int(shard[1])
    if not 0 <= index < count:
        raise InputError(f"shard i/n must have 0 <= i < n, counted from 0, got {index}/{count}")
    return index, count


def shard_range(shard: tuple[int, int] | None, n_trajs: int) -> tuple[int, int]:
    """Return the trajectories [first, last) of a shard (i, n); all of them for None."""
    if shard is None:
        return 0, n_trajs
    index, count = check_shard(shard)
    if count > n_trajs:
        raise InputError(f"shard i/n must have n <= n_trajs = {n_trajs}, so that none is empty, got {index}/{count}")
    return n_trajs * index // count, n_trajs * (index + 1) // count


def part_folder(out: str | Path, index: int, count: int) -> Path:
    """Return the folder of part `index` of `count`."""
    return Path(out) / f"part_{index:04d}_of_{count:04d}"


def find_parts(out: str | Path) -> list[tuple[int, int, Path]]:
    """Return (index, count, folder) of the parts in a folder, in order."""
    out = Path(out)
    if not out.is_dir():
        return []
    matches = [(_PART_NAME.fullmatch(path.name), path) for path in out.iterdir() if path.is_dir()]
    return sorted((int(m.group(1)), int(m.group(2)), path) for m, path in matches if m is not None)


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
    counts = sorted({count for _, count, _ in parts})
    with lock_folder(out):
        if TokenStore.exists(out):
            store = TokenStore.open(out)
            # Parts beside a merged store: an earlier merge was killed while it cleaned up.
            merged = store.info.get("merged_parts")
            if merged is not None and counts in ([], [merged]) and store.complete:
                _clean_up(parts)
                return Rollout.from_store(store)
            raise StoreError(f"{out} holds another rollout beside its parts; move one of them elsewhere")
        if len(counts) != 1:
            found = "no parts" if not parts else f"parts of several rollouts, of {' and '.join(map(str, counts))}"
            raise StoreError(f"{out} holds {found}; make all parts with `nanomd generate --shard i/n`, with one n")
        count = counts[0]
        missing = sorted(set(range(count)) - {index for index, _, _ in parts})
        if missing:
            raise StoreError(f"{out} lacks {_shards(missing, count)}: generate with the same options, then merge")
        with ExitStack() as locks:
            for _, _, path in parts:
                locks.enter_context(lock_folder(path))
            stores = [_open_part(path, index, count) for index, _, path in parts]
            unfinished = [index for index, store in enumerate(stores) if store is None or not store.complete]
            if unfinished:
                raise StoreError(f"{out} has unfinished parts: resume {_shards(unfinished, count)}, then merge")
            for name, text in (keep or {}).items():
                write_atomic(out / name, text)
            store = _join(out, [store for store in stores if store is not None])
        _clean_up(parts)
        return Rollout.from_store(store)


def _open_part(path: Path, index: int, count: int) -> TokenStore | None:
    if not TokenStore.exists(path):
        return None
    store = TokenStore.open(path)
    if store.info.get("shard") != [index, count]:
        raise StoreError(f"{path} does not hold shard {index}/{count}, but {store.info.get('shard')}")
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
    layout = StoreLayout(
        **{**asdict(first.layout), "n_trajs": n_trajs, "shard_trajs": max(s.last - s.first for s in shards)}
    )
    run = {**first.run, "prompts_digest": f"{digest % 2**256:064x}"}
    info: dict[str, Any] = {k: v for k, v in first.info.items() if k != "shard"}
    info |= {
        "config": {**info["config"], "n_trajs": n_trajs},
        "seconds": sum(float(store.info["seconds"]) for store in stores),
        "merged_parts": len(stores),
    }
    merged = TokenStore(out, layout, run, info, shards)
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


def _clean_up(parts: list[tuple[int, int, Path]]) -> None:
    for _, _, path in parts:
        shutil.rmtree(path)


def _shards(indices: list[int], count: int) -> str:
    shown = ", ".join(f"{index}/{count}" for index in indices[:8])
    return f"shard{'s' if len(indices) > 1 else ''} {shown}{' and others' if len(indices) > 8 else ''}"
