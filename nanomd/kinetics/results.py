"""What a validation returns: values with confidence intervals and event counts, ready for tables, plots and JSON."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nanomd.base.codec import read_json
from nanomd.base.errors import InputError
from nanomd.base.files import write_atomic
from nanomd.base.plain import from_plain, to_plain
from nanomd.base.units import FrameInterval
from nanomd.kinetics.interval import Interval
from nanomd.kinetics.table import summary_text, verdict_html, verdict_text

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Of validation.json. 1 had no transition paths, no events of processes and no MFPT errors; 2 had no verdicts, nothing
# about states outside the connected set, and populations of the frames in macrostates alone.
FORMAT_VERSION = 3

Outcome = Literal["pass", "fail", "undecided"]


def _integers(*shape: int) -> IntArray:
    return np.zeros(shape, np.int64)


def _numbers(*shape: int) -> FloatArray:
    return np.full(shape, np.nan)


def _interval(*shape: int) -> Interval:
    return Interval.undefined(_numbers(*shape))


@dataclass(frozen=True, slots=True)
class MfptError:
    """How far the passage times of a source are from the reference's.

    Parameters
    ----------
    factor, low, high : float
        exp(mean |ln(other / reference)|) over all pairs, at least 1, and infinite where the source lacks one; its
        interval, NaN where unknown.
    shift : float
        exp(mean ln(other / reference)) over the pairs that both have: below 1, the source is too fast throughout.
    worst_pair : tuple of int, or a key; None without a pair
        From, to.
    worst_factor : float
        Of that pair.
    n_pairs, n_missing : int
        Pairs that both have, and pairs of the reference that the source lacks.
    scatter : float
        The factor that sampling alone may give, at the confidence of the interval; NaN where unknown.
    """

    factor: float
    low: float
    high: float
    shift: float
    worst_pair: Any
    worst_factor: float
    n_pairs: int
    n_missing: int
    scatter: float = math.nan

    def __post_init__(self) -> None:
        """Put back what JSON does not know: tuples and infinity."""
        if isinstance(self.worst_pair, list):
            object.__setattr__(self, "worst_pair", tuple(self.worst_pair))
        if self.n_missing:
            for name in ("factor", "low", "high", "worst_factor"):
                object.__setattr__(self, name, np.inf)


@dataclass(frozen=True, slots=True)
class SourceKinetics:
    """Kinetics of one source of trajectories: the MD, a rollout, an MSM, a baseline. Times are in frames.

    n is the number of microstates, m of macrostates, l of lag times, k of timescales, t, c and p lengths of curves,
    q of quantiles (`nanomd.kinetics.paths.QUANTILES`). Fields with defaults are empty in files of older formats.

    Parameters
    ----------
    name : str
    n_trajs, n_frames : int
        0 of a model that generates no trajectories.
    populations, macro_populations : Interval (n,), (m,)
        Shares of all frames whose state is known. Those of macrostates do not sum to one where states are in none.
    lagtimes : ndarray (l,)
    timescales : Interval (l, k)
        In the order of the reference's processes, slowest first.
    mfpt : Interval (m, m)
        From row to column; NaN on the diagonal and where nothing was seen.
    mfpt_events : ndarray (m, m)
        Completed passages behind each.
    residence, residence_events : Interval (m,), ndarray (m,)
        Mean residence times, and the exits behind them.
    residence_times, residence_survival : ndarray (t,), (m, t)
        Probability to stay longer than each of the times.
    ck_lagtimes, ck_estimated, ck_predicted : ndarray (c,), Interval (c, m), ndarray (c, m)
        Probability to be in a macrostate a lag after being in it: counted, and from a Markov model.
    unseen_fraction, unseen, unseen_events : float, Interval (), int
        Share and number of steps whose transition the training data never show.
    unseen_states : ndarray
        States never visited.
    timescale_overlap : ndarray (k,)
        Cosine with the reference's process at the lag of the validation.
    timescale_events : ndarray (k,)
        Passages between the ends of the reference's process.
    path_mean, path_quantiles, path_events : Interval (m, m), Interval (q, m, m), ndarray (m, m)
        Durations of transition paths between cores, and numbers of paths.
    path_times, path_longer : ndarray (p,), (m, m, p)
        Share of paths that take longer.
    path_resolution : int
        Frames; paths of a Markov model are seen every lag time only.
    outside, outside_entries : Interval (2,), ndarray (2,)
        Shares of frames outside the reference's largest connected set, and in states that it never visits; and how
        often trajectories enter them.
    seen_once : ndarray (2,)
        States that are visited in a single block, and the share of frames in them: what the reference may have missed.
    """

    name: str
    n_trajs: int
    n_frames: int
    populations: Interval
    macro_populations: Interval
    lagtimes: IntArray
    timescales: Interval
    mfpt: Interval
    mfpt_events: IntArray
    residence: Interval
    residence_events: IntArray
    residence_times: IntArray
    residence_survival: FloatArray
    ck_lagtimes: IntArray
    ck_estimated: Interval
    ck_predicted: FloatArray
    unseen_fraction: float = math.nan
    unseen_states: IntArray = field(default_factory=lambda: _integers(0))
    unseen: Interval = field(default_factory=lambda: _interval())
    unseen_events: int = 0
    timescale_overlap: FloatArray = field(default_factory=lambda: _numbers(0))
    timescale_events: IntArray = field(default_factory=lambda: _integers(0))
    path_mean: Interval = field(default_factory=lambda: _interval(0, 0))
    path_quantiles: Interval = field(default_factory=lambda: _interval(0, 0, 0))
    path_events: IntArray = field(default_factory=lambda: _integers(0, 0))
    path_times: IntArray = field(default_factory=lambda: _integers(0))
    path_longer: FloatArray = field(default_factory=lambda: _numbers(0, 0, 0))
    path_resolution: int = 1
    outside: Interval = field(default_factory=lambda: _interval(0))
    outside_entries: IntArray = field(default_factory=lambda: _integers(0))
    seen_once: FloatArray = field(default_factory=lambda: _numbers(2))


@dataclass(frozen=True, slots=True)
class Cell:
    """One number of the verdict table.

    Parameters
    ----------
    value, low, high : float
    n_events : int, optional
    passed : bool, optional
        None for the reference itself and where nothing can be said.
    undecided : bool
        Whether it was compared, and the data cannot tell; `passed` is None then.
    resolves : float
        The factor by which a model must be off to be told; NaN or infinite where none would.
    """

    value: float
    low: float
    high: float
    n_events: int | None = None
    passed: bool | None = None
    undecided: bool = False
    resolves: float = math.nan


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """One quantity: the MD (reference) beside every model. Times are in `unit`."""

    quantity: str
    unit: str
    cells: dict[str, Cell]  # by source name, the reference first


@dataclass(frozen=True, slots=True)
class SourceVerdict:
    """What is said of one source as a whole.

    Parameters
    ----------
    outcome : "pass", "fail" or "undecided"
    reasons : list of str
        Why, the weightiest first.
    n_passed, n_failed, n_undecided : int
        Quantities.
    resolves : float
        The factor by which passage times must be off, in the geometric mean, to be told from these; NaN where unknown.
    """

    outcome: Outcome
    reasons: list[str]
    n_passed: int
    n_failed: int
    n_undecided: int
    resolves: float = math.nan


@dataclass(frozen=True, slots=True, repr=False)
class ValidationResult:
    """The outcome of `nanomd.validate`; printed, it is the verdict as a table.

    Parameters
    ----------
    reference : str
        Name of the reference source.
    frame_interval : FrameInterval
    lagtime : int
        Frames; lag of the Markov models behind macrostates and verdict.
    macrostate_of_state : ndarray (n,)
        -1 for a microstate that the reference never visits.
    macrostate_names : list of str
    sources : dict of SourceKinetics
        The reference first.
    rows : list of VerdictRow
    chain_length_over_slowest : dict of float
        Mean trajectory length over the slowest timescale of the reference.
    confidence : float
    warnings : list of str
    core_of_state : ndarray (n,)
        Core of a macrostate, between which paths run; -1 for none.
    processes : list of str
        What the reference's slow processes are, in words.
    mfpt_errors : dict of MfptError
        By source.
    noise_floor : MfptError, optional
        The same of the training MD against the reference.
    verdicts : dict of SourceVerdict
        By source; see docs/kinetics.md for the rules.
    margin : float
        The factor within which numbers count as equal to the reference's.
    judged_by : str
        What the reference is, in words.
    state_symbols : ndarray (n,)
        The label of every state; 0, 1, ... by default.
    """

    reference: str
    frame_interval: FrameInterval
    lagtime: int
    macrostate_of_state: IntArray
    macrostate_names: list[str]
    sources: dict[str, SourceKinetics]
    rows: list[VerdictRow]
    chain_length_over_slowest: dict[str, float]
    confidence: float = 0.95
    warnings: list[str] = field(default_factory=list)
    core_of_state: IntArray = field(default_factory=lambda: _integers(0))
    processes: list[str] = field(default_factory=list)
    mfpt_errors: dict[str, MfptError] = field(default_factory=dict)
    noise_floor: MfptError | None = None
    verdicts: dict[str, SourceVerdict] = field(default_factory=dict)
    margin: float = math.nan
    judged_by: str = ""
    state_symbols: IntArray = field(default_factory=lambda: _integers(0))
    format_version: int = FORMAT_VERSION

    @property
    def verdict(self) -> Outcome:
        """Of the rollout, the source "GPT"; "undecided" without one."""
        found = self.verdicts.get("GPT")
        return found.outcome if found is not None else "undecided"

    def summary(self) -> str:
        """Return the verdict of every source in words, the rollout's first."""
        return summary_text(self)

    def __str__(self) -> str:
        return verdict_text(self)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}: {source.n_frames:,} frames" for name, source in self.sources.items())
        return (
            f"ValidationResult({self.verdict!r}: {len(self.rows)} quantities of {len(self.sources)} sources ({shown}))"
        )

    def _repr_html_(self) -> str:
        return verdict_html(self)

    def to_dataframe(self) -> Any:
        """Return the table as a pandas DataFrame, a row for each quantity of each source.

        Returns
        -------
        DataFrame
            Columns quantity, unit, source, value, low, high, n (events; missing for what is computed), verdict ("pass",
            "fail", "undecided", or empty where nothing is compared), resolves.

        Raises
        ------
        MissingExtraError
            Where pandas is not installed.
        """
        from nanomd.kinetics.tidy import to_dataframe

        return to_dataframe(self)

    def to_xarray(self) -> Any:
        """Return everything that has dimensions as an xarray Dataset, times in the unit of `frame_interval`.

        Returns
        -------
        Dataset
            Dimensions source, state, macrostate, to, lagtime, process, ..., and bound ("value", "low", "high") of what
            has an interval.

        Raises
        ------
        MissingExtraError
            Where xarray is not installed.
        """
        from nanomd.kinetics.tidy import to_xarray

        return to_xarray(self)

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers; NaN and infinity become None."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    def save(self, path: str | Path) -> None:
        """Write validation.json, whole or not at all."""
        write_atomic(path, json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> ValidationResult:
        """Read what `save` wrote, of this version or an older one.

        Raises
        ------
        InputError
            If the file is no validation result, naming what is wrong.
        """
        try:
            value = read_json(path, dict[str, Any])
            version = value.pop("format_version", 1)
            if version not in range(1, FORMAT_VERSION + 1):
                raise ValueError(f"its format version is {version}, this nanomd reads 1 to {FORMAT_VERSION}")
            return from_plain(value, cls)
        except (ValueError, OSError) as error:
            raise InputError(f"{path} is not a validation result of nanomd ({error}); validate again") from None
