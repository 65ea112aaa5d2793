"""The tokenizer on files: chunks, strides, time stamps, the frame index, structures, and damaged input."""

import mdtraj
import numpy as np
import pytest
from md_files import chain, trajectory
from mdtraj.formats import DCDTrajectoryFile

from nanomd.base.errors import InputError
from nanomd.base.units import FrameInterval
from nanomd.tokenize import Tokenizer
from nanomd.tokenize.structures import read_frames


def same_partition(a, b):
    """Whether two labelings are equal up to the names of the states."""
    a, b = np.concatenate(a), np.concatenate(b)
    return len(set(zip(a.tolist(), b.tolist(), strict=True))) == len(set(a.tolist())) == len(set(b.tolist()))


@pytest.mark.parametrize("features", ["backbone_torsions", "distances", "contacts"])
def test_two_shapes_become_two_states(md, features):
    _, top, files, truth = md
    tokenizer = Tokenizer(features, n_states=2, seed=3)
    dtrajs = tokenizer.fit_transform(top, files)
    assert [len(d) for d in dtrajs] == [50, 37, 64] and all(d.dtype == np.int64 for d in dtrajs)
    assert same_partition(dtrajs, truth)
    assert tokenizer.counts.sum() == 151
    for found, again in zip(dtrajs, tokenizer.transform(top, files), strict=True):
        assert np.array_equal(found, again)
    assert all(
        np.array_equal(a, b)
        for a, b in zip(dtrajs, Tokenizer(features, n_states=2, seed=3).fit_transform(top, files), strict=True)
    )


