"""HTML in small pieces: everything that comes from a user passes through `escape` here."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from nanomd.kinetics.numbers import format_count, format_number
from nanomd.report.figures import Group, Panel

_WIDE = 480  # CSS pixels: a wider picture has a row of its own

CSS = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: #1a1a1a; font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; }
main, header { max-width: 1160px; margin: 0 auto; padding: 0 20px; overflow-wrap: break-word; }
header { padding-top: 28px; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 .4em; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 2.4em 0 .4em; padding-top: .5em; border-top: 1px solid #d5d8dc; }
p { margin: .5em 0; max-width: 52em; }
.caption, .note { color: #3c4043; font-size: .925rem; }
.note { font-size: .85rem; }
nav { font-size: .9rem; margin: 1em 0 0; }
nav a { color: #00558c; margin-right: 1.1em; white-space: nowrap; display: inline-block; padding: 2px 0; }
.scores { list-style: none; display: flex; flex-wrap: wrap; gap: 8px 12px; padding: 0; margin: 1em 0; }
.scores li { border: 1px solid #d5d8dc; border-left: 6px solid var(--c); border-radius: 4px; padding: 4px 12px; }
.warnings { border: 1px solid #c98a00; border-left-width: 6px; border-radius: 4px; background: #fff8e6;
  padding: 8px 16px; margin: 1em 0; max-width: 60em; }
.warnings ul { margin: .3em 0; padding-left: 1.2em; }
.scroll { overflow-x: auto; margin: .8em 0; }
.scroll:focus-visible { outline: 2px solid #00558c; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 6px 14px 6px 0; border-bottom: 1px solid #e3e5e8; }
thead th { border-bottom: 2px solid #1a1a1a; white-space: nowrap; vertical-align: bottom; }
tbody th { font-weight: 600; }
.verdict tbody th, .verdict thead th:first-child { position: sticky; left: 0; background: #fff; padding-right: 18px;
  min-width: 11em; }
.verdict td, .counts td, .counts tbody th { white-space: nowrap; }
.counts thead th { white-space: normal; min-width: 5em; }
.value { font-weight: 600; }
.interval, .events, .unit { color: #5f6368; font-weight: 400; }
.spread { display: block; font-size: .9em; color: #5f6368; }
.events { margin-left: .6em; }
.mark { display: inline-block; font-weight: 600; margin-left: .5em; font-size: .9em; }
.pass { color: #00634a; } .fail { color: #a33b00; } .none { color: #5f6368; font-weight: 400; }
.fail-cell { background: #fdf1ea; }
.key { display: inline-block; width: .75em; height: .75em; border-radius: 2px; margin-right: .45em;
  background: var(--c); }
.grid { display: grid; gap: 18px 24px; margin: 1em 0; grid-template-columns: repeat(var(--n), minmax(0, 1fr)); }
.grid img { display: block; width: 100%; height: auto; max-width: var(--w); }
.grid .wide { grid-column: 1 / -1; }
figure { margin: 0; }
details { margin: 1em 0; } summary { cursor: pointer; font-weight: 600; padding: .3em 0; }
.plain td { overflow-wrap: anywhere; }
@media (max-width: 900px) { .grid { grid-template-columns: repeat(min(var(--n), 2), minmax(0, 1fr)); } }
@media (max-width: 640px) {
  .grid { grid-template-columns: minmax(0, 1fr); }
  main, header { padding-left: 14px; padding-right: 14px; }
  h1 { font-size: 1.4rem; }
  .verdict tbody th, .verdict thead th:first-child { min-width: 8em; max-width: 10em; font-size: .85rem;
    padding-right: 10px;    overflow-wrap: break-word; white-space: normal; border-right: 1px solid #e3e5e8; }
  th, td { padding-right: 10px; }
}
@media print {
  body { font-size: 11pt; } nav { display: none; } h2 { break-after: avoid; }
  figure, tr, .warnings { break-inside: avoid; } .scroll { overflow: visible; } .verdict td { white-space: normal; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
"""


def paragraphs(text: str) -> str:
    """Escape a text; blank lines part paragraphs."""
    parts = [part.strip() for part in text.replace("\r\n", "\n").split("\n\n")]
    return "".join(f"<p>{escape(part)}</p>\n" for part in parts if part)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], label: str, css: str = "plain") -> str:
    """Build a table from cells that are HTML already; the first cell of a row is its heading.

    The wrapper scrolls sideways on a narrow screen, also from the keyboard.
    """
    lines = [f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">', f'<table class="{css}">']
    if head:
        cells = "".join(f'<th scope="col">{cell}</th>' for cell in head)
        lines.append(f"<thead><tr>{cells}</tr></thead>")
    lines.append("<tbody>")
    for first, *rest in rows:
        cells = "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in rest)
        lines.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    lines.append("</tbody></table></div>")
    return "\n".join(lines)


def key(color: str) -> str:
    """Return the little square that carries a source's colour."""
    return f'<span class="key" style="--c:{color}"></span>'


def group_html(group: Group) -> str:
    """Return the section of a group of pictures."""
    n = sum(not (panel.width > _WIDE or panel.alone) for panel in group.panels)
    columns = group.columns or (2 if n in (2, 4) or any(420 < p.width <= _WIDE for p in group.panels) else 3)
    lines = [f'<section id="{escape(group.key)}">', f"<h2>{escape(group.title)}</h2>"]
    lines.append(f'<p class="caption">{escape(group.caption)}</p>')
    if group.panels:
        lines.append(f'<div class="grid" style="--n:{max(1, min(columns, n))}">')
        lines += [_picture(panel) for panel in group.panels]
        lines.append("</div>")
    lines += [f'<p class="note">{escape(note)}</p>' for note in group.notes]
    lines.append("</section>")
    return "\n".join(lines)


def _picture(panel: Panel) -> str:
    width, height = struct.unpack(">II", panel.png[16:24])
    css = ' class="wide"' if panel.width > _WIDE or panel.alone else ""
    data = base64.b64encode(panel.png).decode("ascii")
    return (
        f'<figure{css}><img style="--w:{panel.width}px" width="{panel.width}" '
        f'height="{max(1, round(panel.width * height / max(width, 1)))}" alt="{escape(panel.alt)}" '
        f'src="data:image/png;base64,{data}"></figure>'
    )


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
