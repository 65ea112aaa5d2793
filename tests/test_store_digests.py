"""What a store declares complete has a digest, made while it was drawn: changes are noticed, wherever they are."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rollout_models import make_files

from nanomd.base.errors import StoreError
from nanomd.rollout.manifest import MANIFEST, StoreLayout
from nanomd.rollout.parts import merge_parts
from nanomd.rollout.sampler import Sampler
from nanomd.rollout.store import RowDigests, TokenStore

N_STEPS = 40


def begin(folder: Path, stride: int = 1) -> tuple[TokenStore, NDArray[np.uint8]]:
    """A store of two shards of three trajectories: the first complete, of the second 12 steps."""
    store = TokenStore.create(folder, StoreLayout(6, N_STEPS, stride, 3, "uint8"), {}, {})
    whole = np.random.default_rng(1).integers(0, 9, (6, N_STEPS)).astype(np.uint8)
    for index, step in ((0, 25), (0, 15), (1, 12)):
        draw(store, whole, index, step)
    return store, whole


def draw(store: TokenStore, whole: NDArray[np.uint8], index: int, steps: int, observables: Any = None) -> None:
    shard, stride = store.shards[index], store.layout.stride
    rows, done = whole[shard.first : shard.last], shard.steps_done
    new = rows[:, -(-done // stride) * stride : done + steps : stride]
    store.append(index, steps, new, rows[:, done + steps - 5 : done + steps].astype(np.uint16), observables)


def flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("stride", [1, 4])
def test_the_digest_is_that_of_the_tokens_not_of_the_steps_between_declarations(tmp_path: Path, stride: int) -> None:
    store, whole = begin(tmp_path, stride)
    rows = [hashlib.sha256(row[::stride].tobytes()).digest() for row in whole[:3]]
    assert store.shards[0].rows_sha256 == hashlib.sha256(b"".join(rows)).hexdigest()
    again = TokenStore.open(tmp_path)  # another process goes on
    draw(again, whole, 1, N_STEPS - 12)
    assert again.shards[1].rows_sha256 == RowDigests(3).update(whole[3:, ::stride]).value()
    again.verify()


def test_a_finished_shard_that_changed_is_noticed(tmp_path: Path) -> None:
    store, _ = begin(tmp_path)
    for shard, place in ((0, 128 + 3 * N_STEPS // 2), (1, 128 + 2 * N_STEPS + 11)):
        flip(tmp_path / store.shards[shard].file, place)
        with pytest.raises(StoreError, match=rf"shard_000{shard}\.npy has changed"):
            TokenStore.open(tmp_path).verify()
        flip(tmp_path / store.shards[shard].file, place)
    flip(tmp_path / store.shards[1].file, 128 + 2 * N_STEPS + 12)  # not declared complete: anything may be there
    TokenStore.open(tmp_path).verify()


def test_what_changed_in_the_finished_part_gets_no_fresh_digest_by_going_on(tmp_path: Path) -> None:
    store, whole = begin(tmp_path)
    manifest = (tmp_path / MANIFEST).read_text()
    flip(tmp_path / store.shards[1].file, 128 + 5)
    with pytest.raises(StoreError, match=r"shard_0001\.npy has changed"):
        draw(TokenStore.open(tmp_path), whole, 1, 5)
    assert (tmp_path / MANIFEST).read_text() == manifest
    flip(tmp_path / store.shards[1].file, 128 + 5)
    tail = tmp_path / str(store.shards[1].tail)
    flip(tail, tail.stat().st_size - 2)
    with pytest.raises(StoreError, match=r"tail_0001_12\.npy has changed"):
        TokenStore.open(tmp_path).tail(1)


def test_observables_that_changed_are_noticed(tmp_path: Path) -> None:
    store, whole = begin(tmp_path)
    draw(store, whole, 1, 3, {"totals": np.arange(50)})
    file = tmp_path / str(store.observables)
    flip(file, file.stat().st_size // 2)
    with pytest.raises(StoreError, match=r"observables_0001_15\.npz has changed"):
        TokenStore.open(tmp_path).verify()


def test_sizes_are_checked_whenever_a_store_is_opened(tmp_path: Path) -> None:
    store, _ = begin(tmp_path)
    file = tmp_path / store.shards[0].file
    data = file.read_bytes()
    for other, says in ((data[:-1], "truncated"), (data + b"\0", "changed")):
        file.write_bytes(other)
        with pytest.raises(StoreError, match=f"must have {len(data)} bytes, got {len(other)}; it was {says}"):
            TokenStore.open(tmp_path)


def test_stores_of_the_version_before_are_read_checked_and_finished(tmp_path: Path) -> None:
    store, whole = begin(tmp_path)
    content = json.loads((tmp_path / MANIFEST).read_text())
    del content["observables_sha256"]
    for row in content["shards"]:
        del row["rows_sha256"], row["tail_sha256"]
    file = tmp_path / store.shards[0].file
    content["shards"][0]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (tmp_path / MANIFEST).write_text(json.dumps(content))
    old = TokenStore.open(tmp_path)
    old.verify()
    draw(old, whole, 1, N_STEPS - 12)
    TokenStore.open(tmp_path).verify()
    flip(file, 200)
    with pytest.raises(StoreError, match="has changed"):
        TokenStore.open(tmp_path).verify()


def test_a_part_without_checksum_is_not_merged(tmp_path: Path) -> None:
    sampler = Sampler(make_files(n_states=5))
    for part in range(2):
        sampler.generate(50, 4, seed=1, shard=(part, 2), out=tmp_path)
    manifest = tmp_path / "part_0001_of_0002" / MANIFEST
    content = json.loads(manifest.read_text())
    content["shards"][0]["rows_sha256"] = None
    manifest.write_text(json.dumps(content))
    with pytest.raises(StoreError, match=r"part_0001_of_0002/shard_0000\.npy has no checksum"):
        merge_parts(tmp_path)
