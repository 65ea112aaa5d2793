"""`condition`: one model of tokens/ taken at several conditions, into conditional/."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanomd.base.config import TrainConfig
from nanomd.base.files import sha256_of
from nanomd.base.paths import expand_home
from nanomd.base.progress import progress_bar
from nanomd.study.conditions_file import read_conditions
from nanomd.study.folder import RunFolder
from nanomd.study.held_out import hold_out_within
from nanomd.study.results import load_tokens
from nanomd.study.step import begin_step

if TYPE_CHECKING:
    from nanomd.conditional.model import ConditionalModel


def condition(
    run: str | Path,
    *,
    conditions: str | Path,
    preset: str = "auto",
    hold_out: int | str = "auto",
    overrides: dict[str, Any] | None = None,
    seed: int = 0,
    force: bool = False,
    resume: bool = False,
    progress: bool | None = None,
) -> str:
    """Train one model at several conditions into conditional/, and return what was chosen as text.

    Parameters
    ----------
    conditions : path
        `nanomd.study.conditions_file`.
    hold_out : int or str
        Of the trajectories of every condition, as `nanomd.study.train.train` takes it.
    preset, overrides, seed :
        Of `nanomd.ConditionalGPTEstimator`.
    """
    from nanomd.conditional import ConditionalGPTEstimator

    overrides = overrides or {}
    folder = RunFolder(run, create=False)
    dtrajs, interval = load_tokens(folder)
    asked = read_conditions(conditions, len(dtrajs))
    held_out = hold_out_within([len(labels) for labels in dtrajs], asked.trajectories, hold_out)
    groups = [
        [dtrajs[number][first:last] for number, first, last in held_out.training if number in own]
        for own in asked.trajectories
    ]
    settings = {"preset": preset, "hold_out": hold_out, **overrides, "seed": seed}

    def inputs() -> dict[str, str]:
        return {"tokens": sha256_of(folder.tokens), "conditions": sha256_of(expand_home(conditions))}

    with begin_step(folder, "condition", settings, inputs, force=force, resume=resume) as step:
        if step.done:
            return step.nothing_to_do()
        work = folder.work / "conditional"
        bar = progress_bar(int(overrides.get("n_steps", TrainConfig().n_steps)), "train", "step", progress)
        try:
            estimator = ConditionalGPTEstimator(
                preset,
                features=asked.features,
                **overrides,
                seed=seed,
                frame_interval=interval,
                run_dir=work,
                resume=resume,
                progress=bar,
            )
            model = estimator.fit_fetch(groups, asked.conditions)
        finally:
            bar.close()
        model.save(work / "model")
        step.record |= {
            "n_steps": int(model.provenance["train"]["n_steps"]),
            "held_out": held_out.to_dict(),
            "trajectories": _by_condition(model, asked.trajectories, asked.conditions),
        }
        seconds = step.seconds
    done = f"{model}, in {seconds:.1f} s; in {folder.conditional}"
    judge = f"held out to judge it: {held_out.describe()}"
    return "\n".join([done, *model.provenance["choices"], judge, _next(folder, model)]) + step.notes


def _by_condition(
    model: ConditionalModel, trajectories: list[list[int]], conditions: list[dict[str, Any]]
) -> list[list[int]]:
    """Return the trajectories of each trained condition; several sections may have one."""
    found: list[list[int]] = [[] for _ in model.conditions.trained]
    for own, one in zip(trajectories, conditions, strict=True):
        place = model.conditions.place(one)
        assert place is not None
        found[place] += own
    return found


def _next(folder: RunFolder, model: ConditionalModel) -> str:
    first = " ".join(f"{name}={value}" for name, value in model.conditions.trained[0].items())
    return f"go on with `nanomd at --run {folder.path} --condition {first} --out DIR`"
