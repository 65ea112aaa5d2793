"""Eager reference generation: every step recomputes its context with PyTorch. Slow, short, and the meaning of the rest.

The three modes are written as what the model reads at each step; the compiled engines with their caches must agree.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from nanomd._native import rollout_uniform
from nanomd.base.config import ModelConfig
from nanomd.base.errors import InputError
from nanomd.model.network import NanoGPT
from nanomd.rollout.sampler import resolve_mode


def context_start(config: ModelConfig, mode: str, n_known: int, hop_keep: int) -> int:
    """Return the first of `n_known` frames that the model reads to predict the next one.

    ring: the receptive field, L (W - 1) + 1 frames. crop: the last W. hop: the window grows to W frames, and a frame
    that finds it full starts a new one with the last `hop_keep` frames, itself included.
    """
    window = config.context_length
    if mode == "ring":
        return max(0, n_known - config.receptive_field)
    if mode == "crop":
        return max(0, n_known - window)
    if n_known <= window:
        return 0
    return n_known - hop_keep - (n_known - window - 1) % (window - hop_keep + 1)


def draw_state(probabilities: NDArray[np.float64], uniform: float) -> int:
    """Return the smallest k whose cumulative probability exceeds `uniform`; on rounding, the last state with p > 0."""
    cumulative = np.cumsum(probabilities)
    state = int(np.searchsorted(cumulative, uniform, side="right"))
    return state if state < len(probabilities) else int(np.flatnonzero(probabilities)[-1])


@torch.no_grad()
def generate_reference(
    model: NanoGPT,
    prompts: ArrayLike,
    n_steps: int,
    *,
    mode: str = "auto",
    hop_keep: int | None = None,
    seed: int = 0,
    first_trajectory: int = 0,
    sampling_temperature: float = 1.0,
) -> NDArray[np.int64]:
    """Generate trajectories by recomputing the whole context at every step.

    Parameters
    ----------
    model : NanoGPT
    prompts : (n, P) integer tokens
        What comes before the first generated state.
    n_steps : int
        States to generate per trajectory.
    mode : str
        ``"auto"``, ``"ring"``, ``"hop"`` or ``"crop"``; see `context_start`.
    hop_keep : int, optional
        Frames in the window when hop mode refills it, in [1, W - 1]; W / 2 when None.
    seed, first_trajectory : int
        The uniform of step s and row i is that of (seed, s, first_trajectory + i) in every engine.
    sampling_temperature : float
        Divides the logits.

    Returns
    -------
    tokens : (n, n_steps) int64
        The generated states, without the prompts.
    """
    config = model.config
    mode = resolve_mode(config, mode)
    keep = max(1, config.context_length // 2) if hop_keep is None else hop_keep
    known = np.asarray(prompts, dtype=np.int64)
    if known.ndim != 2 or known.shape[1] < 1:
        raise InputError(f"prompts must have shape (n_trajs, P) with P >= 1, got {known.shape}")
    length = known.shape[1]
    frames = np.concatenate((known, np.zeros((len(known), n_steps), dtype=np.int64)), axis=1)
    training = model.training
    model.eval()
    try:
        for step in range(n_steps):
            now = length + step
            context = torch.from_numpy(frames[:, context_start(config, mode, now, keep) : now])
            logits = model(context)[:, -1].double() / sampling_temperature
            probabilities = torch.softmax(logits, dim=-1).numpy()
            for row, p in enumerate(probabilities):
                frames[row, now] = draw_state(p, rollout_uniform(seed, step, first_trajectory + row))
    finally:
        model.train(training)
    return frames[:, length:]
