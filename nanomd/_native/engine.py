"""The rollout engines."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd._native.core import CORE, core_errors
from nanomd._native.observables import NativeObservables, ObservablesSpec
from nanomd.base.errors import BackendUnavailableError

_LOG = logging.getLogger(__name__)


class NativeEngine:
    """The CPU rollout engine over one model: weights are copied and packed once.

    Parameters
    ----------
    config : ModelConfig
    tensors : dict of float32 arrays
        As named and shaped by `ModelConfig.tensor_shapes`.
    rope_multipliers : (d_head / 2,) uint32
        See `nanomd.model.rope`.
    isa : str
        ``""`` for the best that the processor has (or NANOMD_ISA), ``"sse2"``, ``"avx2"`` or ``"avx512"``.
    column_limit : int
        Up to this many trajectories of a thread share the weights as columns, more run in SIMD lanes; -1 for the
        default. The tokens do not depend on it.
    precision : str
        ``"fp32"``, ``"fp16-cache"`` (keys and values in 16 bits) or ``"fp16"`` (weights too).

    Raises
    ------
    InputError
        For tensors that do not fit the configuration.
    BackendUnavailableError
        For a model or instruction set that this engine cannot run.
    """

    def __init__(
        self,
        config: Any,
        tensors: Mapping[str, NDArray[np.float32]],
        rope_multipliers: NDArray[np.uint32],
        isa: str = "",
        column_limit: int = -1,
        precision: str = "fp32",
    ) -> None:
        shape = model_shape(config)
        arrays = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in tensors.items()}
        self.n_states: int = config.n_states
        with core_errors():
            self._engine = CORE.Engine(shape, arrays, [int(m) for m in rope_multipliers], isa, column_limit, precision)
        self.name: str = self._engine.name
        self.bytes_per_trajectory: int = self._engine.bytes_per_trajectory

    def batch_size(
        self, n_trajs: int, *, mode: str, n_threads: int, cache_bytes: int, observed: ObservablesSpec | None
    ) -> int:
        """Return how many of `n_trajs` trajectories to have under way at once.

        Groups of sixteen for all threads, within `cache_bytes` for keys and values.
        """
        within = cache_bytes // (16 * self.bytes_per_trajectory)
        return min(n_trajs, 16 * max(n_threads, min(within, max(4, 2 * n_threads))))

    def replay_length(self, mode: str, hop_keep: int, n_tokens: int) -> int:
        """Return how many of the last tokens rebuild the caches, when `n_tokens` have been seen in total."""
        with core_errors():
            return int(self._engine.replay_length(mode, hop_keep, n_tokens))

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
        observables: NativeObservables | None = None,
    ) -> NativeSession:
        """Start or continue trajectories.

        Parameters
        ----------
        history : (n_trajs, n_history) uint16
            The latest tokens; at least `replay_length` of them.
        trajectories : (n_trajs,) uint64
            Global trajectory indices.
        mode, hop_keep :
            Rollout mode ``"ring"``, ``"hop"`` or ``"crop"``.
        n_before : int
            Tokens before the history.
        first_step : int
            Index of the next state to be drawn.
        seed, temperature, n_threads :
            Key of the random numbers, sampling temperature, threads.
        n_drafts : int
            States guessed ahead: -1 for as many as pay where a thread has one trajectory, 0 for none, k for always k
            (then each trajectory runs by itself). The tokens do not depend on it.
        observables : NativeObservables, optional
            To be accumulated from where it stands by an engine that can; see `NativeSession.observes`.
        """
        rows = np.ascontiguousarray(history, dtype=np.uint16)
        index = np.ascontiguousarray(trajectories, dtype=np.uint64)
        with core_errors():
            session = self._engine.open(
                mode, hop_keep, rows, n_before, index, first_step, seed, temperature, n_threads, n_drafts,
                None if observables is None else observables.writer,
            )  # fmt: skip
        return NativeSession(session, first_step)

    def log_probs(
        self,
        tokens: NDArray[np.uint16],
        *,
        mode: str,
        hop_keep: int = 0,
        first_position: int = 0,
        n_threads: int = 1,
    ) -> NDArray[np.float32]:
        """Return ln p(next state) after every position, through the decode path of rollouts.

        Parameters
        ----------
        tokens : (n, T) uint16
        first_position : int
            Position of the first token; ring only.

        Returns
        -------
        log_probs : (n, T, n_states) float32
        """
        rows = np.ascontiguousarray(tokens, dtype=np.uint16)
        with core_errors():
            result: NDArray[np.float32] = self._engine.log_probs(
                rows, self.n_states, mode, hop_keep, first_position, n_threads
            )
        return result


class NativeCudaEngine(NativeEngine):
    """The CUDA rollout engine over one model: weights are packed and uploaded once.

    Parameters
    ----------
    config, tensors, rope_multipliers :
        As for `NativeEngine`.
    precision : str
        ``"fp16"``: 16-bit weights and caches, ``"fp32"``: split weights and fp32 caches.
    regime : str
        ``"throughput"``, ``"latency"``, or ``"auto"`` by the number of trajectories. Tokens do not depend on it.
    weights : str
        ``"streamed"`` through the L2 cache, ``"resident"`` in shared memory, or ``"auto"``. Tokens do not depend on it.
    tile, ranks : int
        Trajectories of a tile (8 or 16), thread blocks per cluster (1 to 8); 0 to choose.
    device : int
        Index of the CUDA device.
    emulate : bool
        Run the kernels on emulated threads on the host: very slow, for tests, and in builds for developers alone.

    Raises
    ------
    InputError
        For tensors that do not fit the configuration or 16 bits, or unknown options.
    BackendUnavailableError
        Without a device, or for a model that this engine cannot run.
    """

    def __init__(
        self,
        config: Any,
        tensors: Mapping[str, NDArray[np.float32]],
        rope_multipliers: NDArray[np.uint32],
        *,
        precision: str = "fp16",
        regime: str = "auto",
        weights: str = "auto",
        tile: int = 0,
        ranks: int = 0,
        device: int = 0,
        emulate: bool = False,
    ) -> None:
        arrays = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in tensors.items()}
        options = {
            "precision": precision, "regime": regime, "weights": weights,
            "tile": tile, "ranks": ranks, "device": device,
        }  # fmt: skip
        self.n_states = config.n_states
        make = getattr(CORE, "emulated_cuda_engine", None) if emulate else CORE.CudaEngine
        if make is None:
            raise BackendUnavailableError(
                "emulate must be False in this build, which has no emulated CUDA threads; "
                "install with cmake.define.NANOMD_EMULATE_CUDA=ON"
            )
        with core_errors():
            self._engine = make(model_shape(config), arrays, [int(m) for m in rope_multipliers], options)
        self.name = self._engine.name
        self.bytes_per_trajectory = self._engine.bytes_per_trajectory

    def batch_size(
        self, n_trajs: int, *, mode: str, n_threads: int, cache_bytes: int, observed: ObservablesSpec | None
    ) -> int:
        """Return how many of `n_trajs` trajectories to have under way at once: what fits the device's free memory."""
        plan = self.memory_plan(mode, n_trajs, observed)
        _LOG.info(
            "%s: %d bytes of device memory a trajectory, %d free; %s",
            self.name, plan["per_trajectory"], plan["free"], self.describe(n_trajs),
        )  # fmt: skip
        # The session refuses, and says why, what does not fit even one at a time.
        return min(n_trajs, max(1, plan["largest_n_trajs"]))

    def memory_plan(self, mode: str, n_trajs: int, observed: ObservablesSpec | None = None) -> dict[str, int]:
        """Return bytes of device memory: weights, per_trajectory, fixed, total, free; and largest_n_trajs that fit.

        Parameters
        ----------
        mode : str
        n_trajs : int
        observed : ObservablesSpec, optional
            What is accumulated on the device.
        """
        with core_errors():
            plan: dict[str, int] = self._engine.memory_plan(
                mode, n_trajs, None if observed is None else tuple(observed)
            )
        return plan

    def describe(self, n_trajs: int) -> str:
        """Return the regime, tile and precision that `n_trajs` trajectories would run with."""
        with core_errors():
            return str(self._engine.describe(n_trajs))


