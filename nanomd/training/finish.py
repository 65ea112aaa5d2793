"""What comes after a training: the last fit of the output layer, and calibration."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from nanomd.base.config import TrainConfig
from nanomd.base.progress import Progress
from nanomd.data.dtrajs import stride_trajectories
from nanomd.matching.slow_kinetics import NothingSlowError
from nanomd.model.files import ModelFiles
from nanomd.training.calibration import calibrate
from nanomd.training.refit import MAX_STATES
from nanomd.training.refit_files import refit_files


def finish(
    files: ModelFiles, tokens: Sequence[NDArray[Any]], config: TrainConfig, progress: Progress | None = None
) -> ModelFiles:
    """Fit the output layer to all the data, those of the validation too, and calibrate, where that is asked for.

    Parameters
    ----------
    files : ModelFiles
        As trained.
    tokens : sequence of 1-D integer arrays
        Every frame of the data.
    config : TrainConfig
    progress : Progress, optional
    """
    note = None if progress is None else progress.note
    few = files.config.n_states <= MAX_STATES or bool(files.config.group_sizes)
    if config.refit == "on" or (config.refit == "auto" and few):
        files = refit_files(
            files,
            stride_trajectories(tokens, files.frame_stride),
            both_ways=config.time_reversal,
            pseudocount=config.refit_pseudocount,
            ridge=config.refit_ridge,
            device=config.device,
            n_threads=config.n_threads,
            note=note,
            table_only=not files.tensors["head.weight"].any(),
        )
    if not config.calibrate:
        return files
    if "markov.weight" not in files.tensors:
        return _with_word(files, "not calibrated: the model has no markov head")
    try:
        found = calibrate(
            files,
            tokens,
            equilibrium=config.time_reversal,
            seed=config.seed,
            n_threads=config.n_threads,
            note=note,
        )
    except NothingSlowError as error:
        return _with_word(files, f"not calibrated: {error}")
    told = dataclasses.replace(found.files, provenance={**found.files.provenance, "calibration": found.describe()})
    return _with_word(told, found.in_words())


def _with_word(files: ModelFiles, word: str) -> ModelFiles:
    """Add a line to the choices that a model's provenance tells of."""
    choices = [*files.provenance.get("choices", []), word]
    return dataclasses.replace(files, provenance={**files.provenance, "choices": choices})
