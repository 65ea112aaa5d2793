"""Free energies on two coordinates: read what the caller has, make one surface per source, draw them on one scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError
from nanomd.kinetics.results import ValidationResult
from nanomd.report.figures import Group
from nanomd.report.style import look, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FloatArray = NDArray[np.float64]
_KEYS = ("samples", "xy", "states", "centres", "populations", "labels", "range", "bins")
_GRID = 160  # cells per side when microstates are drawn around their centres


@dataclass(frozen=True, slots=True)
class Surface:
    """Free energies in kT on a grid: shape (nx, ny), NaN where nothing was seen; edges of the cells along x and y."""

    values: FloatArray
    x_edges: FloatArray
    y_edges: FloatArray


def free_energy_surfaces(landscape: Mapping[str, Any], result: ValidationResult) -> dict[str, Surface]:
    """Turn coordinates into one surface per source, -ln of the probability of each cell or microstate.

    Parameters
    ----------
    landscape : mapping
        One of three forms, chosen by its keys:

        - ``samples``: {source name: (n, 2) array}, coordinates of each source, the reference among them;
        - ``xy`` (n, 2) and ``states`` (n,): coordinates of frames of the reference and their microstates 0..n_states-1
          (negative for none). A model's surface is that of the reference with every frame weighted by the ratio of the
          populations of its microstate;
        - ``centres`` (n_states, 2): centres of the microstates, each drawn as the region nearest to its centre.

        The last two take ``populations`` {source name: (n_states,)}, by default those of the sources in `result` that
        have trajectories. All forms take
        ``labels`` (two axis labels), ``range`` ((x0, x1), (y0, y1)) and ``bins`` (cells per side).
    result : ValidationResult
        Names of the sources, and populations of the microstates.

    Returns
    -------
    dict of str to Surface
        The reference first. Free energies share the reference's zero: its lowest value is 0.
    """
    unknown = sorted(set(landscape) - set(_KEYS))
    if unknown:
        raise InputError(f"landscape has no entry {', '.join(unknown)}; it knows {', '.join(_KEYS)}")
    if "samples" in landscape:
        samples = {str(name): _points(xy, f"landscape samples of {name}") for name, xy in landscape["samples"].items()}
        if result.reference not in samples:
            raise InputError(f"landscape samples must hold the reference {result.reference!r}, got {sorted(samples)}")
        weighted = {name: (xy, np.ones(len(xy))) for name, xy in samples.items()}
    elif "xy" in landscape:
        weighted = _reweighted(landscape, result)
    elif "centres" in landscape:
        return _shift(_microstate_surfaces(landscape, result), result.reference)
    else:
        raise InputError("landscape needs one of samples, xy (with states), or centres")
    reference_xy = weighted[result.reference][0]
    spans = _spans(landscape, np.concatenate([xy for xy, _ in weighted.values()]))
    bins = int(landscape.get("bins") or np.clip(np.sqrt(len(reference_xy)) / 4, 24, 72))
    surfaces = {}
    for name in _order(weighted, result.reference):
        xy, weights = weighted[name]
        counts, x_edges, y_edges = np.histogram2d(xy[:, 0], xy[:, 1], bins=bins, range=spans, weights=weights)
        surfaces[name] = Surface(_minus_log(counts / max(weights.sum(), 1e-300)), x_edges, y_edges)
    return _shift(surfaces, result.reference)


def plot_free_energy(landscape: Mapping[str, Any], result: ValidationResult) -> Group:
    """Draw the free-energy surface of the reference, of each model, and each difference."""
    surfaces = free_energy_surfaces(landscape, result)
    labels = [plain(str(label), 40) for label in landscape.get("labels", ("coordinate 1", "coordinate 2"))]
    if len(labels) != 2:
        raise InputError(f"landscape labels must be two strings, got {len(labels)}")
    reference = surfaces[result.reference]
    several = len(surfaces) > 2
    group = Group(
        "free_energy",
        "Free-energy surfaces",
        f"Free energy in units of kT: dark basins are populated, white was never visited. {result.reference} and "
        f"every model share one colour scale and one zero, the lowest point of {result.reference}. The difference "
        f"(model minus {result.reference}) is blue where the model is too stable and red where it visits too rarely; "
        "it is drawn where both have data, on a scale of its own that fits the largest differences.",
        columns=2 if several else 3,
    )
    if "xy" in landscape and "samples" not in landscape:
        group.notes.append(
            f"A model's surface is made of the frames of {result.reference}, each weighted by the ratio of the "
            "populations of its microstate in model and reference."
        )
    elif "centres" in landscape and "samples" not in landscape:
        group.notes.append("Each microstate fills the region nearest to its centre.")
    top = top_of_scale(surfaces.values())
    differences = {name: s.values - reference.values for name, s in surfaces.items() if name != result.reference}
    sizes = np.concatenate([np.zeros(1), *(np.abs(d[np.isfinite(d)]) for d in differences.values())])
    widest = float(np.clip(np.ceil(2 * np.quantile(sizes, 0.98)) / 2, 0.5, 4.0))  # one scale for all differences, too
    for name, surface in surfaces.items():
        alone = several and name == result.reference
        _draw(group, surface, name, labels, "viridis", (0.0, top), "free energy (kT)", alone)
        if name == result.reference:
            continue
        difference = Surface(differences[name], surface.x_edges, surface.y_edges)
        _draw(group, difference, f"{name} minus {result.reference}", labels, "RdBu_r", (-widest, widest), "kT")
    return group


def _draw(
    group: Group,
    surface: Surface,
    title: str,
    labels: list[str],
    colours: str,
    span: tuple[float, float],
    unit: str,
    alone: bool = False,
) -> None:
    with look():
        figure, axes = new_figure(400, 330, right=84)
        box = axes.get_position()
        scale = figure.add_axes((box.x1 + 0.025, box.y0, 0.035, box.height))
        draw_surface(axes, surface, title, labels, colours, span, unit, scale)
        group.add(figure, f"Free energy of {title} on {labels[0]} and {labels[1]}, {unit}.", alone, name=title)


def draw_surface(
    axes: Axes,
    surface: Surface,
    title: str,
    labels: Sequence[str],
    colours: str,
    span: tuple[float, float],
    unit: str,
    scale: Axes | None = None,
) -> None:
    """Draw a surface with its scale, in axes of its own or beside `axes`."""
    axes.set_title(plain(title, 40))
    axes.grid(visible=False)
    mesh = axes.pcolormesh(
        surface.x_edges, surface.y_edges, np.ma.masked_invalid(surface.values.T), cmap=colours, vmin=span[0],
        vmax=span[1], rasterized=True,
    )  # fmt: skip
    axes.set(xlabel=labels[0], ylabel=labels[1])
    figure = axes.get_figure()
    assert figure is not None
    bar = figure.colorbar(
        mesh, cax=scale, ax=None if scale is not None else axes, extend="both" if span[0] < 0 else "max"
    )
    bar.set_label(unit)
    bar.outline.set_visible(False)


def top_of_scale(surfaces: Iterable[Surface]) -> float:
    """Return the highest free energy of the colours, in kT: what all but 2 % of the cells lie below."""
    finite = np.concatenate([s.values[np.isfinite(s.values)] for s in surfaces])
    return float(np.ceil(np.clip(np.quantile(finite, 0.98), 3, 15))) if len(finite) else 3.0


def _points(xy: Any, name: str) -> FloatArray:
    array = np.asarray(xy, float)
    if array.ndim != 2 or array.shape[1] != 2 or not len(array):
        raise InputError(f"{name} must have the shape (n, 2) with n >= 1, got {array.shape}")
    if not np.isfinite(array).all():
        raise InputError(f"{name} must be finite; it holds {int((~np.isfinite(array)).sum())} NaN or infinite values")
    return array


def _populations(landscape: Mapping[str, Any], result: ValidationResult) -> dict[str, FloatArray]:
    given = landscape.get("populations")
    raw = given or {name: source.populations.value for name, source in result.sources.items() if source.n_trajs}
    populations = {str(name): np.nan_to_num(np.asarray(values, float)) for name, values in raw.items()}
    if result.reference not in populations:
        raise InputError(
            f"landscape populations must hold the reference {result.reference!r}, got {sorted(populations)}"
        )
    lengths = {len(values) for values in populations.values()}
    if len(lengths) != 1:
        raise InputError(f"landscape populations must have one length, got {sorted(lengths)}")
    return populations


def _reweighted(landscape: Mapping[str, Any], result: ValidationResult) -> dict[str, tuple[FloatArray, FloatArray]]:
    xy = _points(landscape["xy"], "landscape xy")
    states = np.asarray(landscape.get("states", ()))
    populations = _populations(landscape, result)
    n_states = len(populations[result.reference])
    if states.shape != (len(xy),) or not np.issubdtype(states.dtype, np.integer):
        raise InputError(f"landscape states must be {len(xy)} integers, one per frame of xy, got shape {states.shape}")
    if states.max() >= n_states:
        raise InputError(f"landscape states must be below the {n_states} microstates, got {states.max()}")
    xy, states = xy[states >= 0], states[states >= 0]
    # Weights relative to what these very frames hold, so that a subsample of the MD serves as well as all of it.
    counts = np.bincount(states, minlength=n_states)[states]
    return {name: (xy, values[states] / counts) for name, values in populations.items()}


def _microstate_surfaces(landscape: Mapping[str, Any], result: ValidationResult) -> dict[str, Surface]:
    from scipy.spatial import cKDTree

    centres = _points(landscape["centres"], "landscape centres")
    populations = _populations(landscape, result)
    if len(populations[result.reference]) != len(centres):
        n_states = len(populations[result.reference])
        raise InputError(f"landscape centres must be {n_states} points, one per microstate, got {len(centres)}")
    spans = _spans(landscape, centres)
    edges = [np.linspace(low, high, _GRID + 1) for low, high in spans]
    middles = [(edge[1:] + edge[:-1]) / 2 for edge in edges]
    grid = np.stack(np.meshgrid(*middles, indexing="ij"), axis=-1).reshape(-1, 2)
    widths = np.array([high - low for low, high in spans])
    tree = cKDTree(centres / widths)
    distance, nearest = tree.query(grid / widths)
    if len(centres) > 1:
        spacing = tree.query(centres / widths, k=2)[0][:, 1]
        far = distance > max(1.5 * float(np.median(spacing)), 0.02)
    else:
        far = np.zeros(len(grid), dtype=bool)
    surfaces = {}
    for name in _order(populations, result.reference):
        values = _minus_log(populations[name])[nearest]
        values[far] = np.nan
        surfaces[name] = Surface(values.reshape(_GRID, _GRID), edges[0], edges[1])
    return surfaces


def _spans(landscape: Mapping[str, Any], xy: FloatArray) -> list[tuple[float, float]]:
    if landscape.get("range") is not None:
        spans = [(float(low), float(high)) for low, high in landscape["range"]]
        if len(spans) != 2 or not all(low < high for low, high in spans):
            raise InputError(f"landscape range must be ((x0, x1), (y0, y1)) with x0 < x1 and y0 < y1, got {spans}")
        return spans
    spans = []
    for low, high in zip(xy.min(axis=0), xy.max(axis=0), strict=True):
        margin = 0.05 * (high - low) or 0.5
        spans.append((float(low - margin), float(high + margin)))
    return spans


def _order(values: Mapping[str, Any], reference: str) -> list[str]:
    return [reference, *(name for name in values if name != reference)]


def _minus_log(probability: FloatArray) -> FloatArray:
    out = np.full(probability.shape, np.nan)
    seen = probability > 0
    out[seen] = -np.log(probability[seen])
    return out


def _shift(surfaces: dict[str, Surface], reference: str) -> dict[str, Surface]:
    values = surfaces[reference].values
    lowest = float(np.nanmin(values)) if np.isfinite(values).any() else 0.0
    return {name: Surface(s.values - lowest, s.x_edges, s.y_edges) for name, s in surfaces.items()}
