"""The tokenizer's parts against independent calculations: features, slow coordinates, clusters, the frame index."""

import json

import mdtraj
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanomd.base.errors import InputError
from nanomd.tokenize import BackboneTorsions, Contacts, Distances, Tokenizer, clustering, reduction
from nanomd.tokenize.features import describe, parse_features, prepare, restore
from nanomd.tokenize.frame_index import FrameIndex


@pytest.fixture(scope="module")
def peptide():
    """Two chains of four residues with N, CA, C atoms, 20 frames of scattered coordinates."""
    topology = mdtraj.Topology()
    for _ in range(2):
        part = topology.add_chain()
        for _ in range(4):
            residue = topology.add_residue("ALA", part)
            for name in ("N", "CA", "C"):
                topology.add_atom(name, mdtraj.element.get_by_symbol(name[0]), residue)
    xyz = np.random.default_rng(0).normal(size=(20, topology.n_atoms, 3)).astype(np.float32)
    return mdtraj.Trajectory(xyz, topology)


def torsion(p):
    """Signed dihedral angle by the textbook formula, shape (n_frames,), from points of shape (n_frames, 4, 3)."""
    b1, b2, b3 = (p[:, k + 1] - p[:, k] for k in range(3))
    n1, n2 = np.cross(b1, b2), np.cross(b2, b3)
    along = np.cross(n1, b2 / np.linalg.norm(b2, axis=1, keepdims=True))
    return -np.arctan2((along * n2).sum(axis=1), (n1 * n2).sum(axis=1))


def test_backbone_torsions(peptide):
    values = prepare([BackboneTorsions()], peptide.topology)(peptide)
    xyz = peptide.xyz.astype(np.float64)
    index = {
        (c, r, name): 12 * c + 3 * r + k for c in range(2) for r in range(4) for k, name in enumerate(("N", "CA", "C"))
    }
    phi, psi = [], []
    for c in range(2):  # no torsion crosses from one chain into the other
        phi += [[index[c, r - 1, "C"], index[c, r, "N"], index[c, r, "CA"], index[c, r, "C"]] for r in range(1, 4)]
        psi += [[index[c, r, "N"], index[c, r, "CA"], index[c, r, "C"], index[c, r + 1, "N"]] for r in range(3)]
    columns = []
    for quads in (phi, psi):
        angles = np.stack([torsion(xyz[:, quad]) for quad in quads], axis=1)
        columns += [np.cos(angles), np.sin(angles)]
    assert values.dtype == np.float32 and values.shape == (20, 24)
    assert np.allclose(values, np.concatenate(columns, axis=1), atol=1e-4)
    assert prepare([BackboneTorsions(omega=True)], peptide.topology)(peptide).shape == (20, 36)


