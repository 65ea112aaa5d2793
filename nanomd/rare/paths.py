"""How a rare event happens: its reactive trajectories, and what they say on average."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd.base.checks import check_whole
from nanomd.base.errors import InputError
from nanomd.base.units import FrameInterval
from nanomd.data.states import StateMap
from nanomd.kinetics.interval import Interval
from nanomd.rare.files import write_file
from nanomd.rare.passages import Passages
from nanomd.rare.statistics import student_quantile

FORMAT = "nanomd-paths"
FloatArray = NDArray[np.float64]
_DOMAIN = 0x70617468  # "path": apart from every other use of a seed


class Current(NamedTuple):
    """The steps of the passages between states.

    Parameters
    ----------
    origin, destination : (k,) int64
        Raw labels of every pair that a passage has stepped between.
    flux : Interval
        (k,), such steps per passage; times the rate it is the reactive current of transition path theory.
    """

    origin: NDArray[np.int64]
    destination: NDArray[np.int64]
    flux: Interval


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class ReactivePaths:
    """Passages from source to target, each from the last state in the source to the first in the target.

    They have weights, and those of one repetition are not independent: many share their first part. So intervals are
    from the scatter of the repetitions, by a jackknife.

    Parameters
    ----------
    passages : Passages
        Tokens and weights.
    n_repeats : int
        Independent repetitions.
    confidence : float
        Of the intervals.
    state_map : StateMap
    frame_interval : FrameInterval
        Of a step.
    """

    passages: Passages
    n_repeats: int
    confidence: float
    state_map: StateMap
    frame_interval: FrameInterval

    def __len__(self) -> int:
        return len(self.passages.length)

    def __repr__(self) -> str:
        if not len(self):
            return "ReactivePaths(none)"
        return f"ReactivePaths({len(self):,} of {self.effective_number:,.0f} effective; {self.summary})"

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        return iter(self.dtrajs)

    @property
    def tokens(self) -> list[NDArray[np.uint16]]:
        """The tokens of every path."""
        return np.split(self.passages.flat, np.cumsum(self.passages.length)[:-1]) if len(self) else []

    @property
    def dtrajs(self) -> list[NDArray[np.int64]]:
        """Raw labels of every path."""
        return [self.state_map.symbols[path] for path in self.tokens]

    @property
    def weights(self) -> FloatArray:
        """Of every path, (n,): what it gives to the rate of its repetition; their sum over all is n_repeats rates."""
        return self.passages.weight

    @property
    def effective_number(self) -> float:
        """How many paths of equal weight would scatter as much; an upper limit, as they are not independent."""
        total = self.weights.sum()
        return float(total**2 / np.square(self.weights).sum()) if total > 0 else 0.0

    # --- what they say -----------------------------------------------------------------------------------------------
    def mean(self, values: ArrayLike) -> Interval:
        """Return the mean of something over all passages that happen.

        Parameters
        ----------
        values : (n,) or (n, k)
            Of every path.

        Returns
        -------
        Interval
            Of shape () or (k,), with Student's interval from a jackknife over repetitions; NaN with fewer than two
            that hold passages.

        Raises
        ------
        InputError
            For another shape, or where there are no paths.
        """
        numbers = np.asarray(values, np.float64)
        if numbers.shape[:1] != (len(self),) or numbers.ndim > 2:
            raise InputError(f"values must be one a path, ({len(self)},) or ({len(self)}, k), got {numbers.shape}")
        if not len(self):
            raise InputError("there are no paths to take a mean of: the target was not reached")
        sums = np.zeros((self.n_repeats, *numbers.shape[1:]))
        np.add.at(sums, self.passages.repeat, (self.weights * numbers.T).T)
        return self._ratio(sums)

    def _ratio(self, sums: FloatArray) -> Interval:
        """Return the mean from weighted sums of each repetition, (n_repeats, ...)."""
        total = np.bincount(self.passages.repeat, self.weights, self.n_repeats)
        value = sums.sum(axis=0) / total.sum()
        if np.count_nonzero(total) < 2:
            return Interval.undefined(value)
        n = self.n_repeats
        without = ((sums.sum(axis=0) - sums).T / (total.sum() - total)).T
        error = np.sqrt((n - 1) / n * np.square(without - without.mean(axis=0)).sum(axis=0))
        half = student_quantile(self.confidence, n - 1) * error
        return Interval(value, value - half, value + half, error)

    @property
    def durations(self) -> NDArray[np.int64]:
        """Steps of every path, from the last state in the source to the first in the target, (n,)."""
        return self.passages.length - 1

    @property
    def duration(self) -> Interval:
        """Mean transition-path time, steps: how long a passage takes once it goes, not how long one waits for it."""
        return self.mean(self.durations)

    def duration_distribution(self, edges: ArrayLike) -> Interval:
        """Return the share of the passages whose time is in each bin, (k,).

        Parameters
        ----------
        edges : (k + 1,) rising numbers of steps
            Each bin holds its lower edge and not its upper.
        """
        bounds = np.asarray(edges, np.float64)
        if bounds.ndim != 1 or len(bounds) < 2 or not (np.diff(bounds) > 0).all():
            raise InputError("edges must be at least two rising numbers of steps")
        bins = np.searchsorted(bounds, self.durations, side="right") - 1
        return self.mean((bins[:, None] == np.arange(len(bounds) - 1)).astype(np.float64))

    def _visits(self, n_columns: int, column: NDArray[np.int64], inner: NDArray[np.bool_]) -> Interval:
        """Return how often a passage visits each of some columns on average; `column` is that of every token."""
        path = np.repeat(np.arange(len(self)), self.passages.length)[inner]
        place = self.passages.repeat[path] * n_columns + column[inner]
        sums = np.zeros(self.n_repeats * n_columns)
        np.add.at(sums, place, self.weights[path])
        return self._ratio(sums.reshape(self.n_repeats, n_columns))

    @property
    def density(self) -> Interval:
        """Visits of each state on a passage, (V,), in the order of ``state_map.symbols``, its two ends left out.

        Times the rate it is the reactive density of transition path theory: how probable it is to find the process in
        the state and on a passage.
        """
        self._need_some()
        ends = np.cumsum(self.passages.length)
        inner = np.ones(len(self.passages.flat), bool)
        inner[ends - 1] = inner[ends - self.passages.length] = False
        return self._visits(len(self.state_map.symbols), self.passages.flat.astype(np.int64), inner)

    @property
    def current(self) -> Current:
        """Steps between states on a passage, those that were seen; see `Current`."""
        self._need_some()
        flat, n = self.passages.flat.astype(np.int64), len(self.state_map.symbols)
        inner = np.ones(len(flat), bool)
        inner[np.cumsum(self.passages.length) - 1] = False
        pair = np.zeros(len(flat), np.int64)
        pair[:-1] = flat[:-1] * n + flat[1:]
        pairs, column = np.unique(pair[inner], return_inverse=True)
        columns = np.zeros(len(flat), np.int64)
        columns[inner] = column
        symbols = self.state_map.symbols
        return Current(symbols[pairs // n], symbols[pairs % n], self._visits(len(pairs), columns, inner))

    def _need_some(self) -> None:
        if not len(self):
            raise InputError("there are no paths: the target was not reached")

    @property
    def summary(self) -> str:
        """How long a passage takes, in a readable unit."""
        if not len(self):
            return "no passage"
        time = self.duration
        factor, unit = self.frame_interval.scale(float(time.value))
        value, *interval = f"{time.scaled(factor)}".split(" ", 1)
        return " ".join(["a passage takes", value, unit, *interval])

    # --- paths of equal weight, and files ----------------------------------------------------------------------------
    def draw(self, n: int, seed: int = 0) -> list[NDArray[np.int64]]:
        """Return n paths of equal weight, raw labels, drawn in proportion to their weights.

        Every path comes as often as its weight asks for, or once more; one of a large weight comes several times.
        """
        tokens = self.tokens
        return [self.state_map.symbols[tokens[k]] for k in self.choose(n, seed).tolist()]

    def choose(self, n: int, seed: int = 0) -> NDArray[np.int64]:
        """Return which paths `draw` draws, (n,)."""
        n = check_whole("n", n, 1, 1 << 30)
        self._need_some()
        random = np.random.Generator(np.random.Philox(key=[check_whole("seed", seed, 0, 2**63 - 1), _DOMAIN]))
        order = random.permutation(len(self))
        share = np.cumsum(self.weights[order] / self.weights.sum())
        places = np.searchsorted(share[:-1], (np.arange(n) + random.random()) / n, side="right")
        chosen: NDArray[np.int64] = random.permutation(order[places])
        return chosen

    def save(self, path: str | Path) -> None:
        """Write all paths to one .npz file.

        It holds ``states`` (raw labels, one path after another), ``length``, ``weight`` and ``repeat``.
        """
        header = {
            "format": FORMAT,
            "version": 1,
            "frame_interval": [self.frame_interval.value, self.frame_interval.unit],
        }
        states, own = self.state_map.symbols[self.passages.flat], self.passages
        write_file(
            Path(path), header, {"states": states, "length": own.length, "weight": own.weight, "repeat": own.repeat}
        )