@pytest.mark.parametrize("stride", [1, 2, 5, 7, 8, 100])
def test_stride_counts_from_the_first_frame_across_chunks_and_files(md, stride):
    folder, top, _, _ = md
    seen, sizes = [], []

    def record(chunk):
        seen.append(chunk.xyz[:, :2, 0].copy())
        sizes.append(chunk.n_frames)
        return chunk.xyz[:, :2, 0]

    parts = [folder / "run_0.xtc", folder / "run_1.xtc"]
    tokenizer = Tokenizer(record, n_states=2)
    dtrajs = tokenizer.fit_transform(top, [parts, folder / "run_2.xtc"], stride=stride) if stride < 50 else None
    if dtrajs is None:
        with pytest.raises(InputError, match="must be at most the number of frames"):
            Tokenizer(record, n_states=9).fit_transform(top, [parts, folder / "run_2.xtc"], stride=stride)
        return
    whole = np.concatenate([mdtraj.load(str(path), top=str(top)).xyz[:, :2, 0] for path in parts])
    last = mdtraj.load(str(folder / "run_2.xtc"), top=str(top)).xyz[:, :2, 0]
    assert np.array_equal(np.concatenate(seen), np.concatenate([whole[::stride], last[::stride]]))
    assert [len(d) for d in dtrajs] == [len(whole[::stride]), len(last[::stride])]
    assert max(sizes) <= 7  # never more than a chunk in memory
    # The index names frames of the original files.
    for state in range(2):
        for file, frame in tokenizer.frame_index.frames_of(state):
            position = frame + (50 if file == 1 else 0)
            assert position % stride == 0
            assert dtrajs[0 if file < 2 else 1][position // stride] == state
    assert sum(len(tokenizer.frame_index.frames_of(s)) for s in range(2)) == sum(map(len, dtrajs))


def test_frame_interval_from_time_stamps_or_from_the_user(md, tmp_path):
    _, top, files, _ = md
    assert Tokenizer("distances", n_states=2).fit(top, files, stride=5).frame_interval == FrameInterval(10.0, "ps")
    given = Tokenizer("distances", n_states=2, frame_interval="0.2 ns").fit(top, files, stride=5)
    assert given.frame_interval == FrameInterval(1.0, "ns")
    made, _ = trajectory(30, 5)
    with DCDTrajectoryFile(str(tmp_path / "a.dcd"), "w") as file:
        file.write(made.xyz * 10)
    assert Tokenizer("distances", n_states=2).fit(top, tmp_path / "a.dcd").frame_interval.unit == "frame"


def test_time_stamps_that_disagree_are_refused(md):
    folder, top, files, _ = md
    trajectory(20, 7, spacing=4.0)[0].save_xtc(str(folder / "run_3.xtc"))
    with pytest.raises(InputError, match=r"run_3\.xtc.*4 ps.*2 ps.*frame_interval="):
        Tokenizer("distances", n_states=2).fit(top, files)
    Tokenizer("distances", n_states=2, frame_interval="2 ps").fit(top, files)
    gap = trajectory(20, 7)[0]
    gap.time[9:] += 50
    gap.save_xtc(str(folder / "run_3.xtc"))
    with pytest.raises(InputError, match="52 ps after frame 8"):
        Tokenizer("distances", n_states=2).fit(top, files)


def test_structures_come_from_the_states_asked_for(md):
    folder, top, files, _ = md
    tokenizer = Tokenizer("distances", n_states=8, seed=1)
    tokenizer.fit(top, files, stride=3)
    labels = np.random.default_rng(0).integers(0, 8, 200)
    out = tokenizer.to_structures(labels, folder / "out.xtc", seed=4, write_pdb=True)
    written = mdtraj.load(str(out), top=str(folder / "out.pdb"))
    assert np.array_equal(tokenizer.transform(top, out, stride=1)[0], labels)
    assert np.allclose(written.time, 6.0 * np.arange(200)) and written.topology == mdtraj.load_topology(str(top))
    # Bit-identical for the same seed, whatever the size of a block; another drawing for another seed.
    tokenizer.to_structures(labels.astype(np.uint8), folder / "again.xtc", seed=4)
    assert (folder / "again.xtc").read_bytes() == out.read_bytes()
    tokenizer.to_structures(labels, folder / "other.xtc", seed=5)
    assert (folder / "other.xtc").read_bytes() != out.read_bytes()
    with pytest.raises(InputError, match="overwrite=True"):
        tokenizer.to_structures(labels, out)
    for wrong, says in ((np.array([8]), r"\[0, 7\], got 8"), (np.array([0, -1]), "got -1 at position 1")):
        with pytest.raises(InputError, match=says):
            tokenizer.to_structures(wrong, folder / "no.xtc")
    with pytest.raises(InputError, match="one trajectory, got 2"):
        tokenizer.to_structures([labels, labels], folder / "no.xtc")
    with pytest.raises(InputError, match=r"end in \.xtc"):
        tokenizer.to_structures(labels, folder / "no.pdb")
    with pytest.raises(InputError, match="cannot write"):
        tokenizer.to_structures(labels, folder / "absent" / "no.xtc")
    assert not list(folder.glob(".*.part")) and not (folder / "no.xtc").exists()


def test_blocks_do_not_change_the_structures(md, monkeypatch):
    folder, top, files, _ = md
    tokenizer = Tokenizer("distances", n_states=5).fit(top, files)
    labels = np.arange(100) % 5
    one = tokenizer.to_structures(labels, folder / "one.xtc").read_bytes()
    monkeypatch.setattr("nanomd.tokenize.structures._BLOCK_BYTES", 12 * 24 * 9)
    assert tokenizer.to_structures(labels, folder / "many.xtc").read_bytes() == one


def test_sources_that_moved_or_changed_are_named(md):
    folder, top, files, _ = md
    tokenizer = Tokenizer("distances", n_states=3).fit(top, files)
    tokenizer.save(folder / "tok")
    loaded = Tokenizer.load(folder / "tok")
    labels = np.zeros(20, int) + np.arange(20) % 3
    before = tokenizer.to_structures(labels, folder / "before.xtc").read_bytes()
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (folder / "run_1.xtc").rename(elsewhere / "run_1.xtc")
    with pytest.raises(InputError, match=r"run_1\.xtc is gone; pass files="):
        loaded.to_structures(labels, folder / "no.xtc")
    moved = [folder / "run_0.xtc", elsewhere / "run_1.xtc", folder / "run_2.xtc"]
    assert loaded.to_structures(labels, folder / "after.xtc", files=moved).read_bytes() == before
    with pytest.raises(InputError, match="files must name the 3 trajectory files"):
        loaded.to_structures(labels, folder / "no.xtc", files=moved[:2])
    trajectory(36, 1)[0].save_xtc(str(elsewhere / "run_1.xtc"))
    with pytest.raises(InputError, match=r"run_1\.xtc has changed.*bytes"):
        loaded.to_structures(labels, folder / "no.xtc", files=moved)
    top.unlink()
    with pytest.raises(InputError, match=r"top\.pdb.*does not exist"):
        loaded.to_structures(labels, folder / "no.xtc", files=moved)


@pytest.mark.parametrize("suffix", ["xtc", "trr", "dcd", "pdb"])
def test_random_access_reads_the_frames_asked_for(tmp_path, suffix):
    made, _ = trajectory(60, 2)
    path = tmp_path / f"t.{suffix}"
    made.save(str(path))
    whole = mdtraj.load(str(path), top=made.topology)
    for frames in ([0], [59], [0, 1, 2, 30, 33, 59], list(range(60)), list(range(0, 60, 5)), list(range(0, 60, 6))):
        xyz, box = read_frames(path, made.topology, np.array(frames))
        assert np.array_equal(xyz, whole.xyz[frames]) and box is None
    with pytest.raises(InputError, match="fewer frames"):
        read_frames(path, made.topology, np.array([58, 60]))


def test_the_unit_cell_is_carried(md):
    folder, top, _, _ = md
    made, _ = trajectory(40, 2)
    made.unitcell_lengths = np.full((40, 3), 3.0) + np.arange(40)[:, None] * 0.01
    made.unitcell_angles = np.full((40, 3), 90.0)
    made.save_xtc(str(folder / "box.xtc"))
    tokenizer = Tokenizer("distances", n_states=4).fit(top, folder / "box.xtc")
    out = tokenizer.to_structures(np.arange(4), folder / "out.xtc", seed=1)
    entries = tokenizer.frame_index.draw(np.arange(4), 1)
    expected = made.unitcell_lengths[tokenizer.frame_index.frame[entries]]
    assert np.allclose(mdtraj.load(str(out), top=str(top)).unitcell_lengths, expected, atol=1e-3)


def test_bad_trajectories_are_named(md, tmp_path):
    folder, top, files, _ = md

    def refused(files, says, topology=top, **options):
        with pytest.raises(InputError, match=says) as caught:
            Tokenizer(**{"features": "distances", "n_states": 3, **options}).fit(topology, files)
        assert "\n" not in str(caught.value)

    refused(folder / "absent.xtc", "does not exist")
    refused(str(folder / "absent_*.xtc"), "no trajectory matches")
    refused([], "list is empty")
    refused(folder, "is a folder")
    refused(files, "topology.*does not exist", topology=folder / "absent.pdb")
    refused(files, "topology must be a file", topology=3)
    (folder / "bad.pdb").write_text("nothing here\n")
    refused(files, "topology|atoms", topology=folder / "bad.pdb")
    trajectory(20, 1, n_residues=4)[0].save_xtc(str(folder / "small.xtc"))
    refused(folder / "small.xtc", r"small\.xtc has 16 atoms but the topology has 24")
    data = (folder / "run_2.xtc").read_bytes()
    (folder / "cut.xtc").write_bytes(data[: len(data) // 2 + 5])
    refused(folder / "cut.xtc", r"cut\.xtc is damaged or truncated after frame \d+")
    (folder / "none.xtc").write_bytes(b"")
    refused(folder / "none.xtc", "empty file")
    (folder / "noise.xtc").write_bytes(b"not a trajectory" * 50)
    refused(folder / "noise.xtc", "damaged or truncated after frame 0")
    (folder / "traj.zzz").write_bytes(b"?")
    refused(folder / "traj.zzz", r"traj\.zzz")
    made, _ = trajectory(30, 1)
    made.xyz[17, 3, 1] = np.nan
    with DCDTrajectoryFile(str(folder / "nan.dcd"), "w") as file:
        file.write(made.xyz * 10)
    refused(folder / "nan.dcd", r"nan\.dcd: frame 17 has coordinates that are not finite")
    with DCDTrajectoryFile(str(folder / "zero.dcd"), "w") as file:
        file.write(made.xyz[:0].reshape(0, 24, 3))
    refused(folder / "zero.dcd", r"zero\.dcd")
    refused(files, "n_states must be at most the number of frames, 151, got 152", n_states=152)
    refused(
        files,
        r"lagtime must be in \[1, 62\] frames \(longest trajectory has 64\), got 64",
        reduction="tica",
        lagtime=64,
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n_states": 1}, "at least 2, got 1"),
        ({"n_states": 70000}, "65536"),
        ({"n_states": 2.5}, "whole number"),
        ({"lagtime": 0}, "lagtime must be"),
        ({"reduction": "pca"}, "reduction must be one of tica, vamp"),
        ({"n_components": 0}, "n_components"),
        ({"seed": -1}, "seed"),
        ({"features": "angles"}, "features must be one of backbone_torsions"),
        ({"features": []}, "features is empty"),
        ({"frame_interval": 0.2}, "needs a unit"),
    ],
)
def test_bad_settings_are_named(options, says):
    with pytest.raises(InputError, match=says):
        Tokenizer(**options)


def test_bad_use_is_named(md):
    folder, top, files, _ = md
    for stride in (0, -1, 1.5):
        with pytest.raises(InputError, match="stride must be"):
            Tokenizer("distances", n_states=2).fit(top, files, stride=stride)
    fresh = Tokenizer("distances", n_states=2)
    for use in (lambda: fresh.save(folder), lambda: fresh.transform(top, files), lambda: fresh.centers):
        with pytest.raises(InputError, match="not fitted"):
            use()
    other = chain(5)
    trajectory(20, 1, n_residues=5)[0].save_xtc(str(folder / "small.xtc"))
    tokenizer = Tokenizer("distances", n_states=2).fit(top, files)
    with pytest.raises(InputError, match="20 atoms, the tokenizer was fitted to 24"):
        tokenizer.transform(other, folder / "small.xtc")
    bad = {
        "shape": lambda chunk: np.zeros((3, 2, 2)),
        "0 values per frame": lambda chunk: np.zeros((chunk.n_frames, 0)),
        r"run_0\.xtc, frame 2.*not finite": lambda chunk: np.where(chunk.time[:, None] == 4, np.nan, 1.0),
        "features, but": lambda chunk: np.zeros((chunk.n_frames, 1 + int(chunk.time[0] > 60))),
        "distinct": lambda chunk: np.zeros((chunk.n_frames, 1)),
    }
    for says, function in bad.items():
        with pytest.raises(InputError, match=says):
            Tokenizer(function, n_states=2).fit(top, files)
    with pytest.raises(InputError, match="constant"):
        Tokenizer(lambda chunk: np.ones((chunk.n_frames, 2)), reduction="tica", lagtime=1, n_states=2).fit(top, files)
