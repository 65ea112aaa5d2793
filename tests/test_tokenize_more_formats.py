"""What other tools wrote: PLUMED's COLVAR files and H5MD trajectories."""

import numpy as np
import pytest
from command_line import ok, refused
from md_files import walk, write_top, write_xtc

from nanomd import InputError, Tokenizer
from nanomd.study.folder import RunFolder
from nanomd.study.results import load_tokens
from nanomd.tokenize.colvar import read_colvar

HEADER = "#! FIELDS time phi d1\n#! SET min_phi -pi\n#! SET max_phi pi\n"


def colvar(path, phi, d1, step=0.2, header=HEADER, begin=0.0):
    rows = [f" {begin + step * k:.6f} {a:.9f} {b:.9f}" for k, (a, b) in enumerate(zip(phi, d1, strict=True))]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(header + "\n".join(rows) + "\n")
    return path


def series(n, seed):
    rng = np.random.default_rng(seed)
    state = (rng.random(n) < 0.05).cumsum() % 2
    return np.where(state, 3.1, -1.0) + 0.1 * rng.normal(size=n), state + 0.1 * rng.normal(size=n), state


def test_periodic_variables_are_circles(tmp_path):
    phi, d1, _ = series(50, 1)
    found = read_colvar(colvar(tmp_path / "COLVAR", phi, d1))
    assert found.names == ["cos phi", "sin phi", "d1"]
    np.testing.assert_allclose(found.features, np.stack([-np.cos(phi), -np.sin(phi), d1], axis=1), atol=1e-8)
    assert str(found.interval) == "0.2 ps"
    one = read_colvar(tmp_path / "COLVAR", ["d1"])
    np.testing.assert_allclose(one.features[:, 0], d1, atol=1e-8)


@pytest.mark.parametrize(("text", "limit"), [("-pi", -np.pi), ("2pi", 2 * np.pi), ("pi", np.pi), ("0.5", 0.5)])
def test_limits_as_plumed_writes_them(tmp_path, text, limit):
    header = f"#! FIELDS time x\n#! SET min_x -10\n#! SET max_x {text}\n"
    (tmp_path / "c").write_text(header + "0 1\n1 2\n")
    angle = 2 * np.pi * (np.array([1.0, 2.0]) + 10) / (limit + 10)
    np.testing.assert_allclose(read_colvar(tmp_path / "c").features[:, 0], np.cos(angle))


