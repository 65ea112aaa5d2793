"""The only importer of the compiled core.

Arrays are checked here once, with friendly errors; `_core` checks again defensively.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

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


# --- Langevin dynamics of the four-state potential -------------------------------------------------------------------


def simulate_four_state(
    walkers: NDArray[np.float64],
    n_frames: int,
    *,
    beta: float,
    friction: float,
    time_step: float,
    spacing: int,
    seed: int,
    first_frame: int = 0,
    first_trajectory: int = 0,
    n_threads: int = 1,
) -> NDArray[np.float64]:
    """Advance walkers (n_trajs, 4: x, y, vx, vy; updated in place) and return frames (n_trajs, n_frames, 2)."""
    _check_walkers(walkers)
    try:
        frames: NDArray[np.float64] = _core.simulate_four_state(
            beta, friction, time_step, spacing, seed, first_frame, first_trajectory, n_frames, walkers, n_threads
        )
    except _core.CoreInputError as error:
        raise InputError(str(error)) from None
    return frames


def _check_walkers(walkers: NDArray[np.float64]) -> None:
    if walkers.dtype != np.float64 or walkers.ndim != 2 or walkers.shape[1] != 4 or not walkers.flags.c_contiguous:
        raise InputError(
            f"walkers must be a contiguous float64 array (n_trajs, 4), got {walkers.dtype} {walkers.shape}"
        )


def four_state_potential(x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """Return U(x, y) of the four-state potential."""
    value: NDArray[np.float64] = _core.four_state_potential(np.asarray(x, np.float64), np.asarray(y, np.float64))
    return value


# --- Counting in discrete trajectories -------------------------------------------------------------------------------

_TOKEN_TYPES = (np.uint8, np.uint16, np.int32, np.int64)


def _tokens(dtrajs: Sequence[ArrayLike]) -> list[NDArray[Any]]:
    """Give all trajectories one type that the core reads, copying only where it must."""
    arrays = [np.asarray(x) for x in dtrajs]
    for i, x in enumerate(arrays):
        if x.ndim != 1 or (x.size and x.dtype.kind not in "iu"):
            raise InputError(f"dtrajs[{i}] must be a 1-D array of integers, got {x.dtype} of shape {x.shape}")
    types = {x.dtype for x in arrays if x.size}
    dtype = types.pop() if len(types) == 1 else np.dtype(np.int64)
    if dtype not in _TOKEN_TYPES:
        dtype = np.dtype(np.int64)
    return [np.ascontiguousarray(x, dtype) for x in arrays]


class Blocks(NamedTuple):
    """How trajectories are cut into blocks of time: rows of `spans` are (first block, number of equal blocks)."""

    spans: NDArray[np.int64]  # (n_trajs, 2)
    n_blocks: int


def _count(function: str, dtrajs: Sequence[ArrayLike], blocks: Blocks | None, *arguments: Any) -> Any:
    tokens = _tokens(dtrajs)
    if blocks is None:
        blocks = Blocks(np.tile(np.array([[0, 1]], np.int64), (len(tokens), 1)), 1)
    try:
        return getattr(_core, function)(tokens, blocks.spans, blocks.n_blocks, *arguments)
    except _core.CoreInputError as error:
        raise InputError(str(error)) from None


def count_visits(dtrajs: Sequence[ArrayLike], n_states: int, blocks: Blocks | None = None) -> NDArray[np.int64]:
    """Count frames by state: int64 (n_blocks, n_states).

    Here and below, `blocks` splits the result over blocks of time. Without it there is one row for all.
    """
    visits: NDArray[np.int64] = _count("count_visits", dtrajs, blocks, n_states)
    return visits


def count_transitions(
    dtrajs: Sequence[ArrayLike], n_states: int, lagtime: int, *, sliding: bool = True, blocks: Blocks | None = None
) -> NDArray[np.int64]:
    """Count transitions at a lag: int64 (n_blocks, n_states, n_states); every frame starts one, or every lag-th."""
    counts: NDArray[np.int64] = _count(
        "count_transitions", dtrajs, blocks, n_states, lagtime, 1 if sliding else max(lagtime, 1)
    )
    return counts


def project_transitions(
    dtrajs: Sequence[ArrayLike],
    n_states: int,
    lagtime: int,
    matrix: NDArray[np.float64],
    *,
    blocks: Blocks | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return sliding counts @ matrix, (n_blocks, n_states, n_columns), and the row sums of the counts."""
    matrix = np.ascontiguousarray(matrix, np.float64)
    product, rows = _count("project_transitions", dtrajs, blocks, n_states, lagtime, matrix)
    return product, rows


