"""Rolling out a trained model: `Sampler` generates, `Rollout` holds what came out. Neither needs PyTorch."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd import _native
from nanomd._nvtx import annotate
from nanomd.checkpoint import ModelFiles, load_model_files
from nanomd.config import ModelConfig, RolloutConfig, check_range
from nanomd.dtrajs import token_dtype
from nanomd.errors import BackendUnavailableError, InputError
from nanomd.progress import Progress
from nanomd.rollout_result import Rollout, ShardedTokens
from nanomd.rope import rope_multipliers
from nanomd.starts import start_prompts
from nanomd.token_store import StoreLayout, TokenStore, lock_folder

__all__ = ["Rollout", "Sampler", "ShardedTokens"]

_COMMIT_SECONDS = 10.0  # between two declarations of progress on disk
_COMMIT_TOKENS = 1 << 24  # at most, which bounds the memory of a rollout to disk
_CACHE_BYTES = 1 << 28  # of all trajectories under way at once


class Sampler:
    """Generates trajectories from a trained model.

    Parameters
    ----------
    files : ModelFiles
        See `nanomd.checkpoint`.
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
        if self.backend == "cpu":
            rope = files.config.position == "rope"
            multipliers = rope_multipliers(files.config) if rope else np.zeros(0, np.uint32)
            self._engine = _native.NativeEngine(files.config, files.tensors, multipliers, isa, single_lanes, precision)
        elif precision != "fp32":
            raise BackendUnavailableError(f"precision {precision!r} needs the cpu engine, not {self.backend!r}")
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
        progress: Progress | None = None,
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
        progress : Progress, optional
            Updated with trajectory-steps.
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
        """
        config = RolloutConfig(
            n_steps=n_steps,
            n_trajs=n_trajs,
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
        check_range("first_trajectory", first_trajectory, 0, 2**62)
        _, prompts = start_prompts(self.files, start, n_trajs, first_trajectory, seed)
        if resume and out is None:
            raise InputError("resume=True needs out=, the folder with the interrupted rollout")
        run = _Run(self, config, prompts, first_trajectory, progress, parse_lookahead(lookahead))
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


def available_threads() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
        reason = _native.cuda_info()["reason"] or "this version has no CUDA rollout engine yet"
        raise BackendUnavailableError(f"backend 'cuda' is not available: {reason}; available are cpu and reference")
    return "cpu" if name == "auto" else name


class _Run:
    """One call of `Sampler.generate`."""

    def __init__(
        self,
        sampler: Sampler,
        config: RolloutConfig,
        prompts: NDArray[np.uint16],
        first_trajectory: int,
        progress: Progress | None,
        lookahead: int,
    ) -> None:
        self.lookahead = lookahead
        self.sampler, self.config, self.prompts, self.progress = sampler, config, prompts, progress
        self.first_trajectory = first_trajectory
        self.n_threads = config.n_threads or available_threads()
        self.dtype = token_dtype(sampler.config.n_states)

    def in_memory(self) -> Rollout:
        begun = time.perf_counter()
        n_stored = -(-self.config.n_steps // self.config.stride)
        tokens = np.empty((self.config.n_trajs, n_stored), dtype=self.dtype)
        for first in range(0, self.config.n_trajs, self._batch()):
            last = min(first + self._batch(), self.config.n_trajs)
            if self.sampler._engine is None:
                tokens[first:last] = self._reference(first, last)
            else:
                self._open(first, last, None, 0).advance(
                    self.config.n_steps, tokens[first:last], self.config.stride, self._report
                )
        return self._rollout(tokens, time.perf_counter() - begun)

    def on_disk(self, out: Path, resume: bool) -> Rollout:
        if self.sampler._engine is None:
            with lock_folder(out):
                rollout = self.in_memory()
                rollout.save(out)
                return rollout
        with lock_folder(out):
            store = self._store(out, resume)
            for index in range(len(store.shards)):
                self._fill(store, index)
            return Rollout.from_store(store)

    def _store(self, out: Path, resume: bool) -> TokenStore:
        run = self._identity()
        if not (resume and TokenStore.exists(out)):
            info = self._rollout(np.zeros((0, 0), self.dtype), 0.0).describe()
            layout = StoreLayout(
                self.config.n_trajs, self.config.n_steps, self.config.stride, self._batch(), self.dtype.name
            )
            return TokenStore.create(out, layout, run, info)
        store = TokenStore.open(out)
        asked = {**run, "n_trajs": self.config.n_trajs, "n_steps": self.config.n_steps, "stride": self.config.stride}
        layout = store.layout
        found = {**store.run, "n_trajs": layout.n_trajs, "n_steps": layout.n_steps, "stride": layout.stride}
        for key, value in asked.items():
            if found.get(key) != value:
                raise InputError(
                    f"{out} holds a rollout with {key} = {found.get(key)!r}, so it cannot be resumed with {value!r}; "
                    "use the same options or another folder"
                )
        return store

    def _identity(self) -> dict[str, Any]:
        """Return what determines the tokens, as plain values."""
        digest = hashlib.sha256()
        for name in sorted(self.sampler.files.tensors):
            digest.update(name.encode() + b"\0")
            digest.update(np.ascontiguousarray(self.sampler.files.tensors[name]).tobytes())
        config = self.config
        return {
            "first_trajectory": self.first_trajectory,
            "mode": config.mode,
            "hop_keep": config.hop_keep,
            "seed": config.seed,
            "sampling_temperature": config.sampling_temperature,
            "precision": config.precision,
            # Instruction sets without fused operations round differently.
            "arithmetic": "unfused" if self.sampler.engine_name == "cpu/sse2" else "fused",
            "model_config": self.sampler.config.to_dict(),
            "model_sha256": digest.hexdigest(),
            "prompt_length": self.prompts.shape[1],
            "prompts_sha256": hashlib.sha256(np.ascontiguousarray(self.prompts).tobytes()).hexdigest(),
        }

    def _fill(self, store: TokenStore, index: int) -> None:
        shard, layout = store.shards[index], store.layout
        rows, done = shard.last - shard.first, shard.steps_done
        if self.progress is not None and done:
            self.progress.update(rows * done)
        if done == layout.n_steps:
            return
        session = self._open(shard.first, shard.last, store.tail(index), done)
        steps = max(1, (1 << 16) // rows)
        while done < layout.n_steps:
            steps = min(steps, layout.n_steps - done)
            begun = time.perf_counter()
            tokens = np.empty((rows, layout.stored_before(done + steps) - layout.stored_before(done)), self.dtype)
            session.advance(steps, tokens, layout.stride, self._report)
            seconds = time.perf_counter() - begun
            store.info["seconds"] = float(store.info.get("seconds", 0.0)) + seconds
            store.append(index, steps, tokens, session.history())
            done += steps
            # Declaring progress costs a few writes that wait for the disk: do it every few seconds.
            faster = min(4.0, max(0.25, _COMMIT_SECONDS / max(seconds, 1e-3)))
            steps = max(1, min(int(steps * faster), _COMMIT_TOKENS // rows))

    def _open(self, first: int, last: int, tail: NDArray[np.uint16] | None, step: int) -> _native.NativeSession:
        assert self.sampler._engine is not None
        history = self.prompts[first:last] if tail is None else tail
        return self.sampler._engine.open(
            history,
            np.arange(self.first_trajectory + first, self.first_trajectory + last, dtype=np.uint64),
            mode=self.config.mode,
            hop_keep=self.config.hop_keep or 0,
            n_before=self.prompts.shape[1] + step - history.shape[1],
            first_step=step,
            seed=self.config.seed,
            temperature=self.config.sampling_temperature,
            n_threads=self.n_threads,
            lookahead=self.lookahead,
        )

    def _reference(self, first: int, last: int) -> NDArray[Any]:
        """Generate with the PyTorch reference; only this needs PyTorch."""
        config, files = self.config, self.sampler.files
        model = import_module("nanomd.model").NanoGPT(files.config)
        model.load_tensors(files.tensors)
        tokens = import_module("nanomd.baselines.reference_gpt").generate_reference(
            model,
            self.prompts[first:last].astype(np.int64),
            config.n_steps,
            mode=config.mode,
            hop_keep=config.hop_keep,
            seed=config.seed,
            first_trajectory=self.first_trajectory + first,
            sampling_temperature=config.sampling_temperature,
        )
        self._report(tokens.size)
        return np.asarray(tokens)[:, :: config.stride]

    def _batch(self) -> int:
        """Trajectories under way at once: groups of sixteen for all threads, within the memory for caches."""
        engine = self.sampler._engine
        if engine is None:
            return self.config.n_trajs
        within = _CACHE_BYTES // (16 * engine.bytes_per_trajectory)
        groups = max(self.n_threads, min(within, max(4, 2 * self.n_threads)))
        return min(self.config.n_trajs, 16 * groups)

    def _report(self, n: int) -> bool:
        if self.progress is not None and n:
            self.progress.update(n)
        return False

    def _rollout(self, tokens: NDArray[Any], seconds: float) -> Rollout:
        files = self.sampler.files
        return Rollout(
            tokens=tokens,
            state_map=files.state_map,
            config=self.config,
            frame_interval=files.frame_interval,
            seconds=seconds,
            backend=self.sampler.engine_name,
            model_config=files.config,
            first_trajectory=self.first_trajectory,
        )
