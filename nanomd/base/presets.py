"""Presets as plain values, which `nanomd.base.config` makes options of: shapes of models, trainings of the paper."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

# Preset -> fields of ModelConfig (without n_states). "paper" is the published shape; its size depends on the system.
_PAPER: dict[str, Any] = dict(
    n_head=8, context_length=100, mlp_ratio=1, norm="post", activation="relu", position="learned", final_dropout=0.1
)
# Adam at a constant rate, without decay, warm-up or clipping (no gradient has that norm); the last weights as they are.
# Epochs are those after which the analysed weights were saved: counted from 0 there, so one more here.
_PAPER_COMMON: dict[str, Any] = dict(
    objective="two_pass_hidden", batch_size=64, window_shift=50, learning_rate=5e-4, lr_schedule="constant",
    warmup_steps=0, weight_decay=0.0, gradient_clip=1e6, average="none", select="last", refit="off",
    initial="glorot", validation_fraction=0.2,
)  # fmt: skip
PAPER_TRAINING: MappingProxyType[str, dict[str, Any]] = MappingProxyType(
    {
        "four-state": dict(
            _PAPER_COMMON, learning_rate=1e-4, batch_size=128, window_shift=100, n_epochs=31, keep_epochs=(11, 21, 31)
        ),
        "alanine-dipeptide": dict(_PAPER_COMMON, n_epochs=81, steps_per_epoch=2500, frame_stride=2),
        "ww-domain": dict(_PAPER_COMMON, n_epochs=21, steps_per_epoch=250),
    }
)
PRESETS: MappingProxyType[str, dict[str, Any]] = MappingProxyType(
    {
        "paper-four-state": dict(_PAPER, d_model=64, n_layer=1),
        "paper-alanine-dipeptide": dict(_PAPER, d_model=128, n_layer=3),
        "paper-ww-domain": dict(_PAPER, d_model=128, n_layer=2),
        "small": dict(d_model=64, n_layer=2, n_head=4, context_length=64),
        "base": dict(d_model=128, n_layer=4, n_head=4, context_length=128, mlp_ratio=4),
        "xs": dict(d_model=64, n_layer=2, n_head=2, context_length=64, mlp_ratio=4),
        # The smallest shape; stride, context and the rest of the training come from the data (`nanomd.training.plan`).
        "auto": dict(d_model=32, n_layer=2, n_head=2, context_length=32, mlp_ratio=2),
        "tiny": dict(d_model=32, n_layer=2, n_head=2, context_length=32, mlp_ratio=2),
    }
)
