"""The store as a state machine in small: what is declared complete stays so, whatever else happens."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanomd.base.errors import InputError, StoreError
from nanomd.base.files import lock_folder
from nanomd.rollout.manifest import MANIFEST, StoreLayout
from nanomd.rollout.store import TokenStore


def make_tokens(layout, seed=0):
    return np.random.default_rng(seed).integers(0, 200, (layout.n_trajs, layout.n_steps)).astype(layout.dtype)


def fill(store, whole, index, steps):
    shard = store.shards[index]
    begin, end = shard.steps_done, shard.steps_done + steps
    part = whole[shard.first : shard.last]
    kept = [s for s in range(begin, end) if s % store.layout.stride == 0]
    store.append(index, steps, part[:, kept], part[:, max(0, end - 5) : end].astype(np.uint16))


def fill_all(store, whole, shards, steps):
    for index in shards:
        fill(store, whole, index, steps)


@settings(max_examples=50, deadline=None)
@given(
    n_trajs=st.integers(1, 12),
    n_steps=st.integers(1, 40),
    stride=st.integers(1, 9),
    shard_trajs=st.integers(1, 12),
    wide=st.booleans(),
    data=st.data(),
)
def test_any_order_of_appends_gives_the_tokens(tmp_path_factory, n_trajs, n_steps, stride, shard_trajs, wide, data):
    folder = tmp_path_factory.mktemp("store")
    with mock.patch.object(os, "fsync"):  # waiting for the disk would take most of the time
        _append_in_any_order(folder, n_trajs, n_steps, stride, shard_trajs, wide, data)


def _append_in_any_order(folder, n_trajs, n_steps, stride, shard_trajs, wide, data):
    layout = StoreLayout(n_trajs, n_steps, stride, shard_trajs, "uint16" if wide else "uint8")
    whole = make_tokens(layout)
    store = TokenStore.create(folder, layout, {"seed": 1}, {})
    while not store.complete:
        open_shards = [i for i, shard in enumerate(store.shards) if shard.steps_done < n_steps]
        index = data.draw(st.sampled_from(open_shards))
        fill(store, whole, index, data.draw(st.integers(1, n_steps - store.shards[index].steps_done)))
        if data.draw(st.booleans()):
            store = TokenStore.open(folder)  # as another process would find it
        for i, shard in enumerate(store.shards):
            done = whole[shard.first : shard.last, : shard.steps_done]
            assert np.array_equal(store.tokens(i), done[:, ::stride])
            if 0 < shard.steps_done < n_steps:
                assert np.array_equal(store.tail(i), done[:, -5:])
    store.verify()
    assert not list(folder.glob("tail_*"))
    for shard in store.shards:  # plain .npy files, readable by anyone
        assert np.array_equal(np.load(folder / shard.file), whole[shard.first : shard.last, ::stride])


@pytest.fixture
def begun(tmp_path):
    layout = StoreLayout(6, 30, 1, 3, "uint8")
    store, whole = TokenStore.create(tmp_path / "s", layout, {}, {}), make_tokens(layout)
    fill(store, whole, 0, 30)
    fill(store, whole, 1, 12)
    return store, whole


def test_full_disk_leaves_what_is_complete(begun, monkeypatch):
    store, whole = begun
    real = {name: getattr(os, name) for name in ("pwrite", "posix_fallocate", "fsync")}

    for name in real:  # whichever call meets the full disk, and however much was written before

        def full(*args, name=name):
            if name == "pwrite" and os.urandom(1)[0] < 100:
                return real["pwrite"](args[0], args[1][: max(1, len(args[1]) // 2)], args[2])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, name, full)
        with pytest.raises(StoreError, match=r"the disk is full .* 126 trajectory-steps are complete"):
            fill(store, whole, 1, 10)
        monkeypatch.setattr(os, name, real[name])
        found = TokenStore.open(store.path)
        assert np.array_equal(found.tokens(0), whole[:3])
        assert np.array_equal(found.tokens(1), whole[3:, :12])
        found.verify()
    store = TokenStore.open(store.path)
    fill(store, whole, 1, 18)
    assert np.array_equal(store.tokens(1), whole[3:])


@pytest.mark.skipif(os.geteuid() != 0 or not Path("/dev/shm").exists(), reason="needs to mount a small file system")
def test_truly_full_disk(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    try:
        layout = StoreLayout(4, 20_000, 1, 1, "uint8")
        whole, store = make_tokens(layout), TokenStore.create(folder / "s", layout, {}, {})
        fill(store, whole, 0, 20_000)
        fill(store, whole, 1, 20_000)
        with pytest.raises(StoreError, match="the disk is full"):
            fill_all(store, whole, range(2, 4), 20_000)
        found = TokenStore.open(folder / "s")
        done = [shard.steps_done for shard in found.shards]
        assert done.count(20_000) >= 2
        for index in range(done.count(20_000)):
            assert np.array_equal(found.tokens(index), whole[index : index + 1])
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_damage_is_noticed(begun):
    store, _ = begun
    manifest = store.path / MANIFEST
    good = json.loads(manifest.read_text())

    def refused(pattern, change):
        content = json.loads(json.dumps(good))
        change(content)
        manifest.write_text(json.dumps(content))
        with pytest.raises(StoreError, match=pattern):
            TokenStore.open(store.path)

    refused("version 7", lambda c: c.update(format_version=7))
    refused("damaged", lambda c: c.pop("shards"))
    refused("damaged", lambda c: c["shards"][0].pop("first"))
    refused("damaged", lambda c: c["shards"][0].update(surprise=1))
    refused("damaged", lambda c: c["shards"][0].update(file="../../etc/passwd"))
    refused("damaged", lambda c: c["shards"][1].update(tail="/etc/passwd"))
    refused("makes no sense", lambda c: c["shards"][1].update(first=2))
    refused("makes no sense", lambda c: c["shards"][1].update(steps_done=31))
    refused("3 of 6", lambda c: c["shards"].pop())
    refused("dtype", lambda c: c["layout"].update(dtype="object"))
    refused("damaged.*n_steps", lambda c: c["layout"].update(n_steps=-1))
    refused("missing", lambda c: c["shards"][1].update(tail="tail_0001_99.npy"))
    for text in ("", "{", "[]", "\x00"):
        manifest.write_text(text)
        with pytest.raises(StoreError, match="damaged"):
            TokenStore.open(store.path)
    manifest.write_text(json.dumps(good))
    shard = store.path / store.shards[0].file
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(StoreError, match="checksum differs"):
        TokenStore.open(store.path).verify()
    shard.write_bytes(bytes(data[:-1]))
    with pytest.raises(StoreError, match="truncated"):
        TokenStore.open(store.path)
    shard.unlink()
    with pytest.raises(StoreError, match="missing"):
        TokenStore.open(store.path)
    with pytest.raises(StoreError, match="holds no rollout"):
        TokenStore.open(store.path / "nowhere")


def test_create_does_not_overwrite(begun):
    store, _ = begun
    with pytest.raises(InputError, match="holds a rollout already"):
        TokenStore.create(store.path, store.layout, {}, {})
    with pytest.raises(InputError, match="cannot take"):
        store.append(1, 5, np.zeros((3, 4), np.uint8), np.zeros((3, 1), np.uint16))


def test_second_process_is_refused(tmp_path):
    code = "import sys; from nanomd.base.files import lock_folder\nwith lock_folder(sys.argv[1]): print('held')"
    command = [sys.executable, "-c", code, str(tmp_path)]
    with lock_folder(tmp_path):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert "in use by process" in done.stderr and not done.stdout
    assert subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout == "held\n"


def test_unwritable_folder_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"), lock_folder(tmp_path / "file" / "run"):
        pass
    if os.geteuid() != 0:  # root may write anywhere
        (tmp_path / "locked").mkdir(mode=0o555)
        with pytest.raises(StoreError, match="no permission"), lock_folder(tmp_path / "locked"):
            pass
