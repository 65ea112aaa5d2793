"""What rare-event sampling returns: the rate with its interval, what it cost, and all that it was made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd.base.errors import InputError, StoreError
from nanomd.base.extras import needs
from nanomd.base.units import FrameInterval
from nanomd.data.states import StateMap
from nanomd.kinetics.interval import Interval
from nanomd.rare.files import read_file, write_file
from nanomd.rare.passages import Passages, passages_of_segments
from nanomd.rare.paths import ReactivePaths
from nanomd.rare.segments import Segments
from nanomd.rare.statistics import mean_of_repeats, student_quantile

FORMAT = "nanomd-rare"
_ARRAYS = {  # name -> number of dimensions
    "source": 1, "target": 1, "rates": 1, "symbols": 1, "progress": 1, "populations": 2, "fluxes": 2, "levels": 2,
    "exit_fluxes": 1,
}  # fmt: skip
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class RareEvents:
    """The rate from a source to a target, and the process that was sampled for it.

    The process runs from the source until it reaches the target, is put back into the source at once, and so on; its
    rate is the number of arrivals a step, and the mean first passage time its inverse, exactly.

    Parameters
    ----------
    method : str
        ``"weighted_ensemble"`` or ``"splitting"``.
    source, target : int64 arrays
        Raw labels.
    rates : (n_repeats,) float64
        Arrivals a step, of each independent repetition.
    confidence : float
        Of the intervals.
    steps : int
        Everything that went through the model: also burn-in, the source, the progress, and caches filled again.
    seconds : float
    backend : str
    frame_interval : FrameInterval
        Of a step.
    frame_stride : int
        Frames of the data a step.
    state_map : StateMap
    progress : (V,) float64
        Of every state: what was given, or ln of the committor of a Markov model of the model's states.
    populations : (n_repeats, V) float64
        Share of its time that the process spends in each state; rows sum to one.
    fluxes : (n_iterations, n_repeats) float64
        Weight that reached the target in each iteration of a weighted ensemble, a step.
    levels : (n, 3) float64
        Of splitting: repetition, level of progress, and the share of those that left the source that went beyond it.
    exit_fluxes : (n_repeats,) float64
        Of splitting: how often the source is left, a step.
    arrivals : int
        Walkers (distinct, not independent) or particles that reached the target and count.
    settings : dict
        What was asked for.
    segments : Segments, optional
        What every walker of a weighted ensemble did, if it was recorded.
    passages : Passages, optional
        The trajectories of a splitting that reached the target, if they were recorded.
    """

    method: str
    source: NDArray[np.int64]
    target: NDArray[np.int64]
    rates: FloatArray
    confidence: float
    steps: int
    seconds: float
    backend: str
    frame_interval: FrameInterval
    frame_stride: int
    state_map: StateMap
    progress: FloatArray
    populations: FloatArray
    fluxes: FloatArray
    levels: FloatArray
    exit_fluxes: FloatArray
    arrivals: int
    settings: dict[str, Any] = field(default_factory=dict)
    segments: Segments | None = None
    passages: Passages | None = None

    # --- the numbers -------------------------------------------------------------------------------------------------
    @property
    def n_repeats(self) -> int:
        """Independent repetitions."""
        return len(self.rates)

    @property
    def rate(self) -> Interval:
        """Arrivals a step: the mean of the repetitions, Student's interval of its logarithm."""
        return mean_of_repeats(self.rates, self.confidence)

    @property
    def mfpt(self) -> Interval:
        """Mean first passage time from source to target, steps."""
        rate = self.rate
        with np.errstate(divide="ignore"):
            return Interval(1 / rate.value, 1 / rate.high, 1 / rate.low, rate.error)

    @property
    def mfpt_frames(self) -> Interval:
        """The same in frames of the data."""
        return self.mfpt.scaled(self.frame_stride)

    @property
    def mfpt_time(self) -> str:
        """The same in a readable unit of time, such as ``"1.3 ms [1.1, 1.6]"``."""
        mfpt = self.mfpt
        if not np.isfinite(mfpt.value):
            return "not reached"
        factor, unit = self.frame_interval.scale(float(mfpt.value))
        value, *interval = f"{mfpt.scaled(factor)}".split(" ", 1)
        return " ".join([value, unit, *interval])

    @property
    def relative_error(self) -> float:
        """Standard error of the rate over the rate; NaN with a single repetition."""
        return float(self.rate.error)

    @property
    def brute_force_steps(self) -> float:
        """Steps of ordinary rollouts for the same relative error: that of n events is 1 / sqrt(n)."""
        return float(self.mfpt.value) / self.relative_error**2 if self.relative_error > 0 else np.nan

    @property
    def gain(self) -> float:
        """How many times more steps ordinary rollouts would take for the same error."""
        return self.brute_force_steps / self.steps

    def expectation(self, values: ArrayLike) -> Interval:
        """Return the mean of an observable over the process: over all that last was in the source.

        Parameters
        ----------
        values : (V,) or (V, k)
            Of the states, in the order of ``state_map.symbols``.

        Returns
        -------
        Interval
            Of shape () or (k,), with Student's interval of the mean over repetitions.
        """
        observable = np.asarray(values, np.float64)
        if observable.shape[:1] != self.progress.shape or not np.isfinite(observable).all():
            raise InputError(
                f"values must be finite, one for each of the {len(self.progress)} states, got shape {observable.shape}"
            )
        means = self.populations @ observable
        mean = means.mean(axis=0)
        if self.n_repeats < 2:
            return Interval.undefined(mean)
        half = student_quantile(self.confidence, self.n_repeats - 1) * means.std(axis=0, ddof=1) / self.n_repeats**0.5
        return Interval(mean, mean - half, mean + half)

    @property
    def drift(self) -> float:
        """Of a weighted ensemble: how the flux changes from the first to the second half of what counts.

        In standard errors of the difference, from the scatter of the repetitions.
        """
        burn_in = int(self.settings.get("burn_in", 0))
        counted = self.fluxes[burn_in:]
        if len(counted) < 2 or self.n_repeats < 2:
            return np.nan
        half = len(counted) // 2
        change = counted[half:].mean(axis=0) - counted[:half].mean(axis=0)
        error = float(change.std(ddof=1)) / self.n_repeats**0.5
        return float(change.mean()) / error if error > 0 else np.nan

    @property
    def largest_share(self) -> float:
        """The part of the rate that a single repetition contributes; 1 / n_repeats where all agree.

        A large one says that the rate comes by few large contributions, such as jumps over all levels of progress, of
        which the interval cannot know how many it has missed.
        """
        total = self.rates.sum()
        return float(self.rates.max() / total) if total > 0 else np.nan

    # --- how it happens ----------------------------------------------------------------------------------------------
    def paths(self) -> ReactivePaths:
        """Return the passages from source to target, with their weights; see `ReactivePaths`.

        Those of a weighted ensemble are traced back from every arrival that counts.

        Raises
        ------
        InputError
            If nothing was recorded.
        """
        passages = self.passages
        if self.segments is not None:
            inside = np.isin(self.state_map.symbols, self.source)
            passages = passages_of_segments(self.segments, inside, int(self.settings["burn_in"]), self.n_repeats)
        if passages is None:
            raise InputError("the paths were not recorded; sample with record=True (the command: --paths)")
        return ReactivePaths(passages, self.n_repeats, self.confidence, self.state_map, self.frame_interval)

    def save_west(self, path: str | Path) -> Path:
        """Write a weighted ensemble in the layout of WESTPA 2's west.h5; see `nanomd.rare.west`.

        Parameters
        ----------
        path : path
            Of the file, which takes the place of an older one.

        Raises
        ------
        InputError
            If the segments were not recorded, or for another method.
        MissingExtraError
            Without h5py.
        """
        from nanomd.rare.west import write_west

        return write_west(self, Path(path))

    # --- in words ----------------------------------------------------------------------------------------------------
    def __repr__(self) -> str:
        return f"RareEvents({self.summary})"

    @property
    def summary(self) -> str:
        """The result in two lines."""
        sets = [
            ", ".join(map(str, some[:4].tolist())) + ", ..." * (len(some) > 4) for some in (self.source, self.target)
        ]
        text = f"{self.method.replace('_', ' ')}, {sets[0]} -> {sets[1]}: "
        if not self.rate.value > 0:
            return f"{text}not reached in {self.steps:,} steps"
        text += f"{self.rate} a step, mean first passage {self.mfpt_time}"
        cost = f"{self.n_repeats} repetitions, {self.arrivals:,} arrivals, {self.steps:,} steps in {self.seconds:.1f} s"
        gain = f"; rollouts would need {self.gain:,.3g} times as many for the same error" if self.gain > 0 else ""
        return f"{text}\n  {cost}{gain}"

    # --- tables and files --------------------------------------------------------------------------------------------
    def to_dataframe(self) -> Any:
        """Return a pandas table.

        A row for each iteration and repetition of a weighted ensemble (iteration, steps, repeat, flux, counted), or for
        each level and repetition of splitting (repeat, level, probability).
        """
        needs("to_dataframe", "pandas")
        import pandas as pd

        if self.method == "splitting":
            table = pd.DataFrame(self.levels, columns=["repeat", "level", "probability"])
            return table.astype({"repeat": np.int64})
        iteration, repeat = (x.ravel() for x in np.indices(self.fluxes.shape))
        return pd.DataFrame(
            {
                "iteration": iteration + 1,
                "steps": (iteration + 1) * int(self.settings.get("tau", 1)),
                "repeat": repeat,
                "flux": self.fluxes.ravel(),
                "counted": iteration >= int(self.settings.get("burn_in", 0)),
            }
        )

    def save(self, path: str | Path) -> None:
        """Write everything to one .npz file."""
        header = {
            "format": FORMAT, "version": 1, "method": self.method, "confidence": self.confidence, "steps": self.steps,
            "seconds": self.seconds, "backend": self.backend, "settings": self.settings, "arrivals": self.arrivals,
            "frame_interval": [self.frame_interval.value, self.frame_interval.unit], "frame_stride": self.frame_stride,
        }  # fmt: skip
        arrays = {name: getattr(self, name) for name in _ARRAYS if name != "symbols"}
        for recorded in (self.segments, self.passages):
            arrays |= {} if recorded is None else recorded.arrays()
        write_file(Path(path), header, {**arrays, "symbols": self.state_map.symbols})

    @classmethod
    def load(cls, path: str | Path) -> RareEvents:
        """Read what `save` wrote.

        Raises
        ------
        StoreError
            If the file is damaged or something else.
        """
        header, arrays = read_file(Path(path))
        recorded = {name: arrays.pop(name) for name in sorted(set(arrays) - set(_ARRAYS)) if name.startswith(_RECORDED)}
        if header.get("format") != FORMAT or set(arrays) != set(_ARRAYS):
            raise StoreError(f"{path} is no result of rare-event sampling")
        for name, array in arrays.items():
            kind = "i" if name in ("source", "target", "symbols") else "f"
            if array.ndim != _ARRAYS[name] or array.dtype != np.dtype(f"{kind}8"):
                raise StoreError(f"{path} is damaged: {name} has the wrong type or shape")
        n_repeats, n_states = len(arrays["rates"]), len(arrays["symbols"])
        fits = arrays["populations"].shape == (n_repeats, n_states) and arrays["progress"].shape == (n_states,)
        if not (
            fits and n_repeats and arrays["fluxes"].shape[1:] == (n_repeats,) and arrays["levels"].shape[1:] == (3,)
        ):
            raise StoreError(f"{path} is damaged: its arrays do not fit together")
        try:
            value, unit = header.pop("frame_interval")
            header = {name: header[name] for name in _HEADER}
            symbols = StateMap(arrays.pop("symbols"))
            fields: dict[str, Any] = {**header, **arrays}
            if any(name.startswith("segment_") for name in recorded):
                fields["segments"] = segments = Segments.read(recorded, n_states, str(path))
                fluxes, burn_in = arrays["fluxes"], int(header["settings"]["burn_in"])
                same = len(segments.n_walkers) == len(fluxes) > burn_in >= 0
                if not same or not np.allclose(segments.fluxes(n_repeats), fluxes, rtol=1e-9, atol=0):
                    raise StoreError(f"{path} is damaged: its segments do not give its fluxes")
            if any(name.startswith("passage_") for name in recorded):
                fields["passages"] = Passages.read(recorded, n_states, n_repeats, str(path))
            return cls(**fields, state_map=symbols, frame_interval=FrameInterval(value, unit))
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{path} is damaged: {error}") from None


_RECORDED = ("segment_", "passage_")
_HEADER = ("method", "confidence", "steps", "seconds", "backend", "settings", "arrivals", "frame_stride")
