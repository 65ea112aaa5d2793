"""`validate`: the generated trajectories against the molecular dynamics, into report/validation.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nanomd.base.errors import InputError
from nanomd.base.files import sha256_of
from nanomd.base.paths import expand_home, expand_paths
from nanomd.base.units import Duration
from nanomd.study.folder import RunFolder
from nanomd.study.held_out import HeldOut
from nanomd.study.macrostates_file import read_macrostates
from nanomd.study.results import held_out_of, load_generated, load_tokens, load_validation
from nanomd.study.step import begin_step


def validate(
    run: str | Path,
    *,
    reference: Sequence[str | Path] | None = None,
    lagtimes: Sequence[Duration] | None = None,
    lagtime: Duration | None = None,
    n_macrostates: int | None = None,
    macrostates: str | Path | None = None,
    memory_kernel: bool | int = False,
    confidence: float = 0.95,
    n_bootstrap: int = 200,
    seed: int = 0,
    force: bool = False,
) -> str:
    """Judge generated/ against the MD, write report/validation.json, and return the verdict as text.

    The reference is `reference`, files of other MD, or what the training held out, or else the training data.
    `macrostates` is a file of one's own (`nanomd.study.macrostates_file`); the other options are those of
    `nanomd.validate`.
    """
    from nanomd.data.dtrajs import load_dtrajs
    from nanomd.report import verdict_text

    folder = RunFolder(run, create=False)
    rollout = load_generated(folder, verify=True)
    dtrajs, interval = load_tokens(folder)
    held_out = held_out_of(folder, dtrajs)
    training, kept = held_out.split(dtrajs)
    files = expand_paths([str(path) for path in reference or ()]) if reference else []
    judge = load_dtrajs([str(f) for f in files]) if files else kept or training
    own = None if macrostates is None else expand_home(macrostates)
    if own is not None and n_macrostates is not None:
        raise InputError("macrostates are either a number or a file, not both")
    chosen = None if own is None else read_macrostates(own)
    options: dict[str, Any] = {
        "lagtimes": None if lagtimes is None else list(lagtimes),
        "lagtime": lagtime,
        "n_macrostates": n_macrostates,
        "confidence": confidence,
        "n_bootstrap": n_bootstrap,
        "seed": seed,
    }
    if memory_kernel is not False:
        options["memory_kernel"] = memory_kernel

    def inputs() -> dict[str, str]:
        made = {"tokens": sha256_of(folder.tokens), "generated": sha256_of(folder.generated / "manifest.json")}
        made |= {f.name: sha256_of(f) for f in files}
        return made if own is None else made | {"macrostates": sha256_of(own)}

    with begin_step(folder, "validate", options, inputs, force=force) as step:
        if step.done:
            return f"{step.nothing_to_do()}\n{verdict_text(load_validation(folder))}"
        import nanomd.kinetics

        result = nanomd.kinetics.validate(
            judge, rollout, frame_interval=interval, training=training or None, macrostate_of_state=chosen, **options
        )
        step.record["judged_by"] = judged_by = _judged_by(files, held_out)
        result = replace(result, judged_by=judged_by)
        (folder.work / "report").mkdir(exist_ok=True)
        result.save(folder.work / "report" / "validation.json")
    return verdict_text(result) + step.notes


def _judged_by(files: list[Path], held_out: HeldOut) -> str:
    if files:
        return f"given trajectories ({', '.join(file.name for file in files[:3])}{', ...' if len(files) > 3 else ''})"
    if held_out.judging:
        return f"{held_out.describe()}, which the training never saw"
    return "the training data itself: this shows how well they were learnt, not how true they are"
