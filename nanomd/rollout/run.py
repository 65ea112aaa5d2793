"""One call of `Sampler.generate`: batches of trajectories, in memory or to disk, with observables on the way."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nanomd import _native
from nanomd.base.config import RolloutConfig
from nanomd.base.errors import CancelledError, InputError, StoreError
from nanomd.base.progress import Progress, skip
from nanomd.data.states import token_dtype
from nanomd.rollout.observables import Observables, ObservablesResult, read_npz
from nanomd.rollout.parts import part_folder, prompts_digest, refuse_parts
from nanomd.rollout.result import Rollout
from nanomd.rollout.store import StoreLayout, TokenStore, lock_folder

if TYPE_CHECKING:
    from nanomd.rollout.sampler import Sampler

COMMIT_SECONDS = 10.0  # between two declarations of progress on disk
COMMIT_TOKENS = 1 << 24  # at most, which bounds the memory of a rollout to disk
OBSERVE_TOKENS = 1 << 22  # drawn at a time where they are only looked at
CACHE_BYTES = 1 << 28  # of all trajectories under way at once

_LOG = logging.getLogger(__name__)


def available_threads() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a call asks for beside its `RolloutConfig`; see `Sampler.generate`."""

    first_trajectory: int = 0
    progress: Progress | None = None
    cancel: Callable[[], bool] | None = None
    observables: Observables | None = None
    lookahead: int = -1
    store_tokens: bool = True
    shard: tuple[int, int] | None = None


