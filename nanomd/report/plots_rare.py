"""Pictures of rare-event sampling: the flux of a weighted ensemble, the levels of a splitting, the passages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nanomd.rare.paths import ReactivePaths
from nanomd.rare.result import RareEvents
from nanomd.report.style import BLUE, DARK, SKY

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_rare_event(axes: Axes, result: RareEvents) -> None:
    """Draw how the rate came about, each repetition by itself; the band is the interval of the result."""
    if result.method == "splitting":
        _draw_levels(axes, result)
    else:
        _draw_fluxes(axes, result)
    axes.set_yscale("log")


def _draw_fluxes(axes: Axes, result: RareEvents) -> None:
    burn_in, tau = int(result.settings.get("burn_in", 0)), int(result.settings.get("tau", 1))
    counted = result.fluxes[burn_in:]
    number = np.arange(1, len(counted) + 1)
    steps = (burn_in + number) * tau
    running = np.cumsum(counted, axis=0) / number[:, None]
    for k, values in enumerate(running.T):
        seen = values > 0
        axes.plot(steps[seen], values[seen], color=SKY, lw=0.8, label="repetitions" if k == 0 else None)
    mean = running.mean(axis=1)
    axes.plot(steps[mean > 0], mean[mean > 0], color=BLUE, lw=2, label="their mean")
    rate = result.rate
    if np.isfinite([rate.low, rate.high]).all():
        label = f"{100 * result.confidence:g} % interval"
        axes.axhspan(float(rate.low), float(rate.high), color=BLUE, alpha=0.15, lw=0, label=label)
    if burn_in:
        axes.axvspan(0, burn_in * tau, color="0.9", lw=0, label="burn-in")
    axes.set(xlim=(0, len(result.fluxes) * tau), xlabel="steps of each walker", ylabel="flux so far, a step")


def _draw_levels(axes: Axes, result: RareEvents) -> None:
    for k in range(result.n_repeats):
        own = result.levels[result.levels[:, 0] == k]
        own = own[own[:, 2] > 0]
        if len(own):
            levels = np.concatenate((own[:1, 1], own[:, 1]))
            shares = np.concatenate(([1.0], own[:, 2]))
            axes.step(levels, shares, where="post", color=BLUE, lw=0.9, label="repetitions" if k == 0 else None)
    axes.set(xlabel="progress", ylabel="share of exits that went beyond")


def draw_paths(axes: Axes, result: RareEvents, n: int, seed: int) -> None:
    """Draw progress along n passages of equal weight, and one of them apart."""
    paths = result.paths()
    tokens = paths.tokens
    lines = [result.progress[tokens[k]] for k in paths.choose(n, seed).tolist()]
    for k, line in enumerate(lines):
        axes.plot(line, color=BLUE, lw=0.8, alpha=max(0.1, min(0.6, 12 / n)), label="passages" if k == 0 else None)
    axes.plot(sorted(lines, key=len)[n // 2], color=DARK, lw=1.4, label="one of the median length")
    axes.set(xlim=(0, None), xlabel="steps since the source was left", ylabel="progress")


def draw_transition_times(axes: Axes, paths: ReactivePaths, n_bins: int = 24) -> None:
    """Draw how long passages take: shares with their intervals, and the mean with its own."""
    steps = paths.durations
    order = np.argsort(steps)
    share = np.cumsum(paths.weights[order]) / paths.weights.sum()
    low, high = int(steps.min()), int(steps[order[min(int(np.searchsorted(share, 0.995)), len(share) - 1)]])
    width = max(1, -(-(high + 1 - low) // n_bins))
    edges = np.arange(low, high + width + 1, width) - 0.5
    found = paths.duration_distribution(edges)
    middle = (edges[1:] + edges[:-1]) / 2
    axes.bar(middle, found.value / width, width=width, color=SKY, alpha=0.5, lw=0)
    if np.isfinite(found.low).all():
        ends = np.stack((np.maximum(found.low, 0), found.high)) / width
        axes.vlines(middle, *ends, color=BLUE, lw=1.2, label=f"{100 * paths.confidence:g} % intervals")
    mean = paths.duration
    axes.axvline(float(mean.value), color=DARK, lw=1.2, label=f"mean {mean} steps")
    if np.isfinite([mean.low, mean.high]).all():
        axes.axvspan(float(mean.low), float(mean.high), color=DARK, alpha=0.15, lw=0)
    axes.set(ylim=(0, None), xlabel="steps of a passage", ylabel="share of the passages a step")
