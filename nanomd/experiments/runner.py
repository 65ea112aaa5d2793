"""One job of an experiment: a method, a data set and a seed, trained, judged and kept as one JSON record."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError
from nanomd.base.files import write_atomic
from nanomd.data.counts import transition_counts
from nanomd.experiments import methods, paper
from nanomd.experiments.case import Case, Data, cut_into_pieces
from nanomd.experiments.fitted import Fitted
from nanomd.experiments.scoring import Judge, memory_kernel, record

IntArray = NDArray[np.int64]
Study = Literal["main", "pieces"]
MEMORY_KERNEL_STATES = 200  # its matrices, one for every frame of memory, are dense
ROLLOUT_SEED = 7_000_000  # plus the seed of the training: rollouts share no random numbers


@dataclass(frozen=True)
class Job:
    """One record.

    Parameters
    ----------
    case, method : str
    dataset, seed : int
    pieces : int
        Frames of the pieces that the training data are cut into; 0 for whole trajectories.
    n_steps : int, optional
        Optimiser steps in place of the case's.
    """

    case: str
    method: str
    dataset: int
    seed: int
    pieces: int = 0
    n_steps: int | None = None

    def __str__(self) -> str:
        """``default, data 0, seed 1``."""
        cut = f", pieces of {self.pieces}" if self.pieces else ""
        steps = f", {self.n_steps} steps" if self.n_steps else ""
        return f"{self.method}{cut}{steps}, data {self.dataset}, seed {self.seed}"

    def path(self, folder: Path) -> Path:
        """Return where the record is kept."""
        name = self.method.replace(", ", "-").replace(" ", "_").replace("+", "-")
        cut = f"_pieces{self.pieces}" if self.pieces else ""
        steps = f"_steps{self.n_steps}" if self.n_steps else ""
        return folder / "records" / f"{name}{cut}{steps}_data{self.dataset}_seed{self.seed}.json"


@dataclass(frozen=True)
class Material:
    """The data of one case and data set, and their judge."""

    data: Data
    judge: Judge


def prepare(case: Case, dataset: int, data: str | Path | None, folder: Path | None = None) -> Material:
    """Load the trajectories of a data set, and define how they are measured; `folder` keeps them for others."""
    if not 0 <= dataset < case.n_datasets:
        raise InputError(f"dataset must be in [0, {case.n_datasets - 1}] for {case.name}, got {dataset}")
    kept = None if folder is None else folder / f"dtrajs_{dataset}.npz"
    loaded = load_dtrajs(kept) if kept is not None and kept.exists() else case.load(dataset, data)
    if kept is not None and not kept.exists():
        save_dtrajs(kept, loaded)
    return Material(loaded, Judge.make(case, loaded))


def save_dtrajs(path: Path, data: Data) -> None:
    """Keep the trajectories of a data set in one file."""
    import io

    arrays: dict[str, NDArray[Any]] = {"names": np.array(data.names, dtype=np.str_)}
    for key, trajectories in (("training", data.training), ("held_out", data.held_out)):
        arrays[key] = np.concatenate(trajectories).astype(np.uint16)
        arrays[f"{key}_lengths"] = np.array([len(d) for d in trajectories], np.int64)
    if data.macrostates is not None:
        arrays["macrostates"] = data.macrostates
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())


def load_dtrajs(path: Path) -> Data:
    """Read what `save_dtrajs` wrote."""
    try:
        with np.load(path, allow_pickle=False) as file:
            parts = {
                key: np.split(file[key].astype(np.int64), np.cumsum(file[f"{key}_lengths"])[:-1])
                for key in ("training", "held_out")
            }
            macrostates = file["macrostates"] if "macrostates" in file.files else None
            return Data(parts["training"], parts["held_out"], macrostates, tuple(str(x) for x in file["names"]))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read ({error}); delete it, and it will be made again") from None


def run_reference(case: Case, material: Material, dataset: int, folder: Path) -> None:
    """Record the MD itself and its Markov models, whole and in pieces; nothing is trained."""
    path = folder / "records" / f"reference_data{dataset}.json"
    if path.exists():
        return
    judge, training, held_out = material.judge, material.data.training, material.data.held_out
    sources = {
        "MD held out": judge.trajectories("MD held out", held_out, is_md=True),
        "MD training": judge.trajectories("MD training", training, is_md=True),
        **{f"MSM lag {lag}": judge.markov("MSM", training, lag) for lag in case.markov_lags},
    }
    records = {name: record(source, case.lagtime) for name, source in sources.items()}
    records["MD held out"]["changes"] = judge.changes(held_out)
    records["MD training"]["changes"] = judge.changes(training)
    few = judge.yardstick.n_states <= MEMORY_KERNEL_STATES
    if few:
        records["memory kernel"] = memory_kernel(judge, training)
    pieces: dict[str, Any] = {}
    for length in case.pieces:
        cut = cut_into_pieces(training, length, dataset)
        pieces[str(length)] = {
            f"MSM lag {lag}": record(judge.markov("MSM", cut, lag), case.lagtime)
            for lag in case.markov_lags
            if lag < length
        }
        if few:
            pieces[str(length)]["memory kernel"] = memory_kernel(judge, cut)
    value = {
        "case": case.name,
        "dataset": dataset,
        "n_states": judge.yardstick.n_states,
        "macrostate_names": list(material.data.names)
        or [chr(ord("A") + k) for k in range(judge.yardstick.n_macrostates)],
        "macrostates": judge.yardstick.macrostate.tolist(),
        "slowest": judge.slowest,
        "lagtime": case.lagtime,
        "frame_interval": asdict(case.frame_interval),
        "sources": records,
        "pieces": pieces,
        "msm_held_out_nll": markov_nll(training, scored_frames(held_out), judge.yardstick.n_states),
    }
    write_json(path, value)


def scored_frames(held_out: list[IntArray]) -> list[IntArray]:
    """Return the frames on which likelihoods are compared: at most 400,000, the same for every method."""
    return [d[:100_000] for d in held_out[:4]]


def markov_nll(training: list[IntArray], held_out: list[IntArray], n_states: int, pseudocount: float = 1e-2) -> float:
    """Return nats per frame of held-out data under the lag-1 Markov model of row-normalised counts."""
    counts = transition_counts(list(training), n_states, 1) + pseudocount
    log = np.log(counts / counts.sum(axis=1, keepdims=True))
    seen = transition_counts(list(held_out), n_states, 1)
    return float(-(seen * log).sum() / seen.sum())


def run_job(job: Job, case: Case, material: Material, folder: Path, *, unfinished: bool = False) -> Path:
    """Train, generate, judge and record; `unfinished` judges a training of the paper's method as far as it has come."""
    path = job.path(folder)
    method = methods.get_method(job.method)
    whole = material.data.training
    training = cut_into_pieces(whole, job.pieces, job.dataset) if job.pieces else whole
    if method.kind == "paper":
        _run_paper(job, method, case, material, folder, training, unfinished)
        return path
    start = time.perf_counter()
    fitted = methods.fit(method, case, training, job.seed, n_steps=job.n_steps)
    judge_fitted(job, case, material, folder, fitted, path, time.perf_counter() - start)
    return path


