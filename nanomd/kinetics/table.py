"""The verdict as a plain table for the terminal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from nanomd.base.units import FrameInterval
from nanomd.kinetics.numbers import NO_VALUE, format_count, format_interval, format_number

if TYPE_CHECKING:
    from nanomd.kinetics.results import ValidationResult, VerdictRow

WIDTH = 110
_MAX_QUANTITY = 36
_MAX_NAME = 24
_TIME_UNITS = ("fs", "ps", "ns", "us", "µs", "ms", "s")
_MARKS = {True: "pass", False: "FAIL", None: "-"}
_UNDECIDED = "?"


@dataclass(frozen=True, slots=True)
class CellText:
    """One cell of the verdict table in words; `interval` is empty where the cell has no interval."""

    value: str
    interval: str
    events: str
    passed: bool | None
    undecided: bool = False

    @property
    def mark(self) -> str:
        """The verdict: pass, FAIL, ? where it is undecided, - where nothing is judged."""
        return _UNDECIDED if self.undecided else _MARKS[self.passed]

    @property
    def plain(self) -> str:
        """Value and interval in one string."""
        return f"{self.value} {self.interval}".strip()


def format_row(row: VerdictRow, frame_interval: FrameInterval) -> tuple[str, dict[str, CellText]]:
    """Return the unit in which a row is shown, and its cells in words.

    The whole row shares one unit, chosen by the size of its first finite value (the reference's, as a rule).
    """
    factor, unit = _row_scale(row, frame_interval)
    cells = {}
    for name, cell in row.cells.items():
        value, interval = format_interval(cell.value * factor, cell.low * factor, cell.high * factor)
        events = "" if cell.n_events is None else f"n = {format_count(cell.n_events)}"
        cells[name] = CellText(value, interval, events, cell.passed, cell.undecided)
    return unit, cells


def _row_scale(row: VerdictRow, frame_interval: FrameInterval) -> tuple[float, str]:
    sizes = [cell.value for cell in row.cells.values() if math.isfinite(cell.value) and cell.value != 0]
    size = sizes[0] if sizes else math.nan
    if row.unit in ("frame", "frames"):
        return (1.0, "frames") if math.isnan(size) else frame_interval.scale(size)
    if row.unit in _TIME_UNITS:
        return (1.0, row.unit) if math.isnan(size) else FrameInterval(1.0, row.unit).scale(size)
    return 1.0, row.unit if row.unit not in ("1", "-") else ""


def count_passes(rows: list[VerdictRow], name: str) -> tuple[int, int]:
    """Return how many rows a source passes, and how many judge it."""
    marks = [row.cells[name].passed for row in rows if name in row.cells]
    judged = [mark for mark in marks if mark is not None]
    return sum(judged), len(judged)


def verdict_text(result: ValidationResult, width: int = WIDTH) -> str:
    """Return the verdict table as aligned plain text.

    Parameters
    ----------
    result : ValidationResult
        What `nanomd.validate` returned.
    width : int
        Longest line, in characters. Sources that do not fit beside each other follow in further blocks, each with the
        reference as its first column.

    Returns
    -------
    str
        The verdicts, the table, chain lengths and warnings; no trailing newline.
    """
    names = _source_names(result)
    reference, others = names[0], names[1:]
    rows = [format_row(row, result.frame_interval) for row in result.rows]
    labels = [
        _clip(f"{row.quantity} ({unit})" if unit else row.quantity, _MAX_QUANTITY)
        for row, (unit, _) in zip(result.rows, rows, strict=True)
    ]
    columns = {name: _column(name, [cells.get(name) for _, cells in rows], name == reference) for name in names}
    if others:
        scores = {name: count_passes(result.rows, name) for name in others}
        labels.append("passed")
        columns[reference].append("")
        for name in others:
            open_ones = sum(row.cells[name].undecided for row in result.rows if name in row.cells)
            more = f", {open_ones} {_UNDECIDED}" if open_ones else ""
            columns[name].append(f"{scores[name][0]} of {scores[name][1]}{more}")
    label_width = max(len(label) for label in ["quantity", *labels])
    widths = {name: max(len(cell) for cell in column) for name, column in columns.items()}
    blocks = [
        _block(["quantity", *labels], [columns[name] for name in [reference, *chunk]])
        for chunk in _chunks(others, widths, width - label_width - 2 - widths[reference])
    ]
    said = summary_text(result, width)
    lines = [*([said, ""] if said else []), "\n\n".join(blocks)]
    lengths = [
        f"{name} {format_number(value)}" for name, value in result.chain_length_over_slowest.items() if value == value
    ]
    if lengths:
        lines.append(_wrap("Chain length / slowest timescale: ", lengths, width))
    lines += [_wrap("Warning: ", warning.split(), width, " ") for warning in result.warnings]
    return "\n".join(lines)


def summary_text(result: ValidationResult, width: int = WIDTH) -> str:
    """Return the verdicts in words, the rollout's first; empty where a result has none (older files)."""
    lines = []
    for name in sorted(result.verdicts, key=lambda name: name != "GPT"):
        verdict = result.verdicts[name]
        counts = f"{verdict.n_passed} pass, {verdict.n_failed} fail, {verdict.n_undecided} undecided"
        lines.append(f"{name}: {verdict.outcome.upper()} ({counts})")
        lines += [_wrap("  - ", reason.split(), width, " ", indent=4) for reason in verdict.reasons]
    if lines and result.judged_by:
        lines.append(_wrap(f"Judged by {result.reference}: ", result.judged_by.split(), width, " "))
    return "\n".join(lines)


def verdict_html(result: ValidationResult) -> str:
    """Return the same as a plain HTML table, for notebooks; everything that comes from a user is escaped."""
    names = _source_names(result)
    lines = [f"<p>{escape(line)}</p>" for line in summary_text(result).splitlines()]
    lines += ["<table>", f"<tr><th>quantity</th>{''.join(f'<th>{escape(name)}</th>' for name in names)}</tr>"]
    for row in result.rows:
        unit, cells = format_row(row, result.frame_interval)
        head = escape(f"{row.quantity} ({unit})" if unit else row.quantity)
        lines.append(
            f"<tr><th>{head}</th>{''.join(_html_cell(cells.get(n), n == result.reference) for n in names)}</tr>"
        )
    lines.append("</table>")
    if result.warnings:
        lines.append(f"<ul>{''.join(f'<li>{escape(warning)}</li>' for warning in result.warnings)}</ul>")
    return "\n".join(lines)


def _html_cell(cell: CellText | None, is_reference: bool) -> str:
    if cell is None:
        return f"<td>{NO_VALUE}</td>"
    end = cell.events if is_reference else cell.mark
    return f"<td>{escape(cell.plain)} {f'<b>{end}</b>' if cell.passed is False else escape(end)}</td>"


def _source_names(result: ValidationResult) -> list[str]:
    names = [result.reference, *(name for name in result.sources if name != result.reference)]
    for row in result.rows:
        names += [name for name in row.cells if name not in names]
    return names


def _column(name: str, cells: list[CellText | None], is_reference: bool) -> list[str]:
    """Return heading and cells; marks (of the reference: numbers of events) stand below each other."""
    bodies, ends = [], []
    for cell in cells:
        bodies.append(NO_VALUE if cell is None else f"{cell.value} {cell.interval.replace(', ', ',')}".strip())
        if is_reference:
            ends.append("" if cell is None else cell.events.replace(" ", "").replace("\u202f", ""))
        else:
            ends.append(_MARKS[None] if cell is None else cell.mark)
    width = max(map(len, bodies), default=0)
    lines = [f"{body.ljust(width)} {end}".rstrip() for body, end in zip(bodies, ends, strict=True)]
    return [_clip(name, _MAX_NAME), *lines]


def _block(labels: list[str], columns: list[list[str]]) -> str:
    widths = [max(map(len, labels)), *(max(map(len, column)) for column in columns)]
    lines = []
    for i, row in enumerate(zip(labels, *columns, strict=True)):
        lines.append("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
        if i == 0:
            lines.append("  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _chunks(names: list[str], widths: dict[str, int], room: int) -> list[list[str]]:
    """Share the names among blocks so that each fits; a name that never fits has a block of its own."""
    chunks: list[list[str]] = [[]]
    left = room
    for name in names:
        if chunks[-1] and widths[name] + 2 > left:
            chunks.append([])
            left = room
        chunks[-1].append(name)
        left -= widths[name] + 2
    return chunks


def _wrap(head: str, parts: list[str], width: int, separator: str = ", ", indent: int = 2) -> str:
    lines, line = [], head
    for i, part in enumerate(parts):
        text = part if i == len(parts) - 1 else part + separator
        if len(line) + len(text.rstrip()) > width and line.strip():
            lines.append(line.rstrip())
            line = " " * indent
        line += text
    return "\n".join([*lines, line.rstrip()])


def _clip(text: str, width: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"
