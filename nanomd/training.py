"""The training loop: windows on the device, AdamW, validation, checkpoints that resume bit for bit, metrics."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from nanomd._nvtx import annotate
from nanomd.averaging import WeightAverage
from nanomd.config import ModelConfig, TrainConfig
from nanomd.errors import BackendUnavailableError, InputError, NanomdError, StoreError
from nanomd.likelihood import mean_log_likelihood
from nanomd.lookahead import LookaheadHeads
from nanomd.model import NanoGPT
from nanomd.progress import Progress
from nanomd.selection import KineticsSelector
from nanomd.training_state import (
    TrainingState,
    data_digest,
    find_checkpoints,
    load_checkpoint,
    save_checkpoint,
    training_identity,
)
from nanomd.two_pass import token_mix_probability, training_loss
from nanomd.windows import STREAM_DROPOUT, STREAM_MIX, STREAM_ROLLOUT, WindowSampler, step_seed, transition_counts

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
        validations, ``validation_loss`` (nats per frame), with
        ``learning_rate``, ``mix`` (replacement probability of the token objective), ``seconds`` and
        ``frames_per_second``. Where rollouts were scored, ``kinetics_score``, ``kinetics_held_out`` (1, or 0 where the
        training MD had to judge) and ``kinetics_seconds``.
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


def resolve_device(name: str) -> torch.device:
    """Return the device of a training: ``"auto"`` takes CUDA where there is one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailableError(
            "device 'cuda' is not available: PyTorch finds no CUDA device; use 'auto' or 'cpu'"
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def resolve_train_length(model: ModelConfig, train: TrainConfig, longest: int) -> int:
    """Return T: targets per window.

    Parameters
    ----------
    model, train : configurations
        `train_length` None means 4 W for rotary positions and W for learned ones, or the longest trajectory if shorter.
    longest : int
        Frames of the longest training trajectory.
    """
    window = model.context_length
    if train.train_length is None:
        return max(1, min(4 * window if model.position == "rope" else window, longest - 1))
    if model.position == "learned" and train.train_length > window:
        raise InputError(
            f"train_length must be at most context_length = {window} with learned positions, got {train.train_length}"
        )
    if train.train_length > longest - 1:
        raise InputError(
            f"train_length must be in [2, {longest - 1}] frames (longest training trajectory has {longest}), "
            f"got {train.train_length}; leave it out to fit it to the data"
        )
    return train.train_length


def resolve_burn_in(model: ModelConfig, train: TrainConfig, length: int) -> int:
    """Return how many frames at the start of a window of `length` targets are read but not scored."""
    if train.burn_in is None:
        return min(model.context_length - 1, length // 2) if model.position == "rope" else 0
    return train.burn_in  # the sampler of windows checks it


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the learning rate of an optimiser step: linear warm-up, then cosine decay that ends at zero."""
    warmup = min(config.warmup_steps, config.n_steps // 2)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    if config.lr_schedule == "constant":
        return config.learning_rate
    progress = (step - warmup) / max(1, config.n_steps - warmup)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


def make_optimiser(model: NanoGPT, config: TrainConfig, heads: torch.nn.Module | None = None) -> torch.optim.AdamW:
    """Return AdamW; weight decay acts on the weights of linear layers, not on biases, norms, embeddings or counts.

    `heads` are parameters that only the training has.
    """
    decayed: list[torch.nn.Parameter] = []
    free: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        linear = name.endswith("weight") and (name.startswith("head") or ".attention." in name or ".mlp." in name)
        (decayed if linear else free).append(parameter)
    for parameter in () if heads is None else heads.parameters():
        (decayed if parameter.ndim == 2 else free).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


@contextmanager
def torch_settings(device: torch.device, n_threads: int | None) -> Iterator[None]:
    """Set PyTorch up for a training and put everything back: threads, determinism on the CPU, denormals, generators."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    # A module-level property, which type checkers do not see.
    deterministic_mode: Any = torch.utils.deterministic
    fill = deterministic_mode.fill_uninitialized_memory
    if n_threads is not None:
        torch.set_num_threads(n_threads)
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        deterministic_mode.fill_uninitialized_memory = False  # a safety net against bugs that costs a memset each
        torch.set_flush_denormal(True)  # moments of rarely seen states decay into denormals, which are slow
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        if n_threads is not None:
            torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        deterministic_mode.fill_uninitialized_memory = fill
        torch.set_flush_denormal(False)


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
    device = resolve_device(config.device)
    with torch_settings(device, config.n_threads):
        return _Loop(model_config, config, trajectories, validation, device, run_dir).run(resume, progress)


class _Loop:
    def __init__(
        self,
        model_config: ModelConfig,
        config: TrainConfig,
        trajectories: Sequence[NDArray[Any]],
        validation: Sequence[NDArray[Any]],
        device: torch.device,
        run_dir: str | Path | None,
    ) -> None:
        self.config, self.device = config, device
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
            counts = transition_counts(trajectories, model_config.n_states)
            if config.time_reversal:
                counts = 0.5 * (counts + counts.T)
            self.model.start_at_markov(counts, config.markov_pseudocount)
        self.model.to(device)
        self.heads = (
            LookaheadHeads(model_config, config, self.length, burn_in).to(device) if config.lookahead_lags else None
        )
        self.optimiser = make_optimiser(self.model, config, self.heads)
        self.parameters = [*self.model.parameters(), *([] if self.heads is None else self.heads.parameters())]
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
            if config.select == "kinetics"
            else None
        )
        self.mixer = torch.Generator(device=device)
        self.checkpoints = None if run_dir is None else Path(run_dir) / "checkpoints"
        self.metrics = None if run_dir is None else Path(run_dir) / "logs" / "metrics.jsonl"
        self.identity = training_identity(model_config, config, data_digest([*trajectories, *self.validation]))
        self.state = TrainingState(0, [], 0, math.inf, self.average.weights(), self.average.state())

    def run(self, resume: bool, progress: Progress | None) -> TrainingResult:
        config, state = self.config, self.state
        if self.checkpoints is not None:
            found = find_checkpoints(self.checkpoints)
            if found and not resume:
                raise InputError(
                    f"{self.checkpoints} already holds a training ({found[-1].name}); "
                    "resume it, or use a new run folder"
                )
            if found:
                state = self.state = load_checkpoint(
                    found[-1], self.model, self.optimiser, self.identity, self.heads, self.average.state()
                )
            self._write_metrics(state.history, "w")
        if progress is not None and state.step:
            progress.update(state.step)
        self.model.train()
        begin, before = time.perf_counter(), state.history[-1]["seconds"] if state.history else 0.0
        losses: list[Tensor] = []
        clock, clock_step = begin, state.step
        while state.step < config.n_steps:
            step = state.step
            losses.append(self.step(step))
            state.step = step + 1
            self.average.update(state.step)
            last = state.step == config.n_steps
            if self.device.type == "cpu" or state.step % METRICS_INTERVAL == 0 or last:
                self._check_finite(losses[-1], step)
            roll_out = self.selector is not None and state.step in self.selector.steps
            validate = bool(self.validation) and (state.step % config.validation_interval == 0 or last or roll_out)
            if validate or roll_out or state.step % METRICS_INTERVAL == 0 or last:
                now = time.perf_counter()
                speed = (state.step - clock_step) * config.batch_size * self.length / (now - clock)
                record = {
                    "step": state.step,
                    "loss": float(torch.stack(losses).mean()),
                    "learning_rate": learning_rate(step, config),
                    "frames_per_second": speed,
                }
                if self.heads is not None:
                    record["lookahead_loss"] = float(self.heads.latest)
                if config.objective == "two_pass_token":
                    record["mix"] = token_mix_probability(step, config)
                with self.average.applied():
                    if validate:
                        record["validation_loss"] = self._validate()
                    if self.selector is not None and roll_out:
                        record |= self._score(self.selector)
                if self._is_chosen(record, last):
                    state.best_loss = record.get("validation_loss", math.inf)
                    state.best_step, state.best = state.step, self.average.weights()
                record["seconds"] = before + time.perf_counter() - begin
                self._write_metrics([record], "a")
                state.history.append(record)
                losses, clock, clock_step = [], time.perf_counter(), state.step
                if progress is not None:
                    progress.note(_note(record, speed))
            if self.checkpoints is not None and (state.step % config.checkpoint_interval == 0 or last):
                with annotate("checkpoint"):
                    save_checkpoint(self.checkpoints, state, self.model, self.optimiser, self.identity, self.heads)
            if progress is not None:
                progress.update(1)
        last_weights = self.average.weights()
        self.model.load_state_dict(state.best)
        best_loss = state.best_loss if self.validation else math.nan
        selection = {"select": config.select} | ({} if self.selector is None else self.selector.describe())
        return TrainingResult(self.model.eval(), last_weights, state.history, state.best_step, best_loss, selection)

    def step(self, step: int) -> Tensor:
        """Do one optimiser step, and return its loss."""
        config = self.config
        with annotate("step"):
            with annotate("windows"):
                batch = self.windows.batch(step)
            self.mixer.manual_seed(step_seed(config.seed, STREAM_MIX, step))
            if self.model.config.dropout or self.model.config.final_dropout:
                torch.manual_seed(step_seed(config.seed, STREAM_DROPOUT, step))
            for group in self.optimiser.param_groups:
                group["lr"] = learning_rate(step, config)
            loss = training_loss(
                self.model,
                batch.tokens,
                batch.targets,
                batch.weights,
                step=step,
                config=config,
                generator=self.mixer,
                extra=None if self.heads is None else partial(self.heads.gradient, self.model),
            )
            with annotate("backward"):
                self.optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
            with annotate("optimiser"):
                torch.nn.utils.clip_grad_norm_(self.parameters, config.gradient_clip)
                self.optimiser.step()
        return loss.detach()

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

    def _check_finite(self, loss: Tensor, step: int) -> None:
        if not math.isfinite(float(loss)):
            raise TrainingDivergedError(
                f"the loss is {float(loss)} at step {step + 1}: the training diverged; lower learning_rate "
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
                partial = self.metrics.with_suffix(".partial")
                partial.write_text(text, encoding="utf-8")
                os.replace(partial, self.metrics)  # noqa: PTH105  # the atomic rename
            else:
                with self.metrics.open("a", encoding="utf-8") as file:
                    file.write(text)
        except OSError as error:
            raise StoreError(f"cannot write {self.metrics}: {error.strerror or error}") from error


def _note(record: dict[str, float], speed: float) -> str:
    held_out = f", held out {record['validation_loss']:.4f}" if "validation_loss" in record else ""
    held_out += f", kinetics {record['kinetics_score']:.2f}" if "kinetics_score" in record else ""
    return f"loss {record['loss']:.4f}{held_out} nats/frame, {speed / 1e3:.0f}k frames/s"
