"""Weighted ensembles as west.h5: what WESTPA's tools expect of the layout, and what is in it."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from rare_chain import make_model

from nanomd import InputError, Sampler
from nanomd.base.errors import StoreError
from nanomd.base.extras import MissingExtraError

h5py = pytest.importorskip("h5py")
pytestmark = pytest.mark.filterwarnings("ignore:.*of the rate come from one")

RECYCLED, MERGED, CONTINUES = 3, 2, 1
IN_TARGET = 9  # the bin


def sample(**options):
    quick = {"n_iterations": 90, "walkers_per_bin": 6, "n_repeats": 3, "n_threads": 1, "record": True}
    return Sampler(make_model(), "cpu").rare_event([10], [17], **{**quick, **options})


@pytest.fixture(scope="module", params=[1, 4])
def saved(request, tmp_path_factory):
    result = sample(tau=request.param)
    with h5py.File(result.save_west(tmp_path_factory.mktemp("west") / "deep" / "west.h5")) as file:
        yield result, file


def iterations(file):
    for number in range(1, int(file.attrs["west_current_iteration"]) + 1):
        yield number, file[f"iterations/iter_{number:08d}"]


def test_the_layout_is_that_of_version_eight(saved):
    result, file = saved
    assert (file.attrs["west_file_format_version"], file.attrs["west_iter_prec"]) == (8, 8)
    assert file.attrs["west_current_iteration"] == len(result.fluxes) + 1 == len(file["iterations"])
    assert set(file) == {"summary", "iterations", "ibstates", "tstates"}
    assert file["summary"].dtype.names == (
        "n_particles", "norm", "min_bin_prob", "max_bin_prob", "min_seg_prob", "max_seg_prob", "cputime", "walltime",
        "binhash",
    )  # fmt: skip
    tau = result.settings["tau"]
    for number, group in iterations(file):
        index = group["seg_index"][:]
        n = len(index)
        assert group.attrs["n_iter"] == number
        assert index.dtype.names == (
            "weight", "parent_id", "wtg_n_parents", "wtg_offset", "cputime", "walltime", "endpoint_type", "status",
        )  # fmt: skip
        assert group["pcoord"].shape == (n, tau + 1, 2)
        assert len(group["bin_target_counts"]) == IN_TARGET + 1
        assert (index["status"] == (2 if number < len(file["iterations"]) else 1)).all()
        row = file["summary"][number - 1]
        assert row["n_particles"] == n and row["norm"] == pytest.approx(1, rel=1e-9)
        assert group["ibstates"] == file[file["ibstates/index"][0]["group_ref"]]
        assert group["tstates"] == file[file["tstates/index"][0]["group_ref"]]
    assert file["tstates/0/pcoord"][0, 1] == IN_TARGET
    assert file["ibstates/0/bstate_index"]["probability"].sum() == pytest.approx(1)


def test_weights_parents_and_coordinates_fit_from_iteration_to_iteration(saved):
    _, file = saved
    istates = file["ibstates/0/istate_index"][:]
    begins = file["ibstates/0/istate_pcoord"][:]
    before = None
    recycled = 0
    for number, group in iterations(file):
        index, pcoord = group["seg_index"][:], group["pcoord"][:]
        weight, parent = index["weight"], index["parent_id"]
        assert weight.sum() == pytest.approx(1, rel=1e-9) and (weight > 0).all()
        new = -1 - parent[parent < 0]
        assert (istates["iter_used"][new] == number).all() and (istates["iter_created"][new] == number - 1).all()
        assert np.array_equal(pcoord[parent < 0, 0], begins[new])
        if before is None:
            assert (parent < 0).all() and group["wtgraph"][:].tolist() == parent.tolist()
        else:
            old, ends, coordinates = before
            on = parent >= 0
            assert np.array_equal(pcoord[on, 0], coordinates[parent[on], -1])
            givers = np.split(group["wtgraph"][:], index["wtg_offset"][1:].astype(int))
            assert [len(some) for some in givers] == index["wtg_n_parents"].tolist()
            assert all(len(set(some.tolist())) == len(some) and (some >= 0).all() for some in givers)
            gave = np.unique(np.concatenate(givers))
            assert gave.tolist() == list(range(len(old)))  # no weight is lost
            assert all(p in some for p, some in zip(parent[on], [givers[k] for k in np.flatnonzero(on)], strict=True))
            # Those who arrived are begun anew, all others are gone on with or merged.
            first = [some[0] for some in givers]
            assert (ends[np.array(first)[~on]] == RECYCLED).all() and (ends[parent[on]] == CONTINUES).all()
            assert set(np.flatnonzero(ends == MERGED)).isdisjoint(parent[on])
            share = np.zeros(len(weight))
            for k, some in enumerate(givers):
                share[k] = old[some].sum()
            assert (weight <= share * (1 + 1e-9)).all()
        arrived = pcoord[:, -1, 1] == IN_TARGET
        done = number < len(file["iterations"])
        assert np.array_equal(arrived & done, index["endpoint_type"] == RECYCLED)
        assert np.array_equal(arrived & done, group["auxdata/arrivals"][:] > 0)
        recycled += int(arrived.sum())
        before = weight, index["endpoint_type"], pcoord
    assert recycled > 20


def test_the_flux_of_the_file_is_the_rate(saved):
    result, file = saved
    tau, burn_in = int(file.attrs["nanomd_tau"]), int(file.attrs["nanomd_burn_in"])
    fluxes, by_repeat, last = [], np.zeros(3), 0.0
    for number, group in iterations(file):
        index = group["seg_index"][:]
        weight = index["weight"] * group["auxdata/arrivals"][:]
        if number > 1:
            came = group["new_weights/index"][:]
            assert (came["target_state_id"] == 0).all() and (came["source_type"] == 0).all()
            assert came["weight"].sum() == pytest.approx(last)  # of those who arrived in the iteration before
        last = index["weight"][index["endpoint_type"] == RECYCLED].sum()
        fluxes.append(weight.sum() / tau)
        if burn_in < number < file.attrs["west_current_iteration"]:
            by_repeat += np.bincount(group["auxdata/repeat"][:], weight, 3)
    np.testing.assert_allclose(fluxes[:-1], result.fluxes.mean(axis=1), rtol=1e-12)
    assert np.mean(fluxes[burn_in:-1]) == pytest.approx(result.rate.value, rel=1e-12)
    np.testing.assert_allclose(3 * by_repeat / tau / (len(fluxes) - 1 - burn_in), result.rates, rtol=1e-12)


def test_labels_and_progress_of_the_file_are_those_of_the_states(saved):
    result, file = saved
    group = file["iterations/iter_00000040"]
    states, pcoord = group["auxdata/state"][:], group["pcoord"][:]
    stays = group["auxdata/arrivals"][:] == 0
    assert np.array_equal(result.progress[states[stays] - 10], pcoord[stays, :, 0])
    assert set(pcoord[states == 10][:, 1]) <= {0, IN_TARGET}  # back in the source, or shown where it arrived
    assert file.attrs["nanomd_bins"].startswith("[[-inf, inf], [-0.5, 0.5,")


def test_what_cannot_be_written_is_said(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="record=True"):
        sample(record=False).save_west(tmp_path / "west.h5")
    splitting = Sampler(make_model(), "cpu").rare_event(
        [10], [17], method="splitting", n_particles=20, n_repeats=2, n_threads=1, record=True
    )
    with pytest.raises(InputError, match="splitting"):
        splitting.save_west(tmp_path / "west.h5")
    result = sample(n_iterations=3)
    (tmp_path / "taken").touch()
    with pytest.raises(StoreError, match="cannot be written"):
        result.save_west(tmp_path / "taken" / "west.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"nanomd-kinetics\[westpa\]"):
        result.save_west(tmp_path / "other.h5")
    assert not (tmp_path / "other.h5").exists()
