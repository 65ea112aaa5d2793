"""What both methods do with walkers: draw, put back into the source, count what it costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd._native import Histories, NativeEngine, NativeWalkers
from nanomd.base.errors import CancelledError
from nanomd.base.progress import Progress
from nanomd.model.files import ModelFiles

_DOMAIN = 0x72617265  # "rare": apart from every other use of the seed
# Streams of random numbers, 2^40 for each purpose; walkers of a weighted ensemble have the first ones.
STREAM_BASIN, STREAM_EXCURSION, STREAM_SOURCE, STREAM_CONTEXT = (k << 40 for k in range(1, 5))


@dataclass(frozen=True, slots=True)
class Task:
    """What is asked, in tokens: everything resolved and checked.

    Parameters
    ----------
    files : ModelFiles
    engine : NativeEngine
    source, target : (V,) bool
    mode, hop_keep, seed, temperature, n_threads :
        As for a rollout.
    n_repeats : int
        Independent repetitions, made side by side.
    report : Progress
    cancel : callable, optional
    """

    files: ModelFiles
    engine: NativeEngine
    source: NDArray[np.bool_]
    target: NDArray[np.bool_]
    mode: str
    hop_keep: int
    seed: int
    temperature: float
    n_threads: int
    n_repeats: int
    report: Progress
    cancel: Callable[[], bool] | None = None

    @property
    def n_states(self) -> int:
        """V."""
        return len(self.source)

    def random(self, purpose: int, *counter: int) -> np.random.Generator:
        """Return a generator that depends on the seed, its purpose and up to two counters alone."""
        words = [0, purpose, *counter, 0, 0][:4]
        return np.random.Generator(np.random.Philox(key=[self.seed, _DOMAIN], counter=words))


class Propagator:
    """Walkers of a task.

    Attributes
    ----------
    steps : int
        Tokens that went through the model so far: states drawn, and those fed again to fill caches.
    """

    def __init__(self, task: Task, steps: int = 0) -> None:
        self.task, self.steps = task, steps
        self.walkers = NativeWalkers(
            task.engine, mode=task.mode, hop_keep=task.hop_keep, seed=task.seed, temperature=task.temperature,
            n_threads=task.n_threads,
        )  # fmt: skip

    def place(self, walkers: ArrayLike, histories: Histories) -> None:
        """Put walkers at the end of histories."""
        self.steps += self.walkers.place(walkers, histories)

    def restart(self, histories: Histories) -> None:
        """Begin with as many walkers as there are histories."""
        self.walkers.resize(len(histories.tokens))
        self.place(np.arange(len(histories.tokens)), histories)

    def advance(
        self, streams: ArrayLike, steps: ArrayLike, n_steps: ArrayLike, stops: NDArray[np.bool_]
    ) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
        """Draw states; see `NativeWalkers.advance`."""
        cancel = self.task.cancel
        drawn = self.walkers.advance(streams, steps, n_steps, stops, None if cancel is None else lambda _: cancel())
        if drawn is None:
            raise CancelledError("the sampling of rare events was cancelled; with out= it goes on by resume=True")
        self.steps += int(drawn[1].sum())
        return drawn