def test_a_restart_goes_on_in_the_same_file(tmp_path):
    phi, d1, _ = series(20, 1)
    first = colvar(tmp_path / "a", phi[:10], d1[:10]).read_text()
    rest = colvar(tmp_path / "b", phi[10:], d1[10:], begin=2.0).read_text()
    (tmp_path / "COLVAR").write_text(first + rest)
    assert len(read_colvar(tmp_path / "COLVAR").features) == 20


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0 1 2\n", "no line `#! FIELDS"),
        (HEADER, "numbers below"),
        (HEADER + "0 1\n", "line 4: 2 numbers for 3 fields"),
        (HEADER + "0 1 x\n", "could not convert"),
        (HEADER + "0 1 2\n1 1 2\n1 1 2\n", "do not rise evenly, at time 1"),
        (HEADER + "0 1 2\n#! FIELDS time phi\n", "the fields change"),
        ("#! FIELDS time x\n#! SET min_x pi2\n#! SET max_x 1\n0 1\n", "no limit of a period"),
        ("#! FIELDS time\n0\n", "has no column"),
        (b"#! FIELDS time x\n0 \xff\n", "cannot be read"),
    ],
)
def test_what_is_no_colvar_file_is_one_line(tmp_path, text, says):
    (tmp_path / "c").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=says):
        read_colvar(tmp_path / "c")


def test_colvar_files_from_the_command_line(tmp_path, capsys):
    parts = [series(400, seed) for seed in range(3)]
    files = [colvar(tmp_path / f"run_{k}" / "COLVAR", *part[:2]) for k, part in enumerate(parts)]
    ok("tokenize", "--run", tmp_path / "run", "--states", 2, *files)
    dtrajs, interval = load_tokens(RunFolder(tmp_path / "run"))
    assert str(interval) == "0.2 ps"
    for labels, (*_, state) in zip(dtrajs, parts, strict=True):
        assert max((labels == state).mean(), (labels != state).mean()) == 1, "phi lies on both sides of its period"
    run = ["--run", tmp_path / "run", "--force", "--states", 2]
    ok("tokenize", *run, "--columns", "d1", "--stride", 2, *files)
    assert str(load_tokens(RunFolder(tmp_path / "run"))[1]) == "0.4 ps"
    assert "has no column psi; it has time, phi, d1" in refused(capsys, "tokenize", *run, *files, "--columns", "psi")
    other = colvar(tmp_path / "other", *parts[0][:2], step=0.5)
    assert "the COLVAR files differ: 0.2 ps and 0.5 ps" in refused(capsys, "tokenize", *run, *files, other)
    np.save(tmp_path / "x.npy", np.zeros(5, np.int64))
    assert "--columns is for COLVAR files" in refused(capsys, "tokenize", *run, tmp_path / "x.npy", "--columns", "d1")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_h5md_is_read_through_mdanalysis(tmp_path):
    mda = pytest.importorskip("MDAnalysis")
    pytest.importorskip("h5py")
    xyz = walk(60)
    top = write_top(tmp_path / "a.gro", xyz)
    xtc = write_xtc(tmp_path / "a.xtc", xyz, np.arange(60) * 2.0)
    universe = mda.Universe(str(top), str(xtc))
    path = tmp_path / "a.h5md"
    with mda.Writer(str(path), universe.atoms.n_atoms, positions=True, velocities=False, forces=False) as writer:
        for _ in universe.trajectory:
            writer.write(universe.atoms)
    tokenizers = [Tokenizer("distances", n_states=5, seed=1) for _ in range(3)]
    expected = tokenizers[0].fit_transform(top, xtc)[0]
    np.testing.assert_array_equal(tokenizers[1].fit_transform(top, path)[0], expected)
    np.testing.assert_array_equal(tokenizers[2].fit_transform(universe)[0], expected)
    assert tokenizers[1].frame_interval == tokenizers[0].frame_interval
    structures = tokenizers[1].to_structures([0, 1, 2], tmp_path / "out.xtc", seed=1)
    assert structures.exists()
    with pytest.raises(InputError, match="atoms but the topology has"):
        Tokenizer("distances", n_states=5).fit(write_top(tmp_path / "b.gro", walk(1, n_atoms=7)), path)
    (tmp_path / "cut.h5md").write_bytes(path.read_bytes()[:3000])
    with pytest.raises(InputError, match="damaged or truncated"):
        Tokenizer("distances", n_states=5).fit(top, tmp_path / "cut.h5md")


@pytest.mark.filterwarnings("ignore")
def test_a_universe_of_a_zarr_trajectory(tmp_path):
    """The states of the frames as they were in memory; the reader knows no time step, so that none is made up."""
    mda = pytest.importorskip("MDAnalysis")
    pytest.importorskip("zarrtraj")
    side = np.cumsum(np.random.default_rng(0).random(200) < 0.05) % 2
    line = np.cumsum(np.full((12, 3), 2.2), axis=0)
    universe = mda.Universe.empty(12, 12, atom_resindex=range(12), trajectory=True)
    for name, value in {"name": "CA", "resname": "ALA", "type": "C", "element": "C"}.items():
        universe.add_TopologyAttr(name, [value] * 12)
    universe.add_TopologyAttr("resid", list(range(1, 13)))
    universe.load_new((line * (1 + 0.5 * side[:, None, None])).astype(np.float32), dt=10.0)
    universe.trajectory.units = {"time": "ps", "length": "Angstrom"}
    universe.atoms.write(tmp_path / "top.pdb")
    with mda.Writer(str(tmp_path / "t.zarrmd"), n_atoms=12, format="ZARRMD", n_frames=200) as writer:
        for _ in universe.trajectory:
            writer.write(universe.atoms)
    stored = mda.Universe(tmp_path / "top.pdb", str(tmp_path / "t.zarrmd"))
    tokenizer = Tokenizer("distances", n_states=2)
    found = tokenizer.fit_transform(stored)[0]
    assert abs(np.corrcoef(found, side)[0, 1]) == pytest.approx(1.0)
    assert str(tokenizer.frame_interval) == "1 frame"
