"""Simulations of molecules: what is simulated, its forces, and folders that can be gone on with and tokenised."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from nanomd.base.errors import BackendUnavailableError, CancelledError, InputError, StoreError
from nanomd.base.paths import by_folder
from nanomd.cli.main import main
from nanomd.systems import alanine_dipeptide, dynamics, go_model, langevin, peptide, platforms, record, ww_domain
from nanomd.systems.dynamics import Dynamics
from nanomd.systems.langevin import Watch
from nanomd.systems.replica_worker import Replica, run_replica

QUICK = dict(n_frames=30, n_trajs=2, frame_interval="0.02 ps", equilibration=0.1, n_workers=1, platform="Reference")


@pytest.fixture
def openmm():
    return pytest.importorskip("openmm", reason="OpenMM is absent (extra `openmm`)")


def ok(*arguments):
    assert main([*map(str, arguments), "--quiet"]) == 0


# --- molecules -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("phi", "psi"), [(-80, 80), (-150, 155), (60, 30)])
def test_alanine_dipeptide_is_built_as_asked(phi, psi, tmp_path):
    import mdtraj

    topology, x = peptide.alanine_dipeptide(phi, psi)
    assert x.shape == (22, 3) and topology.n_bonds == 21
    molecule = mdtraj.Trajectory(x[None], topology)
    molecule.save_pdb(str(tmp_path / "a.pdb"))
    again = mdtraj.load(str(tmp_path / "a.pdb"))  # what the tokenizer sees
    for found, asked in ((mdtraj.compute_phi(again), phi), (mdtraj.compute_psi(again), psi)):
        assert found[1].shape == (1, 1) and abs(np.degrees(found[1][0, 0]) - asked) < 0.5
    assert again.topology.n_bonds == 21

    at = {(a.residue.name, a.name): x[a.index] for a in topology.atoms}
    n, c, cb, ha = (at["ALA", name] - at["ALA", "CA"] for name in ("N", "C", "CB", "HA"))
    assert np.cross(n, c) @ cb > 0.002 and np.cross(n, c) @ ha < -0.0005  # an L amino acid
    bonded = {frozenset((one.index, other.index)) for one, other in topology.bonds}
    apart = [np.linalg.norm(x[i] - x[j]) for i in range(22) for j in range(i) if frozenset((i, j)) not in bonded]
    assert min(apart) > 0.15 and all(0.1 < np.linalg.norm(x[i] - x[j]) < 0.16 for i, j in map(tuple, bonded))


def go_energy(model, x):
    """The energy of the model, kJ/mol, written down from its formula alone."""
    native = model.positions

    def angle(r, i):
        a, b = r[i] - r[i + 1], r[i + 2] - r[i + 1]
        return np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    def torsion(r, i):
        # The angle between the planes i, i+1, i+2 and i+1, i+2, i+3, with the sign of the triple product.
        a, b, c = r[i + 1] - r[i], r[i + 2] - r[i + 1], r[i + 3] - r[i + 2]
        m, n = np.cross(a, b), np.cross(b, c)
        return np.copysign(np.arccos(np.clip(m @ n / np.linalg.norm(m) / np.linalg.norm(n), -1, 1)), a @ n)

    n = len(native)
    step = np.linalg.norm(np.diff(x, axis=0), axis=1) - np.linalg.norm(np.diff(native, axis=0), axis=1)
    energy = 0.5 * 20000 * (step**2).sum()
    energy += sum(0.5 * 40 * (angle(x, i) - angle(native, i)) ** 2 for i in range(n - 2))
    for i in range(n - 3):
        d = torsion(x, i) - torsion(native, i)
        energy += (1 - np.cos(d)) + 0.5 * (1 - np.cos(3 * d))
    contacts = {}
    for (i, j), r0 in zip(model.pairs.tolist(), model.distances.tolist(), strict=True):
        contacts[i, j] = r0
    for i in range(n):
        for j in range(i + 1, n):
            r = np.linalg.norm(x[i] - x[j])
            if (i, j) in contacts:
                energy += 5 * (contacts[i, j] / r) ** 12 - 6 * (contacts[i, j] / r) ** 10
            elif j - i >= 4 and r < 0.8:
                energy += (0.4 / r) ** 12
    return energy


def openmm_energy(mm, model, frames):
    context = mm.Context(model.system(), mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    for x in frames:
        context.setPositions(x)
        state = context.getState(energy=True, forces=True)
        yield state.getPotentialEnergy()._value, np.array(state.getForces(asNumpy=True)._value)


def check_forces(mm, model, frames):
    rng = np.random.default_rng(0)
    for x, (energy, forces) in zip(frames, openmm_energy(mm, model, frames), strict=True):
        assert energy == pytest.approx(go_energy(model, x), rel=1e-9, abs=1e-7)
        for _ in range(3):  # along random directions of all beads
            way = rng.normal(size=x.shape)
            slope = (go_energy(model, x + 1e-6 * way) - go_energy(model, x - 1e-6 * way)) / 2e-6
            assert -(forces * way).sum() == pytest.approx(slope, rel=1e-5, abs=1e-3)


def test_the_go_model_has_the_stated_energies_and_forces(openmm):
    model = go_model.ww_domain()
    assert len(model.residues) == 34 and model.pairs.shape == (61, 2) and model.residues[0] == ("LYS", 6)
    ((energy, forces),) = openmm_energy(openmm, model, [model.positions])
    # Native: every contact at its minimum of -1, bonds, angles and torsions at zero; some repulsion.
    assert -61 < energy < -55 and np.abs(forces).max() < 30
    rng = np.random.default_rng(1)
    crooked = [model.positions + rng.normal(size=(34, 3)) * s for s in (0.005, 0.02, 0.05)]
    check_forces(openmm, model, crooked)


@pytest.mark.data
def test_the_go_model_on_frames_of_the_reference_runs(openmm):
    import mdtraj
    from test_systems_md import needs_data

    data = needs_data("ww_domain_go")
    found = ww_domain.files(data)
    model = go_model.load_model(found.topology, found.contacts)
    packaged = go_model.ww_domain()
    assert np.array_equal(model.pairs, packaged.pairs) and np.allclose(model.distances, packaged.distances)
    assert np.abs(model.positions - packaged.positions).max() < 1e-5
    run = mdtraj.load(str(found.trajectories[0]), top=str(found.topology), stride=5000)
    check_forces(openmm, model, run.xyz.astype(np.float64)[:4])
    # Equipartition at 121 K: half k_B T a bond, with the integrator's error and rounded coordinates on top.
    lengths = np.linalg.norm(np.diff(run.xyz.astype(np.float64), axis=1), axis=2)
    native = np.linalg.norm(np.diff(model.positions, axis=0), axis=1)
    assert 0.5 * 20000 * ((lengths - native) ** 2).mean() == pytest.approx(0.5 * 8.314e-3 * 121, rel=0.3)


def test_a_go_model_of_damaged_files_is_refused(tmp_path):
    model = go_model.ww_domain()
    for pairs, says in (([[0, 40]], "residues in"), ([[5, 1]], "smaller residue first"), ([[0, 5]] * 2, "different")):
        with pytest.raises(InputError, match=says):
            go_model.GoModel(model.residues, model.positions, np.array(pairs), np.ones(len(pairs)))
    with pytest.raises(InputError, match=r"ww_go\.pdb, contacts\.csv"):
        ww_domain.simulate(tmp_path / "out", data_dir=tmp_path)


# --- settings and folders --------------------------------------------------------------------------------------------
def test_without_openmm_the_remedy_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "openmm", None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'nanomd-kinetics\[openmm\]'"):
        alanine_dipeptide.simulate(tmp_path / "a", 0.1)
    assert main(["simulate", "ww-domain", "--out", str(tmp_path / "b")]) == 2
    assert "pip install" in capsys.readouterr().err
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(time_step=0), "time_step must be a positive number"),
        (dict(temperature=float("nan")), "temperature"),
        (dict(friction=-1), "friction"),
        (dict(frame_interval="0.003 ps"), "whole number of time steps"),
        (dict(frame_interval="1 frame"), "frame_interval must be in fs"),
        (dict(ns=1, n_frames=5), "either as ns or as n_frames"),
        (dict(ns=0.001), "at least two frames"),
        (dict(n_frames=1), "n_frames must be in"),
        (dict(equilibration=-1), "equilibration"),
        (dict(n_trajs=0, ns=1), "n_trajs"),
        (dict(seed=-1, ns=1), "seed"),
    ],
)
def test_settings_are_checked(options, says, tmp_path):
    with pytest.raises(InputError, match=says):
        alanine_dipeptide.simulate(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_the_command_line_tells_potentials_from_molecules(tmp_path, capsys):
    for arguments, says in (
        (["--ns", "1"], "--ns: for molecules only"),
        (["--resume"], "--resume: for molecules only"),
        (["alanine-dipeptide", "--preset", "demo"], "--preset is for four-state"),
        (["alanine-dipeptide", "--data", str(tmp_path)], "leave out --data"),
    ):
        assert main(["simulate", "--run", str(tmp_path / "run"), *arguments]) == 2
        assert says in capsys.readouterr().err


def test_seeds_of_replicas_and_segments_differ_and_are_never_drawn_from_the_clock():
    seeds = [
        Replica(Path("x"), k, 10, seed, "Reference").random_seed(purpose, number)
        for seed in (0, 1) for k in range(3) for purpose in range(3) for number in range(3)
    ]  # fmt: skip
    assert len(set(seeds)) == len(seeds) and all(0 < seed < 2**31 for seed in seeds)


def test_an_interrupted_replica_goes_on_to_the_last_bit(openmm, tmp_path, monkeypatch):
    monkeypatch.setattr(dynamics, "_SEGMENT_FRAMES", 10)
    monkeypatch.setattr(langevin, "_REPORT_SECONDS", 0)
    steps = Dynamics(121.0, 0.2, 0.015, 5, 20, False)
    model = go_model.ww_domain()
    whole, cut = (Replica(tmp_path / name, 3, 35, 7, "Reference") for name in ("whole.xtc", "cut.xtc"))
    told = []
    run_replica(whole, model, steps, Watch(told.append, lambda: False))
    assert sum(told) == 35 and whole.frames_done() == 35

    told.clear()
    with pytest.raises(CancelledError):
        run_replica(cut, model, steps, Watch(told.append, lambda: sum(told) >= 25))
    assert not cut.path.exists() and cut.frames_done() == 20
    with cut.part.open("ab") as file:
        file.write(b"half a segment")  # as a crash leaves it
    run_replica(cut, model, steps, Watch(told.append, lambda: False))
    assert cut.path.read_bytes() == whole.path.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.xtc", "whole.xtc"]

    # Damage is named, not gone on with.
    damaged = Replica(tmp_path / "c.xtc", 3, 35, 7, "Reference")
    told.clear()
    with pytest.raises(CancelledError):
        run_replica(damaged, model, steps, Watch(told.append, lambda: sum(told) > 15))
    damaged.part.write_bytes(b"")
    with pytest.raises(StoreError, match="do not fit each other"):
        run_replica(damaged, model, steps, Watch(told.append, lambda: False))
    damaged.state.write_bytes(b"PK")
    with pytest.raises(StoreError, match="damaged"):
        damaged.frames_done()


def test_a_time_step_that_is_too_long_is_an_error(openmm, tmp_path):
    with pytest.raises(InputError, match="smaller time step"):
        ww_domain.simulate(
            tmp_path, **{**QUICK, "n_trajs": 1, "frame_interval": "100 ps"}, time_step=1000, temperature=1e6
        )


def test_alanine_dipeptide_from_nothing_to_tokens(openmm, tmp_path):
    import mdtraj

    done = alanine_dipeptide.simulate(tmp_path / "a", **QUICK, seed=5)
    assert done.n_frames == 30 and str(done.frame_interval) == "0.02 ps" and done.platform == "Reference"
    first = mdtraj.load(str(done.trajectories[0]), top=str(done.topology))
    assert first.n_atoms == 22 and np.allclose(first.time, 0.02 * np.arange(1, 31))
    # Bonds of hydrogen atoms are rigid, to the rounding of the file.
    i, j = next((a.index, b.index) for a, b in first.topology.bonds if "H" in (a.element.symbol, b.element.symbol))
    lengths = np.linalg.norm(first.xyz[:, i] - first.xyz[:, j], axis=1)
    assert lengths.std() < 1e-3 and 0.095 < lengths.mean() < 0.115
    assert len(np.unique(first.xyz[:, :, 0].round(3), axis=0)) == 30

    torsions = alanine_dipeptide.load(tmp_path / "a")
    assert [t.shape for t in torsions] == [(30, 2)] * 2 and not np.array_equal(*torsions)
    assert np.allclose(torsions[0][:, :1], mdtraj.compute_phi(first)[1], atol=1e-5)
    assert str(alanine_dipeptide.frame_interval(tmp_path / "a")) == "0.02 ps"

    # The same replicas with other workers, in a run folder, from the command line; and straight to tokens.
    ok("simulate", "alanine-dipeptide", "--run", tmp_path / "run", "--n-frames", 30, "--n-trajs", 3, "--seed", 5,
       "--frame-interval", "0.02 ps", "--equilibration", 0.1, "--n-threads", 2, "--platform", "Reference")  # fmt: skip
    for k in range(2):
        name = f"alanine_dipeptide_{k}.xtc"
        assert (tmp_path / "run/simulation" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()
    ok("tokenize", "--run", tmp_path / "run", "--states", 4)
    ok(
        "tokenize",
        "--run",
        tmp_path / "other",
        "--states",
        4,
        "--system",
        "alanine-dipeptide",
        "--data",
        tmp_path / "a",
    )
    for run, count in (("run", 3), ("other", 2)):
        manifest = json.loads((tmp_path / run / "tokens/manifest.json").read_text())
        assert manifest["frame_interval"] == {"value": 0.02, "unit": "ps"} and manifest["n_states"] == 4
        assert [row["n_frames"] for row in manifest["trajectories"]] == [30] * count


def test_the_ww_domain_from_nothing_to_tokens(openmm, tmp_path, capsys):
    options = {**QUICK, "n_frames": 60, "frame_interval": "0.15 ps"}
    done = ww_domain.simulate(tmp_path / "a", **options)
    stored = json.loads((tmp_path / "a/simulation.json").read_text())
    assert stored["finished"] and stored["files"]["others"] == ["contacts.csv"]
    settings = stored["settings"]
    assert settings["temperature"] == {"value": 121.0, "unit": "K"} and settings["friction"]["unit"] == "1/ps"
    assert settings["frame_interval"] == {"value": 0.15, "unit": "ps", "steps": 10}
    assert stored["environment"]["versions"]["openmm"] and stored["speed"]["ns_per_day"] > 0
    q = ww_domain.fraction_native(data_dir=tmp_path / "a")
    assert [len(x) for x in q] == [60, 60] and min(x.min() for x in q) > 0.6  # still folded

    # The folder stands for the data; a model can be taken from it again.
    ok("tokenize", "--run", tmp_path / "run", "--system", "ww-domain", "--data", tmp_path / "a", "--states", 5)
    ok("simulate", "ww-domain", "--run", tmp_path / "again", "--data", tmp_path / "a", "--n-frames", 60, "--n-trajs", 2,
       "--frame-interval", "0.15 ps", "--equilibration", 0.1, "--n-threads", 1, "--platform", "Reference")  # fmt: skip
    assert (tmp_path / "again/simulation/ww_go_1.xtc").read_bytes() == done.trajectories[1].read_bytes()
    ok("tokenize", "--run", tmp_path / "again", "--states", 5)
    for run in ("run", "again"):
        manifest = json.loads((tmp_path / run / "tokens/manifest.json").read_text())
        assert manifest["frame_interval"] == {"value": 0.15, "unit": "ps"}

    # Repeating does nothing; other settings, unfinished work and foreign files are refused.
    before = {path: path.stat().st_mtime_ns for path in done.trajectories}
    assert ww_domain.simulate(tmp_path / "a", **options).seconds == 0
    with pytest.raises(StoreError, match=r"another simulation: seed \(0 -> 1\)"):
        ww_domain.simulate(tmp_path / "a", **options, seed=1)
    done.trajectories[1].unlink()
    stored["finished"] = False
    (tmp_path / "a/simulation.json").write_text(json.dumps(stored))  # as an interrupted simulation leaves it
    with pytest.raises(InputError, match="not finished"):
        ww_domain.files(tmp_path / "a")
    with pytest.raises(StoreError, match="unfinished"):
        ww_domain.simulate(tmp_path / "a", **options)
    assert ww_domain.simulate(tmp_path / "a", **options, resume=True).seconds > 0
    assert done.trajectories[0].stat().st_mtime_ns == before[done.trajectories[0]]
    assert done.trajectories[1].read_bytes() == (tmp_path / "again/simulation/ww_go_1.xtc").read_bytes()
    ww_domain.simulate(tmp_path / "a", **options, seed=1, force=True)
    assert done.trajectories[1].read_bytes() != (tmp_path / "again/simulation/ww_go_1.xtc").read_bytes()
    (tmp_path / "a" / record.RECORD).unlink()
    with pytest.raises(StoreError, match="was not simulated here"):
        ww_domain.simulate(tmp_path / "a", **options, force=True)


def test_a_platform_that_is_not_there_is_refused(openmm):
    assert platforms.resolve_platform("Reference") == "Reference"
    assert platforms.resolve_platform("auto") in {"Reference", "CUDA"}
    names = {openmm.Platform.getPlatform(k).getName() for k in range(openmm.Platform.getNumPlatforms())}
    for name in {"CUDA", "OpenCL"} - names:
        with pytest.raises(BackendUnavailableError, match=f"{name} cannot run here"):
            platforms.resolve_platform(name)
    with pytest.raises(InputError, match="platform must be one of"):
        platforms.resolve_platform("HIP")


# --- many files of one trajectory ------------------------------------------------------------------------------------
def test_files_of_a_folder_are_joined(tmp_path):
    import mdtraj

    assert by_folder([Path(p) for p in ("b/x_10.dcd", "a/x_0.dcd", "b/x_9.dcd")]) == [
        [Path("b/x_9.dcd"), Path("b/x_10.dcd")], [Path("a/x_0.dcd")],
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    topology = go_model.ww_domain().topology()
    walk = rng.normal(size=(90, 34, 3)).cumsum(axis=0) * 0.05
    whole = mdtraj.Trajectory(walk.astype(np.float32), topology)
    whole[0].save_pdb(str(tmp_path / "top.pdb"))
    for folder, first in (("one", 0), ("two", 45)):
        (tmp_path / folder).mkdir()
        for k, begin in enumerate(range(first, first + 45, 15)):
            whole[begin : begin + 15].save_dcd(str(tmp_path / folder / f"part_{k + 9}.dcd"))
    common = ["--top", tmp_path / "top.pdb", "--states", 4, "--features", "distances", "--reduction", "tica",
              "--lagtime", 5, "--n-components", 2, "--stride", 2, "--frame-interval", "0.2 ns"]  # fmt: skip
    files = [*(tmp_path / "one").glob("*.dcd"), *(tmp_path / "two").glob("*.dcd")]
    ok("tokenize", "--run", tmp_path / "joined", *common, "--join-folders", *sorted(files))
    manifest = json.loads((tmp_path / "joined/tokens/manifest.json").read_text())
    assert [row["n_frames"] for row in manifest["trajectories"]] == [23, 23]
    assert manifest["frame_interval"] == {"value": 0.4, "unit": "ns"}
    stage = json.loads((tmp_path / "joined/provenance.json").read_text())["stages"]["tokenize"]
    assert len(stage["inputs"]) == 7  # equal names in two folders are two inputs
    assert main(["tokenize", "--run", str(tmp_path / "x"), "--join-folders", str(files[0])]) == 2
