"""`train`: a nano-GPT on tokens/ into model/, with checkpoints/ and logs/metrics.jsonl on the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanomd.base.config import TrainConfig
from nanomd.base.files import sha256_of
from nanomd.base.progress import progress_bar
from nanomd.model.files import save_model
from nanomd.study.folder import RunFolder
from nanomd.study.held_out import hold_out as choose_held_out
from nanomd.study.results import load_coordinates, load_tokens
from nanomd.study.step import begin_step

if TYPE_CHECKING:
    from nanomd.base.progress import Progress
    from nanomd.estimator import GPTModel


def train(
    run: str | Path,
    *,
    preset: str = "auto",
    hold_out: int | str = "auto",
    overrides: dict[str, Any] | None = None,
    seed: int = 0,
    force: bool = False,
    resume: bool = False,
    progress: bool | None = None,
) -> str:
    """Train a nano-GPT on tokens/ into model/, with checkpoints/ and logs/metrics.jsonl on the way.

    What is held out (`nanomd.study.held_out.hold_out`) is never seen, not even to choose the weights, and judges later.
    Under ``torchrun`` every process trains on its slice of the batches, and the first one alone writes.
    """
    from nanomd.training.distributed import join

    overrides = overrides or {}
    world = join(str(overrides.get("device", "auto")))
    folder = RunFolder(run, create=False)
    dtrajs, interval = load_tokens(folder)
    held_out = choose_held_out([len(labels) for labels in dtrajs], hold_out)
    training, _ = held_out.split(dtrajs)

    def fit(bar: Progress | None) -> GPTModel:
        from nanomd.estimator import GPTEstimator

        estimator = GPTEstimator(
            preset,
            **overrides,
            seed=seed,
            frame_interval=interval,
            run_dir=folder.work,
            resume=resume,
            progress=bar,
        )
        return estimator.fit(training, coordinates=load_coordinates(folder, training)).fetch_model()

    if not world.first:
        if world.agree(0.0):
            fit(None)
        return ""
    settings = {"preset": preset, "hold_out": hold_out, **overrides, "seed": seed}
    told = False
    try:
        with begin_step(
            folder, "train", settings, lambda: {"tokens": sha256_of(folder.tokens)}, force=force, resume=resume
        ) as step:
            told = True
            world.agree(float(not step.done))  # the other processes end where there is nothing to do
            if step.done:
                return step.nothing_to_do()
            bar = progress_bar(int(overrides.get("n_steps", TrainConfig().n_steps)), "train", "step", progress)
            try:
                model = fit(bar)
            finally:
                bar.close()
            files = model.to_files()
            files = replace(files, provenance=files.provenance | {"held_out": held_out.to_dict()})
            save_model(folder.work / "model", files)
            seconds = step.seconds
            n_steps = int(model.provenance["train"]["n_steps"])
            step.record |= {"n_steps": n_steps, "last_metrics": model.history[-1] if model.history else {}}
            step.record["held_out"] = held_out.to_dict()
            if world.size > 1:
                step.record["n_processes"] = world.size
    finally:
        if not told:
            world.agree(0.0)
    judge = f"held out to judge it: {held_out.describe()}"
    if not held_out.judging:
        judge = "nothing is held out, so only other trajectories can judge it"
        if hold_out == "auto":
            judge += "; with --hold-out 20% the last part of the trajectory can"
    done = f"trained {n_steps} steps in {seconds:.1f} s; model in {folder.model}"
    return "\n".join([done, *model.provenance["choices"], judge]) + step.notes
