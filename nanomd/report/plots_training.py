"""Picture of the training: losses and learning rate against optimiser step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nanomd.report.drawing import FloatArray
from nanomd.report.figures import Group
from nanomd.report.style import BLUE, DARK, MUTED, look, new_figure


def curve(metrics: Sequence[Mapping[str, Any]], *keys: str) -> tuple[FloatArray, FloatArray]:
    """Return steps and values of the rows that have a finite number under the first of some keys that they have."""
    points = []
    for index, row in enumerate(metrics):
        value = next((row[key] for key in keys if key in row), None)
        step = row.get("step", index)
        if all(isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x) for x in (value, step)):
            points.append((float(step), float(value)))  # type: ignore[arg-type]  # just checked
    return (np.array([p[0] for p in points]), np.array([p[1] for p in points]))


def plot_training(metrics: Sequence[Mapping[str, Any]]) -> Group | None:
    """Draw the history of a training; None where there is nothing to draw.

    Parameters
    ----------
    metrics : sequence of mappings
        Rows with ``step`` and any of ``train_loss`` (or ``loss``), ``validation_loss``, ``learning_rate``.
    """
    train, held_out, rate = (
        curve(metrics, *keys) for keys in (("train_loss", "loss"), ("validation_loss",), ("learning_rate",))
    )
    if not len(train[0]) and not len(held_out[0]):
        return None
    best = ""
    if len(held_out[0]):
        index = int(np.argmin(held_out[1]))
        best = f" The lowest validation loss is {held_out[1][index]:.4f} at step {held_out[0][index]:.0f} (ring)."
    group = Group(
        "training",
        "Training",
        "Negative log-likelihood per frame during training; the validation loss is taken on held-out MD with plain "
        "next-state prediction. A validation loss that rises while the training loss falls is overfitting. A low loss "
        "alone does not make good kinetics: judge by the tables above." + best,
    )
    with look():
        figure, axes = new_figure(560, 340)
        axes.set_title("Loss")
        if len(train[0]):
            axes.plot(
                *train, color=BLUE, linewidth=1.0, alpha=0.7, marker="." if len(train[0]) < 3 else "", label="training"
            )
        if len(held_out[0]):
            axes.plot(*held_out, color=DARK, marker="o", markersize=3.5, label="validation")
            axes.plot(held_out[0][index], held_out[1][index], "o", color=DARK, markersize=10, fillstyle="none")
        values = np.concatenate([train[1], held_out[1]])
        # The first steps start near ln V and would flatten all that follows.
        top = float(np.quantile(values, 0.97)) if len(values) > 20 else float(values.max())
        margin = 0.08 * (top - float(values.min())) or 0.05
        axes.set_ylim(float(values.min()) - margin, top + 2 * margin)
        axes.set(xlabel="optimiser step", ylabel="nats per frame")
        axes.legend(loc="upper right")
        group.add(figure, "Training and validation loss against optimiser step.", name="loss")
    if len(rate[0]) > 1:
        with look():
            figure, axes = new_figure(440, 340)
            axes.set_title("Learning rate")
            axes.plot(*rate, color=MUTED)
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.set(xlabel="optimiser step", ylabel="learning rate")
            group.add(figure, "Learning rate against optimiser step.", name="learning rate")
    return group
