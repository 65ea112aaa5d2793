"""What a notebook user takes a validation's result for: tables, arrays with names, pictures."""

import dataclasses

import numpy as np
import pytest
from command_line import GENERATE, TRAIN, ok, refused
from markov_walk import walks

from nanomd import InputError, Tokenizer, plots, validate
from nanomd.base.extras import MissingExtraError
from nanomd.kinetics.interval import Interval
from nanomd.kinetics.results import ValidationResult
from nanomd.report import write_report

matplotlib = pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def result():
    return validate(
        walks(8000, 3, 1),
        walks(8000, 3, 2),
        lagtimes=[1, 2, 5],
        lagtime=5,
        n_bootstrap=40,
        macrostate_of_state={0: "left", 1: "middle", 2: "right"},
        frame_interval="0.2 ns",
    )


@pytest.fixture
def pyplot(monkeypatch):
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


# --- Tables ---
def test_a_tidy_table_holds_every_cell(result):
    pytest.importorskip("pandas")
    table = result.to_dataframe()
    assert list(table)[:8] == ["quantity", "unit", "source", "value", "low", "high", "n", "verdict"]
    assert len(table) == sum(len(row.cells) for row in result.rows)
    row = table[(table.quantity == "MFPT left to right") & (table.source == "GPT")].iloc[0]
    cell = next(r for r in result.rows if r.quantity == "MFPT left to right").cells["GPT"]
    assert (row.value, row.low, row.high, row.n) == (cell.value, cell.low, cell.high, cell.n_events)
    assert row.unit == "ns"
    assert set(table.verdict) <= {"pass", "fail", "undecided", ""}
    assert (table.verdict == "pass").sum() == sum(c.passed is True for r in result.rows for c in r.cells.values())
    assert table[table.source == "MSM"].n.isna().all(), "what is computed has no events"


def test_arrays_have_named_dimensions_and_times_units(result, tmp_path):
    pytest.importorskip("xarray")
    data = result.to_xarray()
    source = result.sources["GPT"]
    found = data.mfpt.sel(source="GPT", macrostate="left", to="right", bound="value")
    assert float(found) == pytest.approx(0.2 * source.mfpt.value[0, 2])
    assert data.lagtime.values.tolist() == pytest.approx([0.2, 0.4, 1.0])
    assert data.timescales.attrs["units"] == "ns" == data.lagtime.attrs["units"]
    high = data.populations.sel(source="MD", state=2, bound="high")
    assert float(high) == pytest.approx(result.sources["MD"].populations.high[2])
    assert data.attrs["verdict"] == result.verdict
    result.save(tmp_path / "v.json")
    assert ValidationResult.load(tmp_path / "v.json").to_xarray().sizes == data.sizes


def test_older_results_leave_out_what_they_lack(result):
    pytest.importorskip("xarray")
    source = result.sources["MD"]
    absent = {
        f.name: f.default_factory()
        for f in dataclasses.fields(source)
        if f.name.startswith("path_") and f.default_factory is not dataclasses.MISSING
    }
    bare = {name: dataclasses.replace(source, **absent) for name, source in result.sources.items()}
    data = dataclasses.replace(result, sources=bare, state_symbols=np.zeros(0, np.int64)).to_xarray()
    assert "mfpt" in data and "path_mean" not in data


@pytest.mark.parametrize(("library", "call"), [("pandas", "to_dataframe"), ("xarray", "to_xarray")])
def test_a_missing_library_is_one_line(result, monkeypatch, library, call):
    monkeypatch.setitem(__import__("sys").modules, library, None)
    with pytest.raises(
        MissingExtraError, match=r"needs \w+, which is not installed: pip install 'nanomd-kinetics\[notebook\]'"
    ):
        getattr(result, call)()


# --- Intervals ---
def test_an_interval_is_an_array_of_its_estimates_and_formats():
    time = Interval(np.array([31.2, 12.7]), np.array([25.4, 12.0]), np.array([38.3, 13.4]))
    np.testing.assert_array_equal(np.asarray(time), [31.2, 12.7])
    np.testing.assert_allclose(np.log(time), np.log([31.2, 12.7]))
    assert np.asarray(time, np.float32).dtype == np.float32
    assert np.asarray(time) is not time.value or np.shares_memory(np.asarray(time), time.value)
    assert time.shape == (2,) and time[0].shape == ()
    assert f"{time[0]:.2f}" == "31.20 [25.40, 38.30]"
    assert float(time[1].value) == 12.7


# --- Pictures ---
@pytest.mark.parametrize(
    ("name", "options", "x", "y"),
    [
        ("timescales", {"process": 2}, "lag time (ns)", "timescale (ns)"),
        ("mfpt", {}, "MD (ns)", "GPT (ns)"),
        ("mfpt", {"source": "MSM"}, "MD (ns)", "MSM (ns)"),
        ("populations", {}, "", "population"),
        ("chapman_kolmogorov", {"macrostate": "right"}, "lag time (ns)", "probability to be there again"),
        ("residence", {"macrostate": 2}, "time (ns)", "probability to stay longer"),
        ("free_energy", {"coordinates": [[0, 0], [1, 0], [2, 1]], "labels": ["a", "b"]}, "a", "b"),
    ],
)
def test_pictures_return_axes(result, pyplot, name, options, x, y):
    axes = getattr(plots, name)(result, **options)
    assert (axes.get_xlabel(), axes.get_ylabel()) == (x, y)
    own = pyplot.figure().subplots()
    before = matplotlib.rcParams.copy()
    assert getattr(plots, name)(result, ax=own, **options) is own
    assert matplotlib.rcParams == before, "the settings of the user stay"
    own.figure.savefig(__import__("io").BytesIO(), format="pdf")


