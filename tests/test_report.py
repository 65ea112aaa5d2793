"""The report: what it says equals the result, whatever it is given it stays one readable, self-contained page."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from synthetic_result import make_landscape, make_metrics, make_result

from nanomd.base.errors import InputError, StoreError
from nanomd.base.units import FrameInterval
from nanomd.kinetics.interval import Interval
from nanomd.kinetics.numbers import format_interval, format_number
from nanomd.kinetics.results import Cell, SourceKinetics, VerdictRow
from nanomd.kinetics.table import format_row
from nanomd.report import ReportFigure, verdict_text, write_report
from nanomd.report.landscape import free_energy_surfaces
from nanomd.report.plots_kinetics import mfpt_error
from nanomd.report.plots_paths import passage_notes, plot_transition_paths
from nanomd.report.style import BLUE, DARK, source_styles

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """Checks that tags are balanced, and collects what the tests ask for."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.images, self.links, self.ids, self.cells = [], [], [], [], []
        self.tags, self.text, self.attributes = set(), [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        attributes = dict(attrs)
        self.attributes += attrs
        if tag == "img":
            self.images.append(attributes)
        if tag == "a":
            self.links.append(attributes["href"])
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style",):
            self.text.append(data)

    @property
    def words(self):
        return re.sub(r"[ \n]+", " ", " ".join(self.text))  # not the narrow no-break spaces inside numbers


@pytest.fixture(scope="module")
def result():
    return make_result(extra=False)


@pytest.fixture(scope="module")
def report(result, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return write_report(
        folder / "deep" / "report",
        result,
        title='<script>alert("1 & 2")</script>',
        summary="First <b>part</b>.\n\nSecond.",
        metrics=make_metrics(100),
        speeds={"generation <per s>": 2.1e6, "training": "4.2 ms", "ratio": 12.3456},
        provenance={"versions": {"numpy": "2.1"}, "seed": 0, "command": "nanomd run '<x>'", "inputs": ["a" * 64, "b"]},
        landscape=make_landscape(result, n=4000),
        extra_figures=[ReportFigure("Memory & length", "Likelihood <against> context.", png_bytes())],
    )


def png_bytes():
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), (200, 10, 10)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def small():
    """Two macrostates, one timescale, MD and GPT: for what does not depend on the size."""
    result = make_result(names=("a", "b"), n_states=6, extra=False, n_timescales=1)
    rows = [
        dataclasses.replace(row, cells={n: row.cells[n] for n in ("MD", "GPT")}) for row in result.rows if row.cells
    ]
    return dataclasses.replace(result, sources={n: result.sources[n] for n in ("MD", "GPT")}, rows=rows)


def with_sources(result, change):
    """Apply a function to every source."""
    return dataclasses.replace(result, sources={name: change(source) for name, source in result.sources.items()})


def test_page_is_well_formed_and_self_contained(report):
    text = report.read_text(encoding="utf-8")
    page = Page(text)
    assert report.name == "index.html"
    assert not page.tags & {"script", "link", "iframe", "object", "b"}
    assert page.images and all(image["src"].startswith("data:image/png;base64,") for image in page.images)
    assert all(image["alt"].strip() and int(image["width"]) > 0 and int(image["height"]) > 0 for image in page.images)
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))
    assert not re.search(r"@import|url\(", text)
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert len(set(page.ids)) == len(page.ids)
    assert len(text) < 3_000_000


def test_what_users_write_is_escaped(report):
    text = report.read_text(encoding="utf-8")
    page = Page(text)
    assert "<script" not in text and "<x>" not in text and "<b>" not in text and "<against>" not in text
    assert '<script>alert("1 & 2")</script>' in page.words
    assert (
        "First <b>part</b>." in page.words and "nanomd run '<x>'" in page.words and "generation <per s>" in page.words
    )


def test_hostile_names_are_escaped_everywhere(small, tmp_path):
    evil = '"><img src=x onerror=alert(1)>$\\frac$'
    sources = {"MD": small.sources["MD"], evil: dataclasses.replace(small.sources["GPT"], name=evil)}
    rows = [
        VerdictRow(f"{evil} q", f"{evil} u", {"MD": row.cells["MD"], evil: row.cells["GPT"]}) for row in small.rows[:2]
    ]
    hostile = dataclasses.replace(
        small, sources=sources, rows=rows, macrostate_names=[evil, "a\nb$x_"], warnings=[evil],
        chain_length_over_slowest={evil: 3.0},
    )  # fmt: skip
    path = write_report(tmp_path, hostile, title=evil, provenance={evil: {evil: evil}}, speeds={evil: evil})
    page = Page(path.read_text(encoding="utf-8"))
    assert all(image["src"].startswith("data:") for image in page.images)
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert evil in page.words


