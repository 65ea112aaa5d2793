"""Which atoms and torsions features are of: ions, ligands, modified residues, chains, lipids; boxes; too few frames."""

from __future__ import annotations

import json
import warnings

import mdtraj
import numpy as np
import pytest
from md_files import beads, walk, write_top, write_xtc

from nanomd.base.errors import InputError, NanomdWarning
from nanomd.cli.main import main
from nanomd.data.dtrajs import load_dtrajs
from nanomd.tokenize import BackboneTorsions, Contacts, Distances, Tokenizer
from nanomd.tokenize.clustering import mean_coordinates
from nanomd.tokenize.features import make_feature, prepare
from nanomd.tokenize.pairs import ALPHA, resolve_pairs, select_atoms
from nanomd.tokenize.reduction import ReductionFit
from nanomd.tokenize.topology import load_topology, split_chains

BACKBONE = ("N", "CA", "C", "O")


def molecule(*residues):
    """A topology of residues (name, atom names, number); None begins a chain."""
    topology = mdtraj.Topology()
    chain = topology.add_chain()
    for item in residues:
        if item is None:
            chain = topology.add_chain()
            continue
        name, atoms, number = item
        residue = topology.add_residue(name, chain, resSeq=number)
        for atom in atoms:
            topology.add_atom(atom, mdtraj.element.get_by_symbol("P" if atom == "P" else atom[0]), residue)
    return topology


def peptide(*numbers, name="ALA"):
    return [(name, BACKBONE, number) for number in numbers]


def written(topology, path, xyz=None):
    """Write a topology with a structure, as programs leave it, and read it back."""
    xyz = np.random.default_rng(0).normal(size=(1, topology.n_atoms, 3)) if xyz is None else xyz
    mdtraj.Trajectory(xyz, topology).save(str(path))
    return load_topology(path)


# --- which atoms -----------------------------------------------------------------------------------------------------
def names(topology, atoms=ALPHA):
    return [str(topology.atom(int(index)).residue) for index in select_atoms(topology, atoms)]


@pytest.mark.parametrize("suffix", ["pdb", "gro"])
def test_ions_and_ligands_are_no_c_alpha_atoms(tmp_path, suffix):
    topology = molecule(
        *peptide(1, 2, 3), ("LIG", ("C1", "CA", "CB", "N"), 4), ("HEM", ("NA", "CA", "CHA"), 5), None,
        ("CA", ("CA",), 6), ("CAL", ("CA",), 7),
    )  # fmt: skip
    topology = written(topology, tmp_path / f"a.{suffix}")
    assert names(topology) == ["ALA1", "ALA2", "ALA3"] and len(names(topology, "name CA")) == 7
    assert len(resolve_pairs(topology, None, ALPHA, 1)) == 3


def test_modified_residues_and_models_of_beads_have_c_alpha_atoms(tmp_path):
    modified = molecule(*(("ZZZ", BACKBONE, k) for k in (1, 2)), *peptide(3, 4, name="SEP"), ("MSE", BACKBONE, 5))
    assert len(names(written(modified, tmp_path / "a.pdb"))) == 5
    assert len(names(written(beads(7), tmp_path / "b.pdb"))) == 7
    unnamed = molecule(*(("BEA", ("CA",), k) for k in range(5)), ("CA", ("CA",), 9))
    assert names(written(unnamed, tmp_path / "c.pdb")) == [f"BEA{k}" for k in range(5)]


