"""The result of a validation as a table for pandas, and as arrays with named dimensions for xarray.

Both libraries are imported when they are asked for; nanomd itself needs neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nanomd.base.extras import needs
from nanomd.kinetics.interval import Interval
from nanomd.kinetics.macrostates import short_names
from nanomd.kinetics.paths import QUANTILES

if TYPE_CHECKING:
    from nanomd.kinetics.results import Cell, ValidationResult


def verdict_word(cell: Cell) -> str:
    """Return "pass", "fail", "undecided", or "" where nothing was compared."""
    return "undecided" if cell.undecided else {True: "pass", False: "fail", None: ""}[cell.passed]


def to_dataframe(result: ValidationResult) -> Any:
    """See `ValidationResult.to_dataframe`."""
    needs("to_dataframe", "pandas")
    import pandas as pd

    rows = [
        {
            "quantity": row.quantity,
            "unit": row.unit,
            "source": name,
            "value": cell.value,
            "low": cell.low,
            "high": cell.high,
            "n": cell.n_events,
            "verdict": verdict_word(cell),
            "resolves": cell.resolves,
        }
        for row in result.rows
        for name, cell in row.cells.items()
    ]
    columns = ["quantity", "unit", "source", "value", "low", "high", "n", "verdict", "resolves"]
    return pd.DataFrame(rows, columns=columns).astype({"n": "Int64"})


# Field of `SourceKinetics` -> dimensions of its arrays; "source" comes before them, "bound" after those of an interval.
_DIMENSIONS: dict[str, tuple[str, ...]] = {
    "populations": ("state",),
    "macro_populations": ("macrostate",),
    "timescales": ("lagtime", "process"),
    "mfpt": ("macrostate", "to"),
    "mfpt_events": ("macrostate", "to"),
    "residence": ("macrostate",),
    "residence_events": ("macrostate",),
    "residence_survival": ("macrostate", "residence_time"),
    "ck_estimated": ("ck_lagtime", "macrostate"),
    "ck_predicted": ("ck_lagtime", "macrostate"),
    "path_mean": ("macrostate", "to"),
    "path_quantiles": ("quantile", "macrostate", "to"),
    "path_events": ("macrostate", "to"),
    "path_longer": ("macrostate", "to", "path_time"),
}
_TIMES = ("timescales", "mfpt", "residence", "path_mean", "path_quantiles")


def to_xarray(result: ValidationResult) -> Any:
    """See `ValidationResult.to_xarray`."""
    needs("to_xarray", "xarray")
    import xarray as xr

    sources, frame = list(result.sources.values()), result.frame_interval.value
    reference = result.sources[result.reference]
    names = short_names(result.macrostate_names)
    n_states = len(reference.populations.value)
    labels = result.state_symbols if len(result.state_symbols) == n_states else np.arange(n_states)
    coordinates: dict[str, Any] = {
        "source": [source.name for source in sources],
        "state": labels,
        "macrostate": names,
        "to": names,
        "process": np.arange(1, reference.timescales.value.shape[-1] + 1),
        "lagtime": reference.lagtimes * frame,
        "ck_lagtime": reference.ck_lagtimes * frame,
        "residence_time": reference.residence_times * frame,
        "path_time": reference.path_times * frame,
        "quantile": list(QUANTILES[: len(reference.path_quantiles.value)]),
        "bound": ["value", "low", "high"],
    }
    variables: dict[str, Any] = {}
    for field, dimensions in _DIMENSIONS.items():
        found = [getattr(source, field) for source in sources]
        shape = np.shape(found[0])
        if shape != tuple(len(coordinates[name]) for name in dimensions) or any(np.shape(x) != shape for x in found):
            continue  # of an older format
        attributes = {"units": result.frame_interval.unit} if field in _TIMES else {}
        scale = frame if field in _TIMES else 1
        if isinstance(found[0], Interval):
            values = np.stack([np.stack([x.value, x.low, x.high], axis=-1) for x in found]) * scale
            variables[field] = (("source", *dimensions, "bound"), values, attributes)
        else:
            variables[field] = (("source", *dimensions), np.stack([np.asarray(x) for x in found]), attributes)
    used = {name for dims, *_ in variables.values() for name in dims}
    dataset = xr.Dataset(variables, {name: values for name, values in coordinates.items() if name in used})
    for name in used & {"lagtime", "ck_lagtime", "residence_time", "path_time"}:
        dataset[name].attrs["units"] = result.frame_interval.unit
    dataset.attrs = {"reference": result.reference, "confidence": result.confidence, "verdict": result.verdict}
    return dataset
