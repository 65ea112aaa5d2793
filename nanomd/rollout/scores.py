"""What a model says of given trajectories: ln p of every next state, through the decode path of rollouts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd.base.checks import check_whole
from nanomd.base.errors import InputError
from nanomd.model.files import ModelFiles
from nanomd.model.starts import start_prompts
from nanomd.rollout.engine import RolloutEngine, check_threads
from nanomd.rollout.modes import resolve_hop_keep, resolve_mode


def score(
    files: ModelFiles,
    engine: RolloutEngine,
    dtrajs: Sequence[ArrayLike],
    mode: str,
    *,
    hop_keep: int | None,
    first_position: int,
    n_threads: int | None,
) -> list[NDArray[np.float32]]:
    """Do what `Sampler.log_probs` does, with the engine of a sampler."""
    mode = resolve_mode(files.config, mode)
    keep = resolve_hop_keep(files.config, mode, None if hop_keep is None else check_whole("hop_keep", hop_keep))
    last = 2**62 if mode == "ring" else 0
    check_whole("first_position", first_position, 0, last, "other positions than 0 are for mode ring")
    threads = check_threads(n_threads)
    results = []
    for dtraj in dtrajs:
        labels = np.asarray(dtraj)
        if labels.ndim != 1 or not labels.size:
            raise InputError(f"a dtraj must be a non-empty 1-D array, got shape {labels.shape}")
        tokens = start_prompts(files, labels[None, :], 1, 0, 0)
        log_p = engine.log_probs(tokens, mode=mode, hop_keep=keep, first_position=first_position, n_threads=threads)[0]
        if np.isnan(log_p).any():
            raise InputError("the model gave probabilities that are not finite: its weights are too large or damaged")
        results.append(log_p)
    return results
