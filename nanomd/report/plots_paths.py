"""Pictures of transition paths, and the words beside passage times and processes that need more than a picture."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from nanomd.kinetics.macrostates import short_names
from nanomd.kinetics.numbers import format_interval, format_number
from nanomd.kinetics.results import SourceKinetics, ValidationResult
from nanomd.report.drawing import finite_positive
from nanomd.report.figures import Group
from nanomd.report.style import SourceStyle, add_legend, look, new_figure, plain, say_no_data

MAX_PAIRS = 12
_LOWEST = 1e-2  # shares below rest on too few paths to be looked at


def plot_transition_paths(result: ValidationResult, styles: dict[str, SourceStyle]) -> Group:
    """Draw, per pair of macrostates, the share of transition paths that take longer than a time."""
    group = Group(
        "transition_paths",
        "Transition paths",
        "Share of transition paths that take longer than the time on the horizontal axis. A path from one macrostate "
        "to another runs from the last frame in the core of the first to the first frame in the core of the second: the"
        " crossing itself, without the waiting before it. Curves should lie on the dark one; n counts paths. A Markov "
        "model at a longer lag sees every lag time only, and is left out.",
    )
    reference = result.sources[result.reference]
    m = len(result.macrostate_names)
    if reference.path_longer.shape[:2] != (m, m):
        group.notes.append("This validation holds no transition paths; validate again to see them.")
        return group
    pairs = [(a, b) for a, b in combinations(range(m), 2) if reference.path_events[a, b] > 0]
    telling = [(a, b) for a, b in pairs if float(reference.path_mean.value[a, b]) > 1]
    if len(telling) < len(pairs):
        group.notes.append(
            f"{len(pairs) - len(telling)} of {len(pairs)} pairs are neighbours, with paths of one frame, and not shown."
        )
    if len(telling) > MAX_PAIRS:
        group.notes.append(f"The {MAX_PAIRS} pairs with most paths of {len(telling)} are shown.")
        telling = sorted(sorted(telling, key=lambda pair: -reference.path_events[pair])[:MAX_PAIRS])
    if not telling:
        group.notes.append(f"{result.reference} shows no transition path of more than one frame.")
    for a, b in telling:
        shown = {name: source for name, source in result.sources.items() if source.path_resolution == 1}
        end = max((_last_time(source, a, b) for source in shown.values()), default=0.0)
        factor, unit = result.frame_interval.scale(end if end > 0 else 1.0)
        names = [_letters(result)[k] for k in (a, b)]
        with look():
            figure, axes = new_figure(400, 290)
            axes.set_title(plain(" to ".join(names)))
            drawn = False
            for name, source in shown.items():
                if source.path_longer.shape[:2] != (m, m):
                    continue
                curve = finite_positive(source.path_longer[a, b])
                if not np.isfinite(curve).any():
                    continue
                style = styles[name]
                count = f", n={int(source.path_events[a, b])}" if source.n_trajs else ""
                axes.plot(
                    np.asarray(source.path_times) * factor, curve, color=style.color, linestyle=style.dashes,
                    marker=style.marker, markevery=0.12, markersize=4.5, label=plain(name) + count,
                    linewidth=2.2 if name == result.reference else 1.5,
                )  # fmt: skip
                drawn = True
            if drawn:
                axes.set(yscale="log", ylim=(_LOWEST, 1.3), xlim=(0, end * factor * 1.02 if end > 0 else None))
                axes.set(xlabel=f"duration ({unit})", ylabel="share that takes longer")
                add_legend(figure, axes)
            else:
                say_no_data(axes, "No transition path in any source.")
            pair = " to ".join(names)
            group.add(figure, f"Transition paths {pair}: share that takes longer against time.", name=pair)
    return group


def _letters(result: ValidationResult) -> list[str]:
    """Return the first words of the macrostates' names, such as "A (54 %)"."""
    return [name or "?" for name in short_names(result.macrostate_names)]


def _last_time(source: SourceKinetics, a: int, b: int) -> float:
    """Return the time, in frames, at which a curve falls below what the picture shows."""
    if not len(source.path_times):
        return 0.0
    above = np.flatnonzero(np.nan_to_num(source.path_longer[a, b]) >= _LOWEST)
    return float(source.path_times[min(above[-1] + 1, len(source.path_times) - 1)]) if len(above) else 0.0


def passage_notes(result: ValidationResult) -> list[str]:
    """Say how far all passage times are off, with intervals, beside the noise floor."""
    notes = []
    letters = _letters(result)
    floor = result.noise_floor
    if floor is not None and np.isfinite(floor.factor):
        value, interval = format_interval(floor.factor, floor.low, floor.high)
        notes.append(
            f"Noise floor: the training MD is off from {result.reference} by a factor of {value} {interval} in the "
            f"geometric mean over {floor.n_pairs} pairs. No model can be expected to be nearer."
        )
    for name, error in result.mfpt_errors.items():
        pair = " to ".join(letters[a] for a in error.worst_pair) if error.worst_pair else ""
        if error.n_missing:
            notes.append(f"{name} lacks {error.n_missing} of the passages, {pair} among them: worse than any factor.")
        if not np.isfinite(error.factor):
            continue
        value, interval = format_interval(error.factor, error.low, error.high)
        side = "too fast" if error.shift < 1 else "too slow"
        notes.append(
            f"{name}: a factor of {value} {interval}, {format_number(max(error.shift, 1 / error.shift), 3)} {side} on "
            f"average, worst {pair} by {format_number(error.worst_factor, 3)}."
        )
    return notes


def process_notes(result: ValidationResult) -> list[str]:
    """Say what each slow process is, and on how many events it rests in every source."""
    notes = []
    for k, words in enumerate(result.processes):
        counts = [
            f"{name} {int(source.timescale_events[k])}"
            for name, source in result.sources.items()
            if k < len(source.timescale_events)
        ]
        said = f" (passages: {', '.join(counts)})" if counts else ""
        notes.append(f"Process {k + 1} moves {words}{said}.")
    return notes
