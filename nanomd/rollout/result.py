"""What a rollout returns: tokens in memory or on disk, and all that describes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from nanomd import _native
from nanomd.base.checks import check_range, check_whole
from nanomd.base.codec import convert
from nanomd.base.config import ModelConfig, RolloutConfig
from nanomd.base.errors import InputError, StoreError, one_line
from nanomd.base.files import lock_folder
from nanomd.base.units import Duration, FrameInterval
from nanomd.data.counts import count_model, transition_counts
from nanomd.data.states import StateMap
from nanomd.rollout.manifest import StoreLayout
from nanomd.rollout.observables import ObservablesResult
from nanomd.rollout.store import TokenStore


class ShardedTokens:
    """Several arrays of equal width stacked by row, without copying them: what a store of many shards looks like."""

    def __init__(self, shards: list[NDArray[Any]]) -> None:
        self.shards = shards
        self._first = np.cumsum([0] + [len(shard) for shard in shards])
        self.shape = (int(self._first[-1]), shards[0].shape[1])
        self.dtype = shards[0].dtype
        self.ndim = 2
        self.size = self.shape[0] * self.shape[1]

    def __repr__(self) -> str:
        return f"ShardedTokens({self.shape[0]} x {self.shape[1]:,} {self.dtype} in {len(self.shards)} shards)"

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        for shard in self.shards:
            yield from shard

    def __getitem__(self, index: Any) -> Any:
        """Select trajectories, then states, as from an array: one trajectory by number is a view, the rest copies.

        What an array also takes, and would mean to copy everything first, is an `IndexError`.
        """
        row, *rest = (index or (slice(None),)) if isinstance(index, tuple) else (index,)
        if isinstance(row, int | np.integer) and not isinstance(row, bool):
            number = int(row) + (len(self) if row < 0 else 0)
            if not 0 <= number < len(self):
                raise IndexError(f"trajectory {row} is out of range for {len(self)} trajectories")
            shard = int(np.searchsorted(self._first, number, side="right")) - 1
            return self.shards[shard][(number - int(self._first[shard]), *rest)]
        whole = isinstance(row, slice) or row is Ellipsis
        if len(rest) > 1 or not (whole or (np.ndim(row) == 1 and all(isinstance(i, int | slice) for i in rest))):
            raise IndexError(
                "select trajectories, then states, as in tokens[rows][:, states]; or use np.asarray(tokens)"
            )
        rows = np.arange(len(self))[row if whole else np.asarray(row, None if len(row) else np.int64)]
        copies = [self[int(r)][tuple(rest)] for r in rows]
        return np.stack(copies) if copies else np.zeros((0, self.shape[1]), self.dtype)[(slice(None), *rest)]

    def __dlpack__(self, **options: Any) -> Any:
        """Hand the memory of a single shard over; several have no common memory."""
        raise BufferError("tokens in several shards are no single array; use tokens.shards, or np.asarray to copy them")

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)  # the CPU

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("tokens in several shards cannot become one array without a copy")
        return np.concatenate(self.shards).astype(dtype or self.dtype, copy=False)


_COMPARED = ("state_map", "n_steps", "stride", "first_step", "first_trajectory", "observables")


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Rollout:
    """Generated trajectories.

    Parameters
    ----------
    tokens : (n_trajs, n_stored) uint8 or uint16
        Tokens of the generated states (the prompts are left out): an array, a memory map, or `ShardedTokens`, which
        ``numpy.asarray`` turns into one array.
    state_map : StateMap
        Token k stands for the raw label ``state_map.symbols[k]``.
    config : RolloutConfig
    frame_interval : FrameInterval
        Time between two steps; two stored states lie `stride` steps apart.
    seconds : float
        Time that the generation took.
    backend : str
        What ran, such as ``"cpu/avx2"``.
    model_config : ModelConfig
    first_trajectory : int
        Global index of the first trajectory.
    observables : ObservablesResult, optional
        What was accumulated over every state, stored or not.
    first_step : int
        Steps that were drawn before these, by the rollout that this one goes on from.
    prompt_length : int
        States before the first that was drawn at all.
    frame_stride : int
        Frames of the data that the model learnt from, a step.
    """

    tokens: NDArray[Any] | ShardedTokens
    state_map: StateMap
    config: RolloutConfig
    frame_interval: FrameInterval
    seconds: float
    backend: str
    model_config: ModelConfig
    first_trajectory: int = 0
    observables: ObservablesResult | None = None
    first_step: int = 0
    prompt_length: int = 1
    frame_stride: int = 1

    def __eq__(self, other: object) -> bool:
        """Whether two rollouts hold the same states of the same trajectories, wherever they lie."""
        return (
            isinstance(other, Rollout)
            and all(getattr(self, name) == getattr(other, name) for name in _COMPARED)
            and self.tokens.shape == other.tokens.shape
            and all(np.array_equal(a, b) for a, b in zip(self.tokens, other.tokens, strict=True))
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        text = f"Rollout({self.n_trajs} x {self.n_steps:,} steps of {self.frame_interval.describe(1)}"
        if not self.tokens.shape[1]:
            text += ", only observables kept"
        elif self.stride > 1:
            text += f", one in {self.stride} kept"
        text += f"; {self.state_map.n_states} states; seed {self.config.seed}; {self.backend})"
        return text if self.observables is None else f"{text}\n  {self.observables!r}"

    @property
    def n_trajs(self) -> int:
        """Number of trajectories."""
        return len(self.tokens)

    @property
    def n_steps(self) -> int:
        """States generated per trajectory, stored or not."""
        return self.config.n_steps

    @property
    def stride(self) -> int:
        """Steps between two stored states."""
        return self.config.stride

    @property
    def dtrajs(self) -> list[NDArray[np.int64]]:
        """The trajectories as raw labels.

        Raises
        ------
        InputError
            If the tokens were not stored.
        """
        if self.tokens.shape[1] == 0:
            raise InputError("the rollout was made with store_tokens=False and has no trajectories, only observables")
        return [self.state_map.decode(np.asarray(row)) for row in self.tokens]

    def transition_counts(self, lagtime: Duration = 1) -> NDArray[np.int64]:
        """Count transitions between tokens, sliding: (n_states, n_states).

        Parameters
        ----------
        lagtime : int or str
            Between two stored states: a number of them, or a time such as ``"1 ns"``.

        Raises
        ------
        InputError
            If the tokens were not stored (see `Rollout.observables`), or trajectories are not longer than the lag.
        """
        lag = self.frame_interval.times(self.stride).frames(lagtime, "lagtime")
        n_stored = self.tokens.shape[1]
        if not n_stored:
            raise InputError("the rollout was made with store_tokens=False; its counts are in Rollout.observables")
        check_range("lagtime", lag, 1, n_stored - 1, f"trajectories have {n_stored} stored states")
        return transition_counts(list(self.tokens), self.state_map.n_states, lag)

    def to_count_model(self, lagtime: Duration = 1) -> Any:
        """Return deeptime's TransitionCountModel of `transition_counts`."""
        counts = self.transition_counts(lagtime)  # refuses what has no tokens
        lag = self.frame_interval.times(self.stride).frames(lagtime, "lagtime")
        return count_model(counts, lag, _native.count_visits(list(self.tokens), self.state_map.n_states)[0])

    @property
    def tokens_per_second(self) -> float:
        """Speed of the generation, in states of all trajectories."""
        return self.n_trajs * self.n_steps / self.seconds if self.seconds > 0 else float("nan")

    def describe(self) -> dict[str, Any]:
        """Return everything but the tokens as plain values."""
        return {
            "state_map": self.state_map.to_dict(),
            "config": self.config.to_dict(),
            "frame_interval": {"value": self.frame_interval.value, "unit": self.frame_interval.unit},
            "seconds": self.seconds,
            "backend": self.backend,
            "model_config": self.model_config.to_dict(),
            "first_trajectory": self.first_trajectory,
            "first_step": self.first_step,
            "prompt_length": self.prompt_length,
            "frame_stride": self.frame_stride,
        }

    def save(self, path: str | Path, shard_trajs: int = 64) -> None:
        """Store the rollout in a folder, as `Sampler.generate` with ``out=`` does."""
        shard_trajs = check_whole("shard_trajs", shard_trajs, 1)
        with lock_folder(path):
            self.write(path, {}, {}, shard_trajs)

    def write(self, path: str | Path, run: dict[str, Any], info: dict[str, Any], shard_trajs: int = 64) -> None:
        """Store the rollout in a folder that the caller has locked; `run` and `info` as in `TokenStore.create`."""
        if self.n_trajs == 0:
            raise InputError("the rollout is empty; there is nothing to save")
        kept = self.tokens.shape[1] > 0
        layout = StoreLayout(self.n_trajs, self.n_steps, self.stride, shard_trajs, self.tokens.dtype.name, kept)
        store = TokenStore.create(path, layout, run, {**self.describe(), **info})
        for index, shard in enumerate(store.shards):
            tokens = np.asarray(self.tokens[shard.first : shard.last])
            last = index == len(store.shards) - 1
            arrays = self.observables.to_arrays() if last and self.observables is not None else None
            store.append(index, self.n_steps, tokens, np.zeros((len(tokens), 0), np.uint16), arrays)

    @classmethod
    def load(cls, path: str | Path, partial: bool = False) -> Rollout:
        """Load a stored rollout; tokens stay on disk, as memory maps.

        Parameters
        ----------
        path : path
        partial : bool
            Accept an unfinished rollout: the shards that have begun, cut to the length that all of them have.

        Raises
        ------
        StoreError
            If there is none, it is damaged, or (without `partial`) unfinished.
        """
        return cls.from_store(TokenStore.open(path), partial)

    @classmethod
    def from_store(cls, store: TokenStore, partial: bool = False) -> Rollout:
        """Wrap an open store; see `load`."""
        done = [shard.steps_done for shard in store.shards]
        begun = [index for index, steps in enumerate(done) if steps]
        if not store.complete and not (partial and begun):
            total = store.layout.n_steps * store.layout.n_trajs
            have = sum((s.last - s.first) * s.steps_done for s in store.shards)
            raise StoreError(f"the rollout in {store.path} is unfinished ({have} of {total} steps); resume it first")
        steps = min(done[index] for index in begun)
        if steps < store.layout.stride:
            raise StoreError(f"the rollout in {store.path} has {steps} steps, fewer than its stride; resume it first")
        kept = store.layout.stored_before(steps)
        shards = [store.tokens(index)[:, :kept] for index in begun]
        observables = None
        if store.complete and store.observables is not None:
            observables = ObservablesResult.load(store.path / store.observables)
        try:
            info: _Info = convert(store.info, _Info)
            config = RolloutConfig.from_dict(info.config)
            before = info.prompt_length or store.run.get("prompt_length", 1)
            return cls(
                tokens=shards[0] if len(shards) == 1 else ShardedTokens(shards),
                state_map=StateMap.from_dict(info.state_map),
                config=config if store.complete else config.replace(n_steps=steps, n_trajs=sum(map(len, shards))),
                frame_interval=FrameInterval(info.frame_interval.value, info.frame_interval.unit),
                seconds=info.seconds,
                backend=info.backend,
                model_config=ModelConfig.from_dict(info.model_config),
                first_trajectory=info.first_trajectory,
                observables=observables,
                first_step=info.first_step,
                prompt_length=check_whole("prompt_length", before, 0),
                frame_stride=info.frame_stride,
            )
        except ValueError as error:
            raise StoreError(f"the manifest of {store.path} is damaged: {one_line(error)}") from None


@dataclass
class _Interval:
    value: float
    unit: str


@dataclass
class _Info:
    """What a rollout records of itself in the manifest of its store; see `Rollout.describe`."""

    state_map: dict[str, Any]
    config: dict[str, Any]
    frame_interval: _Interval
    seconds: float
    backend: str
    model_config: dict[str, Any]
    first_trajectory: Annotated[int, Meta(ge=0)]
    first_step: Annotated[int, Meta(ge=0)] = 0
    prompt_length: Annotated[int, Meta(ge=0)] | None = None
    frame_stride: Annotated[int, Meta(ge=1)] = 1