def test_pictures_are_valid_and_not_empty(report, result):
    files = sorted((report.parent / "png").glob("*.png"))
    names = {path.stem for path in files}
    for stem in (
        "free_energy",
        "populations",
        "timescales",
        "mfpt",
        "chapman_kolmogorov",
        "residence",
        "transition_paths",
        "training",
    ):
        assert any(name.startswith(stem) for name in names), stem
    assert {"timescales_process_1", "populations_macrostates", "mfpt_MSM", "extra_1"} <= names
    page = Page(report.read_text(encoding="utf-8"))
    inline = {base64.b64decode(image["src"].split(",", 1)[1]) for image in page.images}
    assert inline == {path.read_bytes() for path in files}
    for path in files:
        with Image.open(path) as image:
            image.load()
            if path.stem == "extra_1":
                continue
            assert image.width >= 700, "twice the resolution of the screen"
            pixels = np.asarray(image.convert("L"))
            assert pixels[2, 2] == 255 and pixels[-3, -3] == 255
            assert 0.004 < np.mean(pixels < 250) < 0.8, path.stem


def test_verdict_comes_first_with_words_and_numbers(report, result):
    page = Page(report.read_text(encoding="utf-8"))
    assert page.ids[0] == "verdict"
    text = page.words.split("Trajectories behind the numbers")[0]
    assert text.count("✓ pass") == sum(cell.passed is True for row in result.rows for cell in row.cells.values())
    assert text.count("✗ fail") == sum(cell.passed is False for row in result.rows for cell in row.cells.values()) > 0
    assert text.count("– not judged") == 2
    for warning in result.warnings:
        assert warning in text
    for row in result.rows:
        unit, cells = format_row(row, result.frame_interval)
        assert f"{row.quantity} {unit}".strip() in text
        for cell in cells.values():
            assert cell.value in text and cell.interval in text and cell.events in text
    assert "12.35" in page.words and "2\u202f100\u202f000" in page.words and "a" * 64 in page.words


def test_transition_paths_and_what_is_said_beside(report, result):
    words = Page(report.read_text(encoding="utf-8")).words
    assert len(list((report.parent / "png").glob("transition_paths*.png"))) == 3, "six pairs, three of neighbours"
    assert "3 of 6 pairs are neighbours" in words
    error = result.mfpt_errors["MSM"]
    assert f"MSM: a factor of {format_interval(error.factor, error.low, error.high)[0]}" in words
    assert "too fast on average" in words
    assert "Process 2 moves state 3 (2 %) against the rest (passages: MD 400, GPT 400, MSM 0)." in words
    assert "Noise floor" not in words
    floor = dataclasses.replace(error, factor=1.1234, low=1.0, high=1.3)
    assert passage_notes(dataclasses.replace(result, noise_floor=floor))[0].startswith(
        "Noise floor: the training MD is off from MD by a factor of 1.12 [1.00, 1.30]"
    )
    lacking = dataclasses.replace(result, mfpt_errors={"x": dataclasses.replace(error, factor=np.inf, n_missing=2)})
    assert len(passage_notes(lacking)) == 1 and passage_notes(lacking)[0].startswith("x lacks 2 of the passages")
    old = with_sources(result, lambda s: dataclasses.replace(s, path_longer=np.zeros((0, 0, 0))))
    group = plot_transition_paths(old, source_styles(list(old.sources), "MD"))
    assert not group.panels and "validate again" in group.notes[0]


def test_verdict_text_says_what_the_result_says(result):
    text = verdict_text(result)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 110
    number = r"(-?[0-9.]+(?:e-?[0-9]+)?)"
    cell = rf"{number} \[{number},{number}\]\s+(n=\d+|pass|FAIL|-)?"
    seconds = {"": 1.0, "ns": 1 / 0.2, "us": 1000 / 0.2}
    checked = 0
    for row in result.rows:
        first, *more = [line for line in lines if line.startswith(row.quantity)]  # a block of lines per source, or two
        unit = re.search(r"\((\w+)\)", first)
        scale = seconds[unit.group(1) if unit else ""]
        found = re.findall(cell, first)
        for line in more:
            found += re.findall(cell, line)[-1:]
        expected = [c for c in row.cells.values() if math.isfinite(c.value)]
        assert len(found) == len(expected)
        for (value, low, high, mark), want in zip(found, expected, strict=True):
            assert float(value) * scale == pytest.approx(want.value, rel=0.05)
            assert float(low) * scale == pytest.approx(want.low, rel=0.05)
            assert float(high) * scale == pytest.approx(want.high, rel=0.05)
            if want.passed is not None:
                assert mark == ("pass" if want.passed else "FAIL")
            elif want is row.cells["MD"] and want.n_events is not None:
                assert mark == f"n={want.n_events}"
            checked += 1
    assert checked == 29
    assert "9 of 9" in text and "4 of 9" in text
    assert "Chain length / slowest timescale: MD 8.33, GPT 41.7, MSM 41.7" in text
    assert all(f"Warning: {warning}" in text for warning in result.warnings)