def model_shape(config: Any) -> dict[str, Any]:
    """Return what the core takes as the shape of a model."""
    return {
        "n_states": config.n_states,
        "d_model": config.d_model,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_kv_head": config.kv_heads,
        "context_length": config.context_length,
        "d_mlp": config.d_mlp,
        "pre_norm": config.norm == "pre",
        "gelu": config.activation == "gelu",
        "learned_position": config.position == "learned",
        "markov_head": config.markov_head,
        "group_sizes": list(config.group_sizes),
    }


class NativeSession:
    """Trajectories under way; made by `NativeEngine.open`."""

    def __init__(self, session: Any, first_step: int) -> None:
        self._session = session
        self.step = first_step

    def advance(
        self,
        n_steps: int,
        out: NDArray[Any] | None = None,
        stride: int = 1,
        progress: Callable[[int], bool] | None = None,
    ) -> bool:
        """Draw `n_steps` more states of every trajectory.

        Parameters
        ----------
        n_steps : int
        out : (n_trajs, m) uint8 or uint16, optional
            Takes the states of the steps divisible by `stride`; rows contiguous.
        stride : int
        progress : callable, optional
            Called with the trajectory-steps done since its last call; returning True stops the work.

        Returns
        -------
        bool
            False if `progress` stopped it; the session cannot go on then.
        """
        with core_errors():
            finished = bool(self._session.advance(n_steps, self.step, out, stride, progress))
        self.step += n_steps
        return finished

    @property
    def observes(self) -> bool:
        """True if the session accumulates the observables it was opened with; else that is left to the caller."""
        return bool(self._session.observes)

    def collect(self, observables: NativeObservables) -> None:
        """Bring the observables that the session accumulates up to the last state drawn."""
        with core_errors():
            self._session.collect(observables.writer)

    def history(self) -> NDArray[np.uint16]:
        """Return the latest tokens, (n_trajs, n): enough to open a session that continues bit-identically."""
        history: NDArray[np.uint16] = self._session.history()
        return history