def _run_paper(
    job: Job,
    method: methods.Method,
    case: Case,
    material: Material,
    folder: Path,
    training: list[IntArray],
    unfinished: bool,
) -> None:
    """Train as the paper does, in a folder of its own, and record every epoch that was kept; then the pooled ones."""
    path = job.path(folder)
    refitted = method.options.get("refit") == "on"
    trained = replace(job, method="paper") if refitted else job
    place = folder / "trainings" / trained.path(folder).stem
    config = paper.training_config(case, method.options, job.seed, job.n_steps)
    if not unfinished:
        paper.train(case, config, training, place)
    kept = list(paper.epochs(case, config, training, place))
    if refitted:
        step, last = kept[-1]
        kept = [(step, paper.refit(last, config, training))]
    steps = paper.steps_per_epoch(case, config, training)
    chosen = (
        [] if job.n_steps or refitted else [f for step, f in kept if step in {epoch * steps for epoch in case.pooled}]
    )
    for step, fitted in kept if unfinished or chosen else kept[:-1]:
        of_step = path.with_name(f"{path.stem}_step{step:06d}.json")
        if not of_step.exists():
            judge_fitted(replace(job, n_steps=step), case, material, folder, fitted, of_step)
    if not unfinished:
        fitted = paper.pooled(chosen) if chosen else kept[-1][1]
        judge_fitted(job, case, material, folder, fitted, path)


def judge_fitted(
    job: Job, case: Case, material: Material, folder: Path, fitted: Fitted, path: Path, seconds: float | None = None
) -> None:
    """Generate, judge, and record at `path` what took `seconds` to train, as its history says where that is None."""
    if seconds is None:
        seconds = fitted.history[-1]["seconds"] if fitted.history else 0.0
    n_trajs, n_steps = case.rollout
    if fitted.model is None:
        n_steps = case.lstm_steps
    trained = time.perf_counter()
    rollout = fitted.generate(n_trajs, n_steps + case.burn_in, ROLLOUT_SEED + job.seed)
    generated = time.perf_counter()
    kept = [np.asarray(d[case.burn_in :], np.int64) for d in rollout]
    source = material.judge.trajectories(job.method, kept)
    nll = fitted.held_out_nll(scored_frames(material.data.held_out))
    value = {
        **asdict(job),
        "settings": fitted.settings,
        "validation_loss": fitted.validation_loss if math.isfinite(fitted.validation_loss) else None,
        "held_out_nll": nll if math.isfinite(nll) else None,
        "history": fitted.history,
        "chain_over_slowest": n_steps / material.judge.slowest,
        "kinetics": {**record(source, case.lagtime), "changes": material.judge.changes(kept)},
        "seconds": {"train": seconds, "generate": generated - trained},
    }
    if fitted.model is not None:
        fitted.model.save(folder / "models" / path.stem)
    elif not job.pieces:  # what took minutes to generate is kept for the report
        (folder / "rollouts").mkdir(exist_ok=True)
        np.save(folder / "rollouts" / path.stem, np.stack(kept).astype(np.uint16))
    write_json(path, value)


def write_json(path: Path, value: Any) -> None:
    """Write a record in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(value, allow_nan=False, default=float) + "\n")
