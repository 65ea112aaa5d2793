"""The verdict as a plain table for the terminal."""

from __future__ import annotations

from nanomd.kinetics.results import ValidationResult
from nanomd.report.numbers import NO_VALUE, CellText, count_passes, format_number, format_row

WIDTH = 110
_MAX_QUANTITY = 36
_MAX_NAME = 24
_MARKS = {True: "pass", False: "FAIL", None: "-"}


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
        The table, then chain lengths and warnings; no trailing newline.
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
            columns[name].append(f"{scores[name][0]} of {scores[name][1]}")
    label_width = max(len(label) for label in ["quantity", *labels])
    widths = {name: max(len(cell) for cell in column) for name, column in columns.items()}
    blocks = [
        _block(["quantity", *labels], [columns[name] for name in [reference, *chunk]])
        for chunk in _chunks(others, widths, width - label_width - 2 - widths[reference])
    ]
    lines = ["\n\n".join(blocks)]
    lengths = [
        f"{name} {format_number(value)}" for name, value in result.chain_length_over_slowest.items() if value == value
    ]
    if lengths:
        lines.append(_wrap("Chain length / slowest timescale: ", lengths, width))
    lines += [_wrap("Warning: ", warning.split(), width, " ") for warning in result.warnings]
    return "\n".join(lines)


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
            ends.append(_MARKS[None if cell is None else cell.passed])
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


def _wrap(head: str, parts: list[str], width: int, separator: str = ", ") -> str:
    lines, line = [], head
    for i, part in enumerate(parts):
        text = part if i == len(parts) - 1 else part + separator
        if len(line) + len(text.rstrip()) > width and line.strip():
            lines.append(line.rstrip())
            line = "  "
        line += text
    return "\n".join([*lines, line.rstrip()])


def _clip(text: str, width: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"
