"""Shards: the union is the unsharded rollout, and merging checks that it is whole. By hand, by command line, by Ray."""

import dataclasses
import importlib.metadata
import os
import shutil
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rollout_models import LABELS, make_files

from nanomd.base.errors import InputError, StoreError
from nanomd.base.files import lock_folder, sha256_of
from nanomd.base.units import FrameInterval
from nanomd.cli.main import main
from nanomd.data.states import StateMap
from nanomd.model.files import save_model
from nanomd.rollout.observables import Observables
from nanomd.rollout.parts import Part, find_parts, merge_parts
from nanomd.rollout.sampler import Rollout, Sampler
from nanomd.rollout.store import TokenStore
from nanomd.study.folder import RunFolder

OBSERVABLES = Observables([1, 5], {"A": [5], "B": [8, 11]})
OPTIONS = {"n_steps": 400, "n_trajs": 23, "seed": 4, "observables": OBSERVABLES}


@pytest.fixture(scope="module")
def sampler():
    return Sampler(make_files())


@pytest.mark.parametrize("n", [1, 2, 7, 23])
def test_union_of_shards_is_the_unsharded_rollout(sampler, tmp_path, n):
    whole = sampler.generate(**OPTIONS, out=tmp_path / "whole")
    for start in ("stationary", "data"):
        parts = [sampler.generate(**OPTIONS, start=start, shard=(i, n)) for i in range(n)]
        expected = sampler.generate(**OPTIONS, start=start)
        assert np.array_equal(np.concatenate([part.tokens for part in parts]), expected.tokens)
    for i in reversed(range(n)):
        sampler.generate(**OPTIONS, shard=(i, n), out=tmp_path / "parts", n_threads=1 + i % 2)
    merged = merge_parts(tmp_path / "parts")
    assert np.array_equal(np.asarray(merged.tokens), np.asarray(whole.tokens))
    assert merged.observables == whole.observables and merged.config.replace(n_threads=None) == whole.config
    assert not find_parts(tmp_path / "parts") and merged.seconds > 0
    a, b = TokenStore.open(tmp_path / "whole"), TokenStore.open(tmp_path / "parts")
    assert a.run == b.run  # so that --resume finds the same rollout
    b.verify()
    again = sampler.generate(**OPTIONS, out=tmp_path / "parts", resume=True)
    assert np.array_equal(np.asarray(again.tokens), np.asarray(whole.tokens))
    assert merge_parts(tmp_path / "parts").n_trajs == 23  # nothing left to do


def test_given_starts_are_those_of_the_whole(sampler):
    start = np.random.default_rng(0).integers(0, 11, (9, 4)) * 3 + 5
    whole = sampler.generate(50, 9, start=start).tokens
    parts = [sampler.generate(50, 9, start=start, shard=(i, 4)).tokens for i in range(4)]
    assert np.array_equal(np.concatenate(parts), whole)
    with pytest.raises(InputError, match="start must have shape"):
        sampler.generate(50, 9, start=start[:3], shard=(0, 4))


def test_counts_only(sampler, tmp_path):
    for i in range(3):
        sampler.generate(**OPTIONS, store_tokens=False, shard=(i, 3), out=tmp_path)
    merged = merge_parts(tmp_path)
    assert merged.observables == sampler.generate(**OPTIONS).observables
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "manifest.json", "observables.npz"]