def test_calcium_that_wanders_is_not_the_slow_process(tmp_path):
    rng = np.random.default_rng(1)
    state = (rng.random(3000) < 0.02).cumsum() % 2
    topology = beads(12)
    chain = topology.add_chain()
    for number in (500, 501):
        residue = topology.add_residue("CA", chain, resSeq=number)
        topology.add_atom("CA", mdtraj.element.calcium, residue)
    xyz = np.zeros((3000, 14, 3)) + np.arange(14)[:, None] * [0.38, 0, 0]
    xyz[state == 1, 6:12, 1] += np.arange(6) * 0.3
    xyz[:, 12:] += rng.normal(size=(3000, 2, 3)).cumsum(axis=0) * 0.05
    xyz += rng.normal(size=xyz.shape) * 0.03
    mdtraj.Trajectory(xyz[:1], topology).save_pdb(str(tmp_path / "a.pdb"))
    write_xtc(tmp_path / "a.xtc", xyz.astype(np.float32), range(3000))
    tokenizer = Tokenizer("distances", reduction="tica", lagtime=10, n_components=2, n_states=2)
    (labels,) = tokenizer.fit_transform(tmp_path / "a.pdb", tmp_path / "a.xtc")
    assert max((labels == state).mean(), (labels != state).mean()) == 1


def test_any_molecule_can_be_measured_from_the_command_line(tmp_path, capsys):
    lipids = molecule(*(("POPC", ("P", "C1", "C2"), k) for k in range(1, 8)))
    xyz = walk(200, n_atoms=lipids.n_atoms)
    top = write_top(tmp_path / "a.gro", xyz, lipids)
    files = [str(write_xtc(tmp_path / "a.xtc", xyz, range(200)))]
    common = ["--quiet", "--top", str(top), "--states", "4"]

    def width(run, *options):
        assert main(["tokenize", "--run", str(tmp_path / run), *common, *options, *files]) == 0
        return json.loads((tmp_path / run / "tokens/tokenizer/tokenizer.json").read_text())

    made = width("p", "--features", "distances", "--select", "name P", "--no-periodic")
    assert made["n_features"] == 4 + 3 + 2 + 1
    assert made["features"][0]["options"]["atoms"] == "name P" and not made["features"][0]["options"]["periodic"]
    assert width("c", "--features", "contacts", "--select", "name P", "--min-separation", "1")["n_features"] == 21
    one = width("one", "--features", "distances", "--select", "resSeq 3", "--min-separation", "0")
    assert one["n_features"] == 3  # within one residue
    provenance = json.loads((tmp_path / "p/provenance.json").read_text())["stages"]["tokenize"]["settings"]
    assert provenance["select"] == "name P" and provenance["periodic"] is False
    for options, says in (
        (["--features", "distances"], "no pair of atoms 'protein and name CA'"),
        (["--features", "distances", "--select", "resSeq 3"], "0 pairs atoms of one residue too"),
        (["--features", "distances", "--select", "P and"], "not an mdtraj selection"),
        (["--min-separation", "2"], "backbone torsions have none"),
    ):
        assert main(["tokenize", "--run", str(tmp_path / "no"), *common, *options, *files]) == 2
        assert says in capsys.readouterr().err


# --- where chains end ------------------------------------------------------------------------------------------------
def n_torsions(topology, atoms=None):
    return prepare([BackboneTorsions(atoms=atoms)], topology)(
        mdtraj.Trajectory(np.random.default_rng(1).normal(size=(2, topology.n_atoms, 3)), topology)
    ).shape[1]


@pytest.mark.parametrize("suffix", ["pdb", "gro"])
def test_torsions_end_where_chains_end(tmp_path, suffix):
    two = molecule(*peptide(1, 2, 3, 4), None, *peptide(1, 2, 3, 4))
    topology = written(two, tmp_path / f"two.{suffix}")
    assert topology.n_chains == 2 and n_torsions(topology) == 24
    gap = molecule(*peptide(1, 2, 3, 10, 11, 12))
    assert n_torsions(written(gap, tmp_path / f"gap.{suffix}")) == 16
    assert n_torsions(molecule(*peptide(1, 2, 3, 4))) == 12  # nothing is cut in a whole chain
    ligand = molecule(*peptide(1, 2, 3), ("LIG", ("C1", "CA", "CB", "N"), 4))
    assert n_torsions(written(ligand, tmp_path / f"ligand.{suffix}")) == 8
    capped = molecule(("ACE", ("CH3", "C", "O"), 1), *peptide(2), ("NME", ("N", "CH3"), 3))
    assert n_torsions(written(capped, tmp_path / f"capped.{suffix}")) == 4
    # Atoms of what are other chains now always pair.
    assert len(resolve_pairs(topology, None, ALPHA, 3)) == 16 + 2


