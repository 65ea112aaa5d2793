"""Picture of the study of short trajectories: error against the length of the pieces."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from nanomd.experiments import tables
from nanomd.report.style import MUTED, add_legend, look, new_figure, source_styles, to_png
from nanomd.run_folder import write_atomic


def plot_pieces(references: dict[int, tables.Row], records: Iterable[tables.Row], title: str, path: Path) -> None:
    """Draw the geometric-mean error of passage times against the length of the pieces that methods learn from.

    Errors are against the same frames uncut. Lines are geometric means over data sets and seeds, bands their range; the
    Markov model's lag is the best one in hindsight.
    """
    records = list(records)
    lengths = sorted({int(r["pieces"]) for r in records} - {0})
    methods = ["memory kernel", *sorted({r["method"] for r in records if r["pieces"]})]
    series: dict[str, list[tuple[int, list[float]]]] = {
        "best MSM": [(n, tables.best_markov(references, n)) for n in lengths]
    }
    for method in methods:
        series[method] = []
        for length in lengths:
            found = [row for row in tables.rows(references, records, pieces=length) if row["method"] == method]
            if found:
                series[method].append((length, found[0]["mfpt_model"]))
    styles = source_styles([*series], "MD")
    with look():
        figure, axes = new_figure(620, 380)
        axes.set_title(title)
        for name, points in series.items():
            x = np.array([length for length, _ in points])
            middle = [np.exp(np.mean(np.log(values))) for _, values in points]
            style = styles[name]
            axes.fill_between(
                x, [min(v) for _, v in points], [max(v) for _, v in points], color=style.color, alpha=0.12, linewidth=0
            )
            axes.plot(x, middle, color=style.color, marker=style.marker, label=name)
        axes.axhline(1.0, color=MUTED, linewidth=0.8)
        axes.set_xscale("log")
        axes.set_xticks(lengths, [str(n) for n in lengths])
        axes.minorticks_off()
        axes.set_xlabel("length of a training trajectory (frames)")
        axes.set_ylabel("factor between passage times")
        add_legend(figure, axes)
        write_atomic(path, to_png(figure))