def test_merge_refuses_what_is_not_whole(sampler, tmp_path):
    with pytest.raises(StoreError, match="no parts"):
        merge_parts(tmp_path / "none")
    base = tmp_path / "base"
    for i in range(3):
        sampler.generate(**OPTIONS, shard=(i, 3), out=base)
    with pytest.raises(InputError, match="holds 3 parts"):
        sampler.generate(**OPTIONS, out=base)
    one = base / "part_0001_of_0003"

    def refused(pattern, change):
        folder = tmp_path / "bad"
        shutil.copytree(base, folder)
        change(folder)
        before = sorted(p.relative_to(folder) for p in folder.rglob("*"))
        with pytest.raises(StoreError, match=pattern):
            merge_parts(folder)
        assert not TokenStore.exists(folder) and set(before) <= {p.relative_to(folder) for p in folder.rglob("*")}
        shutil.rmtree(folder)

    def redo(folder, **changes):
        shutil.rmtree(folder / one.name)
        options = {**OPTIONS, "shard": (1, 3), **changes}
        sampler.generate(**options, out=folder)

    def flip(folder):
        file = folder / one.name / "shard_0000.npy"
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(bytes(data))

    refused("lacks shard 1/3", lambda f: shutil.rmtree(f / one.name))
    refused("unfinished parts: resume shard 1/3", lambda f: (f / one.name / "manifest.json").unlink())
    refused("of 3 and 4", lambda f: sampler.generate(**OPTIONS, shard=(1, 4), out=f))
    refused("seed", lambda f: redo(f, seed=5))
    refused("observables", lambda f: redo(f, observables=Observables([2])))
    refused("n_steps", lambda f: redo(f, n_steps=399))
    refused("begins at trajectory", lambda f: redo(f, n_trajs=30))
    refused("checksum differs", flip)
    refused("does not hold shard 2/3", lambda f: (shutil.rmtree(f / "part_0002_of_0003"),
                                                 shutil.copytree(one, f / "part_0002_of_0003")))  # fmt: skip
    with lock_folder(one), pytest.raises(StoreError, match="in use by"):
        merge_parts(base)
    with lock_folder(one), pytest.raises(StoreError, match="in use by"):
        sampler.generate(**OPTIONS, shard=(1, 3), out=base, resume=True)


