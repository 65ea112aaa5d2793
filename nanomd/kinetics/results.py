"""What a validation returns: values with confidence intervals and event counts, ready for tables, plots and JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError
from nanomd.base.units import FrameInterval

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

FORMAT_VERSION = 2  # of validation.json; 1 had no transition paths, no events of processes and no MFPT errors


@dataclass(frozen=True, slots=True)
class Interval:
    """Arrays of one shape: the estimate, and the ends of its confidence interval (NaN where undefined)."""

    value: FloatArray
    low: FloatArray
    high: FloatArray

    def __getitem__(self, index: Any) -> Interval:
        """Index the three arrays at once."""
        return Interval(np.asarray(self.value[index]), np.asarray(self.low[index]), np.asarray(self.high[index]))


def _nothing(*shape: int) -> Interval:
    """Return no numbers: an undefined interval of the shape."""
    return Interval(*(np.full(shape, np.nan) for _ in range(3)))


@dataclass(frozen=True, slots=True)
class MfptError:
    """How far the passage times of a source are from the reference's.

    Parameters
    ----------
    factor, low, high : float
        exp(mean |ln(other / reference)|) over all pairs that both have, at least 1; its interval, NaN where unknown.
    shift : float
        exp(mean ln(other / reference)): below 1, the source is too fast throughout.
    worst_pair : tuple of int, or a key; None without a pair
        From, to.
    worst_factor : float
        Of that pair.
    n_pairs, n_missing : int
        Pairs that both have, and pairs of the reference that the source lacks.
    """

    factor: float
    low: float
    high: float
    shift: float
    worst_pair: Any
    worst_factor: float
    n_pairs: int
    n_missing: int


@dataclass(frozen=True, slots=True)
class SourceKinetics:
    """Kinetics of one source of trajectories: the MD, a rollout, an MSM, a baseline. Times are in frames.

    n is the number of microstates, m of macrostates, l of lag times, k of timescales, t, c and p lengths of curves,
    q of quantiles (`nanomd.kinetics.paths.QUANTILES`). Fields with defaults are empty in files of format version 1.
    """

    name: str
    n_trajs: int
    n_frames: int
    populations: Interval  # (n,)
    macro_populations: Interval  # (m,)
    lagtimes: IntArray  # (l,)
    timescales: Interval  # (l, k), in the order of the reference's processes, slowest first
    mfpt: Interval  # (m, m), from row to column; NaN on the diagonal and where nothing was seen
    mfpt_events: IntArray  # (m, m), completed passages behind each mfpt
    residence: Interval  # (m,), mean residence
    residence_events: IntArray  # (m,)
    residence_times: IntArray  # (t,)
    residence_survival: FloatArray  # (m, t), probability to stay longer
    ck_lagtimes: IntArray  # (c,)
    ck_estimated: Interval  # (c, m), probability to be in a macrostate after a lag, given the start in it
    ck_predicted: FloatArray  # (c, m), the same from the MSM at the shortest of these lags
    unseen_fraction: float = math.nan  # share of generated steps whose transition the training data never show
    unseen_states: IntArray = field(default_factory=lambda: np.zeros((0,), np.int64))  # states never visited
    unseen: Interval = field(default_factory=lambda: _nothing())  # scalar: unseen_fraction with its interval
    unseen_events: int = 0  # steps with such a transition
    timescale_overlap: FloatArray = field(
        default_factory=lambda: np.zeros((0,))
    )  # (k,), cosine with the reference's process at lagtime
    timescale_events: IntArray = field(
        default_factory=lambda: np.zeros((0,), np.int64)
    )  # (k,), passages between the ends of the reference's process
    path_mean: Interval = field(
        default_factory=lambda: _nothing(0, 0)
    )  # (m, m), mean duration of transition paths between cores
    path_quantiles: Interval = field(default_factory=lambda: _nothing(0, 0, 0))  # (q, m, m)
    path_events: IntArray = field(
        default_factory=lambda: np.zeros(
            (
                0,
                0,
            ),
            np.int64,
        )
    )  # (m, m), paths
    path_times: IntArray = field(default_factory=lambda: np.zeros((0,), np.int64))  # (p,)
    path_longer: FloatArray = field(
        default_factory=lambda: np.zeros(
            (
                0,
                0,
                0,
            )
        )
    )  # (m, m, p), share of paths that take longer
    path_resolution: int = 1  # frames; paths of a Markov model are seen every lag time only


@dataclass(frozen=True, slots=True)
class Cell:
    """One number of the verdict table. `passed` is None for the reference itself and where nothing can be said."""

    value: float
    low: float
    high: float
    n_events: int | None = None
    passed: bool | None = None


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """One quantity: the MD (reference) beside every model. Times are in `unit`."""

    quantity: str
    unit: str
    cells: dict[str, Cell]  # by source name, the reference first


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """The outcome of `nanomd.validate`."""

    reference: str  # name of the reference source
    frame_interval: FrameInterval
    lagtime: int  # frames; lag of the MSMs behind macrostates and verdict
    macrostate_of_state: IntArray  # (n,), -1 for a microstate that the reference never visits
    macrostate_names: list[str]
    sources: dict[str, SourceKinetics]  # the reference first
    rows: list[VerdictRow]
    chain_length_over_slowest: dict[str, float]  # mean trajectory length over the slowest timescale of the reference
    confidence: float = 0.95
    warnings: list[str] = field(default_factory=list)
    core_of_state: IntArray = field(
        default_factory=lambda: np.zeros((0,), np.int64)
    )  # (n,), core of a macrostate, between which paths run; -1 for none
    processes: list[str] = field(default_factory=list)  # (k,), what the reference's slow processes are, in words
    mfpt_errors: dict[str, MfptError] = field(default_factory=dict)  # by source
    noise_floor: MfptError | None = None  # the same of the training MD against the reference
    format_version: int = FORMAT_VERSION

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers; NaN and infinity become None."""
        plain = _plain(dataclasses.asdict(self))
        assert isinstance(plain, dict)
        return plain

    def save(self, path: str | Path) -> None:
        """Write validation.json."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> ValidationResult:
        """Read what `save` wrote.

        Raises
        ------
        InputError
            If the file is no validation result.
        """
        try:
            value = json.loads(Path(path).read_text(encoding="utf-8"))
            version = value.pop("format_version", 1)
            if version not in range(1, FORMAT_VERSION + 1):
                raise ValueError(f"its format version is {version}, this nanomd reads 1 to {FORMAT_VERSION}")
            sources = {name: _source(fields) for name, fields in value["sources"].items()}
            rows = [
                VerdictRow(row["quantity"], row["unit"], {name: _cell(cell) for name, cell in row["cells"].items()})
                for row in value["rows"]
            ]
            return cls(
                **{
                    **value,
                    "frame_interval": FrameInterval(**value["frame_interval"]),
                    "macrostate_of_state": np.array(value["macrostate_of_state"], np.int64),
                    "sources": sources,
                    "rows": rows,
                    "chain_length_over_slowest": {k: _number(v) for k, v in value["chain_length_over_slowest"].items()},
                    "core_of_state": np.array(value.get("core_of_state", []), np.int64),
                    "mfpt_errors": {k: _mfpt_error(v) for k, v in value.get("mfpt_errors", {}).items()},
                    "noise_floor": _mfpt_error(value["noise_floor"]) if value.get("noise_floor") else None,
                }
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is not a validation result of nanomd ({error}); validate again") from None


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _cell(fields: dict[str, Any]) -> Cell:
    return Cell(**{**fields, **{key: _number(fields[key]) for key in ("value", "low", "high")}})


def _mfpt_error(fields: dict[str, Any]) -> MfptError:
    pair = fields["worst_pair"]
    numbers = {key: _number(fields[key]) for key in ("factor", "low", "high", "shift", "worst_factor")}
    return MfptError(**{**fields, **numbers, "worst_pair": tuple(pair) if isinstance(pair, list) else pair})


def _source(fields: dict[str, Any]) -> SourceKinetics:
    """Build a `SourceKinetics` from plain lists, None standing for NaN."""
    read: dict[str, Any] = {}
    for item in dataclasses.fields(SourceKinetics):
        if item.name not in fields and item.default_factory is not dataclasses.MISSING:
            continue  # a field that the file's version did not have
        if item.name not in fields and item.default is not dataclasses.MISSING:
            continue
        value = fields[item.name]
        match str(item.type):
            case "Interval":
                read[item.name] = Interval(
                    **{key: np.array(value[key], np.float64) for key in ("value", "low", "high")}
                )
            case "FloatArray":
                read[item.name] = np.array(value, np.float64)
            case "IntArray":
                read[item.name] = np.array(value, np.int64)
            case "float":
                read[item.name] = _number(value)
            case _:
                read[item.name] = value
    return SourceKinetics(**read)
