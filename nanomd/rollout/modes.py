"""The three rollout modes: which of a trajectory's frames the model reads to predict the next one.

ring (rotary positions): the receptive field, L (W - 1) + 1 frames. hop (learned positions): the window grows to W
frames, and a frame that finds it full starts a new one with the last `hop_keep`. crop: the last W frames, each step.
"""

from __future__ import annotations

from nanomd.base.config import ModelConfig
from nanomd.base.errors import InputError


def resolve_mode(config: ModelConfig, mode: str) -> str:
    """Return the rollout mode: ring for rotary, hop for learned positions when ``"auto"``.

    Raises
    ------
    InputError
        If the positions of the model rule the mode out.
    """
    if mode == "auto":
        return "ring" if config.position == "rope" else "hop"
    if mode not in ("ring", "hop", "crop"):
        raise InputError(f"mode must be one of auto, ring, hop, crop, got {mode!r}")
    if mode == "ring" and config.position == "learned":
        raise InputError("mode ring needs rotary positions, but this model has learned ones; use hop or crop")
    return mode


def resolve_hop_keep(config: ModelConfig, mode: str, hop_keep: int | None) -> int:
    """Return the frames that a hop keeps, the newest included: W / 2 when None, and 0 in modes that never hop.

    Raises
    ------
    InputError
        If a window could not take another frame after the hop, or in a mode that never hops.
    """
    if mode != "hop":
        if hop_keep is not None:
            raise InputError(f"hop_keep is for mode hop, but the mode is {mode}; leave hop_keep out, got {hop_keep}")
        return 0
    keep = max(1, config.context_length // 2) if hop_keep is None else hop_keep
    if not 1 <= keep < config.context_length:
        raise InputError(f"hop_keep must be in [1, {config.context_length - 1}], got {keep}")
    return keep


def context_start(config: ModelConfig, mode: str, n_known: int, hop_keep: int) -> int:
    """Return the first of `n_known` frames that the model reads to predict the next one."""
    window = config.context_length
    if mode == "ring":
        return max(0, n_known - config.receptive_field)
    if mode == "crop":
        return max(0, n_known - window)
    if n_known <= window:
        return 0
    return n_known - hop_keep - (n_known - window - 1) % (window - hop_keep + 1)