def test_killed_merge_can_be_repeated(sampler, tmp_path, monkeypatch):
    """Stopped before the manifest and in the middle of cleaning up."""
    whole = sampler.generate(**OPTIONS)
    for i in range(3):
        sampler.generate(**OPTIONS, shard=(i, 3), out=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(TokenStore, "write_manifest", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            merge_parts(tmp_path)
    assert len(find_parts(tmp_path)) == 3
    with monkeypatch.context() as patch:
        real, calls = shutil.rmtree, []

        def killed(path):
            if calls:
                raise KeyboardInterrupt
            calls.append(real(path))

        patch.setattr("nanomd.rollout.parts.shutil", SimpleNamespace(rmtree=killed))
        with pytest.raises(KeyboardInterrupt):
            merge_parts(tmp_path)
    assert len(find_parts(tmp_path)) == 2
    merged = merge_parts(tmp_path)
    assert np.array_equal(np.asarray(merged.tokens), whole.tokens) and merged.observables == whole.observables


def test_shard_arguments():
    assert Part.parse("3/16") == Part(3, 16) and Part(1, 3).trajectories(10) == range(3, 6)
    covered = [Part(i, 7).trajectories(23) for i in range(7)]
    assert covered[0].start == 0 and covered[-1].stop == 23
    assert all(a.stop == b.start for a, b in pairwise(covered))
    for bad in ("3", "3/3", "-1/4", "a/b", "1/0", "1/2/3"):
        with pytest.raises(InputError, match="shard"):
            Part.parse(bad)
    with pytest.raises(InputError, match="n <= n_trajs = 2"):
        Part(0, 3).trajectories(2)


@pytest.fixture
def run(tmp_path):
    """A run folder with a trained model, as far as `generate` can tell."""
    folder = RunFolder(tmp_path / "run")
    save_model(folder.model, make_files())
    folder.record_config("train", {})
    folder.finish("train", {}, {}, 1.0)
    return folder.path


GENERATE = ["--n-steps", "300", "--n-trajs", "20", "--set", "A=5", "B=8,11,14-14", "--observe-lags", "1", "7"]


def test_command_line(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "whole")
    whole = tmp_path / "whole"
    assert main(["generate", "--run", str(whole), *GENERATE]) == 0
    text = capsys.readouterr().out
    assert "A -> B: mean first passage" in text and " ns (" in text
    command = ["generate", "--run", str(run), *GENERATE, "--shard"]
    for i in (2, 0):
        assert main([*command, f"{i}/3"]) == 0
    capsys.readouterr()
    assert main(["generate", "--run", str(run), "--merge"]) == 2
    assert "lacks shard 1/3" in capsys.readouterr().err
    assert main([*command, "0/3"]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*command, "0/3", "--resume", "--seed", "9"]) == 2
    assert "other options" in capsys.readouterr().err
    assert main([*command, "0/3", "--resume"]) == 0
    assert main([*command, "1/3", "--resume"]) == 0
    assert main(["generate", "--run", str(run), "--merge"]) == 0
    assert "merged" in capsys.readouterr().out
    a, b = Rollout.load(whole / "generated"), Rollout.load(run / "generated")
    assert np.array_equal(np.asarray(a.tokens), np.asarray(b.tokens)) and a.observables == b.observables
    assert a.observables.set_names == ("A", "B")
    assert RunFolder(run).record("generate")["settings"] == RunFolder(whole).record("generate")["settings"]
    assert main(["generate", "--run", str(run), *GENERATE]) == 0  # the same result is there: nothing to do
    assert main(["generate", "--run", str(run), "--merge"]) == 0
    assert capsys.readouterr().out.count("nothing to do") == 2
    for bad in (["--set", "A"], ["--set", "A=1", "A=2"], ["--set", "A=9-1"], ["--shard", "3/3"], ["--set", "A=6"]):
        assert main(["generate", "--run", str(whole), *GENERATE[:4], *bad, "--force"]) == 2
    assert np.array_equal(np.asarray(Rollout.load(whole / "generated").tokens), np.asarray(a.tokens))
    assert main(["generate", "--run", str(whole), *GENERATE, "--force", "--no-tokens", "--quiet"]) == 0
    assert Rollout.load(whole / "generated").observables == a.observables
    assert not list((whole / "generated").glob("shard*"))


def test_shards_may_run_at_once_but_not_beside_training(run, capsys):
    folder = RunFolder(run)
    with folder.lock(shared=True), folder.lock(shared=True):
        assert main(["generate", "--run", str(run), *GENERATE, "--shard", "0/2", "--quiet"]) == 0
        assert main(["generate", "--run", str(run), *GENERATE, "--quiet"]) == 2
        assert "in use" in capsys.readouterr().err
    with folder.lock():
        assert main(["generate", "--run", str(run), *GENERATE, "--shard", "1/2", "--quiet"]) == 2
        assert "in use" in capsys.readouterr().err
    digest = sha256_of(run / "generated")
    assert main(["generate", "--run", str(run), *GENERATE, "--shard", "1/2", "--force"]) == 2
    assert sha256_of(run / "generated") == digest


def _installed(distribution: str) -> bool:
    # By its metadata: a mere folder of that name on the path is importable too, as a namespace.
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.skipif(not _installed("ray"), reason="ray is not installed (pip install nanomd-kinetics[ray])")
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_two_ray_workers(sampler, tmp_path):
    """As in docs/scaling.md: two real worker processes, each with a shard."""
    import ray

    save_model(tmp_path / "model", make_files())
    model, out = str(tmp_path / "model"), str(tmp_path / "generated")
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": path}})
    try:

        @ray.remote(num_cpus=1)
        def work(index: int, count: int) -> int:
            from nanomd import Observables, Sampler

            Sampler.load(model).generate(
                400, 23, seed=4, observables=Observables([1, 5], {"A": [5], "B": [8, 11]}), n_threads=1, out=out,
                resume=True, shard=(index, count),
            )  # fmt: skip
            return os.getpid()

        processes = ray.get([work.remote(i, 2) for i in range(2)])
    finally:
        ray.shutdown()
    assert len({*processes, os.getpid()}) == 3
    merged, whole = merge_parts(out), sampler.generate(**OPTIONS)
    assert np.array_equal(np.asarray(merged.tokens), whole.tokens) and merged.observables == whole.observables


def test_parts_with_other_labels_are_no_parts_of_one_rollout(sampler, tmp_path):
    """The same weights with other labels of the states, or another time between frames, are another rollout."""
    options = {"n_steps": 50, "n_trajs": 4, "start": 8}
    others = {
        "labels of its states": {"state_map": StateMap(np.array([4, *LABELS[1:]]))},
        "frame interval": {"frame_interval": FrameInterval(0.3, "ns")},
    }
    for i, (what, changes) in enumerate(others.items()):
        other, out = Sampler(dataclasses.replace(sampler.files, **changes)), tmp_path / str(i)
        sampler.generate(**options, shard=(0, 2), out=out)
        other.generate(**options, shard=(1, 2), out=out)
        with pytest.raises(StoreError, match=f"has another {what} than"):
            merge_parts(out)
        with pytest.raises(InputError, match=f"holds a rollout with .*{what}, so it cannot be resumed"):
            other.generate(**options, shard=(0, 2), out=out, resume=True)
