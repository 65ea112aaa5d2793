"""`train`: a nano-GPT on tokens/ into model/, with checkpoints/ and logs/metrics.jsonl on the way."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanomd.base.config import TrainConfig
from nanomd.base.files import sha256_of
from nanomd.base.progress import progress_bar
from nanomd.study.folder import RunFolder
from nanomd.study.results import load_tokens, split_held_out
from nanomd.study.step import begin_step

if TYPE_CHECKING:
    from nanomd.base.progress import Progress
    from nanomd.estimator import GPTModel


def train(
    run: str | Path,
    *,
    preset: str = "small",
    hold_out: int = 0,
    overrides: dict[str, Any] | None = None,
    seed: int = 0,
    force: bool = False,
    resume: bool = False,
    progress: bool | None = None,
) -> str:
    """Train a nano-GPT on tokens/ into model/, with checkpoints/ and logs/metrics.jsonl on the way.

    Under ``torchrun`` every process trains on its slice of the batches, and the first one alone writes.
    """
    from nanomd.training.distributed import join

    overrides = overrides or {}
    world = join(str(overrides.get("device", "auto")))
    folder = RunFolder(run, create=False)
    dtrajs, interval = load_tokens(folder)
    training, _ = split_held_out(dtrajs, hold_out)

    def fit(bar: Progress | None) -> GPTModel:
        from nanomd.estimator import GPTEstimator

        estimator = GPTEstimator(
            preset,
            **overrides,
            seed=seed,
            frame_interval=interval,
            run_dir=folder.path,
            resume=resume,
            progress=bar,
        )
        return estimator.fit(training).fetch_model()

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
            n_steps = int(overrides.get("n_steps", TrainConfig().n_steps))
            bar = progress_bar(n_steps, "train", "step", progress)
            try:
                model = fit(bar)
            finally:
                bar.close()
            model.save(folder.model)
            seconds = step.seconds
            step.record |= {"n_steps": n_steps, "last_metrics": model.history[-1] if model.history else {}}
            if world.size > 1:
                step.record["n_processes"] = world.size
    finally:
        if not told:
            world.agree(0.0)
    return f"trained {n_steps} steps in {seconds:.1f} s; model in {folder.model}"
