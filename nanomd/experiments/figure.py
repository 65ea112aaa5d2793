"""Picture of the study of short trajectories: error against the length of the pieces."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from nanomd.base.files import write_atomic
from nanomd.experiments import tables
from nanomd.experiments.scoring import errors
from nanomd.report.drawing import tidy_log_axis
from nanomd.report.style import MUTED, add_legend, look, new_figure, source_styles, to_png


def plot_pieces(references: dict[int, tables.Row], records: Iterable[tables.Row], title: str, path: Path) -> None:
    """Draw the geometric-mean error of passage times against the length of the pieces that methods learn from.

    Errors are against the same frames uncut. Points are geometric means over data sets and seeds, bars their range; the
    lag of "MSM, best lag" is chosen in hindsight. The dashed line is the error of the uncut training data against the
    held-out MD: below it, differences say nothing about the world.
    """
    records = list(records)
    lengths = sorted({int(r["pieces"]) for r in records} - {0})
    methods = ["MSM lag 1", "memory kernel", *sorted({tables.label(r) for r in records if r["pieces"]})]
    series: dict[str, list[tuple[int, list[float]]]] = {
        "MSM, best lag": [(n, tables.best_markov(references, n)) for n in lengths]
    }
    by_length = {n: {row["method"]: row for row in tables.rows(references, records, pieces=n)} for n in lengths}
    for method in methods:
        series[method] = [(n, by_length[n][method]["mfpt_model"]) for n in lengths if method in by_length[n]]
    sources = [reference["sources"] for reference in references.values()]
    sampling = [errors(s["MD training"], s["MD held out"])["mfpt_factor"] for s in sources]
    noise = float(np.exp(np.mean(np.log(sampling))))
    styles = source_styles([*series], "MD")
    with look():
        figure, axes = new_figure(620, 380)
        axes.set_title(title)
        axes.axhline(noise, color=MUTED, linewidth=1.0, linestyle="--", label="noise of the data")
        for k, (name, points) in enumerate((n, p) for n, p in series.items() if p):
            apart = 1.03 ** (k - len(series) / 2)  # points of one length side by side
            x = np.array([length * apart for length, _ in points])
            middle = np.array([np.exp(np.mean(np.log(values))) for _, values in points])
            below = middle - [min(values) for _, values in points]
            above = np.array([max(values) for _, values in points]) - middle
            style = styles[name]
            axes.errorbar(
                x,
                middle,
                [np.maximum(below, 0), np.maximum(above, 0)],
                color=style.color,
                marker=style.marker,
                label=name,
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        tidy_log_axis(axes)
        axes.set_xticks(lengths, [str(n) for n in lengths])
        axes.minorticks_off()
        axes.set_xlabel("length of a training trajectory (frames)")
        axes.set_ylabel("mean factor between passage times")
        add_legend(figure, axes)
        write_atomic(path, to_png(figure))
