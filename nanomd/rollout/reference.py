"""The eager reference: every step recomputes what it reads with PyTorch. Slow, short, and the meaning of the rest.

The three modes are written as what the model reads at each step (`nanomd.rollout.modes.context_start`); the compiled
engines with their caches must agree. It works in float64, so that what the size of a batch changes in the last bits
lies as far below the uniforms' 53 bits as it can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from nanomd import _native
from nanomd.base.config import ModelConfig
from nanomd.base.errors import InputError
from nanomd.model.network import NanoGPT
from nanomd.rollout.modes import context_start, resolve_hop_keep, resolve_mode


def draw_state(probabilities: NDArray[np.float64], uniform: float) -> int:
    """Return the smallest k whose cumulative probability exceeds `uniform`; on rounding, the last state with p > 0."""
    cumulative = np.cumsum(probabilities)
    state = int(np.searchsorted(cumulative, uniform, side="right"))
    return state if state < len(probabilities) else int(np.flatnonzero(probabilities)[-1])


class ReferenceEngine:
    """The reference over one model, with the interface of `nanomd._native.NativeEngine`.

    Parameters
    ----------
    config : ModelConfig
    tensors : dict of float32 arrays
        As named and shaped by `ModelConfig.tensor_shapes`.
    """

    name = "reference"

    def __init__(self, config: ModelConfig, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        self.config = config
        self.model = NanoGPT(config, backend="reference")
        self.model.load_tensors(tensors)
        self.model = self.model.double().eval()

    def batch_size(
        self, n_trajs: int, *, mode: str, n_threads: int, cache_bytes: int, observed: _native.ObservablesSpec | None
    ) -> int:
        """Return how many of `n_trajs` trajectories to have under way at once: there are no caches, so all of them."""
        return n_trajs

    def replay_length(self, mode: str, hop_keep: int, n_tokens: int) -> int:
        """Return how many of the last tokens the next step reads, when `n_tokens` have been seen in total."""
        return n_tokens - context_start(self.config, mode, n_tokens, hop_keep)

    def open(
        self,
        history: NDArray[np.uint16],
        trajectories: NDArray[np.uint64],
        *,
        mode: str,
        hop_keep: int = 0,
        n_before: int = 0,
        first_step: int = 0,
        seed: int = 0,
        temperature: float = 1.0,
        n_threads: int = 1,
        n_drafts: int = -1,
        observables: _native.NativeObservables | None = None,
    ) -> ReferenceSession:
        """Start or continue trajectories; threads are PyTorch's, nothing is drafted, observables are the caller's."""
        mode = resolve_mode(self.config, mode)
        keep = resolve_hop_keep(self.config, mode, hop_keep or None)
        known = np.asarray(history, dtype=np.int64)
        if known.ndim != 2 or known.shape[1] < 1:
            raise InputError(f"history must have shape (n_trajs, n) with n >= 1, got {known.shape}")
        session = ReferenceSession(self, known, trajectories, n_before, first_step, mode, keep, seed, temperature)
        needed = n_before + known.shape[1] - session.reads_from()
        if needed > known.shape[1]:
            raise InputError(f"history must hold the last {needed} tokens, got {known.shape[1]}")
        return session

    @torch.no_grad()
    def logits(self, context: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the logits (n, V) of the state after the frames (n, T)."""
        logits: NDArray[np.float64] = self.model(torch.from_numpy(context))[:, -1].numpy()
        return logits

    def log_probs(
        self, tokens: NDArray[np.uint16], *, mode: str, hop_keep: int = 0, first_position: int = 0, n_threads: int = 1
    ) -> NDArray[np.float32]:
        """Return ln p(next state) after every position, (n, T, n_states); only differences of positions matter."""
        mode = resolve_mode(self.config, mode)
        keep = resolve_hop_keep(self.config, mode, hop_keep or None)
        frames = np.asarray(tokens, dtype=np.int64)
        n, length = frames.shape
        result = np.empty((n, length, self.config.n_states), dtype=np.float32)
        for now in range(1, length + 1):
            logits = self.logits(frames[:, context_start(self.config, mode, now, keep) : now])
            result[:, now - 1] = torch.from_numpy(logits).log_softmax(-1).numpy()
        return result


@dataclass
class ReferenceSession:
    """Trajectories under way; made by `ReferenceEngine.open`."""

    engine: ReferenceEngine
    known: NDArray[np.int64]  # (n_trajs, n): the latest tokens
    trajectories: NDArray[np.uint64]  # (n_trajs,): global indices
    n_before: int  # tokens before those
    step: int  # index of the next state to be drawn
    mode: str
    hop_keep: int
    seed: int
    temperature: float
    observes: ClassVar[bool] = False

    def reads_from(self) -> int:
        """Return the index, among all tokens from the first of the prompt on, of the first that the next step reads."""
        n_known = self.n_before + self.known.shape[1]
        return context_start(self.engine.config, self.mode, n_known, self.hop_keep)

    def advance(
        self,
        n_steps: int,
        out: NDArray[Any] | None = None,
        stride: int = 1,
        progress: Callable[[int], bool] | None = None,
    ) -> bool:
        """Draw `n_steps` more states; `out` takes those of the steps divisible by `stride`. See `NativeSession`."""
        column = 0
        for _ in range(n_steps):
            self._forget(self.reads_from())
            logits = self.engine.logits(self.known) / self.temperature
            probabilities = torch.from_numpy(logits).softmax(-1).numpy()
            lost = np.flatnonzero(~np.isfinite(probabilities).all(axis=-1))
            if lost.size:
                raise InputError(
                    f"the model gave probabilities that are not finite for state {self.step} of trajectory "
                    f"{self.trajectories[lost[0]]}: its weights are too large or damaged"
                )
            drawn = [
                draw_state(p, _native.rollout_uniform(self.seed, self.step, int(index)))
                for p, index in zip(probabilities, self.trajectories, strict=True)
            ]
            self.known = np.concatenate((self.known, np.array(drawn, dtype=np.int64)[:, None]), axis=1)
            if out is not None and self.step % stride == 0:
                out[:, column] = drawn
                column += 1
            self.step += 1
            if progress is not None and progress(len(drawn)):
                return False
        return True

    def _forget(self, first: int) -> None:
        self.known, self.n_before = self.known[:, first - self.n_before :], first

    def collect(self, observables: _native.NativeObservables) -> None:
        """Do nothing: the session accumulates nothing."""

    def history(self) -> NDArray[np.uint16]:
        """Return the latest tokens, (n_trajs, n): enough to open a session that continues."""
        self._forget(self.reads_from())
        return self.known.astype(np.uint16)