def test_verdict_text_folds_many_sources_and_long_words():
    result = make_result(names=("a rather long-winded macrostate name", "b"), n_states=20)
    result = dataclasses.replace(result, warnings=["word " * 60])
    text = verdict_text(result)
    assert max(map(len, text.splitlines())) <= 110
    assert text.count("quantity") in (2, 4)
    assert all(name in text for name in result.sources)


@pytest.mark.parametrize(
    ("value", "low", "high", "expected"),
    [
        (1.2345, 1.1, 1.36, ("1.23", "[1.10, 1.36]")),
        (1234.5, 1100, 1360, ("1234", "[1100, 1360]")),
        (0.5, 0.1, 0.9, ("0.50", "[0.10, 0.90]")),
        (0.0, 0.0, 0.0, ("0", "[0, 0]")),
        (3.0, math.nan, math.nan, ("3.00", "")),
        (math.nan, math.nan, math.nan, ("n/a", "")),
        (5.0, 2.0, math.inf, ("5.00", "[2.00, inf]")),
        (7.35e-4, 7.0e-4, 7.7e-4, ("7.3e-4", "[7.0e-4, 7.7e-4]")),
        (-0.716, -0.72, -0.71, ("-0.716", "[-0.720, -0.710]")),
    ],
)
def test_digits_follow_the_interval(value, low, high, expected):
    assert format_interval(value, low, high) == expected


def test_rows_share_one_readable_unit():
    cells = {"MD": Cell(5000.0, 4000.0, 6000.0), "GPT": Cell(250.0, 200.0, 300.0)}
    unit, text = format_row(VerdictRow("t", "frames", cells), FrameInterval(0.2, "ns"))
    assert unit == "us" and text["MD"].value == "1.00" and text["GPT"].value == "0.050"
    unit, text = format_row(VerdictRow("t", "ns", cells), FrameInterval(0.2, "ns"))
    assert unit == "us" and text["MD"].value == "5.0"
    assert format_row(VerdictRow("t", "nats/frame", cells), FrameInterval())[0] == "nats/frame"
    assert format_number(1234567.0) == "1.23e6" and format_number(math.nan) == "n/a"
    for frames in (0.3, 1.0, 4999.9, 5000.0, 1e9):
        interval = FrameInterval(0.2, "ns")
        factor, unit = interval.scale(frames)
        assert interval.describe(frames) == f"{frames * factor:.4g} {unit}"


def test_json_has_no_nan_and_keeps_the_numbers(report, result):
    def refuse(word):
        raise AssertionError(word)

    data = json.loads((report.parent / "validation.json").read_text(), parse_constant=refuse)
    assert data["sources"]["MD"]["mfpt"]["value"][0][0] is None
    assert data["sources"]["GPT"]["timescales"]["value"] == result.sources["GPT"].timescales.value.tolist()


def nothing(source: SourceKinetics) -> SourceKinetics:
    """Return the source with every number undefined and no event."""

    def empty(interval):
        return Interval(*(np.full_like(interval.value, np.nan) for _ in range(3)))

    return dataclasses.replace(
        source, populations=empty(source.populations), macro_populations=empty(source.macro_populations),
        timescales=empty(source.timescales), mfpt=empty(source.mfpt), mfpt_events=source.mfpt_events * 0,
        residence=empty(source.residence), residence_events=source.residence_events * 0,
        residence_survival=source.residence_survival * np.nan, ck_estimated=empty(source.ck_estimated),
        ck_predicted=source.ck_predicted * np.nan,
    )  # fmt: skip