def test_a_notebook_shows_every_picture(tmp_path):
    """The first picture sets the backend up: what it sets must stay for the second."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    cells = [
        "import numpy as np, nanomd\n"
        "walk = lambda s: list(np.cumsum(np.random.default_rng(s).random((4, 3000)) < 0.02, 1) % 2)\n"
        "result = nanomd.validate(walk(1), walk(2), lagtime=1, lagtimes=[1, 5], n_bootstrap=20)",
        "nanomd.plots.timescales(result);",
        "nanomd.plots.mfpt(result);",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for cell in notebook.cells[1:]:
        assert [output.output_type for output in cell.outputs] == ["display_data"], cell.source


def test_pictures_hold_the_numbers(result, pyplot):
    axes = plots.timescales(result)
    line = next(line for line in axes.get_lines() if line.get_label() == "GPT")
    np.testing.assert_allclose(line.get_xdata(), 0.2 * np.array([1, 2, 5]))
    np.testing.assert_allclose(line.get_ydata(), 0.2 * result.sources["GPT"].timescales.value[:, 0])
    bars = [patch.get_height() for patch in plots.populations(result).patches]
    expected = np.concatenate([s.macro_populations.value for s in result.sources.values()])
    np.testing.assert_allclose(bars, expected)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda r: plots.timescales(r, process=9), r"process must be in \[1, 2\]"),
        (lambda r: plots.mfpt(r, source="LSTM"), "source must be one of GPT, MSM"),
        (lambda r: plots.residence(r, macrostate="B"), "macrostate must be one of left, middle, right, got 'B'"),
        (lambda r: plots.residence(r, macrostate=3), r"macrostate must be in \[0, 2\]"),
        (lambda r: plots.free_energy(r, [[0, 0]]), "centres must be 3 points"),
        (lambda r: plots.free_energy(r, np.eye(3)[:, :2], source="MSM"), "source must be one with trajectories"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(result, call, says):
    with pytest.raises(InputError, match=says):
        call(result)


def test_vector_pictures_beside_the_png(result, tmp_path):
    write_report(tmp_path, result, title="x", formats=["pdf", "svg"])
    stems = {path.stem for path in (tmp_path / "png").iterdir()}
    for kind, begin in (("pdf", b"%PDF"), ("svg", b"<?xml")):
        files = list((tmp_path / kind).iterdir())
        assert {path.stem for path in files} == stems
        assert all(path.read_bytes().startswith(begin) for path in files)
    again = tmp_path / "again"
    write_report(again, result, title="x", formats=["svg"])
    name = "mfpt_GPT.svg"
    assert (again / "svg" / name).read_bytes() == (tmp_path / "svg" / name).read_bytes()
    assert not (again / "pdf").exists()
    with pytest.raises(InputError, match="formats must be one of pdf, svg"):
        write_report(again, result, title="x", formats=["eps"])


# --- Coordinates ---
def features(n_frames, seed):
    """Features of two wells with a slow and a quick coordinate."""
    rng = np.random.default_rng(seed)
    slow = (rng.random(n_frames) < 0.02).cumsum() % 2
    quick = (rng.random(n_frames) < 0.2).cumsum() % 2
    return np.stack([slow, quick, slow + quick], axis=1) + 0.1 * rng.normal(size=(n_frames, 3))


def test_frames_are_projected_on_the_coordinates_of_the_states():
    arrays = [features(2000, 1), features(1500, 2)]
    tokenizer = Tokenizer(reduction="tica", lagtime=5, n_components=2, n_states=6, seed=1)
    dtrajs = tokenizer.fit_transform_arrays(arrays)
    where = tokenizer.transform_arrays(arrays, to="coordinates")
    assert [x.shape for x in where] == [(2000, 2), (1500, 2)]
    for x, labels in zip(where, dtrajs, strict=True):
        distance = np.linalg.norm(x[:, None] - tokenizer.state_coordinates, axis=2)
        np.testing.assert_array_equal(distance.argmin(axis=1), labels)
    slow = np.corrcoef(where[0][:, 0], arrays[0][:, 0])[0, 1]
    assert abs(slow) > 0.95, "the first coordinate is the slow one"
    with pytest.raises(InputError, match="to must be one of states, coordinates"):
        tokenizer.transform_arrays(arrays, to="features")


def test_a_report_shows_free_energies_over_the_coordinates_that_were_asked_for(tmp_path, capsys):
    for k in range(3):
        np.save(tmp_path / f"f_{k}.npy", features(1500, k))
    common = ["--run", tmp_path / "run"]
    ok(
        "tokenize", *common, "--features", "arrays", "--reduction", "tica", "--lagtime", "5", "--states", "8",
        *sorted(tmp_path.glob("f_*.npy")),
    )  # fmt: skip
    ok("train", *common, *TRAIN)
    ok("generate", *common, *GENERATE)
    ok("validate", *common, "--n-bootstrap", "20")
    ok("report", *common)
    pictures = tmp_path / "run/report/png"
    assert {"free_energy_MD.png", "free_energy_GPT.png"} <= {path.name for path in pictures.iterdir()}
    assert "time-lagged independent component 1" in (tmp_path / "run/report/index.html").read_text()
    ok("report", *common, "--force", "--projection", "1", "3", "--formats", "pdf")
    assert "time-lagged independent component 3" in (tmp_path / "run/report/index.html").read_text()
    assert (tmp_path / "run/report/pdf/free_energy_MD.pdf").exists()
    assert "from 1 to 3, got [1, 7]" in refused(capsys, "report", *common, "--force", "--projection", "1", "7")
