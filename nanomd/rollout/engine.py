"""What draws the states: one interface for the compiled engines and the eager reference, and the choice among them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nanomd import _native
from nanomd.base.backends import choose_backend
from nanomd.base.checks import check_whole
from nanomd.base.errors import BackendUnavailableError
from nanomd.base.extras import needs
from nanomd.model.files import ModelFiles
from nanomd.model.rope import rope_multipliers
from nanomd.rollout.self_check import objection

MAX_THREADS = 1 << 16

_LOG = logging.getLogger(__name__)
_said: set[str] = set()


class RolloutSession(Protocol):
    """Trajectories under way; see `nanomd._native.NativeSession`, whose methods these are."""

    @property
    def observes(self) -> bool:
        """True if the session accumulates the observables it was opened with; else that is left to the caller."""

    def advance(
        self,
        n_steps: int,
        out: NDArray[Any] | None = None,
        stride: int = 1,
        progress: Callable[[int], bool] | None = None,
    ) -> bool:
        """Draw more states of every trajectory; False if `progress` stopped it."""

    def collect(self, observables: _native.NativeObservables) -> None:
        """Bring the observables that the session accumulates up to the last state drawn."""

    def history(self) -> NDArray[np.uint16]:
        """Return the latest tokens, (n_trajs, n): enough to open a session that continues bit-identically."""


class RolloutEngine(Protocol):
    """One model, ready to draw states; see `nanomd._native.NativeEngine`, whose methods these are."""

    name: str

    def batch_size(
        self, n_trajs: int, *, mode: str, n_threads: int, cache_bytes: int, observed: _native.ObservablesSpec | None
    ) -> int:
        """Return how many of `n_trajs` trajectories to have under way at once."""

    def replay_length(self, mode: str, hop_keep: int, n_tokens: int) -> int:
        """Return how many of the last tokens a session must be opened with, when `n_tokens` have been seen in total."""

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
    ) -> RolloutSession:
        """Start or continue trajectories."""

    def log_probs(
        self, tokens: NDArray[np.uint16], *, mode: str, hop_keep: int = 0, first_position: int = 0, n_threads: int = 1
    ) -> NDArray[np.float32]:
        """Return ln p(next state) after every position, (n, T, n_states)."""


def check_threads(n_threads: int | None) -> int:
    """Return a number of threads: by default one for each CPU that this process may use."""
    if n_threads is not None:
        return check_whole("n_threads", n_threads, 1, MAX_THREADS)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resolve_backend(backend: str) -> str:
    """Return the backend to use, or ``"auto"``; NANOMD_BACKEND overrides the argument if it names one of rollouts.

    Raises
    ------
    InputError
        For an unknown name.
    BackendUnavailableError
        For one that cannot run here, with the reason and what can.
    """
    name = choose_backend("rollouts", backend)
    if name == "cuda":  # by name: available or an error; only auto asks whether it may be trusted
        reason = _native.cuda_info()["reason"]
        if reason:
            raise BackendUnavailableError(f"backend 'cuda' is not available: {reason}; available are cpu and reference")
    return name


def choose_engine(
    files: ModelFiles, backend: str, *, isa: str = "", column_limit: int = -1, precision: str = "fp32"
) -> tuple[str, RolloutEngine]:
    """Load a model into the engine of a backend; return the backend that was taken and the engine.

    ``"auto"`` takes CUDA where there is a device, its self-check has passed, it can run the model in this precision,
    and nothing was asked of the CPU engine; else the CPU engine, and the log says why.

    Raises
    ------
    BackendUnavailableError
        If a backend asked for by name cannot run here, or cannot run this model.
    """
    name = resolve_backend(backend)
    options: dict[str, Any] = {"isa": isa, "column_limit": column_limit, "precision": precision}
    if name != "auto":
        return name, open_engine(files, name, **options)
    for_cpu = bool(isa) or column_limit >= 0 or precision not in ("fp32", "fp16")
    if not for_cpu and _native.cuda_info()["devices"]:
        reason = objection()
        if not reason:
            try:
                return "cuda", open_engine(files, "cuda", **options)
            except BackendUnavailableError as error:
                reason = str(error)
        if reason not in _said:
            _said.add(reason)
            _LOG.warning("rollouts run on the CPU, not on CUDA: %s", reason)
    return "cpu", open_engine(files, "cpu", **options)


def open_engine(
    files: ModelFiles, backend: str, *, isa: str = "", column_limit: int = -1, precision: str = "fp32"
) -> RolloutEngine:
    """Load a model into the engine of a resolved backend; see `nanomd.Sampler` for the options.

    Raises
    ------
    BackendUnavailableError
        If the engine cannot run this model, or not in this precision.
    """
    config, tensors = files.config, files.tensors
    multipliers = rope_multipliers(config) if config.position == "rope" else np.zeros(0, np.uint32)
    if backend == "cpu":
        return _native.NativeEngine(config, tensors, multipliers, isa, column_limit, precision)
    if backend == "cuda" and precision in ("fp32", "fp16"):
        return _native.NativeCudaEngine(config, tensors, multipliers, precision=precision)
    if precision != "fp32":
        raise BackendUnavailableError(f"precision {precision!r} is not available on {backend!r}; use cpu")
    needs("backend 'reference'", "torch")
    from nanomd.rollout.reference import ReferenceEngine  # the only one that needs PyTorch

    return ReferenceEngine(config, tensors)
