"""What is asked of a rollout, as one object: the keyword arguments of `Sampler.generate`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd.base.checks import check_memory, check_range, check_whole
from nanomd.base.config import ModelConfig, RolloutConfig
from nanomd.base.errors import InputError
from nanomd.base.progress import Progress
from nanomd.base.units import Duration, FrameInterval
from nanomd.data.states import token_dtype
from nanomd.model.starts import start_labels
from nanomd.rollout.modes import resolve_hop_keep, resolve_mode
from nanomd.rollout.observables import Observables
from nanomd.rollout.parts import Part
from nanomd.rollout.result import Rollout

MAX_DRAFTS = 31
_WHOLE = {  # fields that are whole numbers, and the least they may be
    "n_steps": 1, "n_trajs": 1, "hop_keep": 1, "seed": 0, "stride": 1, "n_threads": 1, "first_trajectory": 0,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRequest:
    """A rollout as asked for; `Sampler.generate` documents every field.

    Parameters
    ----------
    n_drafts : int
        States guessed ahead and verified together; -1 for as many as pay. (`lookahead` of `Sampler.generate`.)
    part : Part, optional
        Generate only this part of the trajectories; `n_trajs` and `start` describe them all. (`shard` there.)

    Other parameters are those of `Sampler.generate`.
    """

    n_steps: Duration = 1_000_000
    n_trajs: int = 16
    start: str | ArrayLike | Rollout = "stationary"
    mode: str = "auto"
    hop_keep: int | None = None
    seed: int = 0
    stride: int = 1
    sampling_temperature: float = 1.0
    n_threads: int | None = None
    out: Path | None = None
    resume: bool = False
    first_trajectory: int = 0
    part: Part | None = None
    observables: Observables | None = None
    store_tokens: bool = True
    progress: Progress | None = None
    cancel: Callable[[], bool] | None = None
    n_drafts: int = -1

    def __post_init__(self) -> None:
        """Check what needs no model."""
        for name, low in _WHOLE.items():
            value = getattr(self, name)
            if value is not None and not (name == "n_steps" and isinstance(value, str)):
                object.__setattr__(self, name, check_whole(name, value, low, 2**63 - 1))
        check_range("first_trajectory", self.first_trajectory, 0, 2**62)
        if not isinstance(self.start, str | Rollout):
            object.__setattr__(self, "start", start_labels(self.start))
        if self.observables is not None and not isinstance(self.observables, Observables):
            raise InputError(f"observables must be a nanomd.Observables, got {self.observables!r}")
        if self.cancel is not None and not callable(self.cancel):
            raise InputError(f"cancel must be a function that says whether to stop, got {self.cancel!r}")
        if self.progress is not None and not (hasattr(self.progress, "update") and hasattr(self.progress, "note")):
            raise InputError(f"progress must be true, or have update(n) and note(text), got {self.progress!r}")
        if not self.store_tokens and self.observables is None:
            raise InputError("store_tokens=False needs observables=, or nothing would be left of the rollout")
        if self.part is not None:
            self.part.trajectories(self.n_trajs)

    def in_steps(self, interval: FrameInterval) -> RolloutRequest:
        """Return the same with lengths and lags that are times as numbers of steps, which are `interval` long."""
        observables = None if self.observables is None else self.observables.in_steps(interval)
        return replace(self, n_steps=interval.frames(self.n_steps, "n_steps", at_least=True), observables=observables)

    @property
    def length(self) -> int:
        """The number of steps, of a request `in_steps`."""
        assert not isinstance(self.n_steps, str)
        return self.n_steps

    @property
    def keeps_every_state(self) -> bool:
        """Whether the rollout can be made longer later: what the next step reads is among what is stored."""
        return self.stride == 1 and self.store_tokens

    @property
    def trajectories(self) -> range:
        """Global indices of the trajectories to generate."""
        own = range(self.n_trajs) if self.part is None else self.part.trajectories(self.n_trajs)
        return range(self.first_trajectory + own.start, self.first_trajectory + own.stop)

    @property
    def own_start(self) -> str | NDArray[Any]:
        """Where the trajectories to generate start: the kind, or their rows of the labels that were given."""
        if isinstance(self.start, str):
            return self.start
        labels: NDArray[Any] = np.asarray(self.start)
        if labels.ndim == 0:  # one state for all
            return np.full(len(self.trajectories), labels)
        if self.part is not None and len(labels) == self.n_trajs:
            own = self.part.trajectories(self.n_trajs)
            return labels[own.start : own.stop]
        return labels

    def check_memory(self, model: ModelConfig) -> None:
        """Raise `InputError` if this machine's memory cannot hold the result of this request."""
        n, kept = len(self.trajectories), 0
        if self.out is None and self.store_tokens:
            kept = -(-self.length // self.stride) * token_dtype(model.n_states).itemsize
        prompt = 2 * (model.context_length if self.start == "data" else 1) if isinstance(self.start, str) else 0
        remedy = "give out=, a larger stride, or store_tokens=False; or make fewer trajectories at a time (shard=)"
        check_memory(n * (kept + prompt + 16), f"a rollout of {n:,} x {self.length:,} steps", remedy)

    def config(self, model: ModelConfig, backend: str, precision: str) -> RolloutConfig:
        """Return how the trajectories of this request are made with a model, everything resolved and checked."""
        mode = resolve_mode(model, self.mode)
        return RolloutConfig(
            n_steps=self.length,
            n_trajs=len(self.trajectories),
            start=self.start if isinstance(self.start, str) else "prompts",  # type: ignore[arg-type]
            mode=mode,  # type: ignore[arg-type]
            hop_keep=resolve_hop_keep(model, mode, self.hop_keep) or None,
            seed=self.seed,
            stride=self.stride,
            sampling_temperature=self.sampling_temperature,
            backend=backend,  # type: ignore[arg-type]
            n_threads=self.n_threads,
            precision=precision,  # type: ignore[arg-type]
        )


def parse_drafts(lookahead: str | int) -> int:
    """Return the number of states to guess ahead, -1 for ``"auto"``."""
    if isinstance(lookahead, str):
        if lookahead != "auto":
            raise InputError(f'lookahead must be "auto" or a number of states, got {lookahead!r}')
        return -1
    return check_whole("lookahead", lookahead, 0, MAX_DRAFTS)
