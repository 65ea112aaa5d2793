"""The report's one page: verdict first, then the pictures behind it, then how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from nanomd.base.checks import check_choice
from nanomd.base.errors import StoreError
from nanomd.base.files import write_atomic
from nanomd.base.nvtx import annotate
from nanomd.interpret.results import Interpretation
from nanomd.kinetics.results import ValidationResult
from nanomd.report.figures import Group, ReportFigure
from nanomd.report.landscape import plot_free_energy
from nanomd.report.plots_interpretation import interpretation_groups
from nanomd.report.plots_kinetics import plot_chapman_kolmogorov, plot_mfpt, plot_residence, plot_timescales
from nanomd.report.plots_paths import plot_transition_paths
from nanomd.report.plots_populations import plot_populations
from nanomd.report.plots_training import plot_training
from nanomd.report.style import SourceStyle, source_styles
from nanomd.report.view import render_page

VectorFormat = Literal["pdf", "svg"]

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
    formats: Sequence[str] = (),
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
    formats : sequence of "pdf" or "svg"
        Write every picture in these formats too, as ``pdf/*.pdf`` and ``svg/*.svg``.

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
    for kind in formats:
        check_choice("formats", kind, VectorFormat)
    with annotate("report"):
        styles = source_styles(list(result.sources), result.reference)
        groups = _groups(result, styles, metrics, landscape, interpretation, extra_figures)
        page = render_page(result, styles, groups, title, summary, speeds, provenance)
        folder = Path(folder)
        try:
            _write(folder, result, groups, page, formats)
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


def _write(folder: Path, result: ValidationResult, groups: list[Group], page: str, formats: Sequence[str] = ()) -> None:
    panels = [panel for group in groups for panel in group.panels]
    for kind in ("png", *get_args(VectorFormat)):
        pictures = folder / kind
        for name in _KEYS:  # a picture that this report no longer has must not be taken for one of its own
            for old in pictures.glob(f"{name}*.{kind}"):
                old.unlink()
        if kind == "png" or kind in formats:
            pictures.mkdir(parents=True, exist_ok=True)
            for panel in panels:
                picture = panel.png if kind == "png" else panel.vector(kind)
                if picture is not None:
                    (pictures / f"{panel.stem}.{kind}").write_bytes(picture)
    result.save(folder / "validation.json")
    write_atomic(folder / "index.html", page)  # a reader who reloads sees the old page or the new one
