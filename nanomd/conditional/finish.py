"""What comes after a training at several conditions: the last fit of the output layer, and calibration."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd.base.config import TrainConfig
from nanomd.base.progress import Progress
from nanomd.conditional.conditions import in_words
from nanomd.conditional.files import ConditionalFiles, fold
from nanomd.conditional.refit import refit
from nanomd.data.dtrajs import stride_trajectories
from nanomd.matching.slow_kinetics import NothingSlowError
from nanomd.model.files import ModelFiles
from nanomd.model.network import NanoGPT
from nanomd.training.calibration import calibrate
from nanomd.training.refit import MAX_STATES
from nanomd.training.setup import resolve_device, torch_settings

FloatArray = NDArray[np.float64]
_LEAST_ERROR = 0.02  # of the logarithm of a timescale: no rollout is matched more nearly
_SHARED_WIDTH, _DEPENDENT_WIDTH = 1.0, 0.2  # of the priors of offsets
Groups = Sequence[Sequence[NDArray[Any]]]


def finish(
    files: ConditionalFiles, groups: Groups, config: TrainConfig, progress: Progress | None = None
) -> ConditionalFiles:
    """Fit the output layer to all the data of all conditions, and calibrate, where that is asked for.

    Parameters
    ----------
    files : ConditionalFiles
        As trained.
    groups : sequence of sequences of 1-D integer arrays
        Every frame of each trained condition.
    config : TrainConfig
    progress : Progress, optional
    """
    note = None if progress is None else progress.note
    n_states = files.shared.config.n_states
    if config.refit == "on" or (config.refit == "auto" and n_states <= MAX_STATES):
        strided = [stride_trajectories(tokens, files.shared.frame_stride) for tokens in groups]
        files = refit_conditional(files, strided, config, note)
    if not config.calibrate:
        return files
    if "markov.weight" not in files.shared.tensors:
        return _told(files, ["not calibrated: the model has no markov head"])
    return calibrate_conditional(files, groups, config, note)


def refit_conditional(
    files: ConditionalFiles, strided: Groups, config: TrainConfig, note: Callable[[str], None] | None = None
) -> ConditionalFiles:
    """Return a model whose output layer is fitted to all transitions of all conditions; it has a markov head."""
    features = files.conditions.table()
    device = resolve_device(config.device)
    with torch_settings(device, config.n_threads):
        models = []
        for phi in features:
            model = NanoGPT(files.shared.config)
            model.load_tensors(fold(files.shared.tensors, files.dependence, phi))
            models.append(model.to(device))
        options = {
            "both_ways": config.time_reversal,
            "pseudocount": config.refit_pseudocount,
            "ridge": config.refit_ridge,
        }
        found = refit(models, features, strided, note=note, **options)  # type: ignore[arg-type]
    changes = {"head.weight": found.head, "head.bias": found.bias, "markov.weight": found.table}
    none = np.float32(0)
    tensors = {name: files.shared.tensors.get(name, none) + change[0] for name, change in changes.items()}
    dependence = {name: files.dependence.get(name, none) + change[1:] for name, change in changes.items()}
    shared = dataclasses.replace(
        files.shared,
        config=files.shared.config.replace(markov_head=True),
        tensors={**files.shared.tensors, **tensors},
        provenance={**files.shared.provenance, "refit": {**options, **found.describe()}},
    )
    return dataclasses.replace(files, shared=shared, dependence={**files.dependence, **dependence})


def calibrate_conditional(
    files: ConditionalFiles, groups: Groups, config: TrainConfig, note: Callable[[str], None] | None = None
) -> ConditionalFiles:
    """Calibrate the model of every condition (`nanomd.training.calibration`), and fit all offsets by the features.

    What calibration cures is an error of the model, which is much the same at all conditions; what else the offsets say
    is the noise of each condition's own slow events. So they are fitted with their errors, those of the slowest
    timescale, and hardly any dependence.
    """
    offsets, errors, words, records = [], [], [], []
    for condition, tokens in zip(files.conditions.trained, groups, strict=True):
        model: ModelFiles = files.at(condition)
        where = in_words(condition)

        def told(text: str, where: str = where) -> None:
            if note is not None:
                note(f"{text} at {where}")

        try:
            found = calibrate(
                model, tokens, equilibrium=config.time_reversal, seed=config.seed, n_threads=config.n_threads, note=told
            )
        except NothingSlowError as nothing:  # whatever the offsets are, they change nothing there
            words.append(f"not calibrated at {where}: {nothing}")
            offsets.append(np.zeros_like(model.tensors["markov.weight"]))
            errors.append(1.0)
            continue
        offsets.append(found.files.tensors["markov.weight"] - model.tensors["markov.weight"])
        error = float(found.target.error[-found.n_processes])
        errors.append(max(error, _LEAST_ERROR) if np.isfinite(error) else 1.0)
        before, wanted = (float(np.exp(x[-found.n_processes])) for x in (found.before, found.target.value))
        words.append(
            f"at {where} rolled out and compared at lag {found.lagtime}: slowest timescale {before:.4g} frames before "
            f"calibration, training data {wanted:.4g} +- {100 * error:.0f} %"
        )
        records.append({"condition": condition, "lagtime": found.lagtime, "before": before, "training_data": wanted})
    fitted = regress(np.stack(offsets), files.conditions.table(), np.array(errors))
    shared = dataclasses.replace(
        files.shared,
        tensors={**files.shared.tensors, "markov.weight": files.shared.tensors["markov.weight"] + fitted[0]},
        provenance={**files.shared.provenance, "calibration": records},
    )
    table = files.dependence["markov.weight"] + fitted[1:]
    changed = dataclasses.replace(files, shared=shared, dependence={**files.dependence, "markov.weight": table})
    return _told(changed, words)


def regress(values: NDArray[np.floating], features: NDArray[np.floating], errors: FloatArray) -> NDArray[np.float32]:
    """Fit values (M, ...) of standard errors (M,) by a constant and features (M, K): coefficients (K + 1, ...)."""
    design = np.concatenate([np.ones((len(features), 1)), features], axis=1) / errors[:, None]
    prior = np.diag([_SHARED_WIDTH**-2, *[_DEPENDENT_WIDTH**-2] * features.shape[1]])
    map_to = np.linalg.solve(design.T @ design + prior, design.T / errors)
    return np.tensordot(map_to, values, 1).astype(np.float32)


def _told(files: ConditionalFiles, words: Sequence[str]) -> ConditionalFiles:
    choices = [*files.shared.provenance.get("choices", []), *words]
    provenance = {**files.shared.provenance, "choices": choices}
    return dataclasses.replace(files, shared=dataclasses.replace(files.shared, provenance=provenance))
