"""The steps that look at the result: validate, report, structures."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nanomd.base.config import check_range
from nanomd.base.errors import InputError, StoreError
from nanomd.base.files import sha256_of, write_atomic
from nanomd.study.folder import RunFolder
from nanomd.study.pipeline import load_tokens, nothing_to_do, split_held_out

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nanomd.interpret.results import Interpretation
    from nanomd.kinetics.results import ValidationResult
    from nanomd.rollout.sampler import Rollout

PathLike = str | Path


# --- validate --------------------------------------------------------------------------------------------------------
def validate(
    run: PathLike,
    *,
    reference: Sequence[PathLike] | None = None,
    lagtimes: Sequence[int] | None = None,
    lagtime: int | None = None,
    n_macrostates: int | None = None,
    memory_kernel: bool | int = False,
    confidence: float = 0.95,
    n_bootstrap: int = 200,
    seed: int = 0,
    force: bool = False,
) -> str:
    """Judge generated/ against the MD, write report/validation.json, and return the verdict as text."""
    from nanomd.base.file_lists import expand_paths
    from nanomd.data.dtrajs import load_dtrajs
    from nanomd.report import verdict_text

    folder = RunFolder(run, create=False)
    rollout = load_generated(folder)
    dtrajs, interval = load_tokens(folder)
    training, held_out = split_held_out(dtrajs, int(folder.config("train").get("hold_out", 0)))
    files = expand_paths([str(path) for path in reference or ()]) if reference else []
    judge = load_dtrajs([str(f) for f in files]) if files else held_out or training
    settings: dict[str, Any] = {
        "lagtimes": None if lagtimes is None else list(lagtimes),
        "lagtime": lagtime,
        "n_macrostates": n_macrostates,
        "confidence": confidence,
        "n_bootstrap": n_bootstrap,
        "seed": seed,
    }
    if memory_kernel is not False:
        settings["memory_kernel"] = memory_kernel
    with folder.lock():
        inputs = {"tokens": sha256_of(folder.tokens), "generated": sha256_of(folder.generated / "manifest.json")}
        inputs |= {f.name: sha256_of(f) for f in files}
        if not folder.begin("validate", settings, inputs, force=force):
            return f"{nothing_to_do(folder, 'validate')}\n{verdict_text(load_validation(folder))}"
        import nanomd.kinetics

        start = time.perf_counter()
        # The training data beside the reference: what a model can at best be expected to know.
        others = {} if judge is training else {"training MD": training}
        result = nanomd.kinetics.validate(
            judge,
            rollout,
            lagtimes=lagtimes,
            lagtime=lagtime,
            n_macrostates=n_macrostates,
            frame_interval=interval,
            training=training,
            others=others,
            memory_kernel=memory_kernel,
            confidence=confidence,
            n_bootstrap=n_bootstrap,
            seed=seed,
        )
        folder.report.mkdir(exist_ok=True)
        text = json.dumps(result.to_dict(), indent=1, allow_nan=False)
        write_atomic(folder.report / "validation.json", text + "\n")
        folder.finish(
            "validate", settings, inputs, time.perf_counter() - start, judged_by=_judged_by(files, judge is training)
        )
    return verdict_text(result)


def _judged_by(files: list[Path], is_training: bool) -> str:
    if files:
        return "given trajectories"
    return "the training data" if is_training else "held-out trajectories"


def load_generated(folder: RunFolder) -> Rollout:
    """Return the generated trajectories; those of another model are refused."""
    from nanomd.rollout.sampler import Rollout

    folder.require("generate", folder.generated / "manifest.json", f"nanomd generate --run {folder.path}")
    if folder.record("generate")["inputs"].get("model") != sha256_of(folder.model):
        raise StoreError(
            f"{folder.generated} was made by another model; run `nanomd generate --run {folder.path} --force`"
        )
    return Rollout.load(folder.generated)


def load_validation(folder: RunFolder) -> ValidationResult:
    """Return report/validation.json."""
    from nanomd.kinetics.results import ValidationResult

    file = folder.report / "validation.json"
    folder.require("validate", file, f"nanomd validate --run {folder.path}")
    return ValidationResult.load(file)


# --- report ----------------------------------------------------------------------------------------------------------
def report(run: PathLike, *, title: str | None = None, summary: str | None = None, force: bool = False) -> str:
    """Write report/index.html and its pictures from validation.json, and return a line with its path."""
    from nanomd.report import write_report

    folder = RunFolder(run, create=False)
    result = load_validation(folder)
    settings = {"title": title, "summary": summary}
    with folder.lock():
        inputs = {"validation": sha256_of(folder.report / "validation.json")}
        interpretation = _interpretation(folder)
        seen = {} if interpretation is None else {"interpret": sha256_of(folder.interpret)}
        inputs |= seen
        if not folder.begin("report", settings, inputs, force=force):
            return f"{nothing_to_do(folder, 'report')}: {folder.report / 'index.html'}"
        start = time.perf_counter()
        stages = folder.provenance()["stages"]
        path = write_report(
            folder.report,
            result,
            title=title or f"nanomd: {folder.path.resolve().name}",
            summary=summary or _summary(stages, result),
            metrics=_metrics(folder),
            speeds=_speeds(stages),
            provenance={
                name: {k: v for k, v in stage.items() if k != "last_metrics"} for name, stage in stages.items()
            },
            landscape=_landscape(folder, result),
            interpretation=interpretation,
        )
        inputs = {"validation": sha256_of(folder.report / "validation.json"), **seen}
        folder.finish("report", settings, inputs, time.perf_counter() - start)
    return f"report: {path}"


def _interpretation(folder: RunFolder) -> Interpretation | None:
    """Return what `nanomd interpret` found, if it was run; that of another model is refused."""
    record = folder.record("interpret")
    if not record:
        return None
    if record["inputs"].get("model") != sha256_of(folder.model):
        raise StoreError(
            f"{folder.interpret} is about another model; run `nanomd interpret --run {folder.path} --force`"
        )
    from nanomd.interpret.results import Interpretation

    return Interpretation.load(folder.interpret)


def _summary(stages: dict[str, Any], result: ValidationResult) -> str:
    tokens, train, generate = (stages.get(name, {}) for name in ("tokenize", "train", "generate"))
    settings = generate.get("settings", {})
    return (
        f"A nano-GPT ({train.get('settings', {}).get('preset', 'custom')}, {train.get('n_steps', '?')} training steps) "
        f"over {tokens.get('n_states', '?')} states generated {settings.get('n_trajs', '?')} trajectories of "
        f"{settings.get('n_steps', '?'):,} steps. The reference, {result.reference}, is "
        f"{stages.get('validate', {}).get('judged_by', 'the MD')}; frames are {result.frame_interval} apart."
    )


def _metrics(folder: RunFolder) -> list[dict[str, Any]]:
    file = folder.logs / "metrics.jsonl"
    if not file.exists():
        return []
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [{**row, "train_loss": row["loss"]} if "loss" in row else row for row in rows]


def _speeds(stages: dict[str, Any]) -> dict[str, str | float]:
    speeds: dict[str, str | float] = {}
    for stage, key, name in (
        ("simulate", "frames_per_second", "simulation (frames per second)"),
        ("generate", "tokens_per_second", "generation (states per second)"),
    ):
        if key in stages.get(stage, {}):
            speeds[name] = float(stages[stage][key])
    if "frames_per_second" in stages.get("train", {}).get("last_metrics", {}):
        speeds["training (frames per second)"] = float(stages["train"]["last_metrics"]["frames_per_second"])
    for stage, record in stages.items():
        speeds[f"{stage} (seconds)"] = float(record.get("seconds", 0))
    return speeds


def _landscape(folder: RunFolder, result: ValidationResult) -> dict[str, Any] | None:
    """Return coordinates for the free-energy surfaces where the run has two: a simulated potential."""
    files = sorted(folder.simulation.glob("xy_*.npy"))
    if not files or folder.config("tokenize").get("system") != "four-state":
        return None
    stride = int(folder.config("tokenize").get("stride", 1))
    dtrajs, _ = load_tokens(folder)
    hold_out = int(folder.config("train").get("hold_out", 0))
    first = len(dtrajs) - hold_out if hold_out else 0
    xy = [np.load(file, allow_pickle=False)[::stride] for file in files[first:]]
    states = dtrajs[first:]
    if len(xy) != len(states) or any(len(a) != len(b) for a, b in zip(xy, states, strict=True)):
        return None
    step = max(1, sum(map(len, states)) // 400_000)
    return {
        "xy": np.concatenate(xy)[::step],
        "states": _as_indices(np.concatenate(states)[::step], len(result.macrostate_of_state)),
        "labels": ("x", "y"),
    }


def _as_indices(states: NDArray[np.int64], n_states: int) -> NDArray[np.int64]:
    return np.where((states >= 0) & (states < n_states), states, -1)


# --- structures ------------------------------------------------------------------------------------------------------
def structures(
    run: PathLike,
    out: PathLike,
    *,
    trajectory: int = 0,
    first: int = 0,
    n_frames: int = 1000,
    stride: int = 1,
    top: PathLike | None = None,
    seed: int = 0,
    force: bool = False,
) -> str:
    """Write frames of the MD for the states of one generated trajectory."""
    folder = RunFolder(run, create=False)
    rollout = load_generated(folder)
    if not (folder.tokens / "tokenizer").exists():
        raise InputError(f"{folder.path} was not tokenized from structures: there are no frames to go back to")
    check_range("trajectory", trajectory, 0, rollout.n_trajs - 1)
    check_range("stride", stride, 1)
    check_range("n_frames", n_frames, 1)
    labels = rollout.dtrajs[trajectory]
    check_range("first", first, 0, len(labels) - 1, f"the trajectory has {len(labels)} frames")
    chosen = labels[first : first + n_frames * stride : stride]
    path = Path(out)
    if path.exists() and not force:
        raise StoreError(f"{path} exists; use --force to replace it, or another --out")
    from nanomd.tokenize import Tokenizer

    tokenizer = Tokenizer.load(folder.tokens / "tokenizer")
    tokenizer.to_structures(chosen, path, seed, topology=top, overwrite=force)
    return f"wrote {len(chosen)} frames to {path}"
