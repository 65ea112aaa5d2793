"""Pictures of equilibrium: populations of macrostates and microstates."""

from __future__ import annotations

from nanomd.kinetics.results import ValidationResult
from nanomd.report.draw_kinetics import MAX_MACROSTATES, bar_labels, draw_populations, shown_macrostates
from nanomd.report.drawing import scatter_panel
from nanomd.report.figures import Group
from nanomd.report.style import SourceStyle, add_legend, look, new_figure, plain


def plot_populations(result: ValidationResult, styles: dict[str, SourceStyle]) -> Group:
    """Draw the macrostates as bars, and the microstates of every model against those of the reference."""
    group = Group(
        "populations",
        "Populations",
        f"Bars: share of time in each macrostate, with {100 * result.confidence:g} % intervals; bars of one macrostate "
        f"should agree within them. Points: every microstate, the model upwards, {result.reference} to the right. "
        "Points on the line agree, the grey band is a factor of 2 either way; rare states, at the lower left, scatter "
        "more because few visits are behind them.",
    )
    _macrostates(group, result, styles)
    for name, source in result.sources.items():
        if name == result.reference:
            continue
        with look():
            figure, axes = new_figure(400, 400)
            axes.set_title(f"{plain(name)}: microstates")
            left_out = scatter_panel(
                axes, result.sources[result.reference].populations, source.populations, styles[name],
                x_label=f"population, {plain(result.reference)}", y_label=f"population, {plain(name)}",
            )  # fmt: skip
            words = f"Population of every microstate, {name} against {result.reference}, logarithmic axes."
            group.add(figure, words, name=f"microstates {name}")
        if left_out:
            group.notes.append(
                f"{name}: {left_out} of {len(source.populations.value)} microstates are absent from "
                f"{result.reference} or from {name}, and are not shown."
            )
    return group


def _macrostates(group: Group, result: ValidationResult, styles: dict[str, SourceStyle]) -> None:
    crowded, n_bars = bar_labels(result)[1], len(result.sources) * len(shown_macrostates(result))
    with look():
        figure, axes = new_figure(max(400, min(560, 110 + 24 * n_bars)), 360, bottom=96 if crowded else 52)
        draw_populations(axes, result, styles)
        add_legend(figure, axes)
        group.add(figure, "Population of every macrostate with its interval, all sources.", name="macrostates")
    if len(result.macrostate_names) > MAX_MACROSTATES:
        n = len(result.macrostate_names)
        group.notes.append(f"The {MAX_MACROSTATES} most populated of {n} macrostates are shown as bars.")
