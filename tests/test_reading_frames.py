"""What is read of MD files: frames that cannot be coordinates, damaged files, names, formats, changed sources."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys

import mdtraj
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from md_files import beads, walk, write_top, write_trr, write_xtc
from mdtraj.formats import DCDTrajectoryFile

from nanomd.base.errors import InputError
from nanomd.tokenize import Tokenizer
from nanomd.tokenize.headers import read_headers


def fit(top, files, n_states=4, **options):
    tokenizer = Tokenizer("distances", n_states=n_states)
    return tokenizer, tokenizer.fit_transform(top, files, **options)


def refused(top, files, says):
    with pytest.raises(InputError, match=says) as caught:
        fit(top, files)
    assert "\n" not in str(caught.value)


# --- frames that cannot be coordinates -------------------------------------------------------------------------------
@pytest.mark.parametrize("double", [False, True])
def test_velocity_frames_of_a_trr_file_are_not_positions(tmp_path, double):
    xyz = walk(40)
    top = write_top(tmp_path / "a.pdb", xyz)
    whole = write_trr(tmp_path / "whole.trr", xyz, [True] * 40, double)
    assert len(fit(top, whole)[1][0]) == 40
    headers = read_headers(write_trr(tmp_path / "half.trr", xyz, [k % 2 == 0 for k in range(40)], double))
    assert headers.has_positions.tolist() == [True, False] * 20 and headers.fault == ""
    assert headers.times.tolist() == list(range(40)) and set(headers.n_atoms) == {12}
    refused(top, tmp_path / "half.trr", r"half\.trr: frames 1, 3, 5 and 17 more of 40 have velocities.*no positions")
    refused(top, write_trr(tmp_path / "one.trr", xyz, [k != 7 for k in range(40)]), r"frame 7 of 40 has velocities")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x: x.__setitem__((9, 3, 1), np.nan), "frame 9 has coordinates that are not finite"),
        (lambda x: x.__setitem__((9, 3, 1), np.inf), "frame 9 has coordinates that are not finite"),
        (lambda x: x.__setitem__((9, 3, 1), -7e10), "frame 9 has coordinates of 7e.10 nm"),
        (lambda x: x.__setitem__(9, 0), "frame 9 has its atoms at the origin"),
        (lambda x: x.__setitem__(9, 1e-41), "frame 9 has its atoms at the origin"),
        (lambda x: x.__setitem__((9, slice(8)), 0), "frame 9 has its atoms at the origin"),
        (lambda x: x.__setitem__(slice(9, 13), 0), r"frame 9 .*and so do frames 10, 11, 12"),
        (lambda x: x.__setitem__([9, 20], 0), r"frame 9 .*and so does frame 20\)"),
    ],
)
def test_frames_that_cannot_be_coordinates_are_named(tmp_path, change, says):
    xyz = walk(40)
    top = write_top(tmp_path / "a.pdb", xyz)
    change(xyz)
    with DCDTrajectoryFile(str(tmp_path / "a.dcd"), "w") as file, np.errstate(over="ignore"):
        file.write(xyz * 10)
    refused(top, tmp_path / "a.dcd", rf"a\.dcd: {says}")


def test_a_model_may_start_at_the_origin(tmp_path):
    xyz = walk(40)
    top = write_top(tmp_path / "a.pdb", xyz)
    xyz[0] = 0
    assert len(fit(top, write_xtc(tmp_path / "a.xtc", xyz, range(40)))[1][0]) == 40


# --- damaged files ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", ["xtc", "trr", "gro"])
def test_a_cut_file_says_how_many_frames_are_intact(tmp_path, suffix):
    xyz = walk(50)
    top, path = write_top(tmp_path / "a.pdb", xyz), tmp_path / f"cut.{suffix}"
    mdtraj.Trajectory(xyz, beads()).save(str(path))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.613)])
    refused(
        top, path, r"cut\.\w+ is damaged or truncated after frame 30, counted from 1: its first 30 frames are intact"
    )
    if suffix != "gro":
        assert len(read_headers(path).times) == 30
        path.write_bytes(data[:30])
        refused(top, path, "no frame is intact")


def test_headers_agree_with_the_frames(tmp_path):
    for n_atoms in (1, 9, 10, 40):  # up to nine atoms are stored without compression
        xyz = walk(23, n_atoms=n_atoms)
        path = write_xtc(tmp_path / f"{n_atoms}.xtc", xyz, np.arange(23) * 2.5)
        headers = read_headers(path)
        assert headers.fault == "" and headers.times.tolist() == (np.arange(23) * 2.5).tolist()
        assert set(headers.n_atoms) == {n_atoms} and headers.has_positions.all()
    (tmp_path / "noise.xtc").write_bytes(b"not a trajectory" * 9)
    assert read_headers(tmp_path / "noise.xtc").fault == "byte 0 begins no XTC frame"
    assert read_headers(tmp_path / "10.xtc", ".dcd") is None


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["xtc", "trr"]), st.integers(0, 2**32), st.integers(0, 4), st.integers(0, 400))
def test_headers_of_any_bytes_end_in_a_fault_or_frames(tmp_path, suffix, seed, n_flips, length):
    rng = np.random.default_rng(seed)
    path = tmp_path / f"a.{suffix}"
    xyz = walk(3, n_atoms=11)
    write_xtc(path, xyz, range(3)) if suffix == "xtc" else write_trr(path, xyz, [True, False, True])
    data = bytearray(path.read_bytes())
    for _ in range(n_flips):
        data[rng.integers(len(data))] = rng.integers(256)
    path.write_bytes(bytes(data[: len(data) - length]))
    headers = read_headers(path)
    if headers is not None:
        assert len(headers.times) == len(headers.n_atoms) == len(headers.has_positions) <= 3 or n_flips
        assert headers.fault or n_flips or length == 0 or len(headers.times) < 3


def test_a_file_that_is_given_twice_is_refused(tmp_path):
    xyz = walk(40)
    top, path = write_top(tmp_path / "a.pdb", xyz), write_xtc(tmp_path / "a.xtc", xyz, range(40))
    other = tmp_path / "link.xtc"
    other.symlink_to(path)
    for files in ([path, path], [[path, path]], [str(path), str(tmp_path / "a.*")]):
        refused(top, files, r"a\.xtc is given twice, so")
    refused(top, [path, other], r"link\.xtc is given twice \(as .*a\.xtc\)")


# --- names and formats -----------------------------------------------------------------------------------------------
NAMES = ["ünïcode_轨迹", "traj [1]", "with space", "run[1-3]", "-dash", "new\nline", os.fsdecode(b"bad\xff")]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", ["xtc", "TRR", "DcD"])
def test_any_name_can_be_read_and_written(tmp_path, name, suffix, monkeypatch):
    xyz = walk(40)
    folder = tmp_path / name
    folder.mkdir()
    write_top(tmp_path / "plain.pdb", xyz).rename(folder / f"{name}.PDB")
    mdtraj.Trajectory(xyz, beads()).save(str(tmp_path / f"plain.{suffix.lower()}"))
    (tmp_path / f"plain.{suffix.lower()}").rename(folder / f"{name}.{suffix}")
    monkeypatch.chdir(folder)  # a relative name, too
    top, path = folder / f"{name}.PDB", folder / f"{name}.{suffix}"
    tokenizer, (labels,) = fit(top, [path.relative_to(folder)])
    out = tokenizer.to_structures(labels, folder / f"{name}_out.xtc", seed=1, write_pdb=True)
    out.rename(tmp_path / "out.xtc")
    written = mdtraj.load(str(tmp_path / "out.xtc"), top=beads())
    frames = tokenizer.frame_index.frame[tokenizer.frame_index.draw(labels, 1)]
    assert np.abs(written.xyz - xyz[frames]).max() < 1.1e-3


def write_arc(path, xyz):
    with path.open("w") as file:
        for x in xyz * 10:
            file.write(f"{len(x):6d}  walk\n")
            for k, (a, b, c) in enumerate(x, 1):
                file.write(f"{k:6d}  CA {a:12.6f}{b:12.6f}{c:12.6f}     1 {k - 1 or 2:5d}\n")


FORMATS = ["xtc", "trr", "dcd", "nc", "gro", "pdb", "pdb.gz", "xyz", "xyz.gz", "mdcrd", "lammpstrj", "cif", "arc"]
FORMATS += ["rst7", "ncrst"]


@pytest.mark.filterwarnings("ignore:(?s).*netCDF4")
@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_frames(tmp_path, suffix):
    xyz = walk(1 if suffix in ("rst7", "ncrst") else 30)
    top, path = write_top(tmp_path / "a.pdb", xyz), tmp_path / f"a.{suffix}"
    made = mdtraj.Trajectory(xyz, beads(), np.arange(len(xyz)) * 2.0, np.full((len(xyz), 3), 9.0),
                             np.full((len(xyz), 3), 90.0))  # fmt: skip
    if suffix == "arc":
        write_arc(path, xyz)
    else:
        made.save(str(path))
    write_xtc(tmp_path / "more.xtc", walk(30, 1), range(30))
    tokenizer = Tokenizer(lambda chunk: chunk.xyz[:, :, 0], n_states=4, frame_interval="1 ps")
    dtrajs = tokenizer.fit_transform(top, [path, tmp_path / "more.xtc"])
    assert len(dtrajs[0]) == len(xyz)
    labels = np.resize(dtrajs[0], 200)  # enough for some to be drawn from the file
    out = tokenizer.to_structures(labels, tmp_path / "out.xtc", seed=2)
    frames = tokenizer.frame_index.draw(labels, 2)
    here = tokenizer.frame_index.file[frames] == 0
    written = mdtraj.load(str(out), top=beads()).xyz[here]
    assert np.abs(written - xyz[tokenizer.frame_index.frame[frames[here]]]).max() < 2.1e-3


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a.tng", r"\.tng is no format.*`gmx trjconv -f a\.tng -o a\.xtc`"),
        ("a.zzz", r"\.zzz is no format that is known here; convert it, to XTC"),
        ("noext", "a name without suffix tells no format"),
    ],
)
def test_formats_that_cannot_be_read_are_not_called_damaged(tmp_path, name, says):
    (tmp_path / name).write_bytes(b"some bytes")
    refused(write_top(tmp_path / "a.pdb", walk(1)), tmp_path / name, says)


def test_a_missing_reader_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("nanomd.tokenize.formats.find_spec", lambda name: None)
    (tmp_path / "a.h5").write_bytes(b"some bytes")
    refused(write_top(tmp_path / "a.pdb", walk(1)), tmp_path / "a.h5", r"need the module tables; `pip install tables`")
    refused(tmp_path / "a.h5", tmp_path / "a.xtc", r"need the module tables")


@pytest.mark.filterwarnings("ignore:(?s).*netCDF4")
def test_amber_files_tell_the_time(tmp_path):
    xyz = walk(30)
    top = write_top(tmp_path / "a.pdb", xyz)
    mdtraj.Trajectory(xyz, beads(), np.arange(30) * 2.5).save(str(tmp_path / "a.nc"))
    assert str(fit(top, tmp_path / "a.nc")[0].frame_interval) == "2.5 ps"


# --- back to structures ----------------------------------------------------------------------------------------------
def test_structures_come_from_the_files_that_were_tokenised(tmp_path):
    top = write_top(tmp_path / "a.pdb", walk(1))
    for name, seed in (("a", 0), ("b", 9)):
        mdtraj.Trajectory(walk(300, seed), beads()).save(str(tmp_path / f"{name}.dcd"))
    tokenizer, (labels,) = fit(top, tmp_path / "a.dcd")
    tokenizer.save(tmp_path / "tok")
    tokenizer.to_structures(labels, tmp_path / "before.xtc")
    (tmp_path / "b.dcd").replace(tmp_path / "a.dcd")  # as many bytes, other frames
    for one in (tokenizer, Tokenizer.load(tmp_path / "tok")):
        with pytest.raises(InputError, match=r"a\.dcd has changed.*the same size, but another SHA-256"):
            one.to_structures(labels, tmp_path / "after.xtc")
    write_top(top, walk(1, n_atoms=12) + 1)
    with pytest.raises(InputError, match=r"topology .*a\.pdb has changed since the fit"):
        Tokenizer.load(tmp_path / "tok").to_structures(labels, tmp_path / "after.xtc")
    assert not (tmp_path / "after.xtc").exists()


def test_a_full_disk_leaves_no_structures(tmp_path):
    xyz = walk(300)
    top = write_top(tmp_path / "a.pdb", xyz)
    fit(top, write_xtc(tmp_path / "a.xtc", xyz, range(300)))[0].save(tmp_path / "tok")
    code = (
        "import sys, numpy as np; from nanomd.tokenize import Tokenizer; from nanomd.base.errors import InputError\n"
        f"t = Tokenizer.load({str(tmp_path / 'tok')!r})\n"
        f"try: t.to_structures(np.arange(3000) % 4, {str(tmp_path / 'out.xtc')!r})\n"
        "except InputError as error: sys.exit('disk full' in str(error) or 'large' in str(error))"
    )

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    assert subprocess.run([sys.executable, "-c", code], preexec_fn=limit, check=False).returncode == 1
    assert not (tmp_path / "out.xtc").exists() and not list(tmp_path.glob("*.part"))
