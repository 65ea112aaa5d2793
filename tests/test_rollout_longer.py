"""Rollouts made longer: exactly what one long rollout would have been, in memory, on disk, killed, by every backend."""

import shutil

import numpy as np
import pytest
from rollout_models import make_files

from nanomd.base.errors import InputError, StoreError
from nanomd.cli.main import main
from nanomd.model.files import save_model
from nanomd.rollout.observables import Observables
from nanomd.rollout.parts import merge_parts
from nanomd.rollout.sampler import Rollout, Sampler
from nanomd.rollout.store import TokenStore
from nanomd.study.folder import RunFolder

OBSERVABLES = Observables([1, 30], {"A": [5], "B": [8, 11]})
CASES = [
    ("ring", {}, None),
    ("hop", {"position": "learned", "context_length": 7}, 3),
    ("crop", {"position": "learned", "n_layer": 1}, None),
]
MODES = pytest.mark.parametrize(("mode", "changes", "keep"), CASES, ids=["ring", "hop", "crop"])


class Fuse:
    """Progress that interrupts after so many trajectory-steps."""

    def __init__(self, n):
        self.left = n

    def update(self, n=1):
        self.left -= n
        if self.left < 0:
            raise KeyboardInterrupt

    def note(self, text): ...
    def close(self): ...


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@MODES
def test_going_on_from_a_rollout_is_exact(mode, changes, keep, backend):
    """Whatever is cut where, also shorter than what the model reads; and again from there."""
    sampler = Sampler(make_files(**changes), backend)
    options = {"n_trajs": 4, "mode": mode, "hop_keep": keep, "seed": 5, "first_trajectory": 3}
    for start in ("stationary", "data"):
        whole = sampler.generate(60, start=start, **options)
        for cuts in ((1,), (3, 4), (20,), (25, 37, 59)):
            pieces = [sampler.generate(cuts[0], start=start, **options)]
            for begin, end in zip(cuts, (*cuts[1:], 60), strict=True):
                if len(pieces) > 1 and pieces[-1].n_steps < 13:  # it has not all that the model reads
                    break
                pieces.append(sampler.generate(end - begin, **{**options, "start": pieces[-1]}))
                assert pieces[-1].first_step == begin and pieces[-1].prompt_length == whole.prompt_length
            joined = np.concatenate([piece.tokens for piece in pieces], axis=1)
            assert np.array_equal(joined, whole.tokens[:, : joined.shape[1]]) and joined.shape[1] > cuts[0]
    part = sampler.generate(30, start=whole, shard=(1, 2), **options)
    assert np.array_equal(part.tokens, sampler.generate(30, start=whole, **options).tokens[2:])
    assert np.array_equal(sampler.generate(30, start=whole, stride=5, **options).tokens[0], sampler.generate(
        90, start=start, **options).tokens[0, 60::5])  # fmt: skip


def test_going_on_from_a_stored_rollout(tmp_path):
    sampler = Sampler(make_files())
    options = {"n_trajs": 5, "seed": 2}
    sampler.generate(50, out=tmp_path / "a", **options)
    middle = sampler.generate(40, start=Rollout.load(tmp_path / "a"), out=tmp_path / "b", **options)
    end = sampler.generate(10, start=Rollout.load(tmp_path / "b"), out=tmp_path / "c", **options)
    whole = sampler.generate(100, **options).tokens
    assert np.array_equal(middle.tokens, whole[:, 50:90]) and np.array_equal(end.tokens, whole[:, 90:])
    first = Rollout.load(tmp_path / "a")
    assert sampler.generate(40, start=first, out=tmp_path / "b", resume=True, **options) == middle
    with pytest.raises(InputError, match=r"first_step = |with other starts"):
        sampler.generate(40, start=middle, out=tmp_path / "b", resume=True, **options)


