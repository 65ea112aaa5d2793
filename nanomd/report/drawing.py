"""Pieces that several pictures share: error bars that survive NaN, scatter plots, labels that do not collide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from nanomd.kinetics.interval import Interval
from nanomd.report.style import DARK, FAINT, MUTED, SourceStyle, say_no_data

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FloatArray = NDArray[np.float64]


def error_lengths(interval: Interval, positive: bool = False) -> FloatArray:
    """Return the lengths of the error bars below and above the values, shape (2, ...); 0 where an end is undefined.

    With `positive`, for logarithmic axes, a lower end at or below zero is drawn as a bar over one and a half decades.
    """
    value = np.asarray(interval.value, float)
    low, high = np.asarray(interval.low, float), np.asarray(interval.high, float)
    if positive:
        low = np.where(np.isfinite(low) & (low <= 0), value * 10**-1.5, low)
    with np.errstate(invalid="ignore"):
        below, above = value - low, high - value
    lengths = np.stack([below, above])
    # An interval may miss its own estimate by rounding or bias; matplotlib refuses negative lengths.
    return np.where(np.isfinite(lengths) & (lengths > 0), lengths, 0.0)


def finite_positive(values: Any) -> FloatArray:
    """Return a copy with NaN in place of what a logarithmic axis cannot show."""
    array = np.array(values, float)
    array[~(np.isfinite(array) & (array > 0))] = np.nan
    return array


def band(axes: Axes, x: FloatArray, interval: Interval, style: SourceStyle, label: str, alpha: float) -> None:
    """Draw a line with markers, and its interval as a band."""
    value, low, high = (np.asarray(part, float) for part in (interval.value, interval.low, interval.high))
    good = np.isfinite(low) & np.isfinite(high)
    axes.plot(x, value, color=style.color, marker=style.marker, linestyle=style.dashes, markersize=4.5, label=label)
    if good.any():
        axes.fill_between(x, low, high, where=good.tolist(), color=style.color, alpha=alpha, linewidth=0)


def scatter_panel(
    axes: Axes,
    x: Interval,
    y: Interval,
    style: SourceStyle,
    labels: Sequence[str] | None = None,
    x_label: str = "",
    y_label: str = "",
    markersize: float = 6.0,
) -> int:
    """Draw y against x on equal logarithmic axes, with the identity and the band of a factor 2.

    Parameters
    ----------
    x, y : Interval
        Shape (p,); points without a finite positive value on both axes are left out.
    labels : sequence of str, optional
        One per point; ``""`` for none.

    Returns
    -------
    int
        How many points were left out.
    """
    x_value, y_value = finite_positive(x.value), finite_positive(y.value)
    shown = np.flatnonzero(np.isfinite(x_value) & np.isfinite(y_value))
    left_out = len(x_value) - len(shown)
    if not len(shown):
        say_no_data(axes, "No quantity has a value in both sources.")
        return left_out
    x, y = x[shown], y[shown]
    x_error, y_error = error_lengths(x, positive=True), error_lengths(y, positive=True)
    # The span follows the values: a bar that reaches far out is cut, rather than squeezing all points into a corner.
    values = np.concatenate([x.value, y.value])
    ends = np.concatenate([x.value + x_error[1], y.value + y_error[1], x.value - x_error[0], y.value - y_error[0]])
    ends = ends[(ends > values.min() / 4) & (ends < values.max() * 4)]
    start, stop = min(values.min(), ends.min()) / 1.7, max(values.max(), ends.max()) * 1.7
    line = np.array([start, stop])
    axes.set(xscale="log", yscale="log", xlim=(start, stop), ylim=(start, stop), xlabel=x_label, ylabel=y_label)
    axes.set_aspect("equal", adjustable="box")
    axes.fill_between(line, line / 2, line * 2, color=FAINT, alpha=0.45, linewidth=0, zorder=0)
    axes.plot(line, line, color=MUTED, linewidth=1.0, zorder=1)
    few = len(shown) <= 60
    axes.errorbar(
        x.value,
        y.value,
        xerr=x_error if few else None,
        yerr=y_error if few else None,
        fmt=style.marker,
        color=style.color,
        markersize=markersize if few else 4.0,
        alpha=1.0 if few else 0.75,
        elinewidth=1.0,
        markeredgecolor="white",
        markeredgewidth=0.5,
        zorder=3,
    )
    if labels is not None:
        place_labels(axes, x.value, y.value, [labels[index] for index in shown.tolist()])
    tidy_log_axis(axes)
    return left_out


def tidy_log_axis(axes: Axes) -> None:
    """Write plain numbers, several per decade, on short logarithmic axes: powers of ten alone say too little."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() != "log":
            continue
        low, high = axis.get_view_interval()
        if high / low < 5:  # less than a decade holds two or three of 1, 2, 5: even steps say more
            axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        elif high / low < 1000 and low > 1e-4 and high < 1e6:
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 60 else (1.0, 3.0)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())


def place_labels(axes: Axes, x: FloatArray, y: FloatArray, labels: Sequence[str], size: float = 8.5) -> None:
    """Write each label near its point, at the first of several places where it covers neither a label nor a point."""
    figure = axes.get_figure(root=True)
    if figure is None:  # pragma: no cover - axes in hand always have a figure
        return
    figure.draw_without_rendering()  # the layout decides where points are, in pixels
    points = axes.transData.transform(np.column_stack([x, y]))
    renderer = figure._get_renderer()  # type: ignore[attr-defined]  # no public way to measure text without drawing it
    scale = figure.dpi / 72
    frame = axes.get_window_extent(renderer)
    taken = [(px - 4 * scale, py - 4 * scale, px + 4 * scale, py + 4 * scale) for px, py in points]
    offsets: list[tuple[int, int, Literal["left", "right"]]] = [
        (6, 6, "left"),
        (-6, 6, "right"),
        (6, -13, "left"),
        (-6, -13, "right"),
    ]
    offsets += [(6, 19, "left"), (-6, 19, "right"), (6, -26, "left"), (-6, -26, "right")]
    for (px, py), xi, yi, label in zip(points, x, y, labels, strict=True):
        if not label:
            continue
        text = axes.annotate(
            label, (xi, yi), xytext=(6, 6), textcoords="offset points", fontsize=size, color=DARK, zorder=4
        )
        extent = text.get_window_extent(renderer)
        width, height = extent.width, extent.height
        best, best_cost = offsets[0], np.inf
        for dx, dy, side in offsets:
            left = px + dx * scale - (width if side == "right" else 0)
            box = (left, py + dy * scale, left + width, py + dy * scale + height)
            cost = sum(_overlap(box, other) for other in taken)
            if box[0] < frame.x0 or box[2] > frame.x1 or box[1] < frame.y0 or box[3] > frame.y1:
                cost += width * height
            if cost < best_cost:
                best, best_cost, best_box = (dx, dy, side), cost, box
        text.remove()
        far = abs(best[1]) > 15  # then a fine line says whose label it is
        axes.annotate(
            label,
            (xi, yi),
            xytext=best[:2],
            textcoords="offset points",
            ha=best[2],
            fontsize=size,
            color=DARK,
            zorder=4,
            arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
            if far
            else None,
        )
        taken.append(best_box)


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
