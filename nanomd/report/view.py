"""What the page's template shows: the result in words and plain values, nothing of HTML."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanomd.kinetics.numbers import format_count, format_number
from nanomd.kinetics.results import SourceKinetics, ValidationResult
from nanomd.kinetics.table import CellText, count_passes, format_row
from nanomd.report.figures import Group, Panel
from nanomd.report.style import MUTED, SourceStyle

_WIDE = 480  # CSS pixels: a wider picture has a row of its own
_MARKS = {True: ("pass", "✓ pass"), False: ("fail", "✗ fail"), None: ("none", "– not judged")}
_UNDECIDED = ("undecided", "? undecided")


@dataclass(frozen=True, slots=True)
class Head:
    """A source's name and colour, none for a source that no picture shows."""

    name: str
    color: str = ""


@dataclass(frozen=True, slots=True)
class Score:
    """The verdict of a source: a word, numbers of quantities, why, and its chains in slowest timescales."""

    name: str
    color: str
    outcome: str  # pass, fail, undecided; empty in results of older versions
    said: str
    reasons: list[str]
    chain: str


@dataclass(frozen=True, slots=True)
class VerdictCell:
    """A cell of the verdict table: `css` is pass, fail or none; the reference has no mark."""

    value: str
    interval: str
    events: str
    css: str
    mark: str


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the verdict table; None for a source that it does not mention."""

    quantity: str
    unit: str
    cells: list[VerdictCell | None]


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture, its size in CSS pixels, and its PNG in base 64."""

    width: int
    height: int
    alt: str
    data: str
    wide: bool


@dataclass(frozen=True, slots=True)
class Section:
    """Pictures side by side, under one heading and one caption."""

    key: str
    title: str
    caption: str
    columns: int
    panels: list[Picture]
    notes: list[str]


def render_page(
    result: ValidationResult,
    styles: Mapping[str, SourceStyle],
    groups: Sequence[Group],
    title: str,
    summary: str | None = None,
    speeds: Mapping[str, str | float] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> str:
    """Return the page. The arguments are those of `nanomd.report.write_report`; all text is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    names = _names(result)
    heads = {name: Head(name, styles[name].color if name in styles else "") for name in names}
    scores = [_score(result, heads[name]) for name in names[1:]]
    return templates.get_template("page.html.j2").render(
        title=title,
        paragraphs=_paragraphs(summary or ""),
        reference=result.reference,
        confidence=f"{100 * result.confidence:g}",
        lagtime=result.frame_interval.describe(result.lagtime),
        frame_interval=result.frame_interval,
        lead=next((score for score in scores if score.name == "GPT" and score.outcome), None),
        judged_by=result.judged_by,
        warnings=result.warnings,
        scores=scores,
        heads=list(heads.values()),
        rows=_rows(result, names),
        sources=[(heads[name], _counts(result, name, source)) for name, source in result.sources.items()],
        groups=[_section(group) for group in groups],
        speeds=[(str(name), speed_text(value)) for name, value in (speeds or {}).items()],
        provenance=flatten(provenance or {}),
    )


def _names(result: ValidationResult) -> list[str]:
    """Return the sources, the reference first, and those that only rows mention."""
    names = [result.reference, *(name for name in result.sources if name != result.reference)]
    for row in result.rows:
        names += [name for name in row.cells if name not in names]
    return names


def _paragraphs(text: str) -> list[str]:
    """Part a text at blank lines."""
    return [part.strip() for part in text.replace("\r\n", "\n").split("\n\n") if part.strip()]


def _score(result: ValidationResult, head: Head) -> Score:
    passed, judged = count_passes(result.rows, head.name)
    length = result.chain_length_over_slowest.get(head.name, float("nan"))
    said, outcome, reasons = f"passes {passed} of {judged}" if judged else "not judged", "", []
    if (verdict := result.verdicts.get(head.name)) is not None:
        said = f"{verdict.n_passed} pass, {verdict.n_failed} fail, {verdict.n_undecided} undecided"
        outcome, reasons = verdict.outcome, verdict.reasons
    chain = "" if length != length else format_number(length)
    return Score(head.name, head.color or MUTED, outcome, said, reasons, chain)


def _rows(result: ValidationResult, names: Sequence[str]) -> list[Row]:
    rows = []
    for row in result.rows:
        unit, cells = format_row(row, result.frame_interval)
        shown = [_cell(cells.get(name), name == result.reference) for name in names]
        rows.append(Row(row.quantity, unit, shown))
    return rows


def _cell(cell: CellText | None, is_reference: bool) -> VerdictCell | None:
    if cell is None:
        return None
    css, mark = ("none", "") if is_reference else _UNDECIDED if cell.undecided else _MARKS[cell.passed]
    return VerdictCell(cell.value, cell.interval, cell.events, css, mark)


def _counts(result: ValidationResult, name: str, source: SourceKinetics) -> list[str]:
    length = result.chain_length_over_slowest.get(name, float("nan"))
    unseen = source.unseen_fraction
    if source.n_trajs:
        mean = result.frame_interval.describe(source.n_frames / source.n_trajs)
        frames = [format_count(source.n_trajs), format_count(source.n_frames), mean]
    else:
        frames = ["none: computed", "–", "–"]
    return [
        *frames,
        "–" if length != length else format_number(length),
        "–" if unseen != unseen else format_number(unseen, 2),
        format_count(len(source.unseen_states)),
    ]


def _section(group: Group) -> Section:
    narrow = [panel for panel in group.panels if not (panel.width > _WIDE or panel.alone)]
    n = len(narrow)
    columns = group.columns or (2 if n in (2, 4) or any(panel.width > 420 for panel in narrow) else 3)
    pictures = [_picture(panel) for panel in group.panels]
    return Section(group.key, group.title, group.caption, max(1, min(columns, n)), pictures, group.notes)


def _picture(panel: Panel) -> Picture:
    width, height = struct.unpack(">II", panel.png[16:24])
    shown = max(1, round(panel.width * height / max(width, 1)))
    data = base64.b64encode(panel.png).decode("ascii")
    return Picture(panel.width, shown, panel.alt, data, panel.width > _WIDE or panel.alone)


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Turn nested dictionaries into rows ``a.b`` and text, in their own order."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            rows += flatten(value, f"{path}.")
        elif isinstance(value, (list, tuple)):
            rows.append((path, ", ".join(_word(item) for item in value)))
        else:
            rows.append((path, _word(value)))
    return rows


def speed_text(value: object) -> str:
    """Write a speed: text as it stands, whole numbers with thousands set apart, others with four digits."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, float) and (abs(value) < 1e4 or value != value or abs(value) >= 1e15):
        return format_number(value, 4)
    return format_count(round(value))


def _word(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
