"""Observables accumulated while tokens are generated."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanomd._native.core import CORE, core_errors


class ObservablesSpec(NamedTuple):
    """What is accumulated, in tokens; `csrc/include/nanomd/observables.h` has the definitions."""

    n_states: int
    lagtimes: tuple[int, ...]
    n_sets: int
    set_of: tuple[int, ...]  # (n_states,), set of every token or -1
    bin_edges: tuple[int, ...]  # (n_bins,), 0 first; the last bin is open


def observables_layout(spec: ObservablesSpec) -> dict[str, int]:
    """Return where each table begins in the flat int64 array of totals, and its ``"size"``."""
    with core_errors():
        layout: dict[str, int] = CORE.observables_layout(tuple(spec))
    return layout


class NativeObservables:
    """Accumulates exact integers over the tokens of some trajectories, piece by piece, without the GIL.

    Parameters
    ----------
    spec : ObservablesSpec
    n_trajs : int
    totals : (size,) int64, optional
        Of earlier trajectories, or of earlier steps of these.
    counters, recent : int64 and uint16 arrays, optional
        The state of these trajectories, from another writer.
    """

    def __init__(
        self,
        spec: ObservablesSpec,
        n_trajs: int,
        totals: NDArray[np.int64] | None = None,
        counters: NDArray[np.int64] | None = None,
        recent: NDArray[np.uint16] | None = None,
    ) -> None:
        with core_errors():
            self.writer = CORE.ObservablesWriter(tuple(spec), n_trajs)
            if totals is not None:
                self.writer.restore(
                    np.ascontiguousarray(totals, np.int64),
                    self.counters() if counters is None else np.ascontiguousarray(counters, np.int64),
                    self.recent() if recent is None else np.ascontiguousarray(recent, np.uint16),
                )

    def add(self, tokens: NDArray[Any], n_threads: int = 1) -> None:
        """Take the next tokens of all trajectories, (n_trajs, n) uint8 or uint16; not strided."""
        with core_errors():
            self.writer.add(tokens, n_threads)

    def finish(self) -> None:
        """End the trajectories: what is under way is counted as cut."""
        self.writer.finish()

    def totals(self) -> NDArray[np.int64]:
        """Return all tables in one flat array."""
        totals: NDArray[np.int64] = self.writer.totals()
        return totals

    def counters(self) -> NDArray[np.int64]:
        """Return what is remembered of the trajectories."""
        counters: NDArray[np.int64] = self.writer.counters()
        return counters

    def recent(self) -> NDArray[np.uint16]:
        """Return the latest tokens of the trajectories, as many as the longest lag."""
        recent: NDArray[np.uint16] = self.writer.recent()
        return recent