def test_what_cannot_be_gone_on_with(tmp_path):
    sampler = Sampler(make_files())
    rollout = sampler.generate(50, 3, start=5)
    for options, message in (
        ({"n_trajs": 2}, "n_trajs must be that of the rollout to go on from, 3, got 2"),
        ({"n_trajs": 3, "stride": 7}, "stride must divide the 50 steps"),
    ):
        with pytest.raises(InputError, match=message):
            sampler.generate(20, start=rollout, **options)
    short = sampler.generate(5, 3, start=5)
    with pytest.raises(InputError, match="start must be a rollout of at least 6 steps"):
        sampler.generate(20, 3, start=short)
    thin = (sampler.generate(50, 3, stride=2), sampler.generate(50, 3, observables=OBSERVABLES, store_tokens=False))
    for start in thin:
        with pytest.raises(InputError, match="keeps every state"):
            sampler.generate(20, 3, start=start)
    for name, options in (("s", {"stride": 2}), ("o", {"observables": OBSERVABLES, "store_tokens": False})):
        sampler.generate(50, 3, out=tmp_path / name, **options)
        with pytest.raises(InputError, match="does not keep every state, so 50 steps cannot become 60"):
            sampler.generate(60, 3, out=tmp_path / name, resume=True, **options)
    sampler.generate(50, 3, out=tmp_path / "a")
    with pytest.raises(InputError, match="n_steps = 50, so it cannot be resumed with 40"):
        sampler.generate(40, 3, out=tmp_path / "a", resume=True)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@MODES
