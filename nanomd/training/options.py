"""The options of a training that its estimator does not spell out, with their types: fields of the configurations."""

from __future__ import annotations

from typing import Literal, TypedDict

from nanomd.base.config import Activation, Average, Compile, HiddenSchedule, Initial, Norm, Position, Precision


class FurtherOptions(TypedDict, total=False):
    """Fields of `ModelConfig` and `TrainConfig`; see there for what they mean, and for their defaults."""

    # of the model
    n_kv_head: int | None
    mlp_ratio: int
    norm: Norm
    activation: Activation
    position: Position
    final_dropout: float
    rope_base: float
    # of the training
    train_length: int | None
    burn_in: int | None
    window_shift: int | None
    n_epochs: int | None
    steps_per_epoch: int | None
    keep_epochs: tuple[int, ...]
    beta1: float
    beta2: float
    weight_decay: float
    gradient_clip: float
    warmup_steps: int
    lr_schedule: Literal["cosine", "constant"]
    mix_max: float
    mix_anneal: bool
    hidden_position_base: float
    hidden_step_base: float
    hidden_schedule: HiddenSchedule
    initial: Initial
    average: Average
    average_span: float
    lookahead_lags: tuple[int, ...]
    lookahead_weight: float
    markov_pseudocount: float
    refit_pseudocount: float
    refit_ridge: float
    calibrate: bool
    validation_interval: int
    checkpoint_interval: int
    backend: Literal["auto", "reference", "triton"]
    compile: Compile
    precision: Precision
