"""What every walker of a weighted ensemble did, and whose child it was: kept where it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError, StoreError

MOST_BYTES = 1 << 31  # of a record in memory

_TYPES: dict[str, tuple[str, int]] = {  # name -> type and number of dimensions
    "n_walkers": ("<i8", 1), "weight": ("<f8", 1), "parent": ("<i4", 1), "state": ("<u2", 2), "arrival": ("<i8", 2),
    "merged": ("<i4", 2), "history": ("<u2", 1),
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Segments:
    """The segments of a weighted ensemble, those of each iteration after those of the one before.

    Parameters
    ----------
    n_walkers : (n_iterations,) int64
        Segments of each iteration, N in all; a walker is known by its place among those of its iteration.
    weight : (N,) float64
        Those of a repetition sum to one in every iteration.
    parent : (N,) int32
        The walker of the iteration before that it goes on from; in the first iteration the history of the source.
    state : (N, tau + 1) uint16
        Tokens: where it begins, and after every step. One that reaches the target is put back into the source in the
        same step, which is what stands here.
    arrival : (M, 5) int64
        Of each arrival the iteration, the walker, the step (1 to tau), the token in the target, and the history of the
        source that the walker was put back to.
    merged : (K, 3) int32
        Iteration, walker, and a walker of the iteration before other than its parent that gave it weight.
    history : (n_histories,) uint16
        The token in which each history of the source ends.
    """

    n_walkers: NDArray[np.int64]
    weight: NDArray[np.float64]
    parent: NDArray[np.int32]
    state: NDArray[np.uint16]
    arrival: NDArray[np.int64]
    merged: NDArray[np.int32]
    history: NDArray[np.uint16]

    @property
    def tau(self) -> int:
        """Steps of an iteration."""
        return int(self.state.shape[1]) - 1

    def rows(self) -> list[slice]:
        """Return where the segments of every iteration stand."""
        ends = np.cumsum(self.n_walkers).tolist()
        return [slice(first, end) for first, end in zip([0, *ends[:-1]], ends, strict=True)]

    def repeats(self, n_repeats: int) -> NDArray[np.int64]:
        """Return the repetition of every segment, (N,): those of the first walkers stand one after another."""
        found = np.empty(len(self.weight), np.int64)
        rows = self.rows()
        found[rows[0]] = np.arange(self.n_walkers[0]) * n_repeats // int(self.n_walkers[0])
        for before, now in pairwise(rows):
            found[now] = found[before][self.parent[now]]
        return found

    def fluxes(self, n_repeats: int) -> NDArray[np.float64]:
        """Return the weight that reached the target in every iteration, a step, (n_iterations, n_repeats)."""
        found = np.zeros((len(self.n_walkers), n_repeats))
        row = (np.cumsum(self.n_walkers) - self.n_walkers)[self.arrival[:, 0]] + self.arrival[:, 1]
        np.add.at(found, (self.arrival[:, 0], self.repeats(n_repeats)[row]), self.weight[row] / self.tau)
        return found

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything under the names that `read` takes."""
        return {f"segment_{one.name}": getattr(self, one.name) for one in fields(self)}

    @classmethod
    def read(cls, arrays: Mapping[str, NDArray[Any]], n_states: int, where: str) -> Segments:
        """Return what `arrays` gave, after checking it.

        Raises
        ------
        StoreError
            If it is damaged.
        """
        found = {name: arrays.get(f"segment_{name}") for name in _TYPES}
        for name, (kind, n_dimensions) in _TYPES.items():
            array = found[name]
            if array is None or array.dtype != np.dtype(kind) or array.ndim != n_dimensions:
                raise StoreError(f"{where} is damaged: the {name} of its segments has the wrong type or shape")
        self = cls(**found)  # type: ignore[arg-type]
        if not self._fits(n_states):
            raise StoreError(f"{where} is damaged: its segments do not fit together")
        return self

    def _fits(self, n_states: int) -> bool:
        n, tau = len(self.weight), self.tau
        counts, arrival, merged = self.n_walkers, self.arrival, self.merged
        if not (
            (counts > 0).all()
            and int(counts.sum()) == n == len(self.parent) == len(self.state)
            and tau >= 1
            and arrival.shape[1] == 5
            and merged.shape[1] == 3
            and len(self.history)
            and max(self.state.max(initial=0), self.history.max()) < n_states
            and np.isfinite(self.weight).all()
            and (self.weight > 0).all()
        ):
            return False
        before = np.repeat(np.concatenate(([len(self.history)], counts[:-1])), counts)
        low = np.array([0, 0, 1, 0, 0])
        if not (((self.parent >= 0) & (self.parent < before)).all() and (arrival >= low).all()):
            return False
        if (arrival[:, 0] >= len(counts)).any() or not ((merged[:, 0] > 0) & (merged[:, 0] < len(counts))).all():
            return False
        high = np.column_stack((
            counts[arrival[:, 0]],
            *(np.full(len(arrival), value) for value in (tau + 1, n_states, len(self.history))),
        ))  # fmt: skip
        own, other = counts[merged[:, 0]], counts[merged[:, 0] - 1]
        return bool(
            (arrival[:, 1:] < high).all()
            and ((merged[:, 1:] >= 0) & (merged[:, 1:] < np.column_stack((own, other)))).all()
        )


