"""Pictures of rates and relaxation: implied timescales, passage times, Chapman-Kolmogorov, residence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nanomd.kinetics.interval import Interval
from nanomd.kinetics.results import SourceKinetics, ValidationResult
from nanomd.report.drawing import FloatArray, band, error_lengths, finite_positive, scatter_panel, tidy_log_axis
from nanomd.report.figures import Group
from nanomd.report.plots_paths import passage_notes, process_notes
from nanomd.report.style import DARK, SourceStyle, add_legend, look, new_figure, plain, say_no_data

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_MACROSTATES = 12
MAX_TIMESCALES = 6
_ALL_PAIRS = 12  # label every pair of up to four macrostates, and only the worst of more


def shown_macrostates(result: ValidationResult) -> list[int]:
    """Return the macrostates that have panels of their own: all, or the most populated of many, in index order."""
    n = len(result.macrostate_names)
    if n <= MAX_MACROSTATES:
        return list(range(n))
    weights = np.nan_to_num(np.asarray(result.sources[result.reference].macro_populations.value, float), nan=-1.0)
    return sorted(int(index) for index in np.argsort(-weights, kind="stable")[:MAX_MACROSTATES])


def plot_timescales(result: ValidationResult, styles: dict[str, SourceStyle]) -> Group:
    """Draw implied timescales against lag time, one panel per process."""
    reference = result.sources[result.reference]
    group = Group(
        "timescales",
        "Implied timescales",
        "Relaxation time of each slow process, from a Markov model at each lag time, slowest process first. Lines that "
        "level off say that the state space is Markovian at that lag; bands are "
        f"{100 * result.confidence:g} % intervals. In the grey region a process relaxes within one lag time and cannot "
        "be resolved: values near or in it carry no information. A good model follows the dark line at every lag, "
        "also where it has not levelled off yet. Process k of every source is the one most like process k of the "
        "reference, by overlap of eigenvectors. A Markov model itself has the same timescales at every lag.",
    )
    group.notes.extend(process_notes(result))
    n_processes = max((source.timescales.value.shape[-1] for source in result.sources.values()), default=0)
    if n_processes > MAX_TIMESCALES:
        group.notes.append(f"The slowest {MAX_TIMESCALES} of {n_processes} processes are shown.")
    all_values = [finite_positive(source.timescales.value) for source in result.sources.values()]
    slowest = max((np.nanmax(values) for values in all_values if np.isfinite(values).any()), default=1.0)
    y_factor, y_unit = result.frame_interval.scale(float(slowest))
    longest_lag = max((int(np.max(s.lagtimes)) for s in result.sources.values() if len(s.lagtimes)), default=1)
    x_factor, x_unit = result.frame_interval.scale(float(longest_lag))
    for k in range(min(n_processes, MAX_TIMESCALES)):
        with look():
            figure, axes = new_figure(440, 310)
            axes.set_title(f"Process {k + 1}")
            drawn: list[FloatArray] = []
            for name, source in result.sources.items():
                if source.timescales.value.shape[-1] <= k or not len(source.lagtimes):
                    continue
                column = source.timescales[:, k]
                y = Interval(*(finite_positive(part) * y_factor for part in (column.value, column.low, column.high)))
                if np.isfinite(y.value).any():
                    lags = np.asarray(source.lagtimes, np.float64) * np.float64(x_factor)
                    band(axes, lags, y, styles[name], plain(name), 0.22 if name == result.reference else 0.12)
                    drawn.append(y.value[np.isfinite(y.value)])
            if drawn:
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
                add_legend(figure, axes)
            else:
                say_no_data(axes, "No source has a defined timescale for this process.")
            value = (
                float(reference.timescales.value[0, k]) if reference.timescales.value.shape[-1] > k else float("nan")
            )
            said = (
                f"; {result.reference} at the shortest lag: {result.frame_interval.describe(value)}"
                if value > 0
                else ""
            )
            group.add(figure, f"Implied timescale of process {k + 1} against lag time, all sources{said}.")
    return group


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


def plot_mfpt(result: ValidationResult, styles: dict[str, SourceStyle]) -> Group:
    """Draw mean first-passage times of every model against those of the reference."""
    reference = result.sources[result.reference]
    m = len(result.macrostate_names)
    names, key = pair_names(result)
    rows, columns = np.nonzero(~np.eye(m, dtype=bool))
    group = Group(
        "mfpt",
        "Mean first-passage times",
        "Mean time to reach one macrostate from another: each point is an ordered pair, the model upwards against "
        f"{result.reference} to the right, with {100 * result.confidence:g} % intervals. Points on the line agree; "
        "the grey band is a factor of 2 either way. A point above the line is a passage that the model makes too "
        "slowly, below it too fast.",
    )
    if key:
        group.notes.append(key)
    group.notes.extend(passage_notes(result))
    if m < 2:
        group.notes.append("There is one macrostate only, hence no passage between macrostates.")
        return group
    x = reference.mfpt[rows, columns]
    finite = finite_positive(x.value)
    factor, unit = result.frame_interval.scale(float(np.nanmedian(finite)) if np.isfinite(finite).any() else 1.0)
    for name, source in result.sources.items():
        if name == result.reference:
            continue
        y = source.mfpt[rows, columns]
        labels = [f"{names[i]}→{names[j]}" for i, j in zip(rows, columns, strict=True)]
        error = mfpt_error(finite, finite_positive(y.value))
        if error is not None and not result.mfpt_errors:
            group.notes.append(
                f"{name}: off by a factor of {error[0]:.3g} in the geometric mean over {error[2]} pairs, and of "
                f"{error[3]:.3g} for the worst, {labels[error[1]]}."
            )
        if len(labels) > _ALL_PAIRS:
            labels = _worst_labels(labels, finite, finite_positive(y.value))
        with look():
            figure, axes = new_figure(440, 440)
            axes.set_title(plain(name))
            left_out = scatter_panel(
                axes, _scaled(x, factor), _scaled(y, factor), styles[name], labels,
                f"{plain(result.reference)} ({unit})", f"{plain(name)} ({unit})",
            )  # fmt: skip
            group.add(figure, f"Mean first-passage times of {name} against {result.reference}, logarithmic axes.")
        if left_out:
            group.notes.append(
                f"{name}: {left_out} of {len(labels)} ordered pairs have no completed passage in {result.reference} "
                f"or in {name}, and are not shown."
            )
    if len(rows) > _ALL_PAIRS:
        group.notes.append("Only the pairs that differ most are labelled.")
    return group


def mfpt_error(reference: FloatArray, model: FloatArray) -> tuple[float, int, int, float] | None:
    """Summarise passage times (p,) by exp(mean |ln(model / reference)|), over the pairs that both have.

    Returns
    -------
    mean_factor, worst_index, n_pairs, worst_factor
        Or None where no pair has both.
    """
    error = np.abs(np.log(model / reference))
    if not np.isfinite(error).any():
        return None
    worst = int(np.nanargmax(error))
    return float(np.exp(np.nanmean(error))), worst, int(np.isfinite(error).sum()), float(np.exp(error[worst]))


def _worst_labels(labels: list[str], x: FloatArray, y: FloatArray, n: int = 6) -> list[str]:
    error = np.nan_to_num(np.abs(np.log(y / x)), nan=-1.0)
    worst = set(np.argsort(-error, kind="stable")[:n].tolist())
    return [label if index in worst else "" for index, label in enumerate(labels)]


def _scaled(interval: Interval, factor: float) -> Interval:
    return Interval(*(np.asarray(part, float) * factor for part in (interval.value, interval.low, interval.high)))


def plot_chapman_kolmogorov(result: ValidationResult, styles: dict[str, SourceStyle]) -> Group:
    """Draw, per macrostate, the probability to be in it again after a lag: estimated and as a Markov model predicts."""
    group = Group(
        "chapman_kolmogorov",
        "Chapman-Kolmogorov test",
        "Probability to be in a macrostate a lag time after having been in it. Points with bars are counted in the "
        f"trajectories ({100 * result.confidence:g} % intervals), lines are predicted by a Markov model of the same "
        "trajectories at the shortest lag. Where points leave their own line, the dynamics has memory at that "
        "lag; a good model's points lie on the dark points either way.",
    )
    longest = max((int(np.max(s.ck_lagtimes)) for s in result.sources.values() if len(s.ck_lagtimes)), default=1)
    shortest = min((int(np.min(s.ck_lagtimes)) for s in result.sources.values() if len(s.ck_lagtimes)), default=1)
    factor, unit = result.frame_interval.scale(float(longest))
    for state in shown_macrostates(result):
        with look():
            figure, axes = new_figure(400, 290)
            axes.set_title(plain(result.macrostate_names[state]))
            drawn = [
                _draw_ck(source, state, factor, axes, styles[name], plain(name), place)
                for place, (name, source) in enumerate(result.sources.items())
            ]
            if any(drawn):
                axes.set(ylim=(-0.03, 1.04), xlabel=f"lag time ({unit})", ylabel="probability to be there again")
                if longest > 8 * shortest:
                    axes.set_xscale("log")
                    tidy_log_axis(axes)
                else:
                    axes.set_xlim(left=0)
                add_legend(figure, axes)
            else:
                say_no_data(axes, "No source has data for this test.")
            name = result.macrostate_names[state]
            group.add(figure, f"Chapman-Kolmogorov test of macrostate {name}: probability against lag time.")
    _note_hidden(group, result)
    return group


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


def plot_residence(result: ValidationResult, styles: dict[str, SourceStyle]) -> Group:
    """Draw, per macrostate, the probability to stay longer than a time."""
    group = Group(
        "residence",
        "Residence times",
        "Probability that a visit to a macrostate lasts longer than the time on the horizontal axis, on a logarithmic "
        "vertical axis: a straight line is a single exponential, as a Markovian macrostate would give, and a steep "
        "beginning shows quick recrossings. Curves should lie on the dark one; n counts the visits behind each.",
    )
    for state in shown_macrostates(result):
        ends = [_last_time(source, state) for source in result.sources.values()]
        end = max(ends, default=0.0)
        factor, unit = result.frame_interval.scale(end if end > 0 else 1.0)
        with look():
            figure, axes = new_figure(400, 290)
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
            if drawn:
                axes.set(yscale="log", xlabel=f"time ({unit})", ylabel="probability to stay longer")
                axes.set(ylim=(1e-3, 1.5), xlim=(0, end * factor * 1.02 if end > 0 else None))
                add_legend(figure, axes)
            else:
                say_no_data(axes, "No completed visit in any source.")
            name = result.macrostate_names[state]
            group.add(figure, f"Residence in macrostate {name}: probability to stay longer against time.")
    _note_hidden(group, result)
    return group


def _last_time(source: SourceKinetics, state: int) -> float:
    """Return the time, in frames, at which a survival curve falls below what the picture shows."""
    if state >= len(source.residence_survival) or not len(source.residence_times):
        return 0.0
    survival = np.nan_to_num(np.asarray(source.residence_survival[state], float))
    above = np.flatnonzero(survival >= 1e-3)
    return float(source.residence_times[min(above[-1] + 1, len(survival) - 1)]) if len(above) else 0.0


def _note_hidden(group: Group, result: ValidationResult) -> None:
    n = len(result.macrostate_names)
    if n > MAX_MACROSTATES:
        group.notes.append(f"The {MAX_MACROSTATES} most populated of {n} macrostates are shown.")