def test_distances_and_contacts(peptide):
    xyz = peptide.xyz.astype(np.float64)
    ca = np.array([12 * c + 3 * r + 1 for c in range(2) for r in range(4)])
    # Three residues apart inside a chain, any pair across chains.
    pairs = [(a, b) for i, a in enumerate(ca) for j, b in enumerate(ca) if i < j and (i // 4 != j // 4 or j - i >= 3)]
    expected = np.stack([np.linalg.norm(xyz[:, a] - xyz[:, b], axis=1) for a, b in pairs], axis=1)
    distances = prepare([Distances()], peptide.topology)(peptide)
    assert distances.shape == (20, 2 + 16) and np.allclose(distances, expected, atol=1e-5)
    soft = prepare([Contacts(cutoff=1.5, width=0.1)], peptide.topology)(peptide)
    assert np.allclose(soft, 1 / (1 + np.exp((expected - 1.5) / 0.1)), atol=1e-4)
    hard = prepare([Contacts(cutoff=1.5, width=0)], peptide.topology)(peptide)
    assert np.array_equal(hard, expected < 1.5) and 0 < hard.mean() < 1
    per_pair = prepare([Contacts(pairs=((0, 5), (1, 9)), cutoff=(1.0, 2.0), width=0)], peptide.topology)(peptide)
    near = [np.linalg.norm(xyz[:, a] - xyz[:, b], axis=1) < c for a, b, c in ((0, 5, 1.0), (1, 9, 2.0))]
    assert np.array_equal(per_pair, np.stack(near, axis=1))
    both = prepare(parse_features([Distances(pairs=np.array([[0, 5]])), lambda t: t.xyz[:, 0, 0]]), peptide.topology)(
        peptide
    )
    assert np.allclose(both, np.stack([np.linalg.norm(xyz[:, 0] - xyz[:, 5], axis=1), xyz[:, 0, 0]], axis=1), atol=1e-5)


def test_far_pairs_do_not_overflow(peptide):
    far = mdtraj.Trajectory(peptide.xyz * 1e4, peptide.topology)
    values = prepare([Contacts(width=0.001)], peptide.topology)(far)
    assert np.isfinite(values).all() and values.max() < 1e-30


def test_features_refuse_what_the_topology_lacks(peptide):
    beads = mdtraj.Topology()
    part = beads.add_chain()
    for _ in range(3):
        beads.add_atom("CA", mdtraj.element.carbon, beads.add_residue("GLY", part))
    for feature, says in (
        (BackboneTorsions(), "no backbone torsions"),
        (Distances(), "no pair of atoms 'protein and name CA' is at least 3 residues apart"),
        (Distances(atoms="name CB"), "0 atoms selected"),
        (Distances(atoms="what is this"), "not an mdtraj selection"),
        (Distances(pairs=((0, 3),)), r"atoms in \[0, 2\]"),
        (Distances(pairs=((1, 1),)), "two different atoms"),
        (Contacts(pairs=((0, 1), (1, 2)), cutoff=(1.0, 2.0, 3.0)), r"one per pair \(2\), got 3"),
    ):
        with pytest.raises(InputError, match=says):
            prepare([feature], beads)
    for make, says in (
        (lambda: Contacts(cutoff=0), "cutoff must be positive"),
        (lambda: Contacts(width=-1), "width must be"),
        (lambda: Distances(pairs=((0, 1, 2),)), "shape"),
        (lambda: Distances(pairs=((0.0, 1.0),)), "atom indices"),
    ):
        with pytest.raises(InputError, match=says):
            make()


@pytest.mark.parametrize(
    "feature",
    [
        BackboneTorsions(omega=True),
        Distances(pairs=((0, 1), (2, 3))),
        Contacts(cutoff=(0.5, 0.75), pairs=((0, 1), (1, 2))),
    ],
)
def test_features_survive_json(feature):
    assert restore(json.loads(json.dumps(describe(feature)))) == feature
    assert restore(describe(lambda chunk: chunk)) is None


def mixed_signal(n_frames, seed, n_features=6):
    """One slow and several fast coordinates, mixed."""
    rng = np.random.default_rng(seed)
    hidden = np.empty((n_frames, n_features))
    memory = np.concatenate(([0.99], np.linspace(0.6, 0.1, n_features - 1)))
    hidden[0] = rng.normal(size=n_features)
    kicks = rng.normal(size=(n_frames, n_features)) * np.sqrt(1 - memory**2)
    for t in range(1, n_frames):
        hidden[t] = memory * hidden[t - 1] + kicks[t]
    mixing = np.random.default_rng(1).normal(size=(n_features, n_features))
    return hidden[:, 0], (hidden @ mixing + 5.0).astype(np.float32)


@pytest.mark.parametrize("method", ["tica", "vamp"])
def test_streaming_gives_what_deeptime_gives_on_whole_trajectories(method, monkeypatch):
    from deeptime.decomposition import TICA, VAMP

    monkeypatch.setattr(reduction, "_BATCH", 100)
    signals = [mixed_signal(n, seed) for seed, n in enumerate((800, 3, 1200, 9))]
    fit = reduction.ReductionFit(method, 7, 3)
    for number, (_, features) in enumerate(signals):
        for start in range(0, len(features), 37):
            fit.add(number, features[start : start + 37])
    found = fit.finish()
    # The oracle sees whole trajectories; pairs across their ends would shift its singular values by far more.
    estimator = {"tica": TICA, "vamp": VAMP}[method](lagtime=7, scaling="kinetic_map")
    for _, features in signals:
        if len(features) > 7:
            whole = features.astype(np.float64)
            estimator.partial_fit((whole[:-7], whole[7:]))
    model = estimator.fetch_model()
    positive = model.singular_values > 0  # a coordinate that changes its sign over the lag has no timescale
    assert np.allclose(found.singular_values, model.singular_values[positive], rtol=1e-8)
    for slow, features in (signals[0], signals[2]):
        mine, theirs = found.transform(features), model.transform(features.astype(np.float64))[:, positive][:, :3]
        assert mine.dtype == np.float32 and np.allclose(np.abs(mine), np.abs(theirs), atol=1e-4)
        assert abs(np.corrcoef(mine[:, 0], slow)[0, 1]) > 0.95
    largest = np.abs(found.matrix).argmax(axis=0)
    assert (found.matrix[largest, range(3)] > 0).all()
    # NaN where a fast process has no timescale is right too.
    assert found.timescales[0] > 40
    assert not found.timescales[1] > 10


def test_reduction_errors():
    with pytest.raises(InputError, match=r"n_components must be in \[1, 2\]"):
        Tokenizer(reduction="tica", lagtime=1, n_components=3, n_states=2).fit_transform_arrays(
            np.random.default_rng(0).normal(size=(50, 2))
        )
    with pytest.raises(InputError, match=r"lagtime must be in \[1, 18\] frames \(longest trajectory has 20\), got 20"):
        Tokenizer(reduction="tica", lagtime=20, n_states=2).fit_transform_arrays(
            [np.random.default_rng(0).normal(size=(20, 2))] * 9
        )


def test_own_arrays():
    rng = np.random.default_rng(0)
    truth = [(rng.random(n) < 0.05).cumsum() % 3 for n in (300, 200)]
    arrays = [t[:, None] * np.array([3.0, -2.0]) + rng.normal(size=(len(t), 2)) * 0.1 for t in truth]
    tokenizer = Tokenizer(n_states=3, seed=1)
    dtrajs = tokenizer.fit_transform_arrays(arrays, frame_interval="1 ns")
    pairs = set(zip(np.concatenate(dtrajs).tolist(), np.concatenate(truth).tolist(), strict=True))
    assert len(pairs) == 3 and str(tokenizer.frame_interval) == "1 ns"
    assert all(np.array_equal(a, b) for a, b in zip(dtrajs, tokenizer.transform_arrays(arrays), strict=True))
    assert (np.diff(tokenizer.centers[:, 0]) > 0).all()
    one = Tokenizer(n_states=3).fit_transform_arrays([a[:, 0] for a in arrays])
    assert one[0].shape == (300,)
    for bad, says in (
        ([], "empty"),
        ([np.zeros((0, 2))], "is empty"),
        ([np.zeros((3, 2, 2))], "shape"),
        ([np.array([["a", "b"]])], "numbers"),
        ([arrays[0], arrays[1][:, :1]], "2 in the frames before"),
        ([np.array([[0.0, 1.0], [np.inf, 0.0], [2.0, 2.0]])], r"features\[0\], frame 1.*not finite"),
        ([np.ones((9, 2))], "only 1 distinct"),
        ([np.ones((2, 2))], "number of frames, 2, got 3"),
    ):
        with pytest.raises(InputError, match=says):
            Tokenizer(n_states=3).fit_transform_arrays(bad)
    with pytest.raises(InputError, match="1 features per frame, but the tokenizer was fitted to 2"):
        tokenizer.transform_arrays([np.zeros((4, 1))])
    with pytest.raises(InputError, match="use transform_arrays"):
        tokenizer.transform("top.pdb", "a.xtc")
    with pytest.raises(InputError, match="pass topology="):
        tokenizer.to_structures([0], "out.xtc")


def test_own_arrays_are_mapped_back_through_files(tmp_path, peptide):
    peptide.save_xtc(str(tmp_path / "a.xtc"))
    tokenizer = Tokenizer(n_states=4)
    (labels,) = tokenizer.fit_transform_arrays([peptide.xyz[:, :, 0]])
    tokenizer.save(tmp_path / "tok")
    loaded = Tokenizer.load(tmp_path / "tok")
    out = loaded.to_structures(labels, tmp_path / "out.xtc", topology=peptide, files=[tmp_path / "a.xtc"])
    written = mdtraj.load(str(out), top=peptide.topology)
    assert np.array_equal(loaded.transform_arrays([written.xyz[:, :, 0]])[0], labels)
    for files, says in (([], "one file per array, 1, got 0"), (["gone.xtc"], "does not exist"), (None, "files=")):
        with pytest.raises(InputError, match=says):
            loaded.to_structures(labels, tmp_path / "no.xtc", topology=peptide, files=files)


def test_kmeans_is_reproducible_and_sized(monkeypatch):
    data = [np.random.default_rng(k).normal(size=(500, 3)).astype(np.float32) for k in range(3)]
    first = clustering.kmeans_centers(data, 20, 5)
    assert np.array_equal(first, clustering.kmeans_centers(data, 20, 5))
    assert not np.array_equal(first, clustering.kmeans_centers(data, 20, 6))
    assert clustering.kmeans_centers(data, 20, 2**40 + 5).shape == (20, 3)

    def spread(centers):
        x = np.concatenate(data).astype(np.float64)
        return np.square(x - centers[clustering.assign(x, centers)]).sum(axis=1).mean()

    monkeypatch.setattr(clustering, "MINIBATCH_ABOVE", 1000)
    batches = clustering.kmeans_centers(data, 20, 5)
    assert not np.array_equal(batches, first) and np.array_equal(batches, clustering.kmeans_centers(data, 20, 5))
    # Mini-batches may lose a little, random centres lose much.
    assert spread(batches) < 1.15 * spread(first) < spread(np.concatenate(data)[:20].astype(np.float64))


@settings(max_examples=25)
@given(st.integers(1, 200), st.integers(1, 6), st.integers(2, 30), st.integers(0, 10**6))
def test_assignment_is_the_nearest_centre(n, d, k, seed):
    rng = np.random.default_rng(seed)
    x, centers = rng.normal(size=(n, d)), rng.normal(size=(k, d))
    distances = np.linalg.norm(x[:, None] - centers[None], axis=2)
    assert np.array_equal(clustering.assign(x, centers), distances.argmin(axis=1))


@given(
    st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=4), min_size=1, max_size=4),
    st.integers(1, 9),
    st.integers(0, 100),
)
def test_frame_index_finds_every_frame(lengths, stride, seed):
    rng = np.random.default_rng(seed)
    files, where, dtrajs, number = [], [], [], 0
    for parts in lengths:
        files.append([(number + k, count) for k, count in enumerate(parts)])
        number += len(parts)
        frames = [(file, frame) for file, count in files[-1] for frame in range(count)][::stride]
        dtrajs.append(rng.integers(0, 4, len(frames)))
        where.append(frames)
    index = FrameIndex.build(dtrajs, 5, files, stride)
    for state in range(5):
        expected = [
            at
            for labels, frames in zip(dtrajs, where, strict=True)
            for label, at in zip(labels, frames, strict=True)
            if label == state
        ]
        assert index.frames_of(state) == expected
    assert index.counts.tolist() == np.bincount(np.concatenate(dtrajs), minlength=5).tolist() and index.counts[4] == 0
    with pytest.raises(InputError, match="state 4 has no frame"):
        index.draw(np.array([4]), 0)
    with pytest.raises(InputError, match=r"state must be in \[0, 4\]"):
        index.frames_of(5)