def test_distances_tell_chains_whose_numbers_go_on(tmp_path):
    # Residues 0.4 nm long: C to the next N is 0.13 nm, but between the fourth and the fifth.
    at = np.array([[0, 0, 0], [0.13, 0, 0], [0.27, 0, 0], [0.27, 0.12, 0]])
    xyz = np.concatenate([at + np.array([0.4 * k + (5 if k >= 4 else 0), 0, 0]) for k in range(8)])[None]
    topology = written(molecule(*peptide(*range(1, 9))), tmp_path / "a.gro", xyz)
    assert topology.n_chains == 2 and n_torsions(topology) == 24
    # And they join residues whose numbers jump, as in antibodies.
    xyz = np.concatenate([at + np.array([0.4 * k, 0, 0]) for k in range(8)])[None]
    topology = written(molecule(*peptide(1, 2, 3, 7, 8, 9, 10, 11)), tmp_path / "b.gro", xyz)
    assert topology.n_chains == 1 and n_torsions(topology) == 28


def test_known_bonds_decide():
    topology = molecule(*peptide(1, 2, 3, 4))
    atoms = list(topology.atoms)
    for one, other in ((2, 4), (10, 12)):  # C-N of 1-2 and 3-4
        topology.add_bond(atoms[one], atoms[other])
    assert n_torsions(split_chains(topology, bonds_known=True)) == 8
    assert n_torsions(split_chains(topology)) == 12
    cut = split_chains(topology, bonds_known=True)
    assert cut.n_chains == 2 and cut.n_bonds == 2 and [a.name for a in cut.atoms] == [a.name for a in topology.atoms]


def test_torsions_of_a_selection():
    two = molecule(*peptide(1, 2, 3, 4), None, *peptide(1, 2, 3))
    assert n_torsions(two, "chainid 1") == 8
    with pytest.raises(InputError, match="'name O' has no backbone torsions"):
        n_torsions(two, "name O")
    assert make_feature("backbone_torsions", atoms="chainid 1") == BackboneTorsions(atoms="chainid 1")
    assert make_feature("contacts", periodic=False) == Contacts(periodic=False)


# --- periodic images -------------------------------------------------------------------------------------------------
def stretched(n_frames=50, length=2.8, box=4.0, wrapped=False, bonds=False):
    """A chain of ten beads, whole in every frame unless it is wrapped into the box."""
    topology = beads(10)
    if bonds:
        for one, other in zip(range(9), range(1, 10), strict=True):
            topology.add_bond(topology.atom(one), topology.atom(other))
    xyz = np.random.default_rng(0).normal(size=(n_frames, 10, 3)) * 0.01 + [2.0, 1, 1]
    xyz[:, :, 0] += np.arange(10) * length / 9
    if wrapped:
        xyz %= box
    cell = np.full((n_frames, 3), box)
    return mdtraj.Trajectory(xyz, topology, np.arange(n_frames), cell, np.full((n_frames, 3), 90.0))


@pytest.mark.parametrize("bonds", [False, True])
@pytest.mark.parametrize("make", [Distances, Contacts])
def test_a_whole_molecule_longer_than_half_the_box_is_warned_of(bonds, make):
    long = stretched(bonds=bonds)
    for feature, of in ((make(), "6 of its 28"), (make(pairs=[(0, 9)]), "1 of its 1")):
        measure = prepare([feature], long.topology)
        with pytest.warns(NanomdWarning, match=rf"takes {of} distances.*--no-periodic"):
            measure(long)
        measure(long)  # once is enough
    plain = prepare([Distances(pairs=[(0, 9)], periodic=False)], long.topology)(long)
    assert np.allclose(plain, 2.8, atol=0.1)
    for fine in (stretched(length=1.9), stretched(wrapped=True, bonds=bonds)):
        prepare([make()], fine.topology)(fine)
    prepare([make(periodic=False)], long.topology)(long)
    without = stretched()
    without.unitcell_vectors = None
    prepare([make()], without.topology)(without)


