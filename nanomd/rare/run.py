"""Rare-event sampling from the arguments of a user to the result."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd._native import NativeCudaEngine, NativeEngine
from nanomd.base.checks import check_whole
from nanomd.base.errors import BackendUnavailableError, InputError, NanomdWarning, shown
from nanomd.base.files import lock_folder
from nanomd.base.progress import Progress, reporting
from nanomd.model.files import ModelFiles
from nanomd.rare.committor import bins_of_states, model_progress
from nanomd.rare.files import Checkpoint
from nanomd.rare.passages import passages_of_swarm
from nanomd.rare.propagator import Propagator, Task
from nanomd.rare.result import RareEvents
from nanomd.rare.source import collect_exits, equilibrate, given_histories, receptive_field
from nanomd.rare.splitting import Splitting, all_visits, arrived_weight
from nanomd.rare.splitting import run as run_splitting
from nanomd.rare.statistics import student_quantile
from nanomd.rare.weighted_ensemble import WeightedEnsemble
from nanomd.rare.weighted_ensemble import run as run_ensemble

Method = WeightedEnsemble | Splitting
METHODS: dict[str, type[Method]] = {"weighted_ensemble": WeightedEnsemble, "splitting": Splitting}
_SHARE = 0.5  # of the rate, from one repetition of four or more
_DRIFT = 0.9995  # confidence that the flux is not steady


@dataclass(frozen=True, slots=True, kw_only=True)
class RareRequest:
    """What is asked; `Sampler.rare_event` documents every field. Mode, hop_keep and n_threads are resolved."""

    source: Sequence[int]
    target: Sequence[int]
    progress: ArrayLike | None
    method: Method
    start: ArrayLike | None
    n_repeats: int
    confidence: float
    mode: str
    hop_keep: int
    seed: int
    sampling_temperature: float
    n_threads: int
    out: Path | None
    resume: bool
    report: Progress | bool | None
    cancel: Callable[[], bool] | None
    record: bool = False


def parse_method(method: str | Method, options: dict[str, Any]) -> Method:
    """Return how a method is run, from its name and its options.

    Raises
    ------
    InputError
        For an unknown method or option.
    """
    if isinstance(method, WeightedEnsemble | Splitting):
        if options:
            raise InputError(
                f"give options in the {type(method).__name__} or beside its name, got {sorted(options)} too"
            )
        return method
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}, got {shown(method)}")
    kind = METHODS[method]
    unknown = sorted(set(options) - set(kind.__dataclass_fields__))
    if unknown:
        raise InputError(f"{method} has no option {', '.join(unknown)}; it has {', '.join(kind.__dataclass_fields__)}")
    return kind(**options)


def sample_rare_events(files: ModelFiles, engine: object, request: RareRequest) -> RareEvents:
    """Do what `Sampler.rare_event` does, with the engine of a sampler.

    Raises
    ------
    InputError
        For bad arguments.
    StoreError
        If `out` is busy, damaged, or cannot be written.
    CancelledError
        If `cancel` said so.
    BackendUnavailableError
        For an engine other than that of the CPU.
    """
    if not isinstance(engine, NativeEngine) or isinstance(engine, NativeCudaEngine):
        name = getattr(engine, "name", engine)
        raise BackendUnavailableError(f"rare_event runs on the cpu alone, got {name}; use Sampler(..., backend='cpu')")
    if request.resume and request.out is None:
        raise InputError("resume=True needs out=, the folder with the interrupted sampling")
    if not 0 < request.confidence < 1:
        raise InputError(f"confidence must be between 0 and 1, got {request.confidence}")
    source, target = (_members(files, name, getattr(request, name)) for name in ("source", "target"))
    if (source & target).any():
        both = files.state_map.symbols[source & target][0]
        raise InputError(f"source and target must be disjoint, but both hold state {both}")
    check_whole("seed", request.seed, 0, 2**63 - 1)
    n_repeats = check_whole("n_repeats", request.n_repeats, 1, 1 << 20)
    given = None if request.progress is None else _given_progress(request.progress, len(source))
    settings = _settings(files, request, given)
    total = request.method.n_iterations if isinstance(request.method, WeightedEnsemble) else 0
    with reporting(request.report, total, "rare", "iteration") as bar:
        task = Task(
            files, engine, source, target, request.mode, request.hop_keep, request.seed, request.sampling_temperature,
            request.n_threads, n_repeats, bar, request.cancel,
        )  # fmt: skip
        if request.out is None:
            return _sample(task, request, given, settings)
        with lock_folder(request.out):
            return _sample(task, request, given, settings)


def _sample(
    task: Task, request: RareRequest, given: NDArray[np.float64] | None, settings: dict[str, Any]
) -> RareEvents:
    result_file = None if request.out is None else request.out / "result.npz"
    if result_file is not None and result_file.exists():
        done = RareEvents.load(result_file)
        if done.settings != settings:
            raise InputError(f"{request.out} holds a result of other settings or another model; use another folder")
        return done
    checkpoint = Checkpoint(request.out, settings, request.resume)
    begun = time.perf_counter()
    # What comes before the iterations is quick and made anew when they go on.
    propagator = Propagator(task)
    progress = model_progress(propagator) if given is None else given
    prompts = None if request.start is None else given_histories(task, request.start)
    warm_up = max(2 * receptive_field(task), 256)
    source = equilibrate(propagator, prompts, warm_up)
    nothing = np.zeros((0, task.n_repeats))
    found: dict[str, Any]
    if isinstance(request.method, WeightedEnsemble):
        bins = bins_of_states(progress, task.source, task.target, request.method.n_bins)
        ensemble = run_ensemble(propagator, request.method, source, bins, checkpoint, record=request.record)
        found = {
            "rates": ensemble.flux[request.method.burnt :].mean(axis=0), "populations": ensemble.visits,
            "fluxes": ensemble.flux, "levels": np.zeros((0, 3)), "exit_fluxes": np.zeros(0),
            "arrivals": int(ensemble.arrivals.sum()),
            "segments": None if ensemble.record is None else ensemble.record.segments(),
        }  # fmt: skip
    else:
        options = request.method
        exits = collect_exits(propagator, source, options.n_particles, options.n_walkers, warm_up)
        swarm = run_splitting(propagator, options, exits, progress, checkpoint)
        levels = [(r, *pair) for r, pairs in enumerate(swarm.levels) for pair in pairs]
        found = {
            "rates": exits.flux * arrived_weight(swarm),
            "populations": exits.inside + exits.flux[:, None] * all_visits(swarm),
            "fluxes": nothing, "levels": np.array(levels, np.float64).reshape(-1, 3), "exit_fluxes": exits.flux,
            "arrivals": sum(p.peak == np.inf for some in swarm.particles for p in some),
            "passages": passages_of_swarm(swarm, exits.flux) if request.record else None,
        }  # fmt: skip
    found["populations"] = found["populations"] / found["populations"].sum(axis=1, keepdims=True)
    symbols = task.files.state_map.symbols
    result = RareEvents(
        method=settings["method"], source=symbols[task.source], target=symbols[task.target], **found,
        confidence=request.confidence, steps=propagator.steps, seconds=time.perf_counter() - begun,
        backend=task.engine.name, frame_interval=task.files.frame_interval, frame_stride=task.files.frame_stride,
        state_map=task.files.state_map, progress=progress, settings=settings,
    )  # fmt: skip
    if result_file is not None:
        result.save(result_file)
        checkpoint.remove()
    if task.n_repeats > 1 and abs(result.drift) > student_quantile(_DRIFT, task.n_repeats - 1):
        warnings.warn(
            f"the flux still changes ({result.drift:.1f} standard errors between the halves of what counts); "
            "give more iterations, or a longer burn_in",
            NanomdWarning,
            stacklevel=4,
        )
    if task.n_repeats >= 4 and result.largest_share > _SHARE:
        warnings.warn(
            f"{100 * result.largest_share:.0f} % of the rate come from one of {task.n_repeats} repetitions: few events "
            "carry it, and its interval is too narrow; give more walkers, or a better progress",
            NanomdWarning,
            stacklevel=4,
        )
    return result


def _members(files: ModelFiles, name: str, labels: Sequence[int]) -> NDArray[np.bool_]:
    values = np.atleast_1d(np.asarray(labels))
    if values.ndim != 1 or not values.size or values.dtype.kind not in "iu":
        raise InputError(f"{name} must be state labels, such as [0, 1], got {shown(labels)}")
    members = np.zeros(files.config.n_states, bool)
    members[files.state_map.encode_labels(values)] = True
    return members


def _given_progress(progress: ArrayLike, n_states: int) -> NDArray[np.float64]:
    try:
        values = np.asarray(progress, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"progress must be {n_states} numbers, one a state, got {shown(progress)}") from None
    if values.shape != (n_states,) or not np.isfinite(values).all():
        raise InputError(f"progress must be {n_states} finite numbers, one a state, got shape {values.shape}")
    return values


def _settings(files: ModelFiles, request: RareRequest, given: NDArray[np.float64] | None) -> dict[str, Any]:
    """Return all that decides the numbers, as plain values."""
    digest = hashlib.sha256()
    for name in sorted(files.tensors):
        digest.update(name.encode() + np.ascontiguousarray(files.tensors[name]).tobytes())
    start = None if request.start is None else np.asarray(request.start).tolist()
    method = next(name for name, kind in METHODS.items() if isinstance(request.method, kind))
    recorded = {"record": True} if request.record else {}  # results without a record know no such setting
    return {
        "method": method, **asdict(request.method), "source": np.ravel(request.source).tolist(),
        "target": np.ravel(request.target).tolist(), "progress": None if given is None else given.tolist(),
        "start": start, "n_repeats": int(request.n_repeats), "confidence": request.confidence, "mode": request.mode,
        "hop_keep": request.hop_keep, "seed": request.seed, "sampling_temperature": request.sampling_temperature,
        "model": digest.hexdigest(), **recorded,
    }  # fmt: skip
