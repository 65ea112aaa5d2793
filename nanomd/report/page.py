"""The report's one page: verdict first, then the pictures behind it, then how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from nanomd.base.errors import StoreError
from nanomd.base.nvtx import annotate
from nanomd.interpret.results import Interpretation
from nanomd.kinetics.numbers import format_count, format_number
from nanomd.kinetics.results import ValidationResult
from nanomd.kinetics.table import CellText, count_passes, format_row
from nanomd.report.figures import Group, ReportFigure
from nanomd.report.html import CSS, flatten, group_html, key, paragraphs, speed_text, table
from nanomd.report.landscape import plot_free_energy
from nanomd.report.plots_interpretation import interpretation_groups
from nanomd.report.plots_kinetics import plot_chapman_kolmogorov, plot_mfpt, plot_residence, plot_timescales
from nanomd.report.plots_paths import plot_transition_paths
from nanomd.report.plots_populations import plot_populations
from nanomd.report.plots_training import plot_training
from nanomd.report.style import SourceStyle, source_styles

_MARKS = {True: ("pass", "✓ pass"), False: ("fail", "✗ fail"), None: ("none", "– not judged")}
_KEYS = (
    "free_energy", "populations", "timescales", "mfpt", "chapman_kolmogorov", "residence", "transition_paths", "memory",
    "attention", "tracing", "distances", "training", "extra",
)  # fmt: skip


def write_report(
    folder: str | Path,
    result: ValidationResult,
    *,
    title: str,
    summary: str | None = None,
    metrics: Sequence[Mapping[str, Any]] | None = None,
    speeds: Mapping[str, str | float] | None = None,
    provenance: Mapping[str, Any] | None = None,
    landscape: Mapping[str, Any] | None = None,
    interpretation: Interpretation | None = None,
    extra_figures: Sequence[ReportFigure] = (),
) -> Path:
    """Write ``index.html`` (one page, no other file needed), ``validation.json`` and ``png/*.png``.

    Parameters
    ----------
    folder : str or Path
        Made if missing. Pictures of an earlier report in it are replaced.
    result : ValidationResult
        What `nanomd.validate` returned.
    title : str
        Heading of the page.
    summary : str, optional
        A few sentences below the title; blank lines part paragraphs. Plain text, as all text here: it is escaped.
    metrics : sequence of mappings, optional
        Training history: rows with ``step`` and any of ``train_loss`` or ``loss``, ``validation_loss``,
        ``learning_rate``.
    speeds : mapping, optional
        Name to number or text, such as ``{"generation (states per second)": 2.1e6}``.
    provenance : mapping, optional
        Versions, seeds, hashes; nested mappings are flattened.
    landscape : mapping, optional
        Two coordinates for free-energy surfaces; see `nanomd.report.landscape.free_energy_surfaces`.
    interpretation : Interpretation, optional
        What `nanomd.interpret.interpret_model` returned.
    extra_figures : sequence of ReportFigure
        Further pictures with titles and captions.

    Returns
    -------
    Path
        Of ``index.html``.

    Raises
    ------
    InputError
        For a landscape or an extra figure that cannot be read. Nothing has been written then.
    StoreError
        If the folder cannot be written.
    """
    with annotate("report"):
        styles = source_styles(list(result.sources), result.reference)
        groups = _groups(result, styles, metrics, landscape, interpretation, extra_figures)
        page = _page(result, styles, groups, title, summary, speeds, provenance)
        folder = Path(folder)
        try:
            _write(folder, result, groups, page)
        except OSError as error:
            raise StoreError(
                f"cannot write the report to {folder}: {error.strerror}; choose a writable folder"
            ) from None
    return folder / "index.html"


def _groups(
    result: ValidationResult,
    styles: dict[str, SourceStyle],
    metrics: Sequence[Mapping[str, Any]] | None,
    landscape: Mapping[str, Any] | None,
    interpretation: Interpretation | None,
    extra_figures: Sequence[ReportFigure],
) -> list[Group]:
    groups = [plot_free_energy(landscape, result)] if landscape else []
    for plot in (
        plot_populations,
        plot_timescales,
        plot_mfpt,
        plot_chapman_kolmogorov,
        plot_residence,
        plot_transition_paths,
    ):
        groups.append(plot(result, styles))
    if interpretation is not None:
        groups += interpretation_groups(interpretation, result.frame_interval)
    for i, extra in enumerate(extra_figures, 1):
        group = Group(f"extra_{i}", extra.title, extra.caption)
        group.add_png(extra.png(), extra.title)
        groups.append(group)
    training = plot_training(metrics) if metrics else None
    return [*groups, training] if training is not None else groups


def _write(folder: Path, result: ValidationResult, groups: list[Group], page: str) -> None:
    pictures = folder / "png"
    pictures.mkdir(parents=True, exist_ok=True)
    for name in _KEYS:  # a picture that this report no longer has must not be taken for one of its own
        for old in pictures.glob(f"{name}*.png"):
            old.unlink()
    for group in groups:
        for panel in group.panels:
            (pictures / f"{panel.stem}.png").write_bytes(panel.png)
    result.save(folder / "validation.json")
    partial = folder / "index.html.part"  # a reader who reloads sees the old page or the new one, never half of it
    partial.write_text(page, encoding="utf-8")
    partial.replace(folder / "index.html")


def _page(
    result: ValidationResult,
    styles: dict[str, SourceStyle],
    groups: list[Group],
    title: str,
    summary: str | None,
    speeds: Mapping[str, str | float] | None,
    provenance: Mapping[str, Any] | None,
) -> str:
    links = [("verdict", "Verdict"), ("sources", "Trajectories"), *((group.key, group.title) for group in groups)]
    sections = [_verdict(result, styles), _sources(result, styles), *(group_html(group) for group in groups)]
    if speeds:
        links.append(("speeds", "Speeds"))
        rows = [(escape(str(name)), escape(speed_text(value))) for name, value in speeds.items()]
        sections.append(f'<section id="speeds">\n<h2>Speeds</h2>\n{table([], rows, "Speeds")}\n</section>')
    if provenance:
        links.append(("provenance", "Provenance"))
        rows = [(escape(name), escape(value)) for name, value in flatten(provenance)]
        sections.append(
            '<section id="provenance">\n<h2>Provenance</h2>\n<details><summary>Versions, seeds and inputs '
            f"({len(rows)} entries)</summary>\n{table([], rows, 'Provenance')}\n</details>\n</section>"
        )
    navigation = "\n".join(f'<a href="#{escape(name)}">{escape(text)}</a>' for name, text in links)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{CSS}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
{paragraphs(summary or "")}<nav aria-label="Sections">
{navigation}
</nav>
</header>
<main>
{chr(10).join(sections)}
</main>
</body>
</html>
"""


def _name(name: str, styles: dict[str, SourceStyle]) -> str:
    return f"{key(styles[name].color) if name in styles else ''}{escape(name)}"


def _verdict(result: ValidationResult, styles: dict[str, SourceStyle]) -> str:
    names = list(result.sources)
    for row in result.rows:
        names += [name for name in row.cells if name not in names]
    names.sort(key=lambda name: name != result.reference)
    others = names[1:]
    scores = []
    for name in others:
        passed, judged = count_passes(result.rows, name)
        color = styles[name].color if name in styles else "#5f6368"
        said = f"passes {passed} of {judged}" if judged else "not judged"
        length = result.chain_length_over_slowest.get(name, float("nan"))
        chain = (
            ""
            if length != length
            else f'<br><span class="note">chains of {format_number(length)} slowest timescales</span>'
        )
        scores.append(f'<li style="--c:{color}"><strong>{escape(name)}</strong> {said}{chain}</li>')
    rows = []
    for row in result.rows:
        unit, cells = format_row(row, result.frame_interval)
        first = escape(row.quantity) + (f' <span class="unit">{escape(unit)}</span>' if unit else "")
        rows.append([first, *(_cell(cells.get(name), name == result.reference) for name in names)])
    head = ["Quantity", *(_name(name, styles) + (" (reference)" if name == result.reference else "") for name in names)]
    body = table(head, rows, "Verdict", "verdict") if rows else "<p>No quantity could be judged.</p>"
    warnings = ""
    if result.warnings:
        items = "".join(f"<li>{escape(warning)}</li>" for warning in result.warnings)
        warnings = f'<div class="warnings" role="note"><strong>⚠ Warnings</strong><ul>{items}</ul></div>\n'
    return (
        '<section id="verdict">\n<h2>Verdict</h2>\n'
        f'<ul class="scores">{"".join(scores)}</ul>\n{warnings}'
        f'<p class="caption">Each cell gives the estimate and its {100 * result.confidence:g} % confidence interval; n '
        f"is the number of observed events behind it. {escape(result.reference)} is the reference: a source "
        "passes where the two differ by no more than the half-widths that face each other, added in quadrature, and is "
        "not judged where an interval is missing or events are too few. Markov models and macrostates use a lag of "
        f"{escape(result.frame_interval.describe(result.lagtime))}.</p>\n{body}\n</section>"
    )


def _cell(cell: CellText | None, is_reference: bool) -> str:
    if cell is None:
        return '<span class="none">n/a</span>'
    parts = [f'<span class="value">{escape(cell.value)}</span>']
    css, words = _MARKS[cell.passed]
    if not is_reference:
        parts.append(f'<span class="mark {css}">{words}</span>')
    spread = [f'<span class="interval">{escape(cell.interval)}</span>'] if cell.interval else []
    spread += [f'<span class="events">{escape(cell.events)}</span>'] if cell.events else []
    parts += [f'<span class="spread">{" ".join(spread)}</span>'] if spread else []
    opening = '<td class="fail-cell">' if cell.passed is False and not is_reference else "<td>"
    return f"{opening}{' '.join(parts)}</td>"


def _sources(result: ValidationResult, styles: dict[str, SourceStyle]) -> str:
    rows = []
    for name, source in result.sources.items():
        length = result.chain_length_over_slowest.get(name, float("nan"))
        unseen = source.unseen_fraction
        rows.append(
            [
                _name(name, styles),
                *(
                    (
                        format_count(source.n_trajs),
                        format_count(source.n_frames),
                        escape(result.frame_interval.describe(source.n_frames / source.n_trajs)),
                    )
                    if source.n_trajs
                    else ("none: computed", "–", "–")
                ),
                "–" if length != length else format_number(length),
                "–" if unseen != unseen else format_number(unseen, 2),
                format_count(len(source.unseen_states)),
            ]
        )
    head = ["Source", "Trajectories", "Frames", "Mean length", "Chain length / slowest timescale"]
    head += ["Unseen transitions per step", "States never visited"]
    return (
        '<section id="sources">\n<h2>Trajectories behind the numbers</h2>\n'
        f'<p class="caption">A frame is {escape(str(result.frame_interval))}. Chain length is the mean trajectory '
        f"length over the slowest timescale of {escape(result.reference)}: of the bias at the start about one part in "
        "that many is left in averages over the chain, so a short one inherits the populations of its starting points. "
        "Unseen transitions are generated steps between states that the training data never connect.</p>\n"
        f"{table(head, rows, 'Trajectories', 'counts')}\n</section>"
    )
