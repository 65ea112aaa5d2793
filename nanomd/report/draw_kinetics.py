"""What the report and `nanomd.plots` draw into the axes of a picture, from the result of a validation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nanomd.kinetics.interval import Interval
from nanomd.kinetics.results import SourceKinetics, ValidationResult
from nanomd.report.drawing import FloatArray, band, error_lengths, finite_positive, scatter_panel, tidy_log_axis
from nanomd.report.style import DARK, SourceStyle, plain, say_no_data

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_MACROSTATES = 12
ALL_PAIRS = 12  # label every pair of up to four macrostates, and only the worst of more

Styles = dict[str, SourceStyle]


def shown_macrostates(result: ValidationResult) -> list[int]:
    """Return the macrostates that have panels of their own: all, or the most populated of many, in index order."""
    n = len(result.macrostate_names)
    if n <= MAX_MACROSTATES:
        return list(range(n))
    weights = np.nan_to_num(np.asarray(result.sources[result.reference].macro_populations.value, float), nan=-1.0)
    return sorted(int(index) for index in np.argsort(-weights, kind="stable")[:MAX_MACROSTATES])


def draw_timescales(axes: Axes, result: ValidationResult, styles: Styles, process: int) -> None:
    """Draw the implied timescale of one process against the lag, all sources, with the region below the lag."""
    all_values = [finite_positive(source.timescales.value) for source in result.sources.values()]
    slowest = max((np.nanmax(values) for values in all_values if np.isfinite(values).any()), default=1.0)
    y_factor, y_unit = result.frame_interval.scale(float(slowest))
    longest_lag = max((int(np.max(s.lagtimes)) for s in result.sources.values() if len(s.lagtimes)), default=1)
    x_factor, x_unit = result.frame_interval.scale(float(longest_lag))
    axes.set_title(f"Process {process + 1}")
    drawn: list[FloatArray] = []
    for name, source in result.sources.items():
        if source.timescales.value.shape[-1] <= process or not len(source.lagtimes):
            continue
        column = source.timescales[:, process]
        y = Interval(*(finite_positive(part) * y_factor for part in (column.value, column.low, column.high)))
        if np.isfinite(y.value).any():
            lags = np.asarray(source.lagtimes, np.float64) * np.float64(x_factor)
            band(axes, lags, y, styles[name], plain(name), 0.3 if name == result.reference else 0.2)
            drawn.append(y.value[np.isfinite(y.value)])
    if not drawn:
        say_no_data(axes, "No source has a defined timescale for this process.")
        return
    lags = np.unique(np.concatenate([s.lagtimes for s in result.sources.values()])).astype(float)
    values = np.concatenate(drawn)
    start, stop = lags.min() * x_factor / 1.15, lags.max() * x_factor * 1.15
    low = min(values.min(), lags.max() * y_factor) / 2.0
    line = np.geomspace(start, stop, 60)
    axes.set(xscale="log", yscale="log", xlim=(start, stop), ylim=(low, max(values.max() * 2.5, low * 5)))
    axes.fill_between(
        line, low, line / x_factor * y_factor, facecolor="#dfe2e5", edgecolor="#bfc4c9", hatch="////",
        linewidth=0, zorder=0,
    )  # fmt: skip
    axes.text(
        0.98, 0.03, "faster than the lag time", transform=axes.transAxes, ha="right", fontsize=8.5,
        color="#3c4043", bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1.5},
    )  # fmt: skip
    axes.set(xlabel=f"lag time ({x_unit})", ylabel=f"timescale ({y_unit})")
    tidy_log_axis(axes)


def pair_names(result: ValidationResult) -> tuple[list[str], str]:
    """Return short names of macrostates for labels, and a key for them where they had to be shortened."""
    names = result.macrostate_names
    letters = [(name.split() or ["?"])[0] for name in names]  # of names such as "A (54 %)"
    if len(set(letters)) == len(letters) and all(len(letter) <= 3 for letter in letters):
        return [plain(letter) for letter in letters], ""
    if all(len(name) <= 4 for name in names) or sum(map(len, names)) <= 12:
        return [plain(name) for name in names], ""
    numbers = [str(index + 1) for index in range(len(names))]
    return numbers, "Labels: " + ", ".join(f"{k} = {name}" for k, name in zip(numbers, names, strict=True)) + "."


def draw_mfpt(axes: Axes, result: ValidationResult, styles: Styles, name: str) -> int:
    """Draw the passage times of a source against the reference's; return how many pairs one of the two lacks."""
    rows, columns = np.nonzero(~np.eye(len(result.macrostate_names), dtype=bool))
    x, y = result.sources[result.reference].mfpt[rows, columns], result.sources[name].mfpt[rows, columns]
    finite = finite_positive(x.value)
    factor, unit = result.frame_interval.scale(float(np.nanmedian(finite)) if np.isfinite(finite).any() else 1.0)
    names = pair_names(result)[0]
    labels = [f"{names[i]}→{names[j]}" for i, j in zip(rows, columns, strict=True)]
    if len(labels) > ALL_PAIRS:
        labels = _worst_labels(labels, finite, finite_positive(y.value))
    axes.set_title(plain(name))
    return scatter_panel(
        axes, x.scaled(factor), y.scaled(factor), styles[name], labels,
        f"{plain(result.reference)} ({unit})", f"{plain(name)} ({unit})",
    )  # fmt: skip