def test_molecules_apart_are_meant_to_be_measured_to_images():
    two = stretched()
    topology = beads(5, n_chains=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare([Distances(pairs=[(0, 9)])], topology)(mdtraj.Trajectory(two.xyz, topology, two.time, *cell(two)))


def cell(trajectory):
    return trajectory.unitcell_lengths, trajectory.unitcell_angles


# --- too few frames --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("n_frames", "edge"), [(300, 1.0), (600, 0.85), (1200, 0.56)])
def test_slow_coordinates_of_noise_are_warned_of(n_frames, edge):
    noise = np.random.default_rng(0).normal(size=(n_frames + 10, 300))
    fit = ReductionFit("tica", 10, None)
    fit.add(0, noise)
    with pytest.warns(NanomdWarning, match=rf"{n_frames} pairs of frames are few for \d+ independent") as caught:
        found = fit.finish()
    stated = float(str(caught[0].message).split("up to ")[1].split(",")[0])
    # What is stated is what noise of this size has, to a few percent.
    assert found.singular_values[0] == pytest.approx(stated, abs=0.06)
    assert (found.singular_values > 0).all() and stated > edge - 0.15


def test_components_with_negative_eigenvalues_are_dropped():
    rng = np.random.default_rng(0)
    slow = rng.normal(size=2000).cumsum() * 0.1
    flip = np.where(np.arange(2000) % 2, 1, -1) + rng.normal(size=2000) * 0.1  # correlation -1 over an odd lag
    features = np.stack([slow, flip, rng.normal(size=2000)], axis=1)
    fit = ReductionFit("tica", 1, None)
    fit.add(0, features)
    found = fit.finish()
    assert 1 <= found.n_components < 3 and len(found.singular_values) == found.n_components
    assert abs(found.matrix[1]).max() < 0.05 * abs(found.matrix[0]).max()
    fit = ReductionFit("tica", 1, 3)
    fit.add(0, features)
    with pytest.warns(NanomdWarning, match=r"only \d coordinates? ha.*n_components is 3"):
        assert fit.finish().n_components == found.n_components
    only = ReductionFit("tica", 1, None)
    only.add(0, flip[:, None])
    with pytest.raises(InputError, match="no coordinate is slower than the lag"):
        only.finish()


# --- what was measured before ----------------------------------------------------------------------------------------
def test_feature_arrays_from_the_command_line(tmp_path, capsys):
    rng = np.random.default_rng(0)
    truth = [(rng.random(n) < 0.05).cumsum() % 3 for n in (300, 200)]
    files = []
    for k, labels in enumerate(truth):
        files.append(str(tmp_path / f"f{k}.npy"))
        np.save(files[-1], labels[:, None] * [3.0, -2.0] + rng.normal(size=(len(labels), 2)) * 0.1)
    command = ["tokenize", "--features", "arrays", "--states", "3", "--frame-interval", "1 ns", "--quiet"]
    assert main([*command, "--run", str(tmp_path / "run"), *files]) == 0
    found = load_dtrajs(str(tmp_path / "run/tokens/md_*.npy"))
    pairs = set(zip(np.concatenate(found).tolist(), np.concatenate(truth).tolist(), strict=True))
    assert len(pairs) == 3
    manifest = json.loads((tmp_path / "run/tokens/manifest.json").read_text())
    assert manifest["frame_interval"] == {"value": 1.0, "unit": "ns"}
    assert len(Tokenizer.load(tmp_path / "run/tokens/tokenizer").transform_arrays(np.zeros((4, 2)))[0]) == 4
    np.save(tmp_path / "labels.npy", truth[0])
    np.save(tmp_path / "objects.npy", np.array([[None]]))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "f0.npy").read_bytes()[:-9])
    (tmp_path / "text.npy").write_text("1 2 3")
    for name, says in (
        ("labels.npy", "given without --features arrays"),
        ("objects.npy", "Python objects"),
        ("cut.npy", "promises shape"),
        ("text.npy", "cannot be read"),
    ):
        assert main([*command, "--run", str(tmp_path / "no"), str(tmp_path / name)]) == 2
        assert says in capsys.readouterr().err
    assert main([*command, "--run", str(tmp_path / "no")]) == 2
    assert main([*command, "--run", str(tmp_path / "no"), "--top", "a.pdb", files[0]]) == 2


