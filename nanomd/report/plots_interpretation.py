"""Pictures of what the model has learnt: memory, attention by lag, causal tracing, distances between states."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nanomd.base.units import FrameInterval
from nanomd.interpret.results import AttentionByLag, CausalTracing, Interpretation, KineticDistances, MemoryLength
from nanomd.report.drawing import FloatArray, band, tidy_log_axis
from nanomd.report.figures import Group
from nanomd.report.style import (
    BLUE,
    DARK,
    FAINT,
    GREEN,
    MUTED,
    ORANGE,
    PURPLE,
    SCREEN_DPI,
    SKY,
    VERMILLION,
    SourceStyle,
    add_legend,
    look,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_LAYERS = 8
MAX_POINTS = 4000
_LINEAR_LAGS = 16  # up to so many, lags are drawn on a linear axis


def interpretation_groups(result: Interpretation, interval: FrameInterval) -> list[Group]:
    """Return the pictures of an interpretation, in the order of the report."""
    return [
        plot_memory(result.memory, interval),
        plot_attention(result.attention),
        plot_tracing(result.tracing),
        plot_distances(result.distances),
    ]


def plot_memory(memory: MemoryLength, interval: FrameInterval) -> Group:
    """Draw the likelihood of the next state, and what is missing to the best, against context length."""
    notes = [interval.describe(memory.frames)] if interval.unit != "frame" else []
    notes += [f"interval {memory.low} to {memory.high}"] if memory.low != memory.high else []
    between = f" ({', '.join(notes)})" if notes else ""
    group = Group(
        "memory",
        "How much memory the dynamics has",
        f"Log-likelihood of the next state when the model sees only the last frames, on {memory.n_windows} targets; "
        f"bands are {100 * memory.confidence:g} % intervals. The memory length is {memory.frames} "
        f"frame{'s' if memory.frames > 1 else ''}{between}: the shortest context within {memory.tolerance:g} nats per "
        "frame of the best. It says what this model makes use of: more than it shows may be in the dynamics, and a "
        "short context is unfamiliar to a model that was trained on long ones, so that the lag-1 Markov model may "
        "do better on one frame.",
    )
    x, style = memory.contexts.astype(float), SourceStyle(BLUE, "s")
    with look():
        figure, axes = new_figure(460, 330)
        axes.set_title("Likelihood")
        if np.isfinite(memory.markov.value):
            axes.axhline(
                float(memory.markov.value), color=VERMILLION, linestyle=(0, (6, 2)), label="lag-1 Markov model"
            )
        band(axes, x, memory.log_likelihood, style, "GPT", 0.18)
        _mark_memory(axes, memory)
        axes.set(xlabel="context (frames)", ylabel="nats per frame")
        _context_axis(axes, x)
        add_legend(figure, axes)
        group.add(figure, "Log-likelihood of the next state against the number of frames that the model sees.")
    with look():
        figure, axes = new_figure(460, 330)
        axes.set_title("Missing to the best context")
        floor = max(memory.tolerance, float(np.nanmax(memory.loss.value)) * 1e-3) / 20
        axes.axhspan(floor / 10, max(memory.tolerance, floor / 10), color=FAINT, alpha=0.45, linewidth=0, zorder=0)
        loss = memory.loss
        shown = [np.maximum(np.nan_to_num(part, nan=0.0), floor) for part in (loss.value, loss.low, loss.high)]
        axes.fill_between(x, shown[1], shown[2], color=BLUE, alpha=0.18, linewidth=0)
        axes.plot(x, shown[0], color=BLUE, marker="s", markersize=4.5)
        _mark_memory(axes, memory)
        axes.set(
            yscale="log", xlabel="context (frames)", ylabel="nats per frame", ylim=(floor * 0.8, shown[2].max() * 2)
        )
        _context_axis(axes, x)
        tidy_log_axis(axes)
        group.add(figure, "Loss of likelihood against the best context; the grey region is within the tolerance.")
    return group


def _mark_memory(axes: Axes, memory: MemoryLength) -> None:
    axes.axvline(memory.frames, color=MUTED, linewidth=1.0, linestyle=(0, (2, 1.5)), label="memory length", zorder=1)


def _context_axis(axes: Axes, x: FloatArray) -> None:
    if x.max() > 8:
        axes.set_xscale("log")
        axes.set_xlim(x.min() / 1.1, x.max() * 1.1)
        tidy_log_axis(axes)
    else:
        axes.set_xticks(x)


def plot_attention(attention: AttentionByLag) -> Group:
    """Draw the mean attention weight against lag, a panel per layer and a line per head."""
    layers, heads, n_lags = attention.mean.value.shape
    group = Group(
        "attention",
        "Attention by lag",
        f"Mean attention weight against the lag of the frame looked at, 0 being the present one, over "
        f"{attention.n_windows} windows with {attention.n_queries} predictions each; bands are "
        f"{100 * attention.confidence:g} % intervals. The weights of a head add up to 1, so a head without a task "
        "still looks somewhere: attention shows what a head may use, the tracing below what the prediction rests on.",
    )
    far = n_lags > _LINEAR_LAGS
    x = attention.lags.astype(float) + (1.0 if far else 0.0)
    for layer in range(min(layers, MAX_LAYERS)):
        with look():
            figure, axes = new_figure(440, 310)
            axes.set_title(f"Layer {layer + 1}")
            for head in range(heads):
                mean, style = attention.mean[layer, head], _head_style(head)
                axes.plot(
                    x, mean.value, color=style.color, linestyle=style.dashes, marker=style.marker, markersize=4.5,
                    markevery=0.08 if far else 1, label=f"head {head + 1}",
                )  # fmt: skip
                axes.fill_between(x, mean.low, mean.high, color=style.color, alpha=0.18, linewidth=0)
            axes.set(xlabel="lag (frames)", ylabel="mean weight")
            axes.set_ylim(bottom=0)
            if far:
                _lag_axis(axes, n_lags)
            elif n_lags <= 8:
                axes.set_xticks(x)
            add_legend(figure, axes)
            group.add(figure, f"Mean attention weight against lag in layer {layer + 1}, a line per head.")
    if layers > MAX_LAYERS:
        group.notes.append(f"The first {MAX_LAYERS} of {layers} layers are shown.")
    return group


def _head_style(head: int) -> SourceStyle:
    """Return colour and marker of a head; from the ninth on colours come again, dashed."""
    palette = [BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, DARK, MUTED]
    turn, place = divmod(head, len(palette))
    return SourceStyle(palette[place], "so^vDPX<"[place], "-" if not turn else (0, (2 * turn + 1, 2)))


def _lag_axis(axes: Axes, n_lags: int) -> None:
    """Draw lag 0 too on a logarithmic axis: positions are lag + 1, the ticks say the lag."""
    axes.set_xscale("log")
    ticks = [lag for lag in (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1023) if lag < n_lags]
    axes.set_xticks([lag + 1 for lag in ticks], [str(lag) for lag in ticks])
    axes.minorticks_off()
    axes.set_xlim(0.9, n_lags * 1.1)


def plot_tracing(tracing: CausalTracing) -> Group:
    """Draw the effect of corrupting single frames, and what each part restores."""
    which = "after which the state changes " if tracing.changes_only else ""
    group = Group(
        "tracing",
        "Causal tracing",
        f"The model gives the observed next state a probability of {float(tracing.clean.value):.3f} on average, over "
        f"{tracing.n_windows} windows {which}of {tracing.window_length} frames. With Gaussian noise of "
        f"{tracing.noise:g} standard deviations on the embeddings of {len(tracing.corrupted_lags)} frames it is "
        f"{float(tracing.corrupted.value):.3f} ({tracing.n_draws} draws each; {tracing.draw_std:.2g} between draws). "
        "First: what is lost when one frame alone is corrupted, and what one restored embedding alone brings back. "
        "Second: the average indirect effect, what is brought back when one part, in one layer, at one frame, is set "
        "to its value in the intact pass.",
    )
    far = len(tracing.lags) and tracing.lags[-1] >= _LINEAR_LAGS
    x = tracing.lags.astype(float) + (1.0 if far else 0.0)
    with look():
        figure, axes = new_figure(440, 330)
        axes.set_title("Single frames")
        axes.axhline(0, color=MUTED, linewidth=0.8, zorder=1)
        band(axes, x, tracing.single, SourceStyle(VERMILLION, "^"), "lost: this frame corrupted", 0.18)
        band(axes, x, tracing.residual[0], SourceStyle(BLUE, "s", (0, (6, 2))), "restored: this embedding", 0.18)
        axes.set(xlabel="lag (frames)", ylabel="probability of the next state")
        if far:
            _lag_axis(axes, int(tracing.lags[-1]) + 1)
        elif len(x) <= 10:
            axes.set_xticks(x)
        add_legend(figure, axes)
        group.add(figure, "Effect of corrupting, and of restoring, the embedding of one frame, against its lag.")
    _plot_parts(group, tracing)
    if np.isfinite(tracing.markov.value):
        group.notes.append(
            "The Markov head is a second embedding of the present state. Its row is corrupted with that frame; "
            f"restoring the row alone brings back {float(tracing.markov.value):.3f}."
        )
    return group


def _plot_parts(group: Group, tracing: CausalTracing) -> None:
    names, rows = ["embedding"], [tracing.residual.value[0]]
    for layer in range(len(tracing.attention.value)):
        names += [f"attention {layer + 1}", f"MLP {layer + 1}", f"stream after {layer + 1}"]
        rows += [tracing.attention.value[layer], tracing.mlp.value[layer], tracing.residual.value[layer + 1]]
    values = np.stack(rows)
    limit = float(np.nanmax(np.abs(values))) or 1.0
    n_rows, n_columns = values.shape
    with look():
        figure, axes = new_figure(max(400, min(720, 210 + 34 * n_columns)), 90 + 24 * n_rows)
        width, height = (float(size) * SCREEN_DPI for size in figure.get_size_inches())
        figure.subplots_adjust(left=118 / width, right=1 - 82 / width)
        axes.set_title("Average indirect effect")
        axes.grid(visible=False)
        image = axes.imshow(values, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        axes.set_yticks(range(n_rows), names)
        step = -(-n_columns // 18)
        axes.set_xticks(range(0, n_columns, step), [str(lag) for lag in tracing.lags[::step]])
        axes.tick_params(length=0)
        axes.set_xlabel("lag of the restored frame")
        bar = figure.add_axes((1 - 68 / width, 52 / height, 9 / width, 1 - 82 / height))
        figure.colorbar(image, cax=bar)
        bar.tick_params(labelsize=8)
        bar.grid(visible=False)
        if n_columns <= 20:
            for i, j in np.argwhere(np.abs(values) >= 0.005):
                color = "white" if abs(values[i, j]) > 0.6 * limit else DARK
                axes.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", fontsize=7.5, color=color)
        group.add(figure, "Average indirect effect of restoring each part, by layer and by lag of the frame.")


def plot_distances(distances: KineticDistances) -> Group:
    """Draw the learnt distances of all pairs of states against their commute distances."""
    vectors = "output" if distances.of == "head" else "input"
    value, low, high = (float(getattr(distances.correlation, end)[1]) for end in ("value", "low", "high"))
    n = len(distances.states)
    group = Group(
        "distances",
        "Learnt distances between states",
        f"Each point is a pair of {n} states: the {distances.metric} distance of their {vectors} vectors in the model "
        f"against their commute distance in a Markov model at a lag of {distances.lagtime} frames. Rank correlation "
        f"{value:.2f}" + (f" ({low:.2f} to {high:.2f})" if np.isfinite(low) else "") + ", reached by a share of "
        f"{float(distances.p_value[1]):.3g} of random relabellings; with the kinetic distance at that lag "
        f"{float(distances.correlation.value[0]):.2f}. A model trained on the next state need not order "
        "states by how long it takes to get from one to another.",
    )
    upper = np.triu_indices(n, 1)
    step = max(1, len(upper[0]) // MAX_POINTS)
    x, y = distances.commute[upper][::step], distances.embedding[upper][::step]
    with look():
        figure, axes = new_figure(440, 340)
        axes.set_title("Pairs of states")
        few = len(x) < 200
        axes.plot(x, y, "o", color=BLUE, markersize=5 if few else 2.5, alpha=0.9 if few else 0.35, markeredgewidth=0)
        axes.set(xlabel="commute distance (square root of frames)", ylabel=f"{distances.metric} distance in the model")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        group.add(figure, "Distance in the model against commute distance, a point per pair of states.")
    return group


def attention_map_pictures(attention: AttentionByLag) -> Group:
    """Draw whole attention weights of the kept windows, a panel per window: layers downwards, heads to the right."""
    group = Group("attention_maps", "Attention maps", "Rows are predictions, columns the frames looked at.")
    if attention.maps.ndim != 5 or not attention.maps.size:
        return group
    n, layers, heads, length, _ = attention.maps.shape
    for window in range(n):
        side = 150
        with look():
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure

            width, height = side * heads + 60, side * min(layers, MAX_LAYERS) + 60
            figure = Figure(figsize=(width / SCREEN_DPI, height / SCREEN_DPI), dpi=SCREEN_DPI)
            FigureCanvasAgg(figure)
            grid = figure.subplots(min(layers, MAX_LAYERS), heads, squeeze=False)
            figure.subplots_adjust(
                left=50 / width, right=1 - 10 / width, bottom=44 / height, top=1 - 26 / height, wspace=0.12, hspace=0.24
            )
            ticks = range(length) if length <= 12 else []
            labels = [str(label) for label in attention.map_labels[window]]
            for layer, row in enumerate(grid):
                for head, axes in enumerate(row):
                    axes.imshow(attention.maps[window, layer, head], cmap="Blues", vmin=0, vmax=1)
                    axes.grid(visible=False)
                    axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=8)
                    axes.set_xticks(ticks, labels if len(ticks) else [], fontsize=7)
                    axes.set_yticks(ticks, labels if len(ticks) else [], fontsize=7)
                    axes.tick_params(length=0)
            figure.supxlabel("frame looked at", fontsize=9)
            figure.supylabel("prediction at frame", fontsize=9)
            group.add(figure, f"Attention weights of window {window + 1}, by layer and head.")
    return group
