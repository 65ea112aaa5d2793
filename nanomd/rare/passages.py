"""The passages themselves: from the last state in the source to the first in the target, each with its weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import StoreError
from nanomd.rare.segments import Segments
from nanomd.rare.splitting import Swarm

_TYPES = {"flat": "<u2", "length": "<i8", "weight": "<f8", "repeat": "<i8"}


class Passages(NamedTuple):
    """Passages one after another.

    Parameters
    ----------
    flat : (N,) uint16
        Tokens.
    length : (n,) int64
        Tokens of each, both ends included.
    weight : (n,) float64
        What each gives to the rate of its repetition: their sum over a repetition is its rate.
    repeat : (n,) int64
        The repetition.
    """

    flat: NDArray[np.uint16]
    length: NDArray[np.int64]
    weight: NDArray[np.float64]
    repeat: NDArray[np.int64]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything under the names that `read` takes."""
        return {f"passage_{name}": array for name, array in self._asdict().items()}

    @classmethod
    def read(cls, arrays: Mapping[str, NDArray[Any]], n_states: int, n_repeats: int, where: str) -> Passages:
        """Return what `arrays` gave, after checking it.

        Raises
        ------
        StoreError
            If it is damaged.
        """
        found = {name: arrays.get(f"passage_{name}") for name in _TYPES}
        for name, kind in _TYPES.items():
            array = found[name]
            if array is None or array.dtype != np.dtype(kind) or array.ndim != 1:
                raise StoreError(f"{where} is damaged: the {name} of its passages has the wrong type or shape")
        self = cls(**found)  # type: ignore[arg-type]
        if not (
            len(self.length) == len(self.weight) == len(self.repeat)
            and ((self.length >= 2) & (self.length <= len(self.flat))).all()
            and int(self.length.sum()) == len(self.flat)
            and self.flat.max(initial=0) < n_states
            and (np.isfinite(self.weight) & (self.weight > 0)).all()
            and ((self.repeat >= 0) & (self.repeat < n_repeats)).all()
        ):
            raise StoreError(f"{where} is damaged: its passages do not fit together")
        return self


def passages_of_segments(segments: Segments, source: NDArray[np.bool_], burn_in: int, n_repeats: int) -> Passages:
    """Trace every arrival after the burn-in back to where its walker was in the source last.

    Parameters
    ----------
    segments : Segments
    source : (V,) bool
    burn_in : int
        Iterations whose arrivals do not count.
    n_repeats : int
    """
    tau, rows, n_iterations = segments.tau, segments.rows(), len(segments.n_walkers)
    arrival = segments.arrival[segments.arrival[:, 0] >= burn_in]
    when, walker, step, token = arrival[:, :4].T
    first_row = np.array([some.start for some in rows])
    row = first_row[when] + walker
    # The tokens of all traces, with the trace and the time of each: backwards, one iteration of all at once.
    tokens, traces, times = [token], [np.arange(len(arrival))], [when * tau + step]
    active, place = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for iteration in range(n_iterations - 1, -1, -1):
        new = np.flatnonzero(when == iteration)
        active = np.concatenate((active, new))
        if not len(active):
            continue
        place = np.concatenate((place, walker[new]))
        last = np.full(len(active), tau)
        last[len(active) - len(new) :] = step[new] - 1
        state = segments.state[rows[iteration]][place]
        column = np.arange(tau + 1)
        # The state in which a segment begins is the last of its parent, except in the first iteration.
        within = (column <= last[:, None]) & (column >= (1 if iteration else 0))
        inside = within & source[state]
        begun = inside.any(axis=1)
        begin = np.where(begun, tau - np.argmax(inside[:, ::-1], axis=1), 0)
        kept, columns = np.nonzero(within & (column >= begin[:, None]))
        tokens.append(state[kept, columns])
        traces.append(active[kept])
        times.append(iteration * tau + columns)
        place = segments.parent[rows[iteration]][place[~begun]].astype(np.int64)
        active = active[~begun]
    trace, time = np.concatenate(traces), np.concatenate(times)
    order = np.lexsort((time, trace))
    return Passages(
        np.concatenate(tokens)[order].astype(np.uint16),
        np.bincount(trace, minlength=len(arrival)).astype(np.int64),
        segments.weight[row] / (tau * (n_iterations - burn_in)),
        segments.repeats(n_repeats)[row],
    )


def passages_of_swarm(swarm: Swarm, exit_flux: NDArray[np.float64]) -> Passages:
    """Return the passages of a splitting, whose particles all begin with an exit.

    Parameters
    ----------
    swarm : Swarm
        After its last level.
    exit_flux : (n_repeats,) float64
        Exits a step.
    """
    paths: list[NDArray[np.uint16]] = []
    weight, repeat = [], []
    for r, some in enumerate(swarm.particles):
        for particle in some:
            if particle.peak == np.inf:
                paths.append(np.concatenate((particle.past[-1:], particle.path)))
                weight.append(float(exit_flux[r] * swarm.weight[r] / len(some)))
                repeat.append(r)
    return Passages(
        np.concatenate([np.zeros(0, np.uint16), *paths]).astype(np.uint16),
        np.array([len(path) for path in paths], np.int64),
        np.array(weight, np.float64),
        np.array(repeat, np.int64),
    )
