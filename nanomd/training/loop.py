"""The training loop: AdamW, validation, checkpoints that resume bit for bit, metrics.

A step itself is `nanomd.training.step`. Under ``torchrun`` every process runs this loop on its slice of the batches
(`nanomd.training.distributed`), and the first one validates and writes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanomd.base.config import ModelConfig, TrainConfig
from nanomd.base.nvtx import annotate
from nanomd.base.progress import Progress
from nanomd.model.scoring import mean_log_likelihood
from nanomd.training.averaging import WeightAverage
from nanomd.training.checkpoint import (
    TrainingState,
    data_digest,
    find_to_resume,
    load_checkpoint,
    save_checkpoint,
    start_moments,
    training_identity,
)
from nanomd.training.distributed import World, join
from nanomd.training.draws import GeneratorDraws, mix_rate
from nanomd.training.epochs import KeptEpochs, resolve_epochs
from nanomd.training.horizon_heads import HorizonHeads
from nanomd.training.objectives import mixed_logits
from nanomd.training.records import Clock, MetricsFile, Pending, Records
from nanomd.training.result import TrainingResult, check_finite
from nanomd.training.schedule import Choice, Schedule
from nanomd.training.selection import KineticsSelector
from nanomd.training.setup import (
    learning_rate,
    make_optimiser,
    resolve_burn_in,
    resolve_device,
    resolve_train_length,
    torch_settings,
    untrained_model,
)
from nanomd.training.step import TrainingStep
from nanomd.training.windows import STREAM_MIX, STREAM_ROLLOUT, WindowSampler, step_seed

VALIDATION_TARGETS = 32768  # scored at most, in evenly spread pieces


def train(
    model_config: ModelConfig,
    config: TrainConfig,
    trajectories: Sequence[NDArray[Any]],
    validation: Sequence[NDArray[Any]] = (),
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    coordinates: NDArray[np.float64] | None = None,
) -> TrainingResult:
    """Train a nano-GPT on token trajectories.

    Parameters
    ----------
    model_config, config : configurations
    trajectories, validation : sequences of 1-D integer arrays
        Tokens 0..V-1; validation may be empty, and then the last weights are the result.
    run_dir : path, optional
        Gets ``checkpoints/`` and ``logs/metrics.jsonl``; nothing is written when None.
    resume : bool
        Continue from the last checkpoint in `run_dir`, if there is one.
    progress : Progress, optional
        Advanced by one a step.
    coordinates : ndarray, shape (V, k), optional
        Where the states lie: the embedding begins there (`nanomd.model.geometry`).

    Raises
    ------
    InputError
        For data that cannot be trained on, or a checkpoint of another training.
    TrainingDivergedError
        If the loss is no longer finite.
    """
    world = join(config.device)
    device = resolve_device(config.device, world)
    if not world.first:
        progress = None
    with torch_settings(device, config.n_threads):
        training = Training(model_config, config, trajectories, validation, device, world, run_dir, coordinates)
        return training.run(resume, progress)


class Training:
    """A training under way; see `train`.

    Parameters
    ----------
    model_config, config : configurations
    trajectories, validation : sequences of 1-D integer arrays
    device : torch.device
    world : World, optional
        The processes that share it.
    run_dir : path, optional
    coordinates : ndarray, shape (V, k), optional
    """

    def __init__(
        self,
        model_config: ModelConfig,
        config: TrainConfig,
        trajectories: Sequence[NDArray[Any]],
        validation: Sequence[NDArray[Any]],
        device: torch.device,
        world: World | None = None,
        run_dir: str | Path | None = None,
        coordinates: NDArray[np.float64] | None = None,
    ) -> None:
        config = resolve_epochs(model_config, config, trajectories)
        self.config, self.device = config, device
        self.world = World() if world is None else world
        self.validation = [trajectory for trajectory in validation if len(trajectory) >= 2]
        self.length = resolve_train_length(model_config, config, max(map(len, trajectories), default=0))
        burn_in = resolve_burn_in(model_config, config, self.length)
        windows = WindowSampler(
            trajectories,
            length=self.length,
            batch_size=config.batch_size,
            context=burn_in,
            shift=config.window_shift,
            reverse=config.time_reversal,
            seed=config.seed,
            device=device,
        )
        self.model = untrained_model(model_config, config, trajectories, coordinates).to(device)
        self.heads: HorizonHeads | None = None
        if config.lookahead_lags:
            self.heads = HorizonHeads(model_config, config, self.length, burn_in, self.world.size).to(device)
        self.optimiser = make_optimiser(self.model, config, self.heads)
        self.average = WeightAverage(self.model, config)
        self.selector: KineticsSelector | None = None
        if config.select == "kinetics" and self.world.first:
            self.selector = KineticsSelector(
                model_config,
                trajectories,
                self.validation,
                n_steps=config.n_steps,
                frames=config.n_steps * config.batch_size * self.length,
                seed=step_seed(config.seed, STREAM_ROLLOUT, 0),
                cuda=device.type == "cuda",
                n_threads=config.n_threads,
            )
        self.schedule = Schedule(config, bool(self.validation), () if self.selector is None else self.selector.steps)
        tolerance = None if self.selector is None else self.selector.tolerance
        choice = Choice.of(config, bool(self.validation), tolerance)
        self.step = TrainingStep(
            self.model,
            self.optimiser,
            windows,
            config,
            learning_rate=partial(learning_rate, config=config),
            world=self.world,
            heads=self.heads,
        )
        folder = None if run_dir is None or not self.world.first else Path(run_dir)
        self.checkpoints = None if folder is None else folder / "checkpoints"
        self.kept = KeptEpochs(config, self.checkpoints)
        self.metrics = MetricsFile(None if folder is None else folder / "logs" / "metrics.jsonl")
        self.records = Records(config, self.length, choice, self.average, self.metrics)
        self.identity = training_identity(model_config, config, data_digest([*trajectories, *self.validation]))
        self.state = TrainingState(0, [], 0, math.inf, self.average.weights(), self.average.state())

    def run(self, resume: bool = False, progress: Progress | None = None) -> TrainingResult:
        """Take all steps that are left."""
        state = self._begin(resume)
        if progress is not None and state.step:
            progress.update(state.step)
        self.model.train()
        clock = Clock(state.step, state.history[-1]["seconds"] if state.history else 0.0)
        # On a GPU the numbers of a step travel while the next one is under way; a CPU has nothing to wait for.
        waits = self.device.type == "cpu"
        losses: list[Tensor] = []
        pending: Pending | None = None
        while state.step < self.config.n_steps:
            losses.append(self.step(state.step))
            state.step += 1
            self.average.update(state.step)
            if self.world.first and self.kept.is_due(state.step):
                self.kept.keep(state.step, self.average.weights())
            if pending is not None:
                self._record(pending, clock, progress)
                pending = None
            due = self.schedule.due(state.step)
            if due.record or waits:
                scale = None if self.step.scale is None else self.step.scale.state[0]
                pending = Pending(state.step, losses, due, scale, None if self.heads is None else self.heads.latest)
            if due.record:
                losses = []
            if pending is not None and (due.at_once or waits):
                self._record(pending, clock, progress)
                pending = None
            if due.save:
                self._save()
            if progress is not None:
                progress.update(1)
        last = self.average.weights()
        self._share_choice()
        self.model.load_state_dict(state.best)
        best_loss = state.best_loss if self.validation else math.nan
        selection = {"select": self.config.select} | ({} if self.selector is None else self.selector.describe())
        kept = self.kept.weights
        return TrainingResult(self.model.eval(), last, state.history, state.best_step, best_loss, selection, kept)

    def _begin(self, resume: bool) -> TrainingState:
        """Take up the last checkpoint, if there is one, in every process."""
        if self.checkpoints is not None:
            found = find_to_resume(self.checkpoints, resume)
            if found is not None:
                self.state = load_checkpoint(
                    found, self.model, self.optimiser, self.identity, self.heads, self.average.state()
                )
                self.kept.take_up(self.state.step, self.model.state_dict())
                if self.step.scale is not None and self.state.loss_scale:
                    self.step.scale.load(self.state.loss_scale)
            self.metrics.begin(self.state.history)
        if self.world.size > 1:
            self._share_state()
        return self.state

    def _share_state(self) -> None:
        """Give every process the first one's state."""
        self.state.step = int(self.world.agree(self.state.step))
        if self.state.step and not self.world.first:
            start_moments(self.step.parameters, self.optimiser)
        self.world.share(self.step.parameters)
        self.world.share(self.average.state())
        if self.step.scale is not None:
            self.world.share([self.step.scale.state])
        for parameter in self.step.parameters if self.state.step else ():
            moments = self.optimiser.state[parameter]
            self.world.share([moments[name] for name in sorted(moments)])

    def _share_choice(self) -> None:
        """Give every process the weights that the first one chose."""
        if self.world.size > 1:
            self.state.best_step = int(self.world.agree(self.state.best_step))
            self.state.best_loss = self.world.agree(self.state.best_loss)
            self.world.share(self.state.best)

    def _record(self, pending: Pending, clock: Clock, progress: Progress | None) -> None:
        """Check the loss, and where a record is due, validate, choose and write it."""
        config, state, due = self.config, self.state, pending.due
        numbers = pending.values()
        check_finite(numbers.latest, numbers.scale, pending.step, config)
        if not due.record:
            return
        record = self.records.begin(pending, numbers, clock)
        if self.heads is not None:
            record["lookahead_loss"] = numbers.term
        if config.objective == "two_pass_token":
            record["mix"] = mix_rate(pending.step - 1, config)
        with self.average.applied():
            if due.validate and self.world.first:
                record["validation_loss"] = self._validate()
                if config.objective == "two_pass_hidden":
                    record["mixed_validation_loss"] = self._validate(mix_rate(pending.step - 1, config))
            if due.roll_out and self.selector is not None:
                record |= self.selector.record(self.model.to_tensors())
        self.records.keep(record, state, clock, progress)

    def _save(self) -> None:
        if self.checkpoints is not None:
            self.state.loss_scale = [] if self.step.scale is None else self.step.scale.to_list()
            with annotate("checkpoint"):
                save_checkpoint(self.checkpoints, self.state, self.model, self.optimiser, self.identity, self.heads)

    def _validate(self, rate: float = 0.0) -> float:
        """Score the held-out data by teacher forcing (nats per frame), or by two passes at a `mix_rate`."""
        context = self.length // 2 if self.length > 1 else 0
        forward = None
        if rate > 0:
            coins = torch.Generator(device=self.device).manual_seed(step_seed(self.config.seed, STREAM_MIX, 0))
            forward = partial(mixed_logits, self.model, draws=GeneratorDraws(self.config, rate, coins))
        with annotate("validation"):
            return -mean_log_likelihood(
                self.model,
                self.validation,
                length=self.length,
                context=min(context, self.model.config.receptive_field - 1),
                max_targets=VALIDATION_TARGETS,
                batch_size=self.config.batch_size,
                forward=forward,
            )
