"""The report's pictures: free energies, figures that are handed in, errors of passage times, colours."""

from __future__ import annotations

import numpy as np
import pytest
from report_page import png_bytes
from synthetic_result import make_result

from nanomd.base.errors import InputError
from nanomd.report import ReportFigure, write_report
from nanomd.report.landscape import free_energy_surfaces
from nanomd.report.plots_kinetics import mfpt_error
from nanomd.report.style import BLUE, DARK, source_styles


@pytest.fixture(scope="module")
def result():
    return make_result(extra=False)


def test_free_energies_are_minus_log_populations(result):
    rng = np.random.default_rng(0)
    xy = rng.normal(size=(5000, 2))
    surfaces = free_energy_surfaces({"samples": {"GPT": xy, "MD": xy}, "bins": 10}, result)
    assert list(surfaces) == ["MD", "GPT"]
    np.testing.assert_array_equal(surfaces["MD"].values, surfaces["GPT"].values)
    assert np.nanmin(surfaces["MD"].values) == 0
    counts, _, _ = np.histogram2d(*xy.T, bins=[surfaces["MD"].x_edges, surfaces["MD"].y_edges])
    np.testing.assert_allclose(np.exp(-surfaces["MD"].values[counts > 0]), (counts / counts.max())[counts > 0])

    # Two states on the left and right: the model has three times less on the left, hence ln 3 more free energy there.
    states = (xy[:, 0] > 0).astype(int)
    populations = {"MD": np.array([0.75, 0.25]), "GPT": np.array([0.25, 0.75])}
    options = {"xy": xy, "states": states, "populations": populations, "range": ((-1, 1), (-1, 1)), "bins": 2}
    surfaces = free_energy_surfaces(options, result)
    difference = surfaces["GPT"].values - surfaces["MD"].values
    np.testing.assert_allclose(difference, np.log([[3, 3], [1 / 3, 1 / 3]]))

    centres = {"centres": np.array([[0.0, 0.0], [1.0, 0.0]]), "populations": populations}
    surfaces = free_energy_surfaces(centres, result)
    difference = surfaces["GPT"].values - surfaces["MD"].values
    assert sorted(set(np.round(difference[np.isfinite(difference)], 6))) == pytest.approx(
        [-np.log(3), np.log(3)], abs=1e-6
    )


@pytest.mark.parametrize(
    ("landscape", "words"),
    [
        ({"sample": {}}, "no entry sample"),
        ({"bins": 3}, "needs one of"),
        ({"samples": {"GPT": np.zeros((3, 2))}}, "must hold the reference 'MD'"),
        ({"samples": {"MD": np.zeros((3, 3))}}, r"shape \(n, 2\)"),
        ({"samples": {"MD": np.full((3, 2), np.nan)}}, "must be finite"),
        ({"xy": np.zeros((3, 2)), "states": np.zeros(2, int)}, "states must be 3 integers"),
        ({"xy": np.zeros((3, 2)), "states": np.full(3, 100)}, "below the 100 microstates, got 100"),
        ({"centres": np.zeros((3, 2))}, "must be 100 points"),
        ({"samples": {"MD": np.zeros((3, 2))}, "range": ((1, 0), (0, 1))}, "range must be"),
    ],
)
def test_bad_landscapes_are_refused_before_anything_is_written(landscape, words, result, tmp_path):
    with pytest.raises(InputError, match=words):
        write_report(tmp_path / "report", result, title="x", landscape=landscape)
    assert not (tmp_path / "report").exists()


def test_extra_figures(tmp_path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3, 2))
    figure.subplots().plot([0, 1], [1, 0])
    assert ReportFigure("t", "c", figure).png().startswith(b"\x89PNG")
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes())
    assert ReportFigure("t", "c", path).png() == png_bytes()
    for picture in (b"GIF89a", tmp_path / "absent.png", 3):
        with pytest.raises(InputError, match=r"extra figure"):
            ReportFigure("t", "c", picture).png()  # type: ignore[arg-type]


def test_error_of_passage_times_is_a_factor():
    reference, model = np.array([1.0, 10.0, np.nan, 4.0]), np.array([2.0, 10.0, 3.0, 0.5])
    mean, worst, n_pairs, factor = mfpt_error(reference, model)
    assert mean == pytest.approx(2 ** (4 / 3)) and (worst, n_pairs) == (3, 3) and factor == pytest.approx(8)
    assert mfpt_error(reference * np.nan, model) is None


def test_sources_keep_their_colours():
    names = ["MD", "GPT two-pass", "MSM", "LSTM", "MD held out", "other", "another"]
    styles = source_styles(names, "MD")
    assert styles["MD"].color == DARK
    looks = {(style.color, style.marker, str(style.dashes)) for style in styles.values()}
    assert len(looks) == len(names)
    assert source_styles(["MD", "MSM (lag 1)", "GPT"], "MD")["GPT"].color == BLUE
    assert source_styles(["MD", "LSTM", "MSM"], "MD")["MSM"] == styles["MSM"]
    assert (
        len({(s.color, s.marker, str(s.dashes)) for s in source_styles([f"s{i}" for i in range(20)], "s0").values()})
        == 20
    )
