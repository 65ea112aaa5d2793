"""What the functions of `nanomd.interpret` return: plain arrays with intervals, ready for pictures and JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nanomd.base.codec import read_json
from nanomd.base.errors import InputError
from nanomd.base.files import write_atomic
from nanomd.base.plain import from_plain, to_plain
from nanomd.kinetics.interval import Interval

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

FORMAT, FORMAT_VERSION = "nanomd-interpretation", 1


@dataclass(frozen=True, slots=True)
class _Saved:
    """JSON in and out; NaN is null."""

    def save(self, path: str | Path) -> None:
        """Write a JSON file, whole or not at all."""
        head = {"format": FORMAT, "format_version": FORMAT_VERSION, "kind": type(self).__name__}
        write_atomic(path, json.dumps(head | to_plain(self, digits=8), allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        InputError
            If the file is no such result.
        """
        try:
            value = read_json(path, dict[str, Any])
            head = (value.pop("format"), value.pop("format_version"), value.pop("kind"))
            if head != (FORMAT, FORMAT_VERSION, cls.__name__):
                raise ValueError(f"it is {head}")
            return from_plain(value, cls)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{path} is not a {cls.__name__} of nanomd ({error}); interpret again") from None


@dataclass(frozen=True, slots=True)
class AttentionByLag(_Saved):
    """Mean attention weight by layer, head and lag.

    Parameters
    ----------
    lags : int64 (k,)
        Frames between query and key, 0 the present one.
    mean : Interval (L, n_head, k)
        Mean weight; sums to 1 over all lags.
    n_windows, n_queries : int
        Windows, and queries averaged in each.
    window_length : int
        Frames of a window.
    maps : float64 (m, L, n_head, T, T)
        Weights of some windows, rows of queries.
    map_labels : int64 (m, T)
        Raw labels of these windows.
    """

    lags: IntArray
    mean: Interval
    n_windows: int
    n_queries: int
    window_length: int
    confidence: float
    maps: FloatArray = field(default_factory=lambda: np.zeros((0, 0, 0, 0, 0)))
    map_labels: IntArray = field(default_factory=lambda: np.zeros((0, 0), np.int64))


@dataclass(frozen=True, slots=True)
class CausalTracing(_Saved):
    """Average indirect effects on the probability of the observed next state; lags count back from the present frame.

    Parameters
    ----------
    lags : int64 (k,)
        Frames restored, and corrupted alone.
    clean, corrupted : Interval ()
        Mean probability of the observed next state, intact and with all chosen frames corrupted.
    residual : Interval (L + 1, k)
        Mean gain over `corrupted` when the residual stream is restored at one frame; row 0 is the embedding.
    attention, mlp : Interval (L, k)
        The same for what a sublayer adds.
    markov : Interval ()
        The same for the present state's row of the Markov head; NaN without one.
    single : Interval (k,)
        Mean loss against `clean` when only this frame is corrupted.
    noise : float
        Standard deviation of the noise over that of the embeddings.
    corrupted_lags : int64
        Which frames were corrupted together.
    draw_std : float
        Standard deviation between draws of the noise of `clean` - `corrupted`, averaged over windows.
    """

    lags: IntArray
    clean: Interval
    corrupted: Interval
    residual: Interval
    attention: Interval
    mlp: Interval
    markov: Interval
    single: Interval
    noise: float
    corrupted_lags: IntArray
    n_windows: int
    n_draws: int
    draw_std: float
    window_length: int
    changes_only: bool
    confidence: float


@dataclass(frozen=True, slots=True)
class MemoryLength(_Saved):
    """Likelihood of the next state against the number of frames that the model sees.

    Parameters
    ----------
    contexts : int64 (c,)
        Frames seen, 1 the present one alone.
    log_likelihood : Interval (c,)
        Nats per frame.
    loss : Interval (c,)
        Nats per frame below the best context, of the same targets: its interval is that of the difference.
    tolerance : float
        Nats per frame.
    frames : int
        The memory length: the shortest context with a loss of at most the tolerance.
    low, high : int
        The same for the lower and the upper ends of the losses.
    markov : Interval ()
        Nats per frame of the lag-1 Markov model of the training data on the same targets; NaN where not asked for.
    """

    contexts: IntArray
    log_likelihood: Interval
    loss: Interval
    tolerance: float
    frames: int
    low: int
    high: int
    markov: Interval
    n_windows: int
    confidence: float


@dataclass(frozen=True, slots=True)
class KineticDistances(_Saved):
    """Distances between states in the learnt embedding, beside those of a Markov model.

    Parameters
    ----------
    states : int64 (n,)
        Raw labels of the compared states, those of the Markov model's connected set.
    embedding, kinetic, commute : float64 (n, n)
        Distances: in the embedding; of the Markov model at its lag time; and commute distances.
    correlation : Interval (2,)
        Spearman's rank correlation over pairs of states of `embedding` with `kinetic` and with `commute`.
    p_value : float64 (2,)
        Share of random relabellings of the states with at least this correlation.
    of, metric : str
        Which vectors were compared, and how.
    lagtime : int
        Frames, of the Markov model.
    """

    states: IntArray
    embedding: FloatArray
    kinetic: FloatArray
    commute: FloatArray
    correlation: Interval
    p_value: FloatArray
    of: str
    metric: str
    lagtime: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Interpretation:
    """All of it, as `interpret_model` returns it."""

    attention: AttentionByLag
    tracing: CausalTracing
    memory: MemoryLength
    distances: KineticDistances

    def save(self, folder: str | Path) -> None:
        """Write attention.json, tracing.json, memory.json and distances.json into a folder, made if missing."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for item in dataclasses.fields(self):
            getattr(self, item.name).save(folder / f"{item.name}.json")

    @classmethod
    def load(cls, folder: str | Path) -> Interpretation:
        """Read what `save` wrote."""
        folder = Path(folder)
        return cls(
            AttentionByLag.load(folder / "attention.json"),
            CausalTracing.load(folder / "tracing.json"),
            MemoryLength.load(folder / "memory.json"),
            KineticDistances.load(folder / "distances.json"),
        )