class Recorder:
    """Keeps the segments while they are made.

    Parameters
    ----------
    history : (n_histories,) uint16
        The token in which each history of the source ends.
    """

    def __init__(self, history: NDArray[np.uint16]) -> None:
        self._parts: dict[str, list[NDArray[Any]]] = {name: [] for name in _TYPES}
        self._parts["history"].append(history)
        self._iteration = -1

    @classmethod
    def going_on(cls, segments: Segments) -> Recorder:
        """Go on after segments that were kept before."""
        self = cls(segments.history)
        for name in _TYPES:
            self._parts[name] = [getattr(segments, name)]
        self._iteration = len(segments.n_walkers) - 1
        return self

    @staticmethod
    def check_size(n_walkers: int, n_iterations: int, tau: int) -> None:
        """Refuse a record that memory may not hold.

        Raises
        ------
        InputError
            If it can become too large.
        """
        most = n_walkers * n_iterations * (8 + 4 + 12 + 2 * (tau + 1))
        if most > MOST_BYTES:
            raise InputError(
                f"record=True would keep up to {most / 2**30:.1f} GiB of segments, more than {MOST_BYTES >> 30}: give "
                "fewer iterations, bins, walkers_per_bin or n_repeats, a shorter tau, or record=False"
            )

    def begin(
        self,
        parent: NDArray[np.int64],
        merged: NDArray[np.int64],
        weight: NDArray[np.float64],
        present: NDArray[np.uint16],
        tau: int,
    ) -> None:
        """Begin an iteration.

        Parameters
        ----------
        parent : (n,) int64
            The walker of the iteration before that each goes on from.
        merged : (k, 2) int64
            A walker, and another of the iteration before that gave it weight.
        weight, present : (n,)
            Of each, and the token where it is.
        tau : int
            Steps.
        """
        self._iteration += 1
        self._state = np.empty((len(parent), tau + 1), np.uint16)
        self._state[:, 0] = present
        self._add(n_walkers=np.array([len(parent)]), parent=parent.astype(np.int32), weight=weight, state=self._state)
        self._add(merged=np.column_stack((np.full(len(merged), self._iteration), merged)).astype(np.int32))

    def drawn(self, done: NDArray[np.int64], tokens: NDArray[np.uint16], taken: NDArray[np.int64]) -> None:
        """Keep the states that walkers drew, `taken` of each after the `done` steps before."""
        rows, columns = np.nonzero(np.arange(tokens.shape[1]) < taken[:, None])
        self._state[rows, 1 + done[rows] + columns] = tokens[rows, columns]

    def arrived(
        self, walkers: NDArray[np.int64], steps: NDArray[np.int64], tokens: NDArray[np.uint16], again: NDArray[np.int64]
    ) -> None:
        """Keep who arrived, after which step of the iteration and where, and the history that it was put back to."""
        iteration = np.full(len(walkers), self._iteration)
        self._add(arrival=np.column_stack((iteration, walkers, steps, tokens, again)).astype(np.int64))

    def _add(self, **arrays: NDArray[Any]) -> None:
        for name, array in arrays.items():
            self._parts[name].append(array)

    def segments(self) -> Segments:
        """Return what was kept."""
        width = self._state.shape[1] if hasattr(self, "_state") else self._parts["state"][0].shape[1]
        empty = {"arrival": (0, 5), "merged": (0, 3), "state": (0, width)}
        return Segments(
            **{
                name: np.concatenate([np.empty(empty.get(name, (0,)), kind), *parts]).astype(kind, copy=False)
                for (name, (kind, _)), parts in zip(_TYPES.items(), self._parts.values(), strict=True)
            }
        )
