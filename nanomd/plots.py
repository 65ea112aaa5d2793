"""Pictures of a validation for notebooks and papers: one function a picture, the code of the report behind all.

Every function draws into `ax`, or into a figure of its own where that is None, and returns the axes. Without `ax` the
figure is pyplot's, so that a notebook shows it; `axes.figure.savefig("mfpt.pdf")` keeps it in any format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike

from nanomd.base.checks import check_whole
from nanomd.base.errors import InputError
from nanomd.base.extras import needs
from nanomd.kinetics.macrostates import short_names
from nanomd.kinetics.results import ValidationResult
from nanomd.rare.paths import ReactivePaths
from nanomd.rare.result import RareEvents
from nanomd.report import draw_kinetics as draw
from nanomd.report.landscape import draw_surface, free_energy_surfaces, top_of_scale
from nanomd.report.plots_rare import draw_paths, draw_rare_event, draw_transition_times
from nanomd.report.style import look, source_styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "chapman_kolmogorov", "free_energy", "mfpt", "populations", "rare_event", "reactive_paths", "residence",
    "timescales", "transition_times",
]  # fmt: skip


def timescales(result: ValidationResult, ax: Axes | None = None, *, process: int = 1) -> Axes:
    """Draw the implied timescale of a process against the lag time, all sources.

    Parameters
    ----------
    result : ValidationResult
    ax : Axes, optional
    process : int
        The slowest is 1.
    """
    n = max(source.timescales.value.shape[-1] for source in result.sources.values())
    number = check_whole("process", process, 1, max(n, 1))
    with _axes(ax, 4.6, 3.4) as axes:
        draw.draw_timescales(axes, result, _styles(result), number - 1)
        _legend(axes)
    return axes


def mfpt(result: ValidationResult, ax: Axes | None = None, *, source: str | None = None) -> Axes:
    """Draw the mean first-passage times of a source against the reference's, with the band of a factor of 2.

    Parameters
    ----------
    result : ValidationResult
    ax : Axes, optional
    source : str, optional
        By default the rollout, or the first source beside the reference.
    """
    name = _source(result, source)
    with _axes(ax, 4.4, 4.2) as axes:
        draw.draw_mfpt(axes, result, _styles(result), name)
    return axes


def populations(result: ValidationResult, ax: Axes | None = None) -> Axes:
    """Draw the populations of the macrostates as bars with their intervals, all sources."""
    with _axes(ax, 5.4, 3.4) as axes:
        draw.draw_populations(axes, result, _styles(result))
        axes.set_ylim(top=1.25 * axes.get_ylim()[1])  # room for the legend, which would cover bars
        _legend(axes, loc="upper center", ncols=3)
    return axes


def chapman_kolmogorov(result: ValidationResult, ax: Axes | None = None, *, macrostate: int | str = 0) -> Axes:
    """Draw the probability to be in a macrostate again a lag later: counted, and as Markov models predict.

    Parameters
    ----------
    result : ValidationResult
    ax : Axes, optional
    macrostate : int or str
        Its number from 0, or its name, such as ``"A"`` or ``"folded"``.
    """
    state = _macrostate(result, macrostate)
    with _axes(ax, 4.6, 3.4) as axes:
        draw.draw_chapman_kolmogorov(axes, result, _styles(result), state)
        _legend(axes)
    return axes


def residence(result: ValidationResult, ax: Axes | None = None, *, macrostate: int | str = 0) -> Axes:
    """Draw the probability to stay in a macrostate longer than a time, all sources; see `chapman_kolmogorov`."""
    state = _macrostate(result, macrostate)
    with _axes(ax, 4.6, 3.4) as axes:
        draw.draw_residence(axes, result, _styles(result), state)
        _legend(axes)
    return axes


def free_energy(
    result: ValidationResult,
    coordinates: ArrayLike | Mapping[str, Any],
    ax: Axes | None = None,
    *,
    source: str | None = None,
    labels: Sequence[str] = ("coordinate 1", "coordinate 2"),
) -> Axes:
    """Draw the free-energy surface of a source over two coordinates, in kT above the reference's lowest point.

    Parameters
    ----------
    result : ValidationResult
    coordinates : array (n_states, 2), or mapping
        Where the states lie, such as two columns of `Tokenizer.state_coordinates`; or one of the other forms that
        `nanomd.report.landscape.free_energy_surfaces` takes.
    ax : Axes, optional
    source : str, optional
        By default the reference.
    labels : two str
        Of the axes, where `coordinates` does not hold any.
    """
    landscape = dict(coordinates) if isinstance(coordinates, Mapping) else {"centres": np.asarray(coordinates, float)}
    given = [str(label) for label in landscape.get("labels", labels)]
    if len(given) != 2:
        raise InputError(f"labels must be two strings, got {len(given)}")
    name = result.reference if source is None else source
    surfaces = free_energy_surfaces(landscape, result)
    if name not in surfaces:
        raise InputError(f"source must be one with trajectories, {', '.join(surfaces)}, got {source!r}")
    span = (0.0, top_of_scale(surfaces.values()))
    with _axes(ax, 4.8, 3.6) as axes:
        draw_surface(axes, surfaces[name], name, given, "viridis", span, "free energy (kT)")
    return axes


def rare_event(result: RareEvents, ax: Axes | None = None) -> Axes:
    """Draw how a rare event's rate came about: the flux so far of a weighted ensemble, or the levels of a splitting.

    Parameters
    ----------
    result : RareEvents
        What `Sampler.rare_event` returned.
    ax : Axes, optional
    """
    with _axes(ax, 5.2, 3.6) as axes:
        draw_rare_event(axes, result)
        _legend(axes)
    return axes


def reactive_paths(result: RareEvents, ax: Axes | None = None, *, n: int = 40, seed: int = 0) -> Axes:
    """Draw progress along passages from source to target, all of equal weight.

    Parameters
    ----------
    result : RareEvents
        Sampled with ``record=True``.
    ax : Axes, optional
    n, seed : int
        Passages, and what they are drawn from.
    """
    with _axes(ax, 5.2, 3.6) as axes:
        draw_paths(axes, result, check_whole("n", n, 1), seed)
        _legend(axes)
    return axes


def transition_times(paths: ReactivePaths, ax: Axes | None = None) -> Axes:
    """Draw how long a passage takes once it goes: the distribution with its intervals, and the mean.

    Parameters
    ----------
    paths : ReactivePaths
        What `RareEvents.paths` returned.
    ax : Axes, optional
    """
    with _axes(ax, 5.2, 3.6) as axes:
        draw_transition_times(axes, paths)
        _legend(axes)
    return axes


@contextmanager
def _axes(ax: Axes | None, width: float, height: float) -> Iterator[Axes]:
    """Yield axes to draw into, those given or new ones of so many inches, in the look of the report."""
    needs("a picture", "matplotlib")
    import matplotlib.pyplot as plt

    # Not within the look: the first figure of a notebook sets up how it shows figures, which the look would undo.
    figure = plt.figure(figsize=(width, height), layout="constrained") if ax is None else None
    with look():
        yield figure.subplots() if figure is not None else cast("Axes", ax)


def _legend(axes: Axes, **options: Any) -> None:
    handles, names = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles, names, fontsize="small", **options)


def _styles(result: ValidationResult) -> draw.Styles:
    return source_styles(list(result.sources), result.reference)


def _source(result: ValidationResult, source: str | None) -> str:
    others = [name for name in result.sources if name != result.reference]
    if source is None and others:
        return "GPT" if "GPT" in others else others[0]
    if source not in others:
        raise InputError(f"source must be one of {', '.join(others) or '(none)'}, got {source!r}")
    return str(source)


def _macrostate(result: ValidationResult, macrostate: int | str) -> int:
    if isinstance(macrostate, str):
        names = short_names(result.macrostate_names)
        if macrostate not in names:
            raise InputError(f"macrostate must be one of {', '.join(names)}, got {macrostate!r}")
        return names.index(macrostate)
    return check_whole("macrostate", macrostate, 0, len(result.macrostate_names) - 1)
