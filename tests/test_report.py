"""The report: what it says equals the result, whatever it is given it stays one readable, self-contained page."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from report_page import Page, png_bytes
from synthetic_result import make_landscape, make_metrics, make_result

from nanomd.base.errors import StoreError
from nanomd.kinetics.interval import Interval
from nanomd.kinetics.numbers import format_interval
from nanomd.kinetics.results import Cell, SourceKinetics, VerdictRow
from nanomd.kinetics.table import format_row
from nanomd.report import ReportFigure, verdict_text, write_report
from nanomd.report.plots_paths import passage_notes, plot_transition_paths
from nanomd.report.style import source_styles


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