@pytest.mark.parametrize(
    ("array", "hint"),
    [
        (np.zeros((50, 1), int), r"for one trajectory pass array\[:, 0\]"),
        (np.zeros((1, 50), int), r"for one trajectory pass array\[0\]"),
        (np.zeros((4, 50), int), r"each row is a trajectory, pass list\(array\)"),
        (np.zeros((50, 4)), "made into states by Tokenizer"),
    ],
)
def test_two_dimensional_labels_get_the_right_hint(array, hint):
    with pytest.raises(InputError, match=hint):
        load_dtrajs(array)


def test_the_command_line_prints_a_warning_as_one_line(tmp_path, capsys):
    long = stretched(60)
    long.save_xtc(str(tmp_path / "a.xtc"))
    long[0].save_pdb(str(tmp_path / "a.pdb"))
    command = ["tokenize", "--run", str(tmp_path / "run"), "--top", str(tmp_path / "a.pdb"), "--states", "3"]
    assert main([*command, "--features", "distances", "--quiet", str(tmp_path / "a.xtc")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("nanomd: warning: a molecule is whole in these files")


# --- where states lie ------------------------------------------------------------------------------------------------
def test_coordinates_of_states_are_kept_with_the_tokens(tmp_path):
    xyz = walk(300)
    top, files = write_top(tmp_path / "a.pdb", xyz), [str(write_xtc(tmp_path / "a.xtc", xyz, range(300)))]
    command = ["tokenize", "--quiet", "--states", "6", "--run"]
    md = ["--top", str(top), "--features", "distances", "--select", "resSeq < 7", "--reduction", "tica",
          "--lagtime", "3", "--n-components", "2"]  # fmt: skip
    assert main([*command, str(tmp_path / "md"), *md, *files]) == 0
    kept = np.load(tmp_path / "md/tokens/state_coordinates.npy")
    tokenizer = Tokenizer.load(tmp_path / "md/tokens/tokenizer")
    assert kept.shape == (6, 2) and np.array_equal(kept, tokenizer.state_coordinates)
    # Row k is where the frames of label k are, in coordinates whose spread is their correlation over the lag.
    (labels,) = load_dtrajs(str(tmp_path / "md/tokens/md_*.npy"))
    measured = prepare(tokenizer.features, load_topology(top))(mdtraj.load(files[0], top=str(top)))
    slow = tokenizer.reduction_.transform(measured)
    assert np.allclose(mean_coordinates([slow], [labels]), kept, atol=1e-3)
    # (the correlation of pairs of frames, so the spread of all frames is about it)
    assert np.allclose(slow.std(axis=0), tokenizer.reduction_.singular_values[:2], atol=0.1)


def test_mean_coordinates_of_states():
    found = mean_coordinates(
        [np.array([[0.0, 1], [2, 3]]), np.array([[4.0, 4], [9, 9]])], [np.array([2, 0]), np.array([2, -1])]
    )
    assert np.array_equal(found, [[2, 3], [np.nan, np.nan], [2, 2.5]], equal_nan=True)