def _worst_labels(labels: list[str], x: FloatArray, y: FloatArray, n: int = 6) -> list[str]:
    error = np.nan_to_num(np.abs(np.log(y / x)), nan=-1.0)
    worst = set(np.argsort(-error, kind="stable")[:n].tolist())
    return [label if index in worst else "" for index, label in enumerate(labels)]


def draw_chapman_kolmogorov(axes: Axes, result: ValidationResult, styles: Styles, state: int) -> None:
    """Draw the probability to be in a macrostate again a lag later: counted, and as a Markov model predicts."""
    longest = max((int(np.max(s.ck_lagtimes)) for s in result.sources.values() if len(s.ck_lagtimes)), default=1)
    shortest = min((int(np.min(s.ck_lagtimes)) for s in result.sources.values() if len(s.ck_lagtimes)), default=1)
    factor, unit = result.frame_interval.scale(float(longest))
    axes.set_title(plain(result.macrostate_names[state]))
    drawn = [
        _draw_ck(source, state, factor, axes, styles[name], plain(name), place)
        for place, (name, source) in enumerate(result.sources.items())
    ]
    if not any(drawn):
        say_no_data(axes, "No source has data for this test.")
        return
    axes.set(ylim=(-0.03, 1.04), xlabel=f"lag time ({unit})", ylabel="probability to be there again")
    if longest > 8 * shortest:
        axes.set_xscale("log")
        tidy_log_axis(axes)
    else:
        axes.set_xlim(left=0)


def _draw_ck(
    source: SourceKinetics, state: int, factor: float, axes: Axes, style: SourceStyle, label: str, place: int
) -> bool:
    estimated = source.ck_estimated[:, state] if len(source.ck_lagtimes) else None
    if estimated is None or not np.isfinite(estimated.value).any():
        return False
    # Sources that agree would hide each other: the reference is a ring, and the others stand a little beside it.
    is_reference = style.color == DARK
    lags = np.asarray(source.ck_lagtimes) * factor
    spread = lags.max() / lags.min() > 8
    shift = 0.0 if is_reference else place - 1.5
    x = lags * 1.025**shift if spread else lags + shift * 0.008 * lags.max()
    predicted = np.asarray(source.ck_predicted, float)[:, state]
    axes.plot(
        lags, predicted, color=style.color, linewidth=1.1, linestyle="-" if is_reference else style.dashes, alpha=0.8
    )
    axes.errorbar(
        x, estimated.value, yerr=error_lengths(estimated), fmt=style.marker, color=style.color, label=label,
        markersize=9.0 if is_reference else 5.0, elinewidth=1.0, markeredgewidth=1.2 if is_reference else 0.5,
        markeredgecolor=DARK if is_reference else "white", markerfacecolor="none" if is_reference else style.color,
        zorder=2 if is_reference else 3,
    )  # fmt: skip
    return True


def draw_residence(axes: Axes, result: ValidationResult, styles: Styles, state: int) -> None:
    """Draw the probability to stay in a macrostate longer than a time, all sources."""
    end = max((_last_time(source, state) for source in result.sources.values()), default=0.0)
    factor, unit = result.frame_interval.scale(end if end > 0 else 1.0)
    axes.set_title(plain(result.macrostate_names[state]))
    drawn = False
    for name, source in result.sources.items():
        if state >= len(source.residence_survival):
            continue
        survival = finite_positive(source.residence_survival[state])
        if not np.isfinite(survival).any():
            continue
        n_events = int(source.residence_events[state])
        axes.plot(
            np.asarray(source.residence_times) * factor, survival, color=styles[name].color,
            linestyle=styles[name].dashes, marker=styles[name].marker, markevery=0.12, markersize=4.5,
            linewidth=2.2 if name == result.reference else 1.5,
            label=f"{plain(name)}, n={n_events}" if source.n_trajs else plain(name),
        )  # fmt: skip
        drawn = True
    if not drawn:
        say_no_data(axes, "No completed visit in any source.")
        return
    axes.set(yscale="log", xlabel=f"time ({unit})", ylabel="probability to stay longer")
    axes.set(ylim=(1e-3, 1.5), xlim=(0, end * factor * 1.02 if end > 0 else None))


def _last_time(source: SourceKinetics, state: int) -> float:
    """Return the time, in frames, at which a survival curve falls below what the picture shows."""
    if state >= len(source.residence_survival) or not len(source.residence_times):
        return 0.0
    survival = np.nan_to_num(np.asarray(source.residence_survival[state], float))
    above = np.flatnonzero(survival >= 1e-3)
    return float(source.residence_times[min(above[-1] + 1, len(survival) - 1)]) if len(above) else 0.0


def draw_populations(axes: Axes, result: ValidationResult, styles: Styles) -> None:
    """Draw the populations of the macrostates as bars, all sources."""
    shown, names = shown_macrostates(result), list(result.sources)
    width = 0.8 / len(names)
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
    labels, crowded = bar_labels(result)
    axes.set_xticks(range(len(shown)), labels, rotation=40 if crowded else 0, ha="right" if crowded else "center")
    axes.set(ylabel="population", xlim=(-0.6, len(shown) - 0.4))
    axes.set_ylim(bottom=0)
    axes.tick_params(axis="x", length=0)


def bar_labels(result: ValidationResult) -> tuple[list[str], bool]:
    """Return the names below the bars, and whether they need to be turned."""
    labels = [plain(result.macrostate_names[state], 14) for state in shown_macrostates(result)]
    return labels, sum(map(len, labels)) > 48
