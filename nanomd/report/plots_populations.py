"""Pictures of equilibrium: populations of macrostates and microstates."""

from __future__ import annotations

import numpy as np

from nanomd.kinetics.results import ValidationResult
from nanomd.report.drawing import error_lengths, scatter_panel
from nanomd.report.figures import Group
from nanomd.report.plots_kinetics import MAX_MACROSTATES, shown_macrostates
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
            group.add(figure, f"Population of every microstate, {name} against {result.reference}, logarithmic axes.")
        if left_out:
            group.notes.append(
                f"{name}: {left_out} of {len(source.populations.value)} microstates are absent from "
                f"{result.reference} or from {name}, and are not shown."
            )
    return group


def _macrostates(group: Group, result: ValidationResult, styles: dict[str, SourceStyle]) -> None:
    shown = shown_macrostates(result)
    names = list(result.sources)
    width = 0.8 / len(names)
    labels = [plain(result.macrostate_names[state], 14) for state in shown]
    crowded = sum(map(len, labels)) > 48
    with look():
        figure, axes = new_figure(
            max(400, min(560, 110 + 24 * len(names) * len(shown))), 360, bottom=96 if crowded else 52
        )
        axes.set_title("Macrostates")
        axes.grid(visible=False, axis="x")
        for i, name in enumerate(names):
            interval = result.sources[name].macro_populations[shown]
            bar_color = "#a5abb0" if name == result.reference else "#3c4043"  # seen on a dark bar, and on a bright one
            axes.bar(
                np.arange(len(shown)) + (i - (len(names) - 1) / 2) * width, np.nan_to_num(interval.value), width * 0.92,
                yerr=error_lengths(interval), color=styles[name].color, label=plain(name),
                error_kw={"elinewidth": 1.1, "capsize": 2.0, "ecolor": bar_color},
            )  # fmt: skip
        axes.set_xticks(range(len(shown)), labels, rotation=40 if crowded else 0, ha="right" if crowded else "center")
        axes.set(ylabel="population", xlim=(-0.6, len(shown) - 0.4))
        axes.set_ylim(bottom=0)
        axes.tick_params(axis="x", length=0)
        add_legend(figure, axes)
        group.add(figure, "Population of every macrostate with its interval, all sources.")
    if len(result.macrostate_names) > MAX_MACROSTATES:
        n = len(result.macrostate_names)
        group.notes.append(f"The {MAX_MACROSTATES} most populated of {n} macrostates are shown as bars.")