class Run:
    """One call of `Sampler.generate`, with `config.n_trajs` trajectories that start from `prompts`."""

    def __init__(
        self, sampler: Sampler, config: RolloutConfig, prompts: NDArray[np.uint16], options: RunOptions
    ) -> None:
        self.sampler, self.config, self.prompts, self.options = sampler, config, prompts, options
        self.n_threads = config.n_threads or available_threads()
        self.dtype = token_dtype(sampler.config.n_states)
        self.spec = None if options.observables is None else options.observables.spec(sampler.files.state_map)
        self.totals: NDArray[np.int64] | None = None  # of the observables, over all batches so far
        if self.spec is not None:
            self.totals = np.zeros(_native.observables_layout(self.spec)["size"], np.int64)
        self._steps_reported = 0

    # --- in memory ---------------------------------------------------------------------------------------------------
    def in_memory(self) -> Rollout:
        """Generate everything at once."""
        begun = time.perf_counter()
        config, layout = self.config, self._layout()
        tokens = np.empty((config.n_trajs, layout.n_stored), dtype=self.dtype)
        for first in range(0, config.n_trajs, layout.shard_trajs):
            last = min(first + layout.shard_trajs, config.n_trajs)
            if self.sampler._engine is None:
                self._reference(first, last, tokens[first:last])
                continue
            watch = self._watch(last - first)
            session = self._open(first, last, None, 0, watch)
            self._draw(session, watch, 0, config.n_steps, tokens[first:last])
            self._finish(watch)
        return self._rollout(tokens, time.perf_counter() - begun)

    def _draw(
        self,
        session: _native.NativeSession,
        watch: _native.NativeObservables | None,
        done: int,
        steps: int,
        out: NDArray[Any],
    ) -> None:
        """Draw `steps` more states of a batch; `out` (rows, states kept) takes those that are stored."""
        stride, kept = self.config.stride, self.options.store_tokens
        if watch is None or session.observes:
            self._advance(session, steps, out if kept else None, stride)
            if watch is not None:
                session.collect(watch)
            return
        # Piece by piece: tokens that are only looked at pass through a buffer.
        most = max(1, OBSERVE_TOKENS // len(out))
        for begin in range(done, done + steps, most):
            end = min(begin + most, done + steps)
            every = np.empty((len(out), end - begin), self.dtype)
            if kept and stride == 1:
                every = out[:, begin - done : end - done]
            self._advance(session, end - begin, every, 1)
            watch.add(every, self.n_threads)
            if kept and stride > 1:
                first = -(-done // stride)
                out[:, -(-begin // stride) - first : -(-end // stride) - first] = every[:, -begin % stride :: stride]

    def _advance(self, session: _native.NativeSession, steps: int, out: NDArray[Any] | None, stride: int) -> None:
        if not session.advance(steps, out, stride, self._report):
            raise CancelledError("the rollout was cancelled; what is complete on disk is kept, and resume=True goes on")

    def _watch(self, rows: int, state: dict[str, NDArray[Any]] | None = None) -> _native.NativeObservables | None:
        if self.spec is None:
            return None
        if state is None:
            return _native.NativeObservables(self.spec, rows, self.totals)
        return _native.NativeObservables(
            self.spec, rows, self.totals, state["state_counters"], state["state_recent"].astype(np.uint16)
        )

    def _finish(self, watch: _native.NativeObservables | None) -> None:
        if watch is not None:
            watch.finish()
            self.totals = watch.totals()

    # --- on disk -----------------------------------------------------------------------------------------------------
    def on_disk(self, out: Path, resume: bool) -> Rollout:
        """Generate into a folder; memory does not grow with the number of steps."""
        if self.options.shard is not None:
            if TokenStore.exists(out):
                raise InputError(f"{out} holds a merged or whole rollout already; choose another folder")
            out = part_folder(out, *self.options.shard)
        else:
            refuse_parts(out)
        with lock_folder(out):
            if self.sampler._engine is None:
                rollout = self.in_memory()
                rollout.write(out, self._identity(), self._info())
                return rollout
            store = self._store(out, resume)
            store.sweep()
            state = self._restore(store)
            for index in range(len(store.shards)):
                self._fill(store, index, state if state.get("state_shard") == index else None)
            return Rollout.from_store(store)

    def _layout(self) -> StoreLayout:
        config = self.config
        return StoreLayout(
            config.n_trajs, config.n_steps, config.stride, self._batch(), self.dtype.name, self.options.store_tokens
        )

    def _store(self, out: Path, resume: bool) -> TokenStore:
        run = self._identity()
        if not (resume and TokenStore.exists(out)):
            info = {**self._rollout(np.zeros((0, 0), self.dtype), 0.0).describe(), **self._info()}
            return TokenStore.create(out, self._layout(), run, info)
        store = TokenStore.open(out)
        keys = ("n_trajs", "n_steps", "stride", "keeps_tokens")
        wanted, layout = self._layout(), store.layout
        asked = {**run, **{key: getattr(wanted, key) for key in keys}}
        found = {**store.run, **{key: getattr(layout, key) for key in keys}}
        for key, value in asked.items():
            if found.get(key) != value:
                raise InputError(
                    f"{out} holds a rollout with {key} = {found.get(key)!r}, so it cannot be resumed with {value!r}; "
                    "use the same options or another folder"
                )
        return store

    def _info(self) -> dict[str, Any]:
        return {} if self.options.shard is None else {"shard": list(self.options.shard)}

    def _identity(self) -> dict[str, Any]:
        """Return what determines the tokens and the observables, as plain values."""
        digest = hashlib.sha256()
        for name in sorted(self.sampler.files.tensors):
            digest.update(name.encode() + b"\0")
            digest.update(np.ascontiguousarray(self.sampler.files.tensors[name]).tobytes())
        config, observables = self.config, self.options.observables
        return {
            "first_trajectory": self.options.first_trajectory,
            "mode": config.mode,
            "hop_keep": config.hop_keep,
            "seed": config.seed,
            "sampling_temperature": config.sampling_temperature,
            "precision": config.precision,
            # Instruction sets without fused operations round differently.
            "arithmetic": _arithmetic(self.sampler.engine_name),
            "model_config": self.sampler.config.to_dict(),
            "model_sha256": digest.hexdigest(),
            "prompt_length": self.prompts.shape[1],
            "prompts_digest": prompts_digest(self.prompts, self.options.first_trajectory),
            "observables": None if observables is None else observables.to_dict(),
        }

    def _restore(self, store: TokenStore) -> dict[str, Any]:
        """Take up the observables of all complete steps; return the state of the shard under way, if any."""
        if self.spec is None or store.observables is None:
            return {}
        file = store.path / store.observables
        arrays = read_npz(file)
        try:
            result = ObservablesResult.from_arrays(arrays)
            if result.observables != self.options.observables:
                raise InputError("it holds other observables than asked for")
            self.totals = result.totals
            if "state_shard" not in arrays:
                return {}
            return {**arrays, "state_shard": int(arrays["state_shard"])}
        except (InputError, KeyError, ValueError, TypeError, OverflowError) as error:
            raise StoreError(f"{file} is damaged: {error}") from None

    def _fill(self, store: TokenStore, index: int, state: dict[str, Any] | None) -> None:
        shard, layout = store.shards[index], store.layout
        rows, done = shard.last - shard.first, shard.steps_done
        if done:
            self._skip(rows * done)
        if done == layout.n_steps:
            return
        if self.spec is not None and done and state is None:
            raise StoreError(f"{store.path} has no observables of the first {done} steps of {shard.file}")
        watch = self._watch(rows, state)
        session = self._open(shard.first, shard.last, store.tail(index), done, watch)
        steps = max(1, (1 << 16) // rows)
        while done < layout.n_steps:
            steps = min(steps, layout.n_steps - done)
            begun = time.perf_counter()
            tokens = np.empty((rows, layout.stored_before(done + steps) - layout.stored_before(done)), self.dtype)
            self._draw(session, watch, done, steps, tokens)
            seconds = time.perf_counter() - begun
            store.info["seconds"] = float(store.info.get("seconds", 0.0)) + seconds
            done += steps
            if done == layout.n_steps:
                self._finish(watch)
            store.append(index, steps, tokens, session.history(), self._declared(watch, index, done < layout.n_steps))
            # Declaring progress costs a few writes that wait for the disk: do it every few seconds.
            faster = min(4.0, max(0.25, COMMIT_SECONDS / max(seconds, 1e-3)))
            most = COMMIT_TOKENS // rows if layout.keeps_tokens else layout.n_steps
            steps = max(1, min(int(steps * faster), most))

    def _declared(
        self, watch: _native.NativeObservables | None, index: int, under_way: bool
    ) -> dict[str, NDArray[Any]] | None:
        """Return the observables of all complete steps, with the state of the shard under way."""
        if watch is None or self.options.observables is None:
            return None
        arrays = ObservablesResult(self.options.observables, self.sampler.files.state_map, watch.totals()).to_arrays()
        if under_way:
            arrays |= {
                "state_shard": np.array(index),
                "state_counters": watch.counters(),
                "state_recent": watch.recent(),
            }
        return arrays

    # --- the engine --------------------------------------------------------------------------------------------------
    def _open(
        self,
        first: int,
        last: int,
        tail: NDArray[np.uint16] | None,
        step: int,
        watch: _native.NativeObservables | None,
    ) -> _native.NativeSession:
        assert self.sampler._engine is not None
        history = self.prompts[first:last] if tail is None else tail
        begin = self.options.first_trajectory
        return self.sampler._engine.open(
            history,
            np.arange(begin + first, begin + last, dtype=np.uint64),
            mode=self.config.mode,
            hop_keep=self.config.hop_keep or 0,
            n_before=self.prompts.shape[1] + step - history.shape[1],
            first_step=step,
            seed=self.config.seed,
            temperature=self.config.sampling_temperature,
            n_threads=self.n_threads,
            lookahead=self.options.lookahead,
            observables=watch,
        )

    def _reference(self, first: int, last: int, out: NDArray[Any]) -> None:
        """Generate with the PyTorch reference; only this needs PyTorch."""
        config, files = self.config, self.sampler.files
        model = import_module("nanomd.model.network").NanoGPT(files.config)
        model.load_tensors(files.tensors)
        tokens = import_module("nanomd.rollout.reference").generate_reference(
            model,
            self.prompts[first:last].astype(np.int64),
            config.n_steps,
            mode=config.mode,
            hop_keep=config.hop_keep,
            seed=config.seed,
            first_trajectory=self.options.first_trajectory + first,
            sampling_temperature=config.sampling_temperature,
        )
        every = np.ascontiguousarray(tokens, dtype=self.dtype)
        self._report(every.size)
        watch = self._watch(last - first)
        if watch is not None:
            watch.add(every, self.n_threads)
            self._finish(watch)
        if self.options.store_tokens:
            out[...] = every[:, :: config.stride]

    def _batch(self) -> int:
        """Trajectories under way at once: groups of sixteen for all threads, within the memory for caches."""
        engine = self.sampler._engine
        if engine is None:
            return self.config.n_trajs
        if isinstance(engine, _native.NativeCudaEngine):
            plan = engine.memory_plan(self.config.mode, self.config.n_trajs, self.spec)
            _LOG.info(
                "%s: %d bytes of device memory a trajectory, %d free; %s",
                engine.name,
                plan["per_trajectory"],
                plan["free"],
                engine.describe(self.config.n_trajs),
            )
            # The session refuses, and says why, what does not fit even one at a time.
            return min(self.config.n_trajs, max(1, plan["largest_n_trajs"]))
        within = CACHE_BYTES // (16 * engine.bytes_per_trajectory)
        groups = max(self.n_threads, min(within, max(4, 2 * self.n_threads)))
        return min(self.config.n_trajs, 16 * groups)

    def _report(self, n: int) -> bool:
        progress, cancel = self.options.progress, self.options.cancel
        if progress is not None and n:
            self._steps_reported += n
            progress.update(n)
            progress.note(self.sampler.files.frame_interval.describe(self._steps_reported))
        return cancel is not None and bool(cancel())

    def _skip(self, n: int) -> None:
        self._steps_reported += n
        if self.options.progress is not None:
            skip(self.options.progress, n)

    def _rollout(self, tokens: NDArray[Any], seconds: float) -> Rollout:
        files, observables = self.sampler.files, self.options.observables
        result = None
        if observables is not None and self.totals is not None:
            result = ObservablesResult(observables, files.state_map, self.totals)
        return Rollout(
            tokens=tokens,
            state_map=files.state_map,
            config=self.config,
            frame_interval=files.frame_interval,
            seconds=seconds,
            backend=self.sampler.engine_name,
            model_config=files.config,
            first_trajectory=self.options.first_trajectory,
            observables=result,
        )


def _arithmetic(engine_name: str) -> str:
    # What decides the last bits: a rollout resumes only with the same.
    if engine_name.startswith("cuda"):
        return "cuda"
    return "unfused" if engine_name == "cpu/sse2" else "fused"
