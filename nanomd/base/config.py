"""What a model, a training and a rollout are made of: frozen dataclasses, checked when made."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal, Self

from nanomd.base.checks import check_lags, check_range
from nanomd.base.errors import InputError
from nanomd.base.model_config import MAX_CONTEXT as MAX_CONTEXT
from nanomd.base.model_config import MAX_D_MODEL as MAX_D_MODEL
from nanomd.base.model_config import MAX_LAYERS as MAX_LAYERS
from nanomd.base.model_config import MAX_STATES as MAX_STATES
from nanomd.base.model_config import Activation as Activation
from nanomd.base.model_config import ModelConfig as ModelConfig
from nanomd.base.model_config import Norm as Norm
from nanomd.base.model_config import Position as Position
from nanomd.base.options import Options, Ranges
from nanomd.base.presets import PAPER_TRAINING
from nanomd.base.presets import PRESETS as PRESETS

Objective = Literal["one_pass", "two_pass_token", "two_pass_hidden"]
HiddenSchedule = Literal["epoch", "training"]
Initial = Literal["scaled", "glorot"]
Average = Literal["none", "ema", "tail"]
Select = Literal["loss", "kinetics", "last"]
Switch = Literal["auto", "on", "off"]
Compile = Literal["auto", "none", "compile", "graph", "compile-graph", "native"]
Precision = Literal["fp32", "bf16", "fp16"]
Mode = Literal["auto", "ring", "hop", "crop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(Options):
    """How a model is trained; see `nanomd.training.objectives` for the objectives.

    Parameters
    ----------
    objective : str
        ``"one_pass"``, ``"two_pass_token"`` or ``"two_pass_hidden"``.
    train_length : int, optional
        T, frames per training window; default 4 W with rotary positions, W with learned ones.
    burn_in : int, optional
        Frames at the start of a window that are read but not scored, where the trajectory has earlier frames; default
        W - 1 with rotary positions (at most half of T), 0 with learned ones. See `nanomd.training.windows` for why.
    window_shift : int, optional
        Frames between the starts of successive training windows; None draws starts uniformly.
    batch_size, n_steps : int
        Windows per optimiser step, and optimiser steps.
    n_epochs, steps_per_epoch : int, optional
        Readings of the training windows, in place of `n_steps`, and the steps of one; what the data have when None
        (`nanomd.training.epochs`).
    keep_epochs : tuple of int
        Epochs after which the weights are kept, as `GPTEstimator.fetch_epochs` returns them; none when empty.
    learning_rate, beta1, beta2, weight_decay, gradient_clip, warmup_steps :
        AdamW; the learning rate rises linearly over the warm-up.
    lr_schedule : str
        ``"cosine"`` decays to zero at the last step; ``"constant"`` does not.
    mix_max : float
        Token objective: highest probability that an input token is replaced by a sampled one.
    mix_anneal : bool
        Token objective: bring the replacement probability back to zero over the second third; it rises over the first.
    hidden_position_base, hidden_step_base : float
        Hidden objective: replace with probability 1 - a^(t (1 - b^s)), a and b these two.
    hidden_schedule : str
        Whether s counts the steps of the current ``"epoch"``, as published, or of the whole ``"training"``.
    initial : str
        Initial weights: ``"scaled"``, as `NanoGPT.initialise` says, or ``"glorot"``, as published.
    average : str
        ``"none"``; ``"ema"``, an exponential mean of the weights; or ``"tail"``, their mean over the last steps, which
        brought learnt rates nearer the data's (docs/results.md). The mean is what is validated, chosen and saved; see
        `nanomd.training.averaging`.
    average_span : float
        Over how much of the training weights are averaged, in (0, 1].
    lookahead_lags : tuple of int
        Frames ahead that auxiliary heads predict as well, such as ``(2, 5, 20, 50)``, in training only; none when
        empty. See `nanomd.training.horizon_heads`.
    lookahead_weight : float
        Weight of their mean loss beside the model's own.
    frame_stride : int, optional
        Frames a step of the model: every n-th frame is read, with all n offsets as data. None: chosen by the data
        with the preset "auto", and 1 with the others.
    n_groups : int, optional
        Groups into which the states are put, so that the next group is drawn first and then a state of it
        (`ModelConfig.group_sizes`); 0: none. About sqrt(V), for more than 4096 states, when None. See
        `nanomd.data.groups`.
    time_reversal : bool
        Train on windows forwards and backwards; for equilibrium MD, which is reversible.
    markov_pseudocount : float
        Added to the counts that initialise the markov head.
    validation_fraction : float
        Part of the frames held out, by trajectory where there are enough, else the end of each.
    select : str
        Which weights are the result: ``"loss"``, the latest within 0.2 % of the lowest validation loss; ``"kinetics"``,
        those whose rollouts fit the held-out MD best, of a few in the last half of the training, before a refit
        (`nanomd.training.selection`);
        ``"last"``.
    refit : str
        Whether the output layer is fitted to all data once more after the training, which brings the rates of rare
        transitions to those of the data (`nanomd.training.refit`): ``"on"``, ``"off"``, or ``"auto"``, for up to 4096
        states.
    refit_pseudocount, refit_ridge : float
        How strongly few data leave it as trained: observations in each state, and a ridge on the weights.
    calibrate : bool
        Whether the finished model is rolled out, and its slow kinetics brought to those of the data by a few offsets of
        its output (`nanomd.training.calibration`); on with the preset "auto". Needs a markov head, which a refit gives.
    validation_interval, checkpoint_interval : int
        Steps between validations and between checkpoints.
    seed : int
        Seeds weights, windows, dropout and replacement.
    device : str
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    backend : str
        Training operations: ``"auto"``, ``"reference"`` or ``"triton"``.
    compile : str
        How a step runs: ``"none"``, operation by operation; ``"compile"``, through `torch.compile`; ``"graph"``, as one
        CUDA graph; ``"compile-graph"``, both; ``"native"``, in C++ on the CPU, float32; ``"auto"``, a graph on CUDA
        devices, and on a CPU in C++ where the training allows it. See `nanomd.training.step`.
    precision : str
        Of matrix products and attention: ``"fp32"``, ``"bf16"`` or ``"fp16"``. Weights, optimiser, residual stream,
        LayerNorm, logits and loss are always float32; fp16 scales the loss.
    n_threads : int, optional
        CPU threads; PyTorch's own choice when None.
    """

    objective: Objective = "one_pass"
    train_length: int | None = None
    burn_in: int | None = None
    window_shift: int | None = None
    batch_size: int = 32
    n_steps: int = 2000
    n_epochs: int | None = None
    steps_per_epoch: int | None = None
    keep_epochs: tuple[int, ...] = ()
    learning_rate: float = 2e-3
    beta1: float = 0.9
    beta2: float = 0.98
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    warmup_steps: int = 100
    lr_schedule: Literal["cosine", "constant"] = "cosine"
    mix_max: float = 0.1
    mix_anneal: bool = True
    hidden_position_base: float = 0.95
    hidden_step_base: float = 0.99995
    hidden_schedule: HiddenSchedule = "epoch"
    initial: Initial = "scaled"
    average: Average = "tail"
    average_span: float = 0.3
    lookahead_lags: tuple[int, ...] = ()
    lookahead_weight: float = 0.2
    frame_stride: int | None = None
    n_groups: int | None = None
    time_reversal: bool = False
    markov_pseudocount: float = 1e-3
    validation_fraction: float = 0.1
    select: Select = "loss"
    refit: Switch = "auto"
    refit_pseudocount: float = 10.0
    refit_ridge: float = 30.0
    calibrate: bool = False
    validation_interval: int = 100
    checkpoint_interval: int = 500
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    backend: Literal["auto", "reference", "triton"] = "auto"
    compile: Compile = "auto"
    precision: Precision = "fp32"
    n_threads: int | None = None

    RANGES: ClassVar[Ranges] = {
        "frame_stride": (1, None), "n_groups": (0, MAX_STATES),
        "train_length": (2, None), "burn_in": (0, None), "window_shift": (1, None),
        "batch_size": (1, None),
        "n_steps": (1, None), "n_epochs": (1, None), "steps_per_epoch": (1, None),
        "learning_rate": (0, None), "beta1": (0, 0.99999), "beta2": (0, 0.99999),
        "weight_decay": (0, None), "gradient_clip": (1e-6, None), "warmup_steps": (0, None), "mix_max": (0, 1),
        "hidden_position_base": (0, 1), "hidden_step_base": (0, 1), "average_span": (1e-6, 1),
        "lookahead_weight": (0, None), "markov_pseudocount": (1e-12, None), "validation_fraction": (0, 0.9),
        "refit_pseudocount": (1e-3, None), "refit_ridge": (1e-3, None), "validation_interval": (1, None),
        "checkpoint_interval": (1, None), "seed": (0, 2**63 - 1), "n_threads": (1, None),
    }  # fmt: skip

    def __post_init__(self) -> None:
        """Check every field."""
        object.__setattr__(self, "lookahead_lags", check_lags("lookahead_lags", self.lookahead_lags))
        self.check()
        if any(a >= b for a, b in pairwise((0, *self.keep_epochs))):
            raise InputError(f"keep_epochs must be rising whole numbers from 1 on, got {list(self.keep_epochs)}")

    @classmethod
    def paper(cls, system: str, **changes: Any) -> Self:
        """Return the published training of a system, as far as its authors' code tells; see docs/paper.md.

        With the preset ``"paper-" + system`` it is the whole method. An epoch has as many steps as it had there, or, of
        the four-state potential, as the data give.

        Parameters
        ----------
        system : str
            ``"four-state"``, ``"alanine-dipeptide"`` or ``"ww-domain"``.
        **changes
            Fields that are to differ.

        Raises
        ------
        InputError
            For another system, or an unknown field.
        """
        if system not in PAPER_TRAINING:
            raise InputError(f"system must be one of {', '.join(PAPER_TRAINING)}, got {system!r}")
        return cls.from_dict({**PAPER_TRAINING[system], **changes})


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutConfig(Options):
    """How trajectories are generated.

    Parameters
    ----------
    n_steps, n_trajs : int
        States generated per trajectory (prompts not counted), and trajectories.
    start : str
        ``"uniform"`` states, ``"stationary"`` (of the training data's MSM), ``"data"`` (windows of the MD),
        or ``"prompts"`` (given by the caller).
    mode : str
        ``"ring"``, ``"hop"``, ``"crop"``, or ``"auto"``: ring for rotary, hop for learned positions.
    hop_keep : int, optional
        Tokens kept when a hop refills its window; default W / 2.
    seed : int
        Key of the counter-based random numbers.
    stride : int
        Keep every stride-th state.
    sampling_temperature : float
        Divides the logits; 1 samples the learnt kinetics.
    backend : str
        ``"auto"``, ``"reference"``, ``"cpu"`` or ``"cuda"``.
    n_threads : int, optional
        CPU threads; all cores when None.
    precision : str
        What is kept in 16 bits: nothing (``"fp32"``), keys and values (``"fp16-cache"``), weights too (``"fp16"``).
    """

    n_steps: int = 1_000_000
    n_trajs: int = 16
    start: Literal["uniform", "stationary", "data", "prompts"] = "stationary"
    mode: Mode = "auto"
    hop_keep: int | None = None
    seed: int = 0
    stride: int = 1
    sampling_temperature: float = 1.0
    backend: Literal["auto", "reference", "cpu", "cuda"] = "auto"
    n_threads: int | None = None
    precision: Literal["fp32", "fp16-cache", "fp16"] = "fp32"

    RANGES: ClassVar[Ranges] = {
        "n_steps": (1, None), "n_trajs": (1, None), "hop_keep": (1, None), "seed": (0, 2**63 - 1),
        "sampling_temperature": (1e-3, 1e3), "n_threads": (1, None),
    }  # fmt: skip

    def __post_init__(self) -> None:
        """Check every field."""
        self.check()
        check_range("stride", self.stride, 1, self.n_steps)


def model_preset(name: str, n_states: int, **overrides: Any) -> ModelConfig:
    """Return the `ModelConfig` of a preset, with some fields replaced.

    Raises
    ------
    InputError
        For an unknown preset, or fields that do not fit each other.
    """
    if name not in PRESETS:
        raise InputError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
    return ModelConfig.from_dict({**PRESETS[name], **overrides, "n_states": n_states})
