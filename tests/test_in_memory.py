"""Trajectories that a program holds: mdtraj's and MDAnalysis's objects in place of files."""

from __future__ import annotations

import mdtraj
import numpy as np
import pytest
from md_files import beads, walk, write_top, write_xtc

from nanomd.base.errors import InputError
from nanomd.tokenize import Tokenizer
from nanomd.tokenize import sources as reading


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Two trajectories as files, read in small chunks, and what the tokenizer makes of them."""
    monkeypatch.setattr(reading, "_MAX_CHUNK", 11)
    top = write_top(tmp_path / "a.gro", walk(1))
    paths = [write_xtc(tmp_path / f"{k}.xtc", walk(60 + k, k), np.arange(60 + k) * 2.0) for k in range(2)]
    tokenizer = Tokenizer("distances", n_states=5, seed=1)
    return tokenizer, tokenizer.fit_transform(top, paths, 2), top, paths


def check(tokenizer, found, files, tmp_path):
    whole, expected, *_ = files
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    assert tokenizer.frame_interval == whole.frame_interval
    labels = np.arange(40) % 5
    here = tokenizer.to_structures(labels, tmp_path / "here.xtc", seed=3)
    there = whole.to_structures(labels, tmp_path / "there.xtc", seed=3)
    assert np.abs(mdtraj.load(str(here), top=beads()).xyz - mdtraj.load(str(there), top=beads()).xyz).max() < 1.1e-3


def test_mdtraj_trajectories(files, tmp_path):
    _, expected, top, paths = files
    held = [mdtraj.load(str(path), top=str(top)) for path in paths]
    for topology, trajectories in ((held, None), (top, held), (held[0], [held[0], paths[1]])):
        tokenizer = Tokenizer("distances", n_states=5, seed=1)
        check(tokenizer, tokenizer.fit_transform(topology, trajectories, 2), files, tmp_path)
        for name in ("here.xtc", "there.xtc"):
            (tmp_path / name).unlink()
    assert np.array_equal(tokenizer.transform(held[1])[0], expected[1])
    # Parts of one trajectory, and one alone.
    parts = Tokenizer("distances", n_states=5).fit_transform(top, [[held[0][:30], held[0][30:]]])
    assert [len(labels) for labels in parts] == [60]
    with pytest.raises(InputError, match="there is a gap between trajectory 0"):
        Tokenizer("distances", n_states=5).fit_transform(top, [[held[0][:20], held[0][30:]]])
    assert len(Tokenizer("distances", n_states=5).fit_transform(held[0])[0]) == 60
    # Any collection will do.
    assert len(Tokenizer("distances", n_states=5).fit_transform(top, tmp_path.glob("?.xtc"))) == 2


def test_what_is_in_memory_is_checked_like_files(files):
    _, _, top, paths = files
    held = mdtraj.load(str(paths[0]), top=str(top))
    held.xyz[7] = np.nan
    with pytest.raises(InputError, match="trajectory 0: frame 7 has coordinates that are not finite"):
        Tokenizer("distances", n_states=5).fit(held)
    small = mdtraj.Trajectory(walk(9, n_atoms=7), beads(7))
    with pytest.raises(InputError, match="trajectory 0 has 7 atoms but the topology has 12"):
        Tokenizer("distances", n_states=5).fit(top, small)
    for wrong in ([np.zeros((4, 3))], [3], [[]], []):
        with pytest.raises(InputError, match=r"(trajectories must be paths|list is empty)"):
            Tokenizer("distances", n_states=5).fit(top, wrong)


def test_structures_of_frames_that_were_in_memory(files, tmp_path):
    whole, _, top, paths = files
    held = [mdtraj.load(str(path), top=str(top)) for path in paths]
    Tokenizer("distances", n_states=5, seed=1).fit(held, stride=2).save(tmp_path / "tok")
    loaded, labels = Tokenizer.load(tmp_path / "tok"), np.arange(40) % 5
    with pytest.raises(InputError, match=r"in memory; pass them as files=, and topology="):
        loaded.to_structures(labels, tmp_path / "no.xtc", topology=top)
    expected = whole.to_structures(labels, tmp_path / "expected.xtc").read_bytes()
    for k, again in enumerate((held, paths)):
        out = loaded.to_structures(labels, tmp_path / f"out_{k}.xtc", topology=top, files=again)
        assert out.read_bytes() == expected
    with pytest.raises(InputError, match="fewer frames"):
        loaded.to_structures(labels, tmp_path / "no.xtc", topology=top, files=[held[0][:9], held[1]])


def test_counted_times_are_no_times(files):
    held = mdtraj.Trajectory(walk(40), beads())  # mdtraj calls its count picoseconds
    assert Tokenizer("distances", n_states=5).fit(held).frame_interval.unit == "frame"
    assert str(Tokenizer("distances", n_states=5, frame_interval="2 ns").fit(held).frame_interval) == "2 ns"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_universes_and_atom_groups(files, tmp_path):
    mda = pytest.importorskip("MDAnalysis", reason="MDAnalysis is absent")
    top, paths = files[2:]
    held = [mda.Universe(str(top), str(path)) for path in paths]
    tokenizer = Tokenizer("distances", n_states=5, seed=1)
    check(tokenizer, tokenizer.fit_transform(held, stride=2), files, tmp_path)
    part = held[0].select_atoms("resid 1:8")
    few = Tokenizer("distances", n_states=5)
    assert len(few.fit_transform(part)[0]) == 60
    assert "15 features" in repr(few)  # of eight residues, pairs at least three apart