def count_passages(
    dtrajs: Sequence[ArrayLike], n_states: int, stride: int = 1, *, blocks: Blocks | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return exposure (frames) and number of first passages between all pairs: int64 (n_blocks, n_states, n_states).

    A passage i -> j runs from the first visit to i after j to the next visit to j; `csrc/include/nanomd/counts.h`.
    """
    exposure, passages = _count("count_passages", dtrajs, blocks, n_states, stride)
    return exposure, passages


def count_stays(
    dtrajs: Sequence[ArrayLike], n_states: int, stride: int = 1, *, n_bins: int = 2, blocks: Blocks | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return exposure and exits (n_blocks, n_states), and lengths of completed and cut stays (n_states, n_bins)."""
    exposure, exits, completed, cut = _count("count_stays", dtrajs, blocks, n_states, stride, n_bins)
    return exposure, exits, completed, cut


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
        shape = _model_shape(config)
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


class NativeCudaEngine(NativeEngine):
    """The CUDA rollout engine over one model: weights are packed and uploaded once.

    Parameters
    ----------
    config, tensors, rope_multipliers :
        As for `NativeEngine`.
    precision : str
        ``"float16"``: 16-bit weights and caches, ``"float32"``: split weights and fp32 caches.
    regime : str
        ``"throughput"``, ``"latency"``, or ``"auto"`` by the number of trajectories. Tokens do not depend on it.
    tile, ranks : int
        Trajectories per thread block (8 or 16), thread blocks per cluster (1 to 8); 0 to choose.
    device : int
        Index of the CUDA device.
    emulate : bool
        Run the kernels on emulated threads on the host: very slow, for tests.
    order_seed : int
        Emulation only: shuffles the order of threads between barriers; 0 for none.

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
        precision: str = "float16",
        regime: str = "auto",
        tile: int = 0,
        ranks: int = 0,
        device: int = 0,
        emulate: bool = False,
        order_seed: int = 0,
    ) -> None:
        arrays = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in tensors.items()}
        options = {"precision": precision, "regime": regime, "tile": tile, "ranks": ranks, "device": device}
        self.n_states = config.n_states
        with _core_errors():
            self._engine = _core.CudaEngine(
                _model_shape(config), arrays, [int(m) for m in rope_multipliers], options, emulate, order_seed
            )
        self.name = self._engine.name
        self.bytes_per_trajectory = self._engine.bytes_per_trajectory

    def memory_plan(self, mode: str, n_trajs: int) -> dict[str, int]:
        """Return bytes of device memory: weights, per_trajectory, fixed, total, free; and largest_n_trajs that fit."""
        with _core_errors():
            plan: dict[str, int] = self._engine.memory_plan(mode, n_trajs)
        return plan

    def describe(self, n_trajs: int) -> str:
        """Return the regime, tile and precision that `n_trajs` trajectories would run with."""
        with _core_errors():
            return str(self._engine.describe(n_trajs))


def _model_shape(config: Any) -> dict[str, Any]:
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
        with _core_errors():
            finished = bool(self._session.advance(n_steps, self.step, out, stride, progress))
        self.step += n_steps
        return finished

    def history(self) -> NDArray[np.uint16]:
        """Return the latest tokens, (n_trajs, n): enough to open a session that continues bit-identically."""
        history: NDArray[np.uint16] = self._session.history()
        return history


# --- Observables accumulated while tokens are generated --------------------------------------------------------------


class ObservablesSpec(NamedTuple):
    """What is accumulated, in tokens; `csrc/include/nanomd/observables.h` has the definitions."""

    n_states: int
    lagtimes: tuple[int, ...]
    n_sets: int
    set_of: tuple[int, ...]  # (n_states,), set of every token or -1
    bin_edges: tuple[int, ...]  # (n_bins,), 0 first; the last bin is open


def observables_layout(spec: ObservablesSpec) -> dict[str, int]:
    """Return where each table begins in the flat int64 array of totals, and its ``"size"``."""
    with _core_errors():
        layout: dict[str, int] = _core.observables_layout(*spec)
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
        with _core_errors():
            self._writer = _core.ObservablesWriter(*spec, n_trajs)
            if totals is not None:
                self._writer.restore(
                    np.ascontiguousarray(totals, np.int64),
                    self.counters() if counters is None else np.ascontiguousarray(counters, np.int64),
                    self.recent() if recent is None else np.ascontiguousarray(recent, np.uint16),
                )

    def add(self, tokens: NDArray[Any], n_threads: int = 1) -> None:
        """Take the next tokens of all trajectories, (n_trajs, n) uint8 or uint16; not strided."""
        with _core_errors():
            self._writer.add(tokens, n_threads)

    def finish(self) -> None:
        """End the trajectories: what is under way is counted as cut."""
        self._writer.finish()

    def totals(self) -> NDArray[np.int64]:
        """Return all tables in one flat array."""
        totals: NDArray[np.int64] = self._writer.totals()
        return totals

    def counters(self) -> NDArray[np.int64]:
        """Return what is remembered of the trajectories."""
        counters: NDArray[np.int64] = self._writer.counters()
        return counters

    def recent(self) -> NDArray[np.uint16]:
        """Return the latest tokens of the trajectories, as many as the longest lag."""
        recent: NDArray[np.uint16] = self._writer.recent()
        return recent


# --- Parts of the engine, for tests and `nanomd doctor` ---------------------------------------------------------------


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