def test_undefined_everything_still_makes_a_page(small, tmp_path):
    cell = Cell(math.nan, math.nan, math.nan)
    rows = [VerdictRow("timescale", "frames", {"MD": cell, "GPT": cell}), VerdictRow("only", "", {"GPT": cell})]
    empty = dataclasses.replace(with_sources(small, nothing), rows=rows, chain_length_over_slowest={"MD": math.nan})
    page = Page(write_report(tmp_path, empty, title="empty", metrics=[]).read_text(encoding="utf-8"))
    assert "n/a" in page.words and "training" not in page.ids and "free_energy" not in page.ids
    assert "No quantity has a value" not in page.words  # said inside the picture
    assert "n/a" in verdict_text(empty) and "nan" not in verdict_text(empty)
    assert "2 of 2 ordered pairs" in page.words


def test_infinite_and_one_sided_intervals(small, tmp_path):
    def open_ended(source):
        mfpt = Interval(source.mfpt.value, source.mfpt.low * 0, np.full_like(source.mfpt.high, np.inf))
        times = Interval(source.timescales.value, source.timescales.low * np.nan, source.timescales.high * np.inf)
        odd = Interval(source.macro_populations.value, source.macro_populations.high, source.macro_populations.low)
        return dataclasses.replace(source, mfpt=mfpt, timescales=times, macro_populations=odd)

    Page(write_report(tmp_path, with_sources(small, open_ended), title="x").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("names", "n_states"), [(("all",), 5), (("0", "1"), 2), (tuple(f"state {i}" for i in range(14)), 60)]
)
def test_one_two_and_many_macrostates(names, n_states, tmp_path):
    result = make_result(names=names, n_states=n_states, extra=False, unit="1 frame", n_timescales=1)
    result = dataclasses.replace(result, sources={name: result.sources[name] for name in ("MD", "GPT")})
    path = write_report(tmp_path, result, title="x", metrics=[{"step": 1, "train_loss": 0.7, "validation_loss": None}])
    page = Page(path.read_text(encoding="utf-8"))
    panels = len(list((tmp_path / "png").glob("chapman_kolmogorov*.png")))
    assert panels == min(len(names), 12)
    assert ("12 most populated of 14" in page.words) == (len(names) == 14)
    assert ("no passage between macrostates" in page.words) == (len(names) == 1)
    assert "frames" in page.words and path.stat().st_size < 3_000_000


def test_only_the_reference(small, tmp_path):
    alone = dataclasses.replace(
        small, sources={"MD": small.sources["MD"]}, rows=[], warnings=[], chain_length_over_slowest={}
    )
    page = Page(write_report(tmp_path, alone, title="MD").read_text(encoding="utf-8"))
    assert "No quantity could be judged." in page.words
    assert isinstance(verdict_text(alone), str)


def test_second_report_replaces_the_first(small, tmp_path):
    pictures = tmp_path / "png"
    pictures.mkdir()
    (pictures / "my_own.png").write_bytes(b"keep")
    (pictures / "chapman_kolmogorov_3.png").write_bytes(b"of an earlier report with three macrostates")
    write_report(tmp_path, small, title="Zero")
    first = (tmp_path / "index.html").read_bytes()
    write_report(tmp_path, small, title="Infinity")
    second = (tmp_path / "index.html").read_bytes()
    assert second == first.replace(b"Zero", b"Infinity")  # equal input gives equal bytes, pictures included
    names = {path.stem for path in pictures.iterdir()}
    assert "chapman_kolmogorov_b" in names and "chapman_kolmogorov_3" not in names
    assert (pictures / "my_own.png").read_bytes() == b"keep"
    assert not list(tmp_path.glob(".*.part"))


def test_unwritable_folder_is_one_clear_error(small, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write the report to .*file"):
        write_report(tmp_path / "file" / "report", small, title="x")


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


def test_computed_sources_have_no_trajectories(small, tmp_path):
    """A Markov model that generates nothing has numbers, but neither chains nor visits."""
    model = dataclasses.replace(
        small.sources["GPT"], name="MSM", n_trajs=0, n_frames=0, residence_events=np.zeros(2, np.int64)
    )
    mixed = dataclasses.replace(
        small, sources={"MD": small.sources["MD"], "MSM": model}, macrostate_names=["A (6 %)", "B"]
    )
    centres = np.arange(12.0).reshape(6, 2)
    page = Page(write_report(tmp_path, mixed, title="x", landscape={"centres": centres}).read_text(encoding="utf-8"))
    assert "none: computed" in page.words
    assert len(list((tmp_path / "png").glob("free_energy*.png"))) == 1


def test_import_is_light():
    code = "import sys, nanomd.report; sys.exit(bool({'matplotlib', 'PIL', 'scipy', 'torch'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


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
