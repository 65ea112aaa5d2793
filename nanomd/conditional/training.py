"""The training loop at several conditions: as `nanomd.training.loop`, with windows that have a condition.

Checkpoints resume bit for bit; validation is by teacher forcing at every condition.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanomd.base.config import ModelConfig, TrainConfig
from nanomd.base.errors import InputError
from nanomd.base.progress import Progress
from nanomd.conditional.conditions import Conditions
from nanomd.conditional.network import ConditionalNet
from nanomd.conditional.step import ConditionalStep
from nanomd.model.scoring import mean_log_likelihood
from nanomd.training.averaging import WeightAverage
from nanomd.training.checkpoint import (
    TrainingState,
    data_digest,
    find_to_resume,
    load_checkpoint,
    save_checkpoint,
    training_identity,
)
from nanomd.training.records import Clock, MetricsFile, Pending, Records
from nanomd.training.result import check_finite
from nanomd.training.schedule import Choice, Due, Schedule
from nanomd.training.setup import (
    learning_rate,
    resolve_burn_in,
    resolve_device,
    resolve_train_length,
    torch_settings,
    untrained_model,
)
from nanomd.training.windows import WindowSampler

VALIDATION_TARGETS = 32768  # scored at most, of all conditions together
Groups = Sequence[Sequence[NDArray[Any]]]


@dataclass(frozen=True, slots=True)
class Trained:
    """The chosen weights (names as of `ConditionalNet`), the records, and where the choice fell."""

    weights: dict[str, Tensor]
    history: list[dict[str, float]]
    best_step: int
    best_loss: float
    n_steps: int


def check_supported(config: TrainConfig) -> None:
    """Raise `InputError` for options that a training at several conditions does not have."""
    wrong = {
        "objective": config.objective != "one_pass",
        "lookahead_lags": bool(config.lookahead_lags),
        "select": config.select == "kinetics",
        "precision": config.precision != "fp32",
        "n_epochs": config.n_epochs is not None,
        "keep_epochs": bool(config.keep_epochs),
        "n_groups": bool(config.n_groups),  # a head of two decisions has no table that could depend on conditions
    }
    for name, applies in wrong.items():
        if applies:
            default = getattr(TrainConfig(), name)
            raise InputError(
                f"{name} must be {default!r} for a training at several conditions, got {getattr(config, name)!r}"
            )


def train(
    model: ModelConfig,
    config: TrainConfig,
    conditions: Conditions,
    training: Groups,
    validation: Groups,
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Trained:
    """Train a `ConditionalNet` on token trajectories.

    Parameters
    ----------
    model, config : configurations
    conditions : Conditions
    training, validation : sequences of sequences of 1-D integer arrays
        Of each trained condition; those of the validation may be empty.
    run_dir, resume, progress :
        As of `nanomd.training.loop.train`.

    Raises
    ------
    InputError
        For data that cannot be trained on, options that it does not have, or a checkpoint of another training.
    TrainingDivergedError
        If the loss is no longer finite.
    """
    check_supported(config)
    device = resolve_device(config.device)
    with torch_settings(device, config.n_threads):
        return _Training(model, config, conditions, training, validation, device, run_dir).run(resume, progress)


class _Training:
    """A training under way."""

    def __init__(
        self,
        model: ModelConfig,
        config: TrainConfig,
        conditions: Conditions,
        training: Groups,
        validation: Groups,
        device: torch.device,
        run_dir: str | Path | None,
    ) -> None:
        self.config, self.features = config, conditions.table()
        kept = [[x for x in group if len(x) >= 2] for group in training]
        flat = [x for group in kept for x in group]
        place = np.repeat(np.arange(len(kept)), [len(group) for group in kept])
        self.validation = [[x for x in group if len(x) >= 2] for group in validation]
        self.length = resolve_train_length(model, config, max(map(len, flat), default=0))
        windows = WindowSampler(
            flat,
            length=self.length,
            batch_size=config.batch_size,
            context=resolve_burn_in(model, config, self.length),
            shift=config.window_shift,
            reverse=config.time_reversal,
            seed=config.seed,
            device=device,
        )
        self.net = ConditionalNet(model, conditions.categories, config.backend, config.seed)
        self.net.shared.load_state_dict(untrained_model(model, config, flat).state_dict())
        self.net.to(device)
        self.optimiser = make_optimiser(self.net, config)
        self.average = WeightAverage(self.net, config)
        held_out = any(self.validation)
        self.schedule = Schedule(config, held_out)
        rate = partial(learning_rate, config=config)
        self.step = ConditionalStep(self.net, self.optimiser, windows, place, self.features, config, rate)
        self.probes = [self.net.at(phi) for phi in self.features]
        folder = None if run_dir is None else Path(run_dir)
        self.checkpoints = None if folder is None else folder / "checkpoints"
        self.metrics = MetricsFile(None if folder is None else folder / "logs" / "metrics.jsonl")
        choice = Choice.of(config, held_out, None)
        self.records = Records(config, self.length, choice, self.average, self.metrics)
        digest = data_digest([*flat, *(x for group in self.validation for x in group)])
        self.identity = training_identity(model, config, digest)
        self.identity["conditions"] = {"trained": [*conditions.trained], "place": place.tolist()}
        self.state = TrainingState(0, [], 0, math.inf, self.average.weights(), self.average.state())

    def run(self, resume: bool, progress: Progress | None) -> Trained:
        """Take all steps that are left."""
        self._begin(resume)
        state, config = self.state, self.config
        if progress is not None and state.step:
            progress.update(state.step)
        self.net.train()
        clock = Clock(state.step, state.history[-1]["seconds"] if state.history else 0.0)
        losses: list[Tensor] = []
        while state.step < config.n_steps:
            losses.append(self.step(state.step))
            state.step += 1
            self.average.update(state.step)
            due = self.schedule.due(state.step)
            if due.record:
                self._record(Pending(state.step, losses, due), due, clock, progress)
                losses = []
            if due.save and self.checkpoints is not None:
                save_checkpoint(self.checkpoints, state, self.net, self.optimiser, self.identity)
            if progress is not None:
                progress.update(1)
        best_loss = state.best_loss if any(self.validation) else math.nan
        return Trained(state.best, state.history, state.best_step, best_loss, config.n_steps)

    def _begin(self, resume: bool) -> None:
        if self.checkpoints is None:
            return
        found = find_to_resume(self.checkpoints, resume)
        if found is not None:
            self.state = load_checkpoint(found, self.net, self.optimiser, self.identity, average=self.average.state())
        self.metrics.begin(self.state.history)

    def _record(self, pending: Pending, due: Due, clock: Clock, progress: Progress | None) -> None:
        numbers = pending.values()
        check_finite(numbers.latest, numbers.scale, pending.step, self.config)
        record = self.records.begin(pending, numbers, clock)
        if due.validate:
            with self.average.applied():
                record["validation_loss"] = self._validate()
        self.records.keep(record, self.state, clock, progress)

    def _validate(self) -> float:
        """Score what is held out at every condition (nats per frame), each by its number of frames."""
        total, number = 0.0, 0
        context = min(self.length // 2 if self.length > 1 else 0, self.net.shared.config.receptive_field - 1)
        for phi, probe, group in zip(self.features, self.probes, self.validation, strict=True):
            if not group:
                continue
            frames = sum(len(x) - 1 for x in group)
            total -= frames * mean_log_likelihood(
                self.net.at(phi, probe),
                group,
                length=self.length,
                context=context,
                max_targets=VALIDATION_TARGETS // len(self.features),
                batch_size=self.config.batch_size,
            )
            number += frames
        return total / number


def make_optimiser(net: ConditionalNet, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW; weight decay acts on the weights of linear layers, and draws all dependence towards none."""
    decayed: list[torch.nn.Parameter] = []
    free: list[torch.nn.Parameter] = []
    for name, parameter in net.named_parameters():
        linear = name.endswith("weight") and (
            name.startswith("shared.head") or ".attention." in name or ".mlp." in name
        )
        (decayed if linear or name.startswith("dependence.") else free).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)
