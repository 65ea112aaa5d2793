"""The compiled optimiser step of the CPU: what `compile="native"` runs.

Loss, gradient, clipping and AdamW are C++ (`csrc/train/`); the windows, the learning rate and the optimiser's state are
those of every other way to run a step, so that checkpoints do not tell which one wrote them. Sampled states and
replaced positions are drawn as where shapes are fixed (`nanomd.training.draws.CounterDraws`), dropout from counters of
its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanomd._native import NativeTrainingStep
from nanomd.base.config import ModelConfig, TrainConfig
from nanomd.base.nvtx import annotate
from nanomd.kernels.sample_mix import STREAM
from nanomd.model.network import NanoGPT
from nanomd.model.rope import rope_tables
from nanomd.training.checkpoint import named_parameters, start_moments
from nanomd.training.draws import hidden_probability, mix_rate
from nanomd.training.horizon_heads import HorizonHeads
from nanomd.training.windows import STREAM_DROPOUT, STREAM_MIX, WindowSampler, step_seed

AHEAD_FRAMES = 1 << 14  # gathered at once: fewer would be all calls, and more leave the second-level cache
_EMPTY: NDArray[Any] = np.empty(0)


def native_obstacle(
    config: TrainConfig, device: torch.device, n_processes: int = 1, grouped: bool = False
) -> str | None:
    """Return why the compiled step cannot run a training, or None where it can; `grouped` says that states are."""
    reasons = (
        (grouped, "it has one softmax over all states, and these stand in groups"),
        (device.type != "cpu", f"it runs on a CPU, not on {device.type}"),
        (n_processes > 1, f"it is one process, and {n_processes} share this training"),
        (config.precision != "fp32", f"it has no precision but fp32, not {config.precision}"),
        (config.backend != "auto", f"backend must be auto, not {config.backend}: its operations are its own"),
    )
    return next((reason for applies, reason in reasons if applies), None)


class NativeStep:
    """One optimiser step; called with its number, it returns the loss.

    Parameters
    ----------
    model : NanoGPT
        Its weights are updated in place, in float32.
    optimiser : AdamW
        Its moments and its count of steps, too.
    windows : WindowSampler
    config : TrainConfig
    learning_rate : callable
        Optimiser step to learning rate.
    heads : HorizonHeads, optional
        Heads that look further ahead, updated with the model.
    """

    def __init__(
        self,
        model: NanoGPT,
        optimiser: torch.optim.Optimizer,
        windows: WindowSampler,
        config: TrainConfig,
        learning_rate: Callable[[int], float],
        heads: HorizonHeads | None = None,
    ) -> None:
        self.model, self.optimiser, self.windows, self.config = model, optimiser, windows, config
        self.learning_rate, self.heads = learning_rate, heads
        shape: ModelConfig = model.config
        rope = None
        if shape.position == "rope":
            rope = rope_tables(shape, np.arange(windows.length, dtype=np.uint64))
        self._core = NativeTrainingStep(
            shape,
            windows.length,
            config.objective,
            rope,
            lookahead_lags=() if heads is None else heads.lags,
            lookahead_weight=config.lookahead_weight,
        )
        named = named_parameters(model, heads)
        self._parameters = [named[name] for name in self._core.names]
        self._drops = shape.dropout > 0 or shape.final_dropout > 0
        self._bound: Tensor | None = None
        self._mixer = torch.Generator()
        frames = config.batch_size * windows.length
        self._n_ahead = max(1, AHEAD_FRAMES // frames)
        self._first_ahead, self._ahead = -1, (_EMPTY, _EMPTY, _EMPTY)

    def __call__(self, step: int) -> Tensor:
        """Take an optimiser step, and return its loss (nats per frame)."""
        self._bind()
        n_threads = torch.get_num_threads()
        with annotate("windows"):
            tokens, targets, weights = self._windows(step)
        rate = mix_rate(step, self.config)
        with annotate("backward"):
            loss = self._core.gradient(
                tokens,
                targets,
                weights,
                two_passes=rate > 0,
                mix_rate=rate,
                mix_key=self.config.seed ^ STREAM,
                step=step,
                replaced=self._replaced(step, rate) if self.config.objective == "two_pass_hidden" else None,
                dropout_key=step_seed(self.config.seed, STREAM_DROPOUT, step) if self._drops else 0,
                n_threads=n_threads,
            )
        if self.heads is not None:
            self.heads.latest.fill_(self._core.lookahead_loss)
        with annotate("optimiser"):
            decayed = self.optimiser.param_groups[0]  # by the weight decay; the rules of the others are the same
            decayed["lr"] = self.learning_rate(step)
            for group in self.optimiser.param_groups:
                group["lr"] = decayed["lr"]
            t = int(self._steps[0]) + 1
            for count in self._steps:
                count[()] = t
            self._core.update(
                learning_rate=decayed["lr"],
                beta1=decayed["betas"][0],
                beta2=decayed["betas"][1],
                weight_decay=decayed["weight_decay"],
                clip=self.config.gradient_clip,
                t=t,
                n_threads=n_threads,
            )
        return torch.from_numpy(np.array(loss, dtype=np.float32))

    def _windows(self, step: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return tokens, targets and weights of a step, (n_windows, T) each, gathered for some steps at once."""
        place = step - self._first_ahead
        if self._first_ahead < 0 or not 0 <= place < len(self._ahead[0]):
            n_steps = max(1, min(self._n_ahead, self.config.n_steps - step))
            batch = self.windows.gather(torch.from_numpy(self.windows.plan(step, n_steps).reshape(-1, 3)))
            shape = (n_steps, self.config.batch_size, self.windows.length)
            arrays = [x.contiguous().numpy().reshape(shape) for x in (batch.tokens, batch.targets, batch.weights)]
            self._first_ahead, place = step, 0
            self._ahead = (arrays[0], arrays[1], arrays[2])
        tokens, targets, weights = self._ahead
        return tokens[place], targets[place], weights[place]

    def _replaced(self, step: int, rate: float) -> NDArray[np.uint8]:
        """Return where hidden states are replaced, (n_windows, T), by coins of the whole step."""
        shape = (self.config.batch_size, self.windows.length)
        self._mixer.manual_seed(step_seed(self.config.seed, STREAM_MIX, step))
        coins = torch.zeros(shape, dtype=torch.float64).uniform_(generator=self._mixer)
        chosen = coins < hidden_probability(rate, self.windows.length, self.model, self.config)
        where: NDArray[np.uint8] = chosen.to(torch.uint8).numpy()
        return where

    def _bind(self) -> None:
        """Hand the memory of weights and moments over; anew where a checkpoint has put other tensors in its place."""
        state = self.optimiser.state
        if not state:
            start_moments(self._parameters, self.optimiser)
        if state[self._parameters[0]]["exp_avg"] is self._bound:  # a checkpoint replaces the moments of all
            return
        for parameter in self._parameters:  # a checkpoint's tensors may share memory that is read-only
            for kind in ("exp_avg", "exp_avg_sq", "step"):
                state[parameter][kind] = state[parameter][kind].clone(memory_format=torch.contiguous_format)
        moments = [state[p][kind] for kind in ("exp_avg", "exp_avg_sq") for p in self._parameters]
        self._bound = moments[0]
        self._steps = [state[p]["step"].numpy() for p in self._parameters]  # the same memory
        arrays = [tensor.detach().numpy().reshape(-1) for tensor in (*self._parameters, *moments)]
        n = len(self._parameters)
        self._core.bind(arrays[:n], arrays[n : 2 * n], arrays[2 * n :])