def test_a_stored_rollout_is_made_longer(tmp_path, monkeypatch, mode, changes, keep, backend):
    """From nothing, from much less than the model reads, complete or not; observables too, and in parts."""
    monkeypatch.setattr("nanomd.rollout.run.CACHE_BYTES", 1)
    sampler = Sampler(make_files(**changes), backend)
    n = 40 if backend == "cpu" else 4
    options = {"n_trajs": n, "mode": mode, "hop_keep": keep, "seed": 5, "observables": OBSERVABLES, "n_threads": 1}
    whole = sampler.generate(90, **options)
    for n_steps in (2, 30, 70, 90):
        longer = sampler.generate(n_steps, out=tmp_path / "a", resume=True, **options)
    assert longer == whole and longer.config == whole.config and Rollout.load(tmp_path / "a") == whole
    TokenStore.open(tmp_path / "a").verify()
    shards = -(-n // 16) if backend == "cpu" else 1
    assert len(list((tmp_path / "a").glob("shard_*"))) == shards and not list((tmp_path / "a").glob("tail_*"))
    for part in (0, 1):
        sampler.generate(30, out=tmp_path / "b", shard=(part, 2), **options)
        sampler.generate(50, out=tmp_path / "b", shard=(part, 2), resume=True, **options)
    assert merge_parts(tmp_path / "b") == sampler.generate(50, **options)
    assert sampler.generate(90, out=tmp_path / "b", resume=True, **options) == whole


def test_killed_anywhere_while_it_is_made_longer(tmp_path, monkeypatch):
    """Before and after the copies, in the middle of the new steps: nothing is lost, and the result is the same."""
    monkeypatch.setattr("nanomd.rollout.run.CACHE_BYTES", 1)
    monkeypatch.setattr("nanomd.rollout.disk.COMMIT_SECONDS", 0.03)
    sampler = Sampler(make_files())
    options = {"n_trajs": 40, "seed": 8, "observables": OBSERVABLES, "n_threads": 1}
    whole = sampler.generate(20_000, **options)
    sampler.generate(2000, out=tmp_path / "a", **options)
    with monkeypatch.context() as patch:
        patch.setattr(TokenStore, "write_manifest", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            sampler.generate(20_000, out=tmp_path / "a", resume=True, **options)
    copies = sorted(path.name for path in (tmp_path / "a").glob("shard_*"))
    assert len(copies) == 6 and Rollout.load(tmp_path / "a").n_steps == 2000  # the copies are made, and not declared
    assert sampler.generate(2000, out=tmp_path / "a", resume=True, **options).n_steps == 2000
    assert len(list((tmp_path / "a").glob("shard_*"))) == 3  # swept
    rng, stops = np.random.default_rng(0), 0
    for _ in range(200):
        done = sum((s.last - s.first) * s.steps_done for s in TokenStore.open(tmp_path / "a").shards)
        try:
            longer = sampler.generate(20_000, out=tmp_path / "a", resume=True, **options,
                                      progress=Fuse(done + rng.integers(20_000, 200_000)))  # fmt: skip
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops >= 2 and longer == whole
    TokenStore.open(tmp_path / "a").verify()


def test_what_has_changed_is_not_made_longer(tmp_path):
    sampler = Sampler(make_files())
    sampler.generate(200, 3, out=tmp_path / "a")
    file = tmp_path / "a" / "shard_0000.npy"
    shutil.copy(file, tmp_path / "copy.npy")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(StoreError, match="has changed since it was written"):
        sampler.generate(300, 3, out=tmp_path / "a", resume=True)
    shutil.copy(tmp_path / "copy.npy", file)
    assert sampler.generate(300, 3, out=tmp_path / "a", resume=True) == sampler.generate(300, 3)


@pytest.fixture
def run(tmp_path):
    """A run folder with a trained model, as far as `generate` can tell."""
    folder = RunFolder(tmp_path / "run")
    save_model(folder.model, make_files())
    folder.record_config("train", {})
    folder.finish("train", {}, {}, 1.0)
    return folder.path


def test_command_line(run, capsys):
    """A stride, another option or no --extend are refused, and lose nothing."""
    command = ["generate", "--run", str(run), "--n-trajs", "6", "--seed", "2", "--quiet"]
    assert main([*command, "--n-steps", "50"]) == 0
    before = Rollout.load(run / "generated").tokens.copy()
    for refused in (
        ["90"],
        ["90", "--resume"],
        ["90", "--extend", "--seed", "3"],
        ["90", "--extend", "--stride", "2"],
        ["40", "--extend"],
    ):
        assert main([*command, "--n-steps", *refused]) == 2
        assert "n_steps (50 -> " in capsys.readouterr().err
        assert np.array_equal(Rollout.load(run / "generated").tokens, before)
        assert RunFolder(run).record("generate")["settings"]["n_steps"] == 50
    assert main([*command, "--n-steps", "90", "--extend"]) == 0
    whole = Sampler(make_files()).generate(90, 6, seed=2)
    assert Rollout.load(run / "generated") == whole
    record = RunFolder(run).record("generate")
    assert record["settings"]["n_steps"] == 90 and RunFolder(run).config("generate")["n_steps"] == 90
    assert main([*command, "--n-steps", "90"]) == 0 and main([*command, "--n-steps", "90", "--extend"]) == 0
    assert main([*command, "--n-steps", "100", "--extend", "--force"]) == 2
    assert "use one of them" in capsys.readouterr().err


def test_parts_by_command_line(run, capsys):
    command = ["generate", "--run", str(run), "--n-trajs", "6", "--seed", "2", "--quiet", "--extend"]
    for part, n_steps in (("0/2", "50"), ("1/2", "50"), ("0/2", "90")):
        assert main([*command, "--shard", part, "--n-steps", n_steps]) == 0
    assert main(["generate", "--run", str(run), "--merge"]) == 2
    assert "n_steps (90 and 50)" in capsys.readouterr().err
    assert main([*command, "--shard", "0/2", "--n-steps", "50"]) == 2
    assert "other options" in capsys.readouterr().err
    assert main([*command, "--shard", "1/2", "--n-steps", "90"]) == 0
    assert main(["generate", "--run", str(run), "--merge", "--quiet"]) == 0
    assert Rollout.load(run / "generated") == Sampler(make_files()).generate(90, 6, seed=2)
    file = run / "generated" / "shard_0000.npy"
    file.write_bytes(file.read_bytes()[:-1])
    assert main(["generate", "--run", str(run), "--merge"]) == 2
    assert "it was truncated" in capsys.readouterr().err