def test_drawing_is_uniform_and_reproducible():
    index = FrameIndex.build([np.repeat([0, 1], [7, 13])], 2, [[(0, 20)]], 1)
    labels = np.tile([0, 1], 20000)
    drawn = index.draw(labels, 11)
    assert np.array_equal(drawn, index.draw(labels, 11)) and not np.array_equal(drawn, index.draw(labels, 12))
    assert np.array_equal(index.draw(labels[:77], 11), drawn[:77])
    for state, frames in ((0, range(7)), (1, range(7, 20))):
        counts = np.bincount(index.frame[drawn[labels == state]], minlength=20)
        assert counts.sum() == counts[list(frames)].sum() == 20000
        expected = 20000 / len(frames)
        chi2 = ((counts[list(frames)] - expected) ** 2 / expected).sum()
        assert chi2 < 35  # p < 0.001 at 12 degrees of freedom


def test_a_tokenizer_shows_what_it_measures_and_found():
    tokenizer = Tokenizer(["distances", "contacts"], reduction="tica", lagtime=7, n_states=3, seed=2)
    text = "Tokenizer(distances, contacts, reduction='tica', lagtime=7, n_states=3, seed=2)"
    assert repr(tokenizer) == f"{text}: not fitted"
    tokenizer.fit_transform_arrays(mixed_signal(2000, 0)[1], frame_interval="2 ns")
    n = tokenizer.reduction_.n_components
    assert repr(tokenizer) == f"{text}: 6 features -> {n} slow coordinates; 2,000 frames of 2 ns"
