"""`report`: one page of tables and pictures from what the other steps have left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nanomd.base.arrays import map_npy
from nanomd.base.codec import decode_json, read_text_file
from nanomd.base.errors import InputError, StoreError
from nanomd.base.files import sha256_of
from nanomd.study.folder import RunFolder
from nanomd.study.results import held_out_of, load_interpretation, load_tokens, load_validation
from nanomd.study.step import begin_step
from nanomd.study.tokenize import STATE_COORDINATES

if TYPE_CHECKING:
    from nanomd.kinetics.results import ValidationResult


def report(
    run: str | Path,
    *,
    title: str | None = None,
    summary: str | None = None,
    formats: Sequence[str] = (),
    projection: Sequence[int] | None = None,
    force: bool = False,
) -> str:
    """Write report/index.html and its pictures from validation.json, and return a line with its path.

    `formats` are those of the pictures beside PNG. `projection` are the numbers of two coordinates of the states, from
    1, for free-energy surfaces; by default the slowest two of a reduction.
    """
    from nanomd.report import write_report
    from nanomd.rollout.store import TokenStore

    folder = RunFolder(run, create=False)
    result = load_validation(folder)
    if TokenStore.exists(folder.generated):
        TokenStore.open(folder.generated).verify()  # what the verdict is about must not have changed since
    interpretation = load_interpretation(folder)

    def inputs() -> dict[str, str]:
        seen = {} if interpretation is None else {"interpret": sha256_of(folder.interpret)}
        return {"validation": sha256_of(folder.report / "validation.json"), **seen}

    settings: dict[str, Any] = {"title": title, "summary": summary}
    settings |= {"formats": list(formats)} if formats else {}
    settings |= {"projection": list(projection)} if projection else {}
    with begin_step(folder, "report", settings, inputs, force=force) as step:
        if step.done:
            return step.nothing_to_do(folder.report / "index.html")
        stages = folder.provenance().stages
        write_report(
            folder.work / "report",
            result,
            title=title or f"nanomd: {folder.path.resolve().name}",
            summary=(summary or _summary(stages, result)) + step.notes.replace("\n", "\n\n"),
            metrics=_metrics(folder),
            speeds=_speeds(stages),
            provenance={
                name: {k: v for k, v in stage.items() if k != "last_metrics"} for name, stage in stages.items()
            },
            landscape=_landscape(folder, result, projection),
            interpretation=interpretation,
            formats=formats,
        )
        step.inputs = inputs()  # validation.json is written again beside the page
    return f"report: {folder.report / 'index.html'}{step.notes}"


def _summary(stages: dict[str, Any], result: ValidationResult) -> str:
    tokens, train, generate = (stages.get(name, {}) for name in ("tokenize", "train", "generate"))
    settings = generate.get("settings", {})
    n_steps = settings.get("n_steps")
    return (
        f"A nano-GPT ({train.get('settings', {}).get('preset', 'custom')}, {train.get('n_steps', '?')} training steps) "
        f"over {tokens.get('n_states', '?')} states generated {settings.get('n_trajs', '?')} trajectories of "
        f"{format(n_steps, ',') if isinstance(n_steps, int) else '?'} steps. The reference, {result.reference}, is "
        f"{stages.get('validate', {}).get('judged_by', 'the MD')}; frames are {result.frame_interval} apart."
    )


def _metrics(folder: RunFolder) -> list[dict[str, Any]]:
    file = folder.logs / "metrics.jsonl"
    if not file.exists():
        return []
    lines = read_text_file(file, StoreError).splitlines()
    rows = [
        decode_json(line, dict[str, float | None], f"line {number} of {file}", StoreError)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    return [{**row, "train_loss": row["loss"]} if "loss" in row else row for row in rows]


def _speeds(stages: dict[str, Any]) -> dict[str, str | float]:
    speeds: dict[str, str | float] = {}
    for stage, key, name in (
        ("simulate", "frames_per_second", "simulation (frames per second)"),
        ("generate", "tokens_per_second", "generation (states per second)"),
    ):
        if stages.get(stage, {}).get(key) is not None:
            speeds[name] = float(stages[stage][key])
    speed = stages.get("train", {}).get("last_metrics", {}).get("frames_per_second")
    if speed is not None:
        speeds["training (frames per second)"] = float(speed)
    for stage, record in stages.items():
        speeds[f"{stage} (seconds)"] = float(record.get("seconds", 0))
    return speeds


def _landscape(folder: RunFolder, result: ValidationResult, projection: Sequence[int] | None) -> dict[str, Any] | None:
    """Return coordinates for the free-energy surfaces: of the states, or of the frames of a simulated potential."""
    if projection is not None:
        return _of_states(folder, result, projection)
    frames = _of_frames(folder, result)
    if frames is not None or not folder.setting("tokenize", "reduction", ""):
        return frames
    return _of_states(folder, result, (1, 2))


def _of_states(folder: RunFolder, result: ValidationResult, columns: Sequence[int]) -> dict[str, Any] | None:
    file = folder.tokens / STATE_COORDINATES
    where = map_npy(file) if file.exists() else np.zeros((0, 0))
    if len(columns) != 2 or min(columns) < 1 or max(columns) > where.shape[1]:
        if columns == (1, 2):  # by default, where there are two
            return None
        raise InputError(
            f"projection must be two coordinates of the states from 1 to {where.shape[1]}, got {list(columns)}"
        )
    centres = where[:, [column - 1 for column in columns]]
    labels = result.state_symbols if len(result.state_symbols) else np.arange(len(centres))
    known = labels < len(centres)
    if not known.all() or not np.isfinite(centres[labels]).all():
        return None  # states of trajectories that were given, or without a frame
    kind = folder.setting("tokenize", "reduction", "")
    name = {"tica": "time-lagged independent component", "vamp": "slow coordinate"}.get(kind, "coordinate")
    return {"centres": centres[labels], "labels": tuple(f"{name} {column}" for column in columns)}


def _of_frames(folder: RunFolder, result: ValidationResult) -> dict[str, Any] | None:
    files = sorted(folder.simulation.glob("xy_*.npy"))
    if not files or folder.setting("tokenize", "system", "") != "four-state":
        return None
    stride = folder.setting("tokenize", "stride", 1)
    dtrajs, _ = load_tokens(folder)
    if len(files) != len(dtrajs):
        return None
    held_out = held_out_of(folder, dtrajs)
    pieces = held_out.judging or held_out.training
    states = [dtrajs[number][first:last] for number, first, last in pieces]
    xy = [map_npy(files[number])[::stride][first:last] for number, first, last in pieces]
    if any(len(a) != len(b) for a, b in zip(xy, states, strict=True)):
        return None
    step = max(1, sum(map(len, states)) // 400_000)
    shown = np.concatenate(states)[::step]
    shown[shown >= len(result.macrostate_of_state)] = -1
    return {"xy": np.concatenate(xy)[::step], "states": shown, "labels": ("x", "y")}
