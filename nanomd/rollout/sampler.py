"""Rolling out a trained model: `Sampler` generates, `Rollout` holds what came out. Neither needs PyTorch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd import _native
from nanomd.base.config import ModelConfig, RolloutConfig, check_range
from nanomd.base.errors import BackendUnavailableError, InputError
from nanomd.base.nvtx import annotate
from nanomd.base.progress import Progress
from nanomd.model.files import ModelFiles, load_model_files
from nanomd.model.rope import rope_multipliers
from nanomd.model.starts import start_prompts
from nanomd.rollout.observables import Observables, ObservablesResult
from nanomd.rollout.parts import check_shard, merge_parts, shard_range
from nanomd.rollout.result import Rollout, ShardedTokens
from nanomd.rollout.run import Run, RunOptions, available_threads

__all__ = ["Observables", "ObservablesResult", "Rollout", "Sampler", "ShardedTokens", "merge_parts"]


class Sampler:
    """Generates trajectories from a trained model.

    Parameters
    ----------
    files : ModelFiles
        See `nanomd.model.files`.
    backend : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"reference"`` (PyTorch, slow); NANOMD_BACKEND overrides.
    isa : str
        Force the instruction set of the cpu engine: ``"sse2"``, ``"avx2"``, ``"avx512"``. By default the best.
    single_lanes : int
        Up to this many trajectories of a thread share the weights as columns, more run in SIMD lanes; -1 for the
        default. Tokens do not depend on it.
    precision : str
        What the cpu engine keeps in 16 bits: nothing (``"fp32"``), keys and values (``"fp16-cache"``), weights too
        (``"fp16"``). Sums are fp32 always; ln p of states with p >= 1e-7 is within 1e-3 in fp32, 2e-2 in 16 bits.

    Raises
    ------
    BackendUnavailableError
        If a backend asked for by name cannot run here or cannot run this model.
    """

    def __init__(
        self,
        files: ModelFiles,
        backend: str = "auto",
        *,
        isa: str = "",
        single_lanes: int = -1,
        precision: str = "fp32",
    ) -> None:
        self.files = files
        self.precision = precision
        self.backend = resolve_backend(backend)
        self._engine: _native.NativeEngine | None = None
        rope = files.config.position == "rope"
        multipliers = rope_multipliers(files.config) if rope else np.zeros(0, np.uint32)
        if self.backend == "cpu":
            self._engine = _native.NativeEngine(files.config, files.tensors, multipliers, isa, single_lanes, precision)
        elif self.backend == "cuda" and precision in ("fp32", "fp16"):
            self._engine = _native.NativeCudaEngine(files.config, files.tensors, multipliers, precision=precision)
        elif precision != "fp32":
            raise BackendUnavailableError(f"precision {precision!r} is not available on {self.backend!r}; use cpu")
        self.engine_name = self.backend if self._engine is None else self._engine.name

    @classmethod
    def load(cls, path: str | Path, backend: str = "auto", *, precision: str = "fp32") -> Sampler:
        """Load a model folder."""
        return cls(load_model_files(path), backend, precision=precision)

    @property
    def config(self) -> ModelConfig:
        """The shape of the model."""
        return self.files.config

    def generate(
        self,
        n_steps: int,
        n_trajs: int = 1,
        *,
        start: str | ArrayLike = "stationary",
        mode: str = "auto",
        hop_keep: int | None = None,
        seed: int = 0,
        stride: int = 1,
        sampling_temperature: float = 1.0,
        n_threads: int | None = None,
        out: str | Path | None = None,
        resume: bool = False,
        first_trajectory: int = 0,
        shard: tuple[int, int] | None = None,
        observables: Observables | None = None,
        store_tokens: bool = True,
        progress: Progress | None = None,
        cancel: Callable[[], bool] | None = None,
        lookahead: str | int = "auto",
    ) -> Rollout:
        """Generate trajectories of microstates.

        A trajectory is a function of the model, its start, the seed and its global index: it does not depend on how
        many others are generated beside it, on threads, or on interruptions.

        Parameters
        ----------
        n_steps, n_trajs : int
            States per trajectory (the prompt is not counted), and trajectories.
        start : str or array
            ``"stationary"`` (one state, from the stationary distribution of the training data), ``"uniform"`` (one
            state), ``"data"`` (a window of the training data), or raw state labels, (n_trajs,) or (n_trajs, P).
        mode : str
            ``"ring"`` (rotary positions), ``"hop"`` or ``"crop"``; ``"auto"`` is ring for rotary positions, hop for
            learned ones.
        hop_keep : int, optional
            Tokens in the window when a hop refills it, the newest included, in [1, W - 1]; default W / 2.
        seed : int
            Key of the random numbers.
        stride : int
            Keep the states of steps 0, stride, 2 stride, ...
        sampling_temperature : float
            Divides the logits.
        n_threads : int, optional
            CPU threads; all that this process may use when None.
        out : path, optional
            Store the tokens in this folder while they are generated; memory then does not grow with n_steps.
        resume : bool
            Continue what an interrupted call with the same arguments left in `out`, bit-identically.
        first_trajectory : int
            Global index of the first trajectory.
        shard : (int, int), optional
            ``(i, n)``: generate only part i (from 0) of n of the trajectories; `n_trajs` and `start` describe them all.
            With `out`, the part goes into a folder of its own in it, and `merge_parts` puts all together.
        observables : Observables, optional
            Accumulate these over every state drawn, whatever the stride; see `Rollout.observables`.
        store_tokens : bool
            False keeps only the observables: memory and disk then do not grow with the trajectories' length.
        progress : Progress, optional
            Updated with trajectory-steps, and shows the simulated time.
        cancel : callable, optional
            Asked about twenty times a second; returning True stops the work with a `CancelledError`.
        lookahead : "auto" or int
            States guessed ahead and verified together, which speeds up a single trajectory and changes none of its
            states: as many as pay where a thread has one trajectory ("auto"), none (0), or always k of every one.

        Returns
        -------
        Rollout

        Raises
        ------
        InputError
            For bad arguments or an unknown start state.
        StoreError
            If `out` is busy, damaged, or cannot be written.
        CancelledError
            If `cancel` said so.
        """
        if not store_tokens and observables is None:
            raise InputError("store_tokens=False needs observables=, or nothing would be left of the rollout")
        check_range("n_trajs", n_trajs, 1)
        check_range("first_trajectory", first_trajectory, 0, 2**62)
        first, last = shard_range(shard, n_trajs)
        if shard is not None and not isinstance(start, str) and len(np.atleast_1d(np.asarray(start))) == n_trajs:
            start = np.asarray(start)[first:last]
        config = RolloutConfig(
            n_steps=n_steps,
            n_trajs=last - first,
            start=start if isinstance(start, str) else "prompts",
            mode=resolve_mode(self.config, mode),  # type: ignore[arg-type]
            hop_keep=hop_keep,
            seed=seed,
            stride=stride,
            sampling_temperature=sampling_temperature,
            backend=self.backend,  # type: ignore[arg-type]
            n_threads=n_threads,
            precision=self.precision,  # type: ignore[arg-type]
        )
        if config.mode == "hop" and hop_keep is None:
            config = config.replace(hop_keep=max(1, self.config.context_length // 2))
        _, prompts = start_prompts(self.files, start, last - first, first_trajectory + first, seed)
        if resume and out is None:
            raise InputError("resume=True needs out=, the folder with the interrupted rollout")
        options = RunOptions(
            first_trajectory=first_trajectory + first,
            progress=progress,
            cancel=cancel,
            observables=observables,
            store_tokens=store_tokens,
            lookahead=parse_lookahead(lookahead),
            shard=None if shard is None else check_shard(shard),
        )
        run = Run(self, config, prompts, options)
        with annotate("rollout"):
            return run.in_memory() if out is None else run.on_disk(Path(out), resume)

    def log_probs(
        self,
        dtrajs: Sequence[ArrayLike],
        mode: str = "auto",
        *,
        hop_keep: int | None = None,
        first_position: int = 0,
        n_threads: int | None = None,
    ) -> list[NDArray[np.float32]]:
        """Return ln p(next state) after every frame, through the decode path of rollouts.

        Parameters
        ----------
        dtrajs : sequence of (T,) raw labels
            Every frame must be a known state.
        first_position : int
            Position of the first frame; ring only.

        Returns
        -------
        list of (T, n_states) float32
        """
        if self._engine is None:
            raise BackendUnavailableError(f"log_probs needs the compiled engine, but the backend is {self.backend!r}")
        mode = resolve_mode(self.config, mode)
        keep = max(1, self.config.context_length // 2) if hop_keep is None else hop_keep
        results = []
        for dtraj in dtrajs:
            labels = np.asarray(dtraj)
            if labels.ndim != 1 or not labels.size:
                raise InputError(f"a dtraj must be a non-empty 1-D array, got shape {labels.shape}")
            _, tokens = start_prompts(self.files, labels[None, :], 1, 0, 0)
            results.append(
                self._engine.log_probs(
                    tokens,
                    mode=mode,
                    hop_keep=keep if mode == "hop" else 0,
                    first_position=first_position,
                    n_threads=n_threads or available_threads(),
                )[0]
            )
        return results


def parse_lookahead(lookahead: str | int) -> int:
    """Return the number of states to guess ahead, -1 for ``"auto"``."""
    if lookahead == "auto":
        return -1
    if isinstance(lookahead, bool) or not isinstance(lookahead, int):
        raise InputError(f'lookahead must be "auto" or a number of states, got {lookahead!r}')
    check_range("lookahead", lookahead, 0, 31)
    return lookahead


def resolve_mode(config: ModelConfig, mode: str) -> str:
    """Return the rollout mode: ring for rotary, hop for learned positions when ``"auto"``.

    Raises
    ------
    InputError
        If the positions of the model rule the mode out.
    """
    if mode == "auto":
        return "ring" if config.position == "rope" else "hop"
    if mode not in ("ring", "hop", "crop"):
        raise InputError(f"mode must be one of auto, ring, hop, crop, got {mode!r}")
    if mode == "ring" and config.position == "learned":
        raise InputError("mode ring needs rotary positions, but this model has learned ones; use hop or crop")
    return mode


def resolve_backend(backend: str) -> str:
    """Return the backend to use; the environment's NANOMD_BACKEND overrides the argument.

    Raises
    ------
    InputError
        For an unknown name.
    BackendUnavailableError
        For one that cannot run here, with the reason and what can.
    """
    forced = os.environ.get("NANOMD_BACKEND", "")
    name = forced or backend
    if name not in ("auto", "cpu", "cuda", "reference"):
        origin = " (from NANOMD_BACKEND)" if forced else ""
        raise InputError(f"backend must be one of auto, reference, cpu, cuda, got {name!r}{origin}")
    if name == "cuda":
        reason = _native.cuda_info()["reason"]
        if reason:
            raise BackendUnavailableError(f"backend 'cuda' is not available: {reason}; available are cpu and reference")
    return "cpu" if name == "auto" else name
