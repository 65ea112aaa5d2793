"""Where trajectories begin: from prompts, or from where another rollout ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd.base.config import RolloutConfig
from nanomd.base.errors import InputError
from nanomd.model.files import ModelFiles
from nanomd.model.starts import start_prompts
from nanomd.rollout.engine import RolloutEngine
from nanomd.rollout.request import RolloutRequest
from nanomd.rollout.result import Rollout


@dataclass(frozen=True)
class Beginning:
    """What is known of the trajectories before the first state is drawn.

    Parameters
    ----------
    tokens : (n_trajs, n) uint16
        The latest tokens: the prompts, or the end of an earlier rollout.
    n_before : int
        Tokens before those.
    first_step : int
        Index of the first state to be drawn: how many have been drawn before.
    """

    tokens: NDArray[np.uint16]
    n_before: int = 0
    first_step: int = 0

    @property
    def prompt_length(self) -> int:
        """Tokens that nobody drew."""
        length: int = self.tokens.shape[1]
        return self.n_before + length - self.first_step


def beginning(engine: RolloutEngine, files: ModelFiles, request: RolloutRequest, config: RolloutConfig) -> Beginning:
    """Return where the trajectories of a request begin.

    Raises
    ------
    InputError
        For an unknown start or state, or a rollout that cannot be gone on with.
    """
    if isinstance(request.start, Rollout):
        return _end_of(request.start, engine, files, request, config)
    own = request.trajectories
    return Beginning(start_prompts(files, request.own_start, len(own), own.start, config.seed))


def _end_of(
    rollout: Rollout, engine: RolloutEngine, files: ModelFiles, request: RolloutRequest, config: RolloutConfig
) -> Beginning:
    if rollout.n_trajs != request.n_trajs:
        raise InputError(f"n_trajs must be that of the rollout to go on from, {rollout.n_trajs}, got {request.n_trajs}")
    if rollout.stride != 1 or not rollout.tokens.shape[1]:
        raise InputError("start must be a rollout that keeps every state, with stride 1 and store_tokens=True")
    first_step = rollout.first_step + rollout.n_steps
    if first_step % config.stride:
        raise InputError(f"stride must divide the {first_step} steps of the rollout to go on from, got {config.stride}")
    known = rollout.prompt_length + first_step
    needed = engine.replay_length(config.mode, config.hop_keep or 0, known)
    own = range(request.n_trajs) if request.part is None else request.part.trajectories(request.n_trajs)
    latest: NDArray[Any] = rollout.state_map.decode(rollout.tokens[own.start : own.stop, -needed:])
    if latest.shape[1] < needed:
        latest = np.concatenate((_prompts_of(rollout, files, own, needed), latest), axis=1)[:, -needed:]
    tokens = files.state_map.encode_labels(latest).astype(np.uint16)
    return Beginning(tokens, known - tokens.shape[1], first_step)


def _prompts_of(rollout: Rollout, files: ModelFiles, own: range, needed: int) -> NDArray[Any]:
    """Return the labels that a short rollout itself began with: drawn anew, where they were drawn."""
    kind = rollout.config.start
    if kind == "prompts":
        raise InputError(
            f"start must be a rollout of at least {needed} steps, as many as the model reads, got {rollout.n_steps}; "
            "give the whole of the trajectories as an array of labels"
        )
    first = rollout.first_trajectory + own.start
    return files.state_map.decode(start_prompts(files, kind, len(own), first, rollout.config.seed))
