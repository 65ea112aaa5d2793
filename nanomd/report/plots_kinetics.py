"""Pictures of rates and relaxation: implied timescales, passage times, Chapman-Kolmogorov, residence."""

from __future__ import annotations

import numpy as np

from nanomd.kinetics.macrostates import short_names
from nanomd.kinetics.results import ValidationResult
from nanomd.report.draw_kinetics import (
    ALL_PAIRS,
    MAX_MACROSTATES,
    draw_chapman_kolmogorov,
    draw_mfpt,
    draw_residence,
    draw_timescales,
    pair_names,
    shown_macrostates,
)
from nanomd.report.drawing import FloatArray, finite_positive
from nanomd.report.figures import Group
from nanomd.report.plots_paths import passage_notes, process_notes
from nanomd.report.style import SourceStyle, add_legend, look, new_figure

MAX_TIMESCALES = 6


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
    for k in range(min(n_processes, MAX_TIMESCALES)):
        with look():
            figure, axes = new_figure(440, 310)
            draw_timescales(axes, result, styles, k)
            add_legend(figure, axes)
            value = (
                float(reference.timescales.value[0, k]) if reference.timescales.value.shape[-1] > k else float("nan")
            )
            said = (
                f"; {result.reference} at the shortest lag: {result.frame_interval.describe(value)}"
                if value > 0
                else ""
            )
            words = f"Implied timescale of process {k + 1} against lag time, all sources{said}."
            group.add(figure, words, name=f"process {k + 1}")
    return group


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
    x = finite_positive(reference.mfpt[rows, columns].value)
    for name, source in result.sources.items():
        if name == result.reference:
            continue
        error = mfpt_error(x, finite_positive(source.mfpt[rows, columns].value))
        if error is not None and not result.mfpt_errors:
            worst = f"{names[rows[error[1]]]}→{names[columns[error[1]]]}"
            group.notes.append(
                f"{name}: off by a factor of {error[0]:.3g} in the geometric mean over {error[2]} pairs, and of "
                f"{error[3]:.3g} for the worst, {worst}."
            )
        with look():
            figure, axes = new_figure(440, 440)
            left_out = draw_mfpt(axes, result, styles, name)
            words = f"Mean first-passage times of {name} against {result.reference}, logarithmic axes."
            group.add(figure, words, name=name)
        if left_out:
            group.notes.append(
                f"{name}: {left_out} of {len(rows)} ordered pairs have no completed passage in {result.reference} "
                f"or in {name}, and are not shown."
            )
    if len(rows) > ALL_PAIRS:
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
    for state in shown_macrostates(result):
        with look():
            figure, axes = new_figure(400, 290)
            draw_chapman_kolmogorov(axes, result, styles, state)
            add_legend(figure, axes)
            name = result.macrostate_names[state]
            words = f"Chapman-Kolmogorov test of macrostate {name}: probability against lag time."
            group.add(figure, words, name=short_names(result.macrostate_names)[state])
    _note_hidden(group, result)
    return group


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
        with look():
            figure, axes = new_figure(400, 290)
            draw_residence(axes, result, styles, state)
            add_legend(figure, axes)
            name = result.macrostate_names[state]
            words = f"Residence in macrostate {name}: probability to stay longer against time."
            group.add(figure, words, name=short_names(result.macrostate_names)[state])
    _note_hidden(group, result)
    return group


def _note_hidden(group: Group, result: ValidationResult) -> None:
    n = len(result.macrostate_names)
    if n > MAX_MACROSTATES:
        group.notes.append(f"The {MAX_MACROSTATES} most populated of {n} macrostates are shown.")
