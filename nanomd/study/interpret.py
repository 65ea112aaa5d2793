"""`interpret`: what the model has learnt into interpret/*.json, pictures, and the numbers as text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nanomd.base.files import sha256_of
from nanomd.base.units import Duration
from nanomd.study.folder import RunFolder
from nanomd.study.results import held_out_of, load_tokens
from nanomd.study.step import begin_step

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nanomd.base.units import FrameInterval
    from nanomd.estimator import GPTModel
    from nanomd.interpret.results import Interpretation


def interpret(
    run: str | Path,
    *,
    n_windows: int = 200,
    n_targets: int = 1000,
    tolerance: float = 0.005,
    tracing_windows: int = 64,
    n_draws: int = 4,
    noise: float = 3.0,
    changes_only: bool = False,
    lagtime: Duration = 10,
    confidence: float = 0.95,
    seed: int = 0,
    force: bool = False,
) -> str:
    """Interpret model/ on the data that it was not trained on, write interpret/, and return the numbers as text."""
    folder = RunFolder(run, create=False)
    folder.require("train", folder.model / "model.safetensors", f"nanomd train --run {folder.path}")
    dtrajs, interval = load_tokens(folder)
    settings = {
        "n_windows": n_windows,
        "n_targets": n_targets,
        "tolerance": tolerance,
        "tracing_windows": tracing_windows,
        "n_draws": n_draws,
        "noise": noise,
        "changes_only": changes_only,
        "lagtime": lagtime,
        "confidence": confidence,
        "seed": seed,
    }

    def inputs() -> dict[str, str]:
        return {"tokens": sha256_of(folder.tokens), "model": sha256_of(folder.model)}

    with begin_step(folder, "interpret", settings, inputs, force=force) as step:
        if step.done:
            from nanomd.interpret.results import Interpretation

            return f"{step.nothing_to_do()}\n{summary(Interpretation.load(folder.interpret), interval)}"
        from nanomd.estimator import load_model
        from nanomd.interpret import interpret_model

        model = load_model(folder.model)
        training, held_out = held_out_of(folder, dtrajs).split(dtrajs)
        data, step.record["looked_at"] = (
            (held_out, "held-out trajectories") if held_out else _validation_part(model, training)
        )
        # The model knows nothing of states that only the held-out data visit: they part the trajectories.
        data = [np.where(np.isin(labels, model.state_map.symbols), labels, -1) for labels in data]
        result = interpret_model(
            model,
            data,
            training=training,
            attention={"n_windows": n_windows},
            tracing={
                "n_windows": tracing_windows,
                "n_draws": n_draws,
                "noise": noise,
                "changes_only": changes_only,
            },
            memory={"n_windows": n_targets, "tolerance": tolerance},
            distances={"lagtime": lagtime},
            confidence=confidence,
            seed=seed,
        )
        _write(folder, result, interval)
    return summary(result, interval) + step.notes


def _validation_part(model: GPTModel, training: list[NDArray[np.int64]]) -> tuple[list[NDArray[np.int64]], str]:
    """Return the part of the training trajectories that the training only validated on."""
    from nanomd.data.dtrajs import split_dtrajs

    fraction = float(model.provenance.get("train", {}).get("validation_fraction", 0.0))
    if fraction <= 0:
        return training, "the training data"
    tokens = model.state_map.encode(training)  # split as in the training, which sees pieces without unassigned frames
    _, validation = split_dtrajs(tokens, fraction)
    return [model.state_map.decode(piece) for piece in validation], "the part of the training data held for validation"


def _write(folder: RunFolder, result: Interpretation, interval: FrameInterval) -> None:
    from nanomd.report.plots_interpretation import attention_map_pictures, interpretation_groups

    out = folder.work / "interpret"
    result.save(out)
    groups = [*interpretation_groups(result, interval), attention_map_pictures(result.attention)]
    for group in groups:
        for panel in group.panels:
            (out / f"{panel.stem}.png").write_bytes(panel.png)


def summary(result: Interpretation, interval: FrameInterval) -> str:
    """Return the numbers in a few lines."""
    memory, tracing, attention, distances = result.memory, result.tracing, result.attention, result.distances
    between = "" if memory.low == memory.high else f" (interval {memory.low} to {memory.high})"
    in_time = "" if interval.unit == "frame" else f", {interval.describe(memory.frames)}"
    best = float(memory.log_likelihood.value.max())
    lines = [
        f"memory: {memory.frames} frame{'s' if memory.frames > 1 else ''}{between}{in_time}: the shortest context "
        f"within {memory.tolerance:g} nats per frame of the best, {best:.4f}"
    ]
    if np.isfinite(memory.markov.value):
        lines.append(f"  a lag-1 Markov model scores {float(memory.markov.value):.4f} on the same frames")
    order = np.argsort(-tracing.single.value)[:3]
    lags = ", ".join(f"lag {tracing.lags[k]} ({tracing.single.value[k]:.3f})" for k in order.tolist())
    lines.append(
        f"tracing: p(observed next state) {float(tracing.clean.value):.3f}, {float(tracing.corrupted.value):.3f} with "
        f"noise on {len(tracing.corrupted_lags)} frames; most missed when corrupted alone: {lags}"
    )
    mean = attention.mean.value.mean(axis=(0, 1))
    order = np.argsort(-mean)[:3]
    lags = ", ".join(f"lag {attention.lags[k]} ({mean[k]:.3f})" for k in order.tolist())
    lines.append(f"attention, mean over layers and heads: {lags}")
    lines.append(
        f"distances: rank correlation of the {distances.of} with the commute distance "
        f"{float(distances.correlation.value[1]):.2f} (p = {float(distances.p_value[1]):.3f}, "
        f"{len(distances.states)} states)"
    )
    return "\n".join(lines)
