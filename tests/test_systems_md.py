"""The systems with reference MD: what they refuse everywhere, and their known kinetics where the data are."""

import os
from pathlib import Path

import numpy as np
import pytest

from nanomd.base.errors import InputError
from nanomd.systems import alanine_dipeptide, ww_domain
from nanomd.systems.data import data_folder
from nanomd.tokenize import Tokenizer


def needs_data(name):
    """The data folder, or a skip that says what is missing."""
    roots = [Path(os.environ["NANOMD_DATA"])] if os.environ.get("NANOMD_DATA") else []
    roots.append(Path(__file__).parents[2] / "shared" / "data")
    for root in roots:
        if (root / name).is_dir():
            return root
    pytest.skip(f"reference data {name} are absent; set NANOMD_DATA to the folder that holds them")


def test_absent_data_say_what_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOMD_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"phi_psi_0\.npy.*NANOMD_DATA.*mdshare.*CC BY 4\.0"):
        alanine_dipeptide.load()
    with pytest.raises(InputError, match=r"ww_go\.pdb.*Go model"):
        ww_domain.tokenize()
    # The folder itself and the one above both do.
    (tmp_path / "box").mkdir()
    (tmp_path / "box" / "a").write_text("")
    for given in (tmp_path, tmp_path / "box"):
        assert data_folder("box", ["a"], given, "") == tmp_path / "box"


def test_torsions_are_checked(tmp_path):
    good = np.zeros((30, 2), np.float32)
    for bad, says in (
        (np.full((30, 2), 120.0), "radians, got values up to 120"),
        (np.zeros((30, 3)), r"shape \(30, 3\)"),
        (np.array([[0.0, 0.0], [np.nan, 0.0]]), "frame 1 is not finite"),
        (np.array([None]), "shape"),
    ):
        np.save(tmp_path / "phi_psi_0.npy", good)
        np.save(tmp_path / "phi_psi_1.npy", bad)
        with pytest.raises(InputError, match=says if bad.dtype != object else "cannot be read"):
            alanine_dipeptide.load(tmp_path)
        with pytest.raises(InputError, match=says):
            alanine_dipeptide.tokenize([good, bad], 2)
    with pytest.raises(InputError, match="empty"):
        alanine_dipeptide.tokenize([])


def test_torsions_are_periodic():
    # Two clusters, one of which lies across phi = 180 degrees.
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 400)
    angles = np.where(truth[:, None] == 0, [np.pi, 0.5], [0.0, -2.0]) + rng.normal(size=(400, 2)) * 0.1
    angles = (angles + np.pi) % (2 * np.pi) - np.pi
    (labels,), centers = alanine_dipeptide.tokenize([angles], n_states=2, seed=1)
    assert len(set(zip(labels.tolist(), truth.tolist(), strict=True))) == 2
    across = centers[labels[np.flatnonzero(truth == 0)[0]]]
    assert abs(abs(across[0]) - 180) < 2 and abs(across[1] - np.degrees(0.5)) < 2


@pytest.mark.data
def test_alanine_dipeptide_timescales():
    from deeptime.markov import TransitionCountEstimator
    from deeptime.markov.msm import MaximumLikelihoodMSM

    trajectories = alanine_dipeptide.load(needs_data("alanine_dipeptide"))
    assert [a.shape for a in trajectories] == [(250000, 2)] * 2 and trajectories[0].dtype == np.float32
    dtrajs, centers = alanine_dipeptide.tokenize([a[::5] for a in trajectories], n_states=75, seed=0)
    assert centers.shape == (75, 2) and np.abs(centers).max() <= 180
    counts = TransitionCountEstimator(10, "sliding").fit_fetch(dtrajs).submodel_largest()
    timescales = 5 * MaximumLikelihoodMSM().fit_fetch(counts).timescales()[:3]  # ps
    assert np.allclose(timescales, [1400, 69, 37], rtol=0.15)


@pytest.mark.data
def test_ww_domain_folds():
    data = needs_data("ww_domain_go")
    found = ww_domain.files(data)
    assert [path.name for path in found.trajectories] == [f"ww_go_{k}.xtc" for k in range(4)]
    pairs, native = ww_domain.native_contacts(data)
    assert pairs.shape == (61, 2) and 0.3 < native.min() < native.max() < 1.5
    q = np.concatenate(ww_domain.fraction_native(data_dir=data, stride=5))
    folded = (q > 0.7).mean()
    assert 0.2 < folded < 0.8 and (q < 0.4).mean() > 0.2
    tokenizer, dtrajs = ww_domain.tokenize(50, stride=5, lagtime=10, data_dir=data)
    assert [len(d) for d in dtrajs] == [6250] * 4 and str(tokenizer.frame_interval) == "3.75 ps"
    slow = tokenizer.centers[np.concatenate(dtrajs), 0]
    assert abs(np.corrcoef(slow, q)[0, 1]) > 0.7
    assert 100 < 5 * tokenizer.reduction_.timescales[0] < 1000


@pytest.mark.data
def test_pentapeptide_there_and_back(tmp_path):
    data = needs_data("pentapeptide") / "pentapeptide"
    top = data / "pentapeptide-impl-solv.pdb"
    tokenizer = Tokenizer("backbone_torsions", reduction="tica", lagtime=5, n_states=30, seed=1)
    dtrajs = tokenizer.fit_transform(top, str(data / "*-0[01]-*.xtc"), stride=2)
    assert [len(d) for d in dtrajs] == [2501, 2501] and str(tokenizer.frame_interval) == "200 ps"
    out = tokenizer.to_structures(dtrajs[0][:500], tmp_path / "out.xtc", seed=3)
    assert np.array_equal(tokenizer.transform(top, out, stride=1)[0], dtrajs[0][:500])
