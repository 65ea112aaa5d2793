"""One call of `Sampler.generate`: batches of trajectories, observed on the way. `nanomd.rollout.disk` stores them."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd import _native
from nanomd.base.config import RolloutConfig
from nanomd.base.errors import CancelledError
from nanomd.base.progress import skip
from nanomd.data.states import token_dtype
from nanomd.model.files import ModelFiles
from nanomd.rollout.beginning import Beginning
from nanomd.rollout.engine import RolloutEngine, RolloutSession, check_threads
from nanomd.rollout.manifest import StoreLayout
from nanomd.rollout.observables import ObservablesResult
from nanomd.rollout.request import RolloutRequest
from nanomd.rollout.result import Rollout

OBSERVE_TOKENS = 1 << 22  # drawn at a time where they are only looked at
CACHE_BYTES = 1 << 28  # of all trajectories under way at once


class Run:
    """What a request becomes with a model: `config.n_trajs` trajectories that go on from where they begin."""

    def __init__(
        self,
        engine: RolloutEngine,
        files: ModelFiles,
        request: RolloutRequest,
        config: RolloutConfig,
        begin: Beginning,
    ) -> None:
        self.engine, self.files, self.request, self.config, self.begin = engine, files, request, config, begin
        self.first_trajectory = request.trajectories.start
        self.n_threads = check_threads(config.n_threads)
        self.dtype = token_dtype(files.config.n_states)
        observables = request.observables
        self.spec = None if observables is None else observables.spec(files.state_map)
        self.totals: NDArray[np.int64] | None = None  # of the observables, over all batches so far
        if self.spec is not None:
            self.totals = np.zeros(_native.observables_layout(self.spec)["size"], np.int64)
        self._steps_reported = 0

    def layout(self) -> StoreLayout:
        """Return how the tokens are laid out; a shard of a store is a batch of trajectories under way at once."""
        config = self.config
        batch = self.engine.batch_size(
            config.n_trajs, mode=config.mode, n_threads=self.n_threads, cache_bytes=CACHE_BYTES, observed=self.spec
        )
        kept = self.request.store_tokens
        return StoreLayout(config.n_trajs, config.n_steps, config.stride, batch, self.dtype.name, kept)

    def in_memory(self) -> Rollout:
        """Generate everything at once."""
        begun = time.perf_counter()
        config, layout = self.config, self.layout()
        tokens = np.empty((config.n_trajs, layout.n_stored), dtype=self.dtype)
        for first in range(0, config.n_trajs, layout.shard_trajs):
            last = min(first + layout.shard_trajs, config.n_trajs)
            watch = self.watch(last - first)
            session = self.open(first, last, None, 0, watch)
            self.draw(session, watch, 0, config.n_steps, tokens[first:last])
            self.finish(watch)
        return self.result(tokens, time.perf_counter() - begun)

    def open(
        self,
        first: int,
        last: int,
        tail: NDArray[np.uint16] | None,
        step: int,
        watch: _native.NativeObservables | None,
    ) -> RolloutSession:
        """Open a session of the trajectories [first, last): where they begin, or at `step` from their `tail`."""
        history = self.begin.tokens[first:last] if tail is None else tail
        return self.engine.open(
            history,
            np.arange(self.first_trajectory + first, self.first_trajectory + last, dtype=np.uint64),
            mode=self.config.mode,
            hop_keep=self.config.hop_keep or 0,
            n_before=self.begin.n_before + self.begin.tokens.shape[1] + step - history.shape[1],
            first_step=self.begin.first_step + step,
            seed=self.config.seed,
            temperature=self.config.sampling_temperature,
            n_threads=self.n_threads,
            n_drafts=self.request.n_drafts,
            observables=watch,
        )

    def draw(
        self,
        session: RolloutSession,
        watch: _native.NativeObservables | None,
        done: int,
        steps: int,
        out: NDArray[Any],
    ) -> None:
        """Draw `steps` more states of a batch; `out` (rows, states kept) takes those that are stored."""
        stride, kept = self.config.stride, self.request.store_tokens
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

    def _advance(self, session: RolloutSession, steps: int, out: NDArray[Any] | None, stride: int) -> None:
        if not session.advance(steps, out, stride, self._report):
            raise CancelledError("the rollout was cancelled; what is complete on disk is kept, and resume=True goes on")

    # --- observables -------------------------------------------------------------------------------------------------
    def watch(self, rows: int, state: dict[str, NDArray[Any]] | None = None) -> _native.NativeObservables | None:
        """Begin to observe a batch, or go on from the `state` that was stored of it."""
        if self.spec is None:
            return None
        if state is None:
            return _native.NativeObservables(self.spec, rows, self.totals)
        return _native.NativeObservables(
            self.spec, rows, self.totals, state["state_counters"], state["state_recent"].astype(np.uint16)
        )

    def finish(self, watch: _native.NativeObservables | None) -> None:
        """End the trajectories of a batch, and keep what was observed of them."""
        if watch is not None:
            watch.finish()
            self.totals = watch.totals()

    # --- what the caller sees ----------------------------------------------------------------------------------------
    def _report(self, n: int) -> bool:
        progress, cancel = self.request.progress, self.request.cancel
        if progress is not None and n:
            self._steps_reported += n
            progress.update(n)
            progress.note(self.files.frame_interval.describe(self._steps_reported))
        return cancel is not None and bool(cancel())

    def skip(self, n: int) -> None:
        """Tell the progress of trajectory-steps that were made before."""
        self._steps_reported += n
        if self.request.progress is not None:
            skip(self.request.progress, n)

    def result(self, tokens: NDArray[Any], seconds: float) -> Rollout:
        """Return the rollout with these tokens."""
        files, observables = self.files, self.request.observables
        observed = None
        if observables is not None and self.totals is not None:
            observed = ObservablesResult(observables, files.state_map, self.totals)
        return Rollout(
            tokens=tokens,
            state_map=files.state_map,
            config=self.config,
            frame_interval=files.frame_interval,
            frame_stride=files.frame_stride,
            seconds=seconds,
            backend=self.engine.name,
            model_config=files.config,
            first_trajectory=self.first_trajectory,
            observables=observed,
            first_step=self.begin.first_step,
            prompt_length=self.begin.prompt_length,
        )
