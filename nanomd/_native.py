"""The only importer of the compiled core.

Arrays are checked here once, with friendly errors; `_core` checks again defensively.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd.errors import BackendUnavailableError, InputError

try:
    _core: Any = import_module("nanomd._core")  # compiled: it has no types to check
except ImportError as error:  # pragma: no cover
    raise ImportError(
        "the compiled core nanomd._core is missing: install the package (`pip install .`), not its source tree"
    ) from error


def cuda_info() -> dict[str, Any]:
    """Return ``{"built": bool, "devices": [...], "reason": str}``: what CUDA this build and machine offer."""
    info: dict[str, Any] = _core.cuda_info()
    return info


# --- The rollout engine ----------------------------------------------------------------------------------------------


class NativeEngine:
    """The CPU rollout engine over one model: weights are copied and packed once.

    Parameters
    ----------
    config : ModelConfig
    tensors : dict of float32 arrays
        As named and shaped by `ModelConfig.tensor_shapes`.
    rope_multipliers : (d_head / 2,) uint32
        See `nanomd.rope`.
    isa : str
        ``""`` for the best that the processor has (or NANOMD_ISA), ``"sse2"``, ``"avx2"`` or ``"avx512"``.
    single_lanes : int
        Groups of up to this many trajectories run one at a time, larger ones in SIMD lanes; -1 for the default.
        The tokens do not depend on it.

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
        single_lanes: int = -1,
    ) -> None:
        shape = {
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
        }
        arrays = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in tensors.items()}
        self.n_states: int = config.n_states
        with _core_errors():
            self._engine = _core.Engine(shape, arrays, [int(m) for m in rope_multipliers], isa, single_lanes)
        self.name: str = self._engine.name
        self.bytes_per_trajectory: int = self._engine.bytes_per_trajectory

    def replay_length(self, mode: str, hop_keep: int, n_tokens: int) -> int:
        """Return how many of the last tokens rebuild the caches, when `n_tokens` have been seen in total."""
        with _core_errors():
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
        """
        rows = np.ascontiguousarray(history, dtype=np.uint16)
        index = np.ascontiguousarray(trajectories, dtype=np.uint64)
        with _core_errors():
            session = self._engine.open(mode, hop_keep, rows, n_before, index, first_step, seed, temperature, n_threads)
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
        with _core_errors():
            result: NDArray[np.float32] = self._engine.log_probs(
                rows, self.n_states, mode, hop_keep, first_position, n_threads
            )
        return result


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
        with _core_errors():
            finished = bool(self._session.advance(n_steps, self.step, out, stride, progress))
        self.step += n_steps
        return finished

    def history(self) -> NDArray[np.uint16]:
        """Return the latest tokens, (n_trajs, n): enough to open a session that continues bit-identically."""
        history: NDArray[np.uint16] = self._session.history()
        return history


def available_isas() -> list[str]:
    """Return the instruction sets that this processor and build can use, best first."""
    return list(_core.available_isas())


def sample_counts(
    logits: NDArray[np.float32],
    n_draws: int,
    seed: int = 0,
    trajectory: int = 0,
    temperature: float = 1.0,
    isa: str = "",
) -> NDArray[np.int64]:
    """Draw from fixed logits with the sampler of rollouts; return how often each state came.

    Parameters
    ----------
    logits : (n_states,) float32
    n_draws : int
        Draws use the uniforms of steps 0 to n_draws - 1 of the given trajectory.

    Returns
    -------
    counts : (n_states,) int64
    """
    row = np.ascontiguousarray(logits, dtype=np.float32)
    with _core_errors():
        counts: NDArray[np.int64] = _core.sample_counts(row, seed, trajectory, n_draws, temperature, isa)
    return counts


def exp_array(x: NDArray[np.float32], isa: str = "") -> NDArray[np.float32]:
    """Return e^x, (n,) float32 with n a multiple of 16, by the polynomial of the kernels; for tests."""
    row = np.ascontiguousarray(x, dtype=np.float32)
    with _core_errors():
        result: NDArray[np.float32] = _core.exp_array(row, isa)
    return result


def philox(seed: int, step: int, trajectory: int) -> tuple[int, int, int, int]:
    """Return the four words of Philox4x32-10 with key `seed` and counter (`step`, `trajectory`)."""
    a, b, c, d = _core.philox(seed, step, trajectory)
    return a, b, c, d


def rollout_uniform(seed: int, step: int, trajectory: int) -> float:
    """Return the uniform number in [0, 1) that draws a state: 53 bits, a function of its arguments alone."""
    return float(_core.rollout_uniform(seed, step, trajectory))


@contextmanager
def _core_errors() -> Iterator[None]:
    """Turn the core's errors into those of nanomd."""
    try:
        yield
    except _core.CoreInputError as error:
        raise InputError(str(error)) from None
    except _core.CoreUnsupportedError as error:
        raise BackendUnavailableError(str(error)) from None
    except MemoryError:
        raise InputError("not enough memory for the caches of this model; use fewer trajectories at a time") from None
