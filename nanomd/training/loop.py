"""The training loop: AdamW, validation, checkpoints that resume bit for bit, metrics.

A step itself is `nanomd.training.step`. Under ``torchrun`` every process runs this loop on its slice of the batches
(`nanomd.training.distributed`), and the first one validates and writes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from nanomd.base.config import ModelConfig, TrainConfig
from nanomd.base.errors import InputError, NanomdError, StoreError
from nanomd.base.files import write_atomic
from nanomd.base.nvtx import annotate
from nanomd.base.progress import Progress
from nanomd.data.counts import sparse_transition_counts
from nanomd.model.network import NanoGPT
from nanomd.model.scoring import mean_log_likelihood
from nanomd.training.averaging import WeightAverage
from nanomd.training.checkpoint import (
    TrainingState,
    data_digest,
    find_checkpoints,
    load_checkpoint,
    save_checkpoint,
    start_moments,
    training_identity,
)
from nanomd.training.distributed import World, join
from nanomd.training.draws import mix_rate
from nanomd.training.horizon_heads import HorizonHeads
from nanomd.training.loss_scale import LOWEST
from nanomd.training.records import Clock, Pending
from nanomd.training.selection import KineticsSelector
from nanomd.training.setup import (
    learning_rate,
    make_optimiser,
    resolve_burn_in,
    resolve_device,
    resolve_train_length,
    torch_settings,
)
from nanomd.training.step import TrainingStep
from nanomd.training.windows import STREAM_ROLLOUT, WindowSampler, step_seed

# Targets scored in one validation; more data than this is sampled in evenly spread pieces.
VALIDATION_TARGETS = 32768
# Relative to the lowest validation loss: how much more the chosen, latest weights may have.
SELECTION_TOLERANCE = 0.002
METRICS_INTERVAL = 20  # steps between records of the training loss


class TrainingDivergedError(NanomdError, ArithmeticError):
    """The loss is no longer a finite number."""


@dataclass(slots=True)
class TrainingResult:
    """What a training gives.

    Parameters
    ----------
    model : NanoGPT
        With the chosen weights; see `TrainConfig.select`.
    last : dict of Tensor
        The weights after the last step; their mean where weights are averaged.
    history : list of dict
        Records of ``step``, ``loss``, ``lookahead_loss`` (the term of auxiliary heads, in the last step) and, after
        validations, ``validation_loss`` (nats per frame), with ``learning_rate``, ``mix`` (replacement probability of
        the token objective), ``seconds`` and ``frames_per_second``. Where rollouts were scored, ``kinetics_score``,
        ``kinetics_held_out`` (1, or 0 where the training MD had to judge) and ``kinetics_seconds``.
    best_step, best_loss : int, float
        The step of `model`'s weights, and its validation loss (NaN where nothing was held out).
    selection : dict
        How the weights were chosen: ``select``, and with kinetics what `KineticsSelector.describe` says.
    """

    model: NanoGPT
    last: dict[str, Tensor]
    history: list[dict[str, float]]
    best_step: int
    best_loss: float
    selection: dict[str, Any]


def train(
    model_config: ModelConfig,
    config: TrainConfig,
    trajectories: Sequence[NDArray[Any]],
    validation: Sequence[NDArray[Any]] = (),
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
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
        return _Loop(model_config, config, trajectories, validation, device, run_dir, world).run(resume, progress)


class _Loop:
    def __init__(
        self,
        model_config: ModelConfig,
        config: TrainConfig,
        trajectories: Sequence[NDArray[Any]],
        validation: Sequence[NDArray[Any]],
        device: torch.device,
        run_dir: str | Path | None,
        world: World,
    ) -> None:
        self.config, self.device, self.world = config, device, world
        self.validation = [trajectory for trajectory in validation if len(trajectory) >= 2]
        longest = max((len(trajectory) for trajectory in trajectories), default=0)
        self.length = resolve_train_length(model_config, config, longest)
        burn_in = resolve_burn_in(model_config, config, self.length)
        self.windows = WindowSampler(
            trajectories,
            length=self.length,
            batch_size=config.batch_size,
            context=burn_in,
            shift=config.window_shift,
            reverse=config.time_reversal,
            seed=config.seed,
            device=device,
        )
        self.model = NanoGPT(model_config, backend=config.backend, seed=config.seed)
        if model_config.markov_head:
            counts = sparse_transition_counts(trajectories, model_config.n_states).toarray()
            if config.time_reversal:
                counts = 0.5 * (counts + counts.T)
            self.model.start_at_markov(counts, config.markov_pseudocount)
        self.model.to(device)
        self.heads = (
            HorizonHeads(model_config, config, self.length, burn_in, n_processes=world.size).to(device)
            if config.lookahead_lags
            else None
        )
        self.optimiser = make_optimiser(self.model, config, self.heads)
        self.average = WeightAverage(self.model, config)
        self.selector = (
            KineticsSelector(
                model_config,
                trajectories,
                self.validation,
                n_steps=config.n_steps,
                frames=config.n_steps * config.batch_size * self.length,
                seed=step_seed(config.seed, STREAM_ROLLOUT, 0),
                cuda=device.type == "cuda",
                n_threads=config.n_threads,
            )
            if config.select == "kinetics" and world.first
            else None
        )
        self.step = TrainingStep(
            self.model,
            self.optimiser,
            self.windows,
            config,
            learning_rate=partial(learning_rate, config=config),
            world=world,
            extra=None if self.heads is None else partial(self.heads.gradient, self.model),
        )
        run_dir = run_dir if world.first else None
        self.checkpoints = None if run_dir is None else Path(run_dir) / "checkpoints"
        self.metrics = None if run_dir is None else Path(run_dir) / "logs" / "metrics.jsonl"
        self.identity = training_identity(model_config, config, data_digest([*trajectories, *self.validation]))
        self.state = TrainingState(0, [], 0, math.inf, self.average.weights(), self.average.state())

    def run(self, resume: bool, progress: Progress | None) -> TrainingResult:
        config, state = self.config, self._begin(resume)
        if progress is not None and state.step:
            progress.update(state.step)
        self.model.train()
        clock = Clock(state.step, state.history[-1]["seconds"] if state.history else 0.0)
        losses: list[Tensor] = []
        pending: Pending | None = None
        term: Tensor | None = None
        while state.step < config.n_steps:
            losses.append(self.step(state.step))
            state.step += 1
            self.average.update(state.step)
            if pending is not None:  # its numbers arrived while this step was under way
                self._record(pending, term, clock, progress)
                pending = None
            last = state.step == config.n_steps
            roll_out = self.selector is not None and state.step in self.selector.steps
            validate = bool(self.validation) and (state.step % config.validation_interval == 0 or last or roll_out)
            save = state.step % config.checkpoint_interval == 0 or last
            record = validate or roll_out or state.step % METRICS_INTERVAL == 0 or last
            if record or save or self.device.type == "cpu":
                pending = Pending(state.step, losses, self._loss_scale(), record, validate)
                term = None if self.heads is None else self.heads.latest.clone()
            if record:
                losses = []
            if pending is not None and (validate or roll_out or save or self.device.type == "cpu"):
                self._record(pending, term, clock, progress)
                pending = None
            if save and self.checkpoints is not None:
                state.loss_scale = [] if self.step.scale is None else self.step.scale.to_list()
                with annotate("checkpoint"):
                    save_checkpoint(self.checkpoints, state, self.model, self.optimiser, self.identity, self.heads)
            if progress is not None:
                progress.update(1)
        last_weights = self.average.weights()
        self._take_choice_of_first()
        self.model.load_state_dict(state.best)
        best_loss = state.best_loss if self.validation else math.nan
        selection = {"select": config.select} | ({} if self.selector is None else self.selector.describe())
        return TrainingResult(self.model.eval(), last_weights, state.history, state.best_step, best_loss, selection)

    def _begin(self, resume: bool) -> TrainingState:
        """Take up the last checkpoint, if there is one, in every process."""
        if self.checkpoints is not None:
            found = find_checkpoints(self.checkpoints)
            if found and not resume:
                raise InputError(
                    f"{self.checkpoints} already holds a training ({found[-1].name}); "
                    "resume it, or use a new run folder"
                )
            if found:
                self.state = load_checkpoint(
                    found[-1], self.model, self.optimiser, self.identity, self.heads, self.average.state()
                )
                if self.step.scale is not None and self.state.loss_scale:
                    self.step.scale.load(self.state.loss_scale)
            self._write_metrics(self.state.history, "w")
        if self.world.size > 1:
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
        return self.state

    def _record(self, pending: Pending, term: Tensor | None, clock: Clock, progress: Progress | None) -> None:
        """Check the loss, and where a record is due, validate, choose and write it; `term` is the heads'."""
        config, state = self.config, self.state
        mean, latest, scale = pending.values()
        self._check_finite(latest, scale, pending.step)
        if not pending.record:
            return
        speed = clock.steps_per_second(pending.step) * config.batch_size * self.length
        record = {
            "step": pending.step,
            "loss": mean,
            "learning_rate": learning_rate(pending.step - 1, config),
            "frames_per_second": speed,
        }
        if term is not None:
            record["lookahead_loss"] = float(term)
        if config.objective == "two_pass_token":
            record["mix"] = mix_rate(pending.step - 1, config)
        with self.average.applied():
            if pending.validate and self.world.first:
                record["validation_loss"] = self._validate()
            if self.selector is not None and pending.step in self.selector.steps:
                record |= self._score(self.selector)
        if self._is_chosen(record, pending.step == config.n_steps):
            state.best_loss = record.get("validation_loss", math.inf)
            state.best_step, state.best = state.step, self.average.weights()
        record["seconds"] = clock.seconds()
        self._write_metrics([record], "a")
        state.history.append(record)
        clock.start(pending.step)
        if progress is not None:
            progress.note(_note(record, speed))

    def _take_choice_of_first(self) -> None:
        """Give every process the weights that the first one chose."""
        if self.world.size == 1:
            return
        state = self.state
        state.best_step = int(self.world.agree(state.best_step))
        state.best_loss = self.world.agree(state.best_loss)
        self.world.share(state.best)

    def _loss_scale(self) -> Tensor | None:
        return None if self.step.scale is None else self.step.scale.state[0]

    def _validate(self) -> float:
        """Score the held-out data by teacher forcing (nats per frame)."""
        context = self.length // 2 if self.length > 1 else 0
        with annotate("validation"):
            return -mean_log_likelihood(
                self.model,
                self.validation,
                length=self.length,
                context=min(context, self.model.config.receptive_field - 1),
                max_targets=VALIDATION_TARGETS,
                batch_size=self.config.batch_size,
            )

    def _score(self, selector: KineticsSelector) -> dict[str, float]:
        begin = time.perf_counter()
        with annotate("rollout"):
            score = selector.score(self.model.to_tensors())
        return {
            "kinetics_score": score,
            "kinetics_held_out": float(selector.reference.held_out),
            "kinetics_seconds": time.perf_counter() - begin,
        }

    def _is_chosen(self, record: dict[str, float], last: bool) -> bool:
        """Say whether the weights of a new record take the place of those kept so far.

        By loss, kept are the latest within `SELECTION_TOLERANCE` of the lowest. The lowest itself is often a lucky step
        before the learning rate had fallen to zero: its rates, on a chain of known kinetics, were wrong by 6 % where
        those of the last step, 0.03 % worse in loss, were right to 1 %.
        """
        if self.config.select == "last" or (self.selector is None and not self.validation):
            return last
        name = "validation_loss" if self.selector is None else "kinetics_score"
        if name not in record:
            return False
        lowest = min([record[name], *(x[name] for x in self.state.history if name in x)])
        tolerance = SELECTION_TOLERANCE * abs(lowest) if self.selector is None else self.selector.tolerance
        return record[name] <= lowest + tolerance

    def _check_finite(self, loss: float, scale: float, step: int) -> None:
        if math.isfinite(loss) and scale >= LOWEST:
            return
        what = f"the loss is {loss}" if not math.isfinite(loss) else "gradients are not finite"
        raise TrainingDivergedError(
            f"{what} at step {step}: the training diverged; lower learning_rate "
            f"(now {self.config.learning_rate:g}) or raise warmup_steps (now {self.config.warmup_steps})"
        )

    def _write_metrics(self, records: Sequence[dict[str, float]], mode: str) -> None:
        """Append records, or (mode "w") put back those that a checkpoint knows, dropping what came after it."""
        if self.metrics is None:
            return
        text = "".join(json.dumps(record) + "\n" for record in records)
        try:
            self.metrics.parent.mkdir(parents=True, exist_ok=True)
            if mode == "w":
                write_atomic(self.metrics, text)
            else:
                with self.metrics.open("a", encoding="utf-8") as file:
                    file.write(text)
        except OSError as error:
            raise StoreError(f"cannot write {self.metrics}: {error.strerror or error}") from error


def _note(record: dict[str, float], speed: float) -> str:
    held_out = f", held out {record['validation_loss']:.4f}" if "validation_loss" in record else ""
    held_out += f", kinetics {record['kinetics_score']:.2f}" if "kinetics_score" in record else ""
    return f"loss {record['loss']:.4f}{held_out} nats/frame, {speed / 1e3:.0f}k frames/s"
