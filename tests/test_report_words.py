"""The report's words and numbers: the verdict in sentences, digits, units."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest
from synthetic_result import make_result

from nanomd.base.units import FrameInterval
from nanomd.kinetics.numbers import format_interval, format_number
from nanomd.kinetics.results import Cell, VerdictRow
from nanomd.kinetics.table import format_row
from nanomd.report import verdict_text


@pytest.fixture(scope="module")
def result():
    return make_result(extra=False)


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
