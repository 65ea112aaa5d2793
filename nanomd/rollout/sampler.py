"""Rolling out a trained model: `Sampler` generates, `Rollout` holds what came out. Neither needs PyTorch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd.base.checks import check_whole
from nanomd.base.config import ModelConfig
from nanomd.base.errors import InputError
from nanomd.base.nvtx import annotate
from nanomd.base.progress import Progress, reporting
from nanomd.base.units import Duration
from nanomd.model.files import ModelFiles, load_model_files
from nanomd.rollout.beginning import beginning
from nanomd.rollout.disk import run_to_disk
from nanomd.rollout.engine import check_threads, choose_engine
from nanomd.rollout.executors import Executor, ExecutorName
from nanomd.rollout.in_parts import run_in_parts
from nanomd.rollout.modes import resolve_hop_keep, resolve_mode
from nanomd.rollout.observables import Observables, ObservablesResult
from nanomd.rollout.parts import Part, merge_parts
from nanomd.rollout.request import RolloutRequest, parse_drafts
from nanomd.rollout.result import Rollout, ShardedTokens
from nanomd.rollout.run import Run
from nanomd.rollout.scores import score

if TYPE_CHECKING:
    from nanomd.rare.result import RareEvents
    from nanomd.rare.run import Method

__all__ = ["Observables", "ObservablesResult", "Rollout", "Sampler", "ShardedTokens", "merge_parts"]


class Sampler:
    """Generates trajectories from a trained model.

    Parameters
    ----------
    files : ModelFiles or GPTModel
        The weights, and what describes them; `Sampler.load` reads a folder.
    backend : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"reference"`` (PyTorch, slow); NANOMD_BACKEND overrides. Auto takes CUDA
        where there is a device on which a self-check agrees with the CPU engine, else the CPU.
    isa : str
        Force the instruction set of the cpu engine: ``"sse2"``, ``"avx2"``, ``"avx512"``. By default the best.
    column_limit : int
        Up to this many trajectories of a thread share the weights as columns, more run in SIMD lanes; -1 for the
        default. Tokens do not depend on it.
    precision : str
        What is kept in 16 bits: nothing (``"fp32"``), keys and values (``"fp16-cache"``, cpu only), weights too
        (``"fp16"``). Sums are fp32 always; ln p of states with p >= 1e-7 is within 1e-3 in fp32, 2e-2 in 16 bits.
    single_lanes : int, optional
        The former name of `column_limit`.

    Attributes
    ----------
    backend : str
        The one that runs: never ``"auto"``.
    engine : RolloutEngine
        See `nanomd.rollout.engine`.

    Raises
    ------
    BackendUnavailableError
        If a backend asked for by name cannot run here or cannot run this model.

    Examples
    --------
    A model of a few steps' training; a model on disk is loaded with ``Sampler.load("my_run/model")``.

    >>> import numpy as np
    >>> from nanomd import GPTEstimator
    >>> estimator = GPTEstimator("tiny", n_steps=5, seed=1, frame_interval="0.2 ns")
    >>> model = estimator.fit(np.tile([3, 3, 7], 200)).fetch_model()
    >>> rollout = Sampler(model.to_files()).generate(1000, n_trajs=2, start="stationary", seed=1)
    >>> [len(labels) for labels in rollout.dtrajs], np.unique(rollout.dtrajs)
    ([1000, 1000], array([3, 7]))
    """

    def __init__(
        self,
        files: ModelFiles | _Model,
        backend: str = "auto",
        *,
        isa: str = "",
        column_limit: int = -1,
        precision: str = "fp32",
        single_lanes: int | None = None,
    ) -> None:
        if single_lanes is not None:
            warnings.warn("single_lanes is now called column_limit", DeprecationWarning, stacklevel=2)
            column_limit = single_lanes
        self.files = _model_files(files)
        self.precision = precision
        self._asked = backend
        self.backend, self.engine = choose_engine(
            self.files,
            backend,
            isa=isa,
            column_limit=check_whole("column_limit", column_limit),
            precision=precision,
        )

    def __repr__(self) -> str:
        c = self.config
        return (
            f"Sampler({c.n_states} states, d_model {c.d_model}, {c.n_layer} layers, window {c.context_length}; "
            f"{self.engine_name}, {self.precision})"
        )

    @classmethod
    def load(cls, path: str | Path, backend: str = "auto", *, precision: str = "fp32") -> Sampler:
        """Load a model folder."""
        return cls(load_model_files(path), backend, precision=precision)

    @property
    def config(self) -> ModelConfig:
        """The shape of the model."""
        return self.files.config

    @property
    def engine_name(self) -> str:
        """What runs, such as ``"cpu/avx2"``."""
        return self.engine.name

    def generate(
        self,
        n_steps: Duration,
        n_trajs: int = 1,
        *,
        start: str | ArrayLike | Rollout = "stationary",
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
        progress: Progress | bool | None = None,
        cancel: Callable[[], bool] | None = None,
        lookahead: str | int = "auto",
        executor: Executor | ExecutorName | None = None,
    ) -> Rollout:
        """Generate trajectories of microstates.

        A trajectory is a function of the model, its start, the seed and its global index: it does not depend on how
        many others are generated beside it, on threads, or on interruptions.

        Parameters
        ----------
        n_steps, n_trajs : int
            States per trajectory (the prompt is not counted; or a time such as ``"1 ms"``), and trajectories.
        start : str, array or Rollout
            ``"stationary"`` (one state, from the stationary distribution of the training data), ``"uniform"`` (one
            state), ``"data"`` (a window of the training data), or raw state labels: one for all, (n_trajs,) or
            (n_trajs, P). A `Rollout` that keeps every state is gone on with where it ended: with the same seed and
            options, these are exactly the steps that would have followed.
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
            Divides the logits. 1 where states stand in groups (`ModelConfig.group_sizes`), but with the reference.
        n_threads : int, optional
            CPU threads; all that this process may use when None.
        out : path, optional
            Store the tokens in this folder while they are generated; memory then does not grow with n_steps.
        resume : bool
            Continue what an interrupted call with the same arguments left in `out`, bit-identically. If only `n_steps`
            is larger than it was, the rollout there is made longer, if it keeps every state.
        first_trajectory : int
            Global index of the first trajectory.
        shard : (int, int), optional
            ``(i, n)``: generate only part i (from 0) of n of the trajectories; `n_trajs` and `start` describe them all.
            With `out`, the part goes into a folder of its own in it, and `merge_parts` puts all together.
        observables : Observables, optional
            Accumulate these over every state drawn, whatever the stride; see `Rollout.observables`.
        store_tokens : bool
            False keeps only the observables: memory and disk then do not grow with the trajectories' length.
        progress : bool or Progress, optional
            True shows a bar with the simulated time, None says in a line a minute how far it is, False nothing. An
            object of one's own is updated with trajectory-steps.
        cancel : callable, optional
            Asked about twenty times a second; returning True stops the work with a `CancelledError`.
        lookahead : "auto" or int
            States guessed ahead and verified together, which speeds up a single trajectory and changes none of its
            states: as many as pay where a thread has one trajectory ("auto"), none (0), or always k of every one.
        executor : Executor or str, optional
            Make the trajectories in parts by processes (``"local"``), ``"ray"``, ``"dask"`` or ``"slurm"``, in `out`,
            which all workers must see, and merge them; see `nanomd.rollout.executors.Executor`. Repeated, it goes on.

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
        request = RolloutRequest(
            n_steps=n_steps, n_trajs=n_trajs, start=start, mode=mode, hop_keep=hop_keep, seed=seed, stride=stride,
            sampling_temperature=sampling_temperature, n_threads=n_threads, out=None if out is None else Path(out),
            resume=resume, first_trajectory=first_trajectory, part=None if shard is None else Part.of(shard),
            observables=observables, store_tokens=store_tokens, cancel=cancel, n_drafts=parse_drafts(lookahead),
        )  # fmt: skip
        request = request.in_steps(self.files.frame_interval)
        if executor is not None:
            # A card that is here by chance need not be where the parts are made, and all parts are made alike.
            by_chance = self._asked == "auto" and self.backend == "cuda"
            executor = Executor(name=executor) if isinstance(executor, str) else executor
            backend = "cpu" if by_chance and not executor.gpu else self.backend
            return run_in_parts(self.files, request, executor, _generate_part, backend, self.precision)
        total = request.length * len(request.trajectories)
        with reporting(progress, total, "generate") as bar:
            return self.run(replace(request, progress=bar))

    def run(self, request: RolloutRequest) -> Rollout:
        """Do what `generate` does, with its arguments as one object."""
        if request.resume and request.out is None:
            raise InputError("resume=True needs out=, the folder with the interrupted rollout")
        request = request.in_steps(self.files.frame_interval)
        config = request.config(self.config, self.backend, self.precision)
        request.check_memory(self.config)
        run = Run(self.engine, self.files, request, config, beginning(self.engine, self.files, request, config))
        with annotate("rollout"):
            return run.in_memory() if request.out is None else run_to_disk(run, request.out, request.resume)

    def rare_event(
        self,
        source: Sequence[int],
        target: Sequence[int],
        progress: ArrayLike | None = None,
        method: str | Method = "weighted_ensemble",
        *,
        start: ArrayLike | None = None,
        n_repeats: int = 8,
        confidence: float = 0.95,
        mode: str = "auto",
        hop_keep: int | None = None,
        seed: int = 0,
        sampling_temperature: float = 1.0,
        n_threads: int | None = None,
        out: str | Path | None = None,
        resume: bool = False,
        show_progress: Progress | bool | None = None,
        cancel: Callable[[], bool] | None = None,
        record: bool = False,
        **options: Any,
    ) -> RareEvents:
        """Return the rate of an event that a rollout would hardly ever see: the same bits for any number of threads.

        Parameters
        ----------
        source, target : sequences of int
            Raw labels. Trajectories run from the source until they reach the target, and are put back.
        progress : (V,) array, optional
            A value a state, in the order of ``state_map.symbols``, that rises from source to target. It decides the
            effort, not the result. By default ln of the committor of a Markov model of the model's own states.
        method : str, WeightedEnsemble or Splitting
            ``"weighted_ensemble"`` or ``"splitting"`` (adaptive multilevel splitting); see `nanomd.rare`.
        start : (P,) or (n, P) raw labels, optional
            Histories that end in the source, of which one is drawn for every trajectory that is put back. By default
            histories that the model itself makes there.
        n_repeats, confidence :
            Independent repetitions, which give the interval, and its confidence.
        out, resume :
            A folder for a checkpoint now and then, and for the result; go on from there.
        mode, hop_keep, seed, sampling_temperature, n_threads, cancel, show_progress :
            As for `generate`, where the last is `progress`.
        record : bool
            Keep the passages, for `RareEvents.paths`; of a weighted ensemble all that its walkers do, for
            `RareEvents.save_west` too: some 20 bytes a segment.
        **options :
            Those of the method, such as ``n_iterations=1000``.

        Raises
        ------
        InputError, StoreError
            For bad arguments; an `out` that is busy, damaged, or cannot be written.
        BackendUnavailableError
            On another backend than cpu.
        """
        from nanomd.rare.run import RareRequest, parse_method, sample_rare_events

        mode = resolve_mode(self.config, mode)
        keep = resolve_hop_keep(self.config, mode, None if hop_keep is None else check_whole("hop_keep", hop_keep))
        request = RareRequest(
            source=source, target=target, progress=progress, method=parse_method(method, options), start=start,
            n_repeats=n_repeats, confidence=confidence, mode=mode, hop_keep=keep, seed=seed,
            sampling_temperature=sampling_temperature, n_threads=check_threads(n_threads),
            out=None if out is None else Path(out), resume=resume, report=show_progress, cancel=cancel,
            record=record,
        )  # fmt: skip
        return sample_rare_events(self.files, self.engine, request)

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
            Position of the first frame; mode ring only.

        Returns
        -------
        list of (T, n_states) float32

        Raises
        ------
        InputError
            For bad arguments, an unknown state, or a model whose probabilities are not finite.
        """
        return score(
            self.files, self.engine, dtrajs, mode, hop_keep=hop_keep, first_position=first_position, n_threads=n_threads
        )


def _generate_part(model: str, backend: str, precision: str, request: RolloutRequest) -> None:
    Sampler.load(model, backend, precision=precision).run(request)


class _Model(Protocol):
    """What `nanomd.GPTModel` is to a sampler: a thing that has files."""

    def to_files(self) -> ModelFiles: ...


def _model_files(model: ModelFiles | _Model) -> ModelFiles:
    if isinstance(model, ModelFiles):
        return model
    if not hasattr(model, "to_files"):
        raise InputError(f"a Sampler is made from a model, got {model!r}; use Sampler.load for a folder")
    return model.to_files()
