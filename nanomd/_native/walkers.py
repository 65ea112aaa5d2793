"""Walkers of rare-event sampling: trajectories that are copied, and stop one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd._native.core import CORE, core_errors
from nanomd._native.engine import NativeEngine

Whole = NDArray[np.uint64]


class Histories(NamedTuple):
    """What walkers go on from.

    Parameters
    ----------
    tokens : sequence of (n,) uint16
        The latest tokens of each.
    n_before : (n_walkers,) uint64
        Tokens before those.
    """

    tokens: Sequence[NDArray[np.uint16]]
    n_before: Whole

    def take(self, index: ArrayLike) -> Histories:
        """Return those of some walkers."""
        rows = np.asarray(index, np.int64)
        return Histories([self.tokens[row] for row in rows.tolist()], self.n_before[rows])

    @property
    def last(self) -> NDArray[np.uint16]:
        """The present tokens, (n_walkers,)."""
        return np.array([history[-1] for history in self.tokens], np.uint16)


class NativeWalkers:
    """Trajectories of one model, of which each stands at a position of its own.

    What a walker draws is what a rollout draws with the same history, position, stream and steps, bit for bit.

    Parameters
    ----------
    engine : NativeEngine
        Of the CPU.
    mode, hop_keep, seed, temperature, n_threads :
        As for `NativeEngine.open`.

    Raises
    ------
    BackendUnavailableError
        For an engine that has no walkers.
    """

    def __init__(
        self, engine: NativeEngine, *, mode: str, hop_keep: int, seed: int, temperature: float, n_threads: int
    ) -> None:
        self._n_states = engine.n_states
        with core_errors():
            self._walkers = CORE.Walkers(engine._engine, mode, hop_keep, seed, temperature, n_threads)

    def __len__(self) -> int:
        return len(self._walkers)

    def resize(self, n: int) -> None:
        """Keep the first n walkers; new ones wait to be placed."""
        self._walkers.resize(n)

    def place(self, walkers: ArrayLike, histories: Histories) -> int:
        """Give some walkers a history; return how many tokens were fed to fill their caches."""
        lengths = np.array([len(tokens) for tokens in histories.tokens], np.uint64)
        flat = np.concatenate([np.zeros(0, np.uint16), *histories.tokens]).astype(np.uint16, copy=False)
        index, before = np.asarray(walkers).astype(np.uint64), np.ascontiguousarray(histories.n_before, np.uint64)
        with core_errors():
            return int(self._walkers.place(index, flat, lengths, before))

    def select(self, parents: ArrayLike) -> None:
        """Make walker i a copy of the present walker ``parents[i]``; who is nobody's parent ends."""
        with core_errors():
            self._walkers.select(np.ascontiguousarray(parents, np.uint64))

    def advance(
        self,
        streams: ArrayLike,
        steps: ArrayLike,
        n_steps: ArrayLike,
        stops: NDArray[np.bool_],
        progress: Callable[[int], bool] | None = None,
    ) -> tuple[NDArray[np.uint16], NDArray[np.int64]] | None:
        """Draw states of every walker, until it stops.

        Parameters
        ----------
        streams, steps : (n_walkers,) whole numbers
            The counter of the random numbers: of the walker, and of its next state.
        n_steps : (n_walkers,) whole numbers
            States to draw at most; 0 leaves a walker alone.
        stops : (V,) bool
            States at which a walker stops, the state itself being its last.
        progress : callable, optional
            Called with the steps done since its last call; returning True stops the work.

        Returns
        -------
        tokens : (n_walkers, most) uint16
        taken : (n_walkers,) int64
            How many of them were drawn.

        None if `progress` stopped it: no walker is to be used then.
        """
        n = len(self)
        rows = [np.ascontiguousarray(np.broadcast_to(np.asarray(x), n), np.uint64) for x in (streams, steps, n_steps)]
        with core_errors():
            tokens, taken, finished = self._walkers.advance(
                *rows, np.ascontiguousarray(stops, np.uint8), self._n_states, progress
            )
        return (tokens, taken.astype(np.int64)) if finished else None

    def histories(self) -> Histories:
        """Return what walkers need that go on from here bit-identically."""
        with core_errors():
            found: list[tuple[NDArray[np.uint16], int]] = [self._walkers.history(i) for i in range(len(self))]
        return Histories([tokens for tokens, _ in found], np.array([before for _, before in found], np.uint64))


class Resampled(NamedTuple):
    """The walkers after a resampling.

    Parameters
    ----------
    parents : (m,) int64
        By bins in their order.
    weights : (m,) float64
        Every bin keeps its sum.
    merged : (k, 2) int64
        A new walker, and an old one other than its parent that gave it weight; empty unless traced.
    """

    parents: NDArray[np.int64]
    weights: NDArray[np.float64]
    merged: NDArray[np.int64]


def resample_walkers(
    weights: NDArray[np.float64], bins: NDArray[Any], per_bin: int, seed: int, iteration: int, *, trace: bool = False
) -> Resampled:
    """Split and merge walkers to a fixed number a bin.

    Parameters
    ----------
    weights : (n,) float64
    bins : (n,) whole numbers
    per_bin : int
        Walkers of every bin that holds any.
    seed, iteration : int
        What the choices are drawn from.
    trace : bool
        Whether to say whose weight went where.

    Notes
    -----
    G. A. Huber, S. Kim, Biophys. J. 70, 97 (1996): a walker of more than twice the mean weight is split into equal
    parts, the lightest whose weights together do not exceed it are merged, then the heaviest split and the lightest
    merged until the number is right. Of merged walkers one goes on, drawn in proportion to its weight.
    """
    with core_errors():
        parents, shared, merged = CORE.resample(
            np.ascontiguousarray(weights, np.float64), np.ascontiguousarray(bins, np.uint64), per_bin, seed, iteration,
            trace,
        )  # fmt: skip
    return Resampled(parents.astype(np.int64), shared, merged.astype(np.int64).reshape(-1, 2))
