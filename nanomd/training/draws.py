r"""What the second pass of an objective reads in place of the MD: how often, where, and drawn from what.

Two sources of random numbers decide. `GeneratorDraws` takes them from a generator and runs the head only where a state
is drawn, which costs least where there is no launch to save; how many those are decides the shapes. `CounterDraws`
takes them from counters (step, sequence, position) with `nanomd.kernels.sample_mix`, or from coins that were thrown
before: its shapes never change and it never asks the device, so that a CUDA graph can hold the step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nanomd.base.config import TrainConfig
from nanomd.kernels import sample_mix
from nanomd.model import grouped_head
from nanomd.model.network import NanoGPT


@dataclass(frozen=True, slots=True)
class Share:
    """What one of several processes has of a step: `count` of its `n_sequences` windows, from `first` on.

    `total` is the weight of all of them, which divides the sum of every process. Random numbers are those of the whole
    step, so that the processes together draw what one would.
    """

    first: int
    count: int
    n_sequences: int
    total: Tensor

    @property
    def rows(self) -> slice:
        """The windows of this process."""
        return slice(self.first, self.first + self.count)


def mix_rate(step: int, config: TrainConfig) -> float:
    """Return the number that sets the replacement at an optimiser step, 0 <= step < n_steps; zero for one pass.

    The probability p(s) of the token objective, 1 - b^s of the hidden one; see `nanomd.training.objectives`.
    """
    if config.objective == "two_pass_token":
        progress = step / config.n_steps
        rise = min(1.0, 3.0 * progress)
        fall = min(1.0, max(0.0, 2.0 - 3.0 * progress)) if config.mix_anneal else 1.0
        return config.mix_max * min(rise, fall)
    if config.objective != "two_pass_hidden":
        return 0.0
    if config.hidden_schedule == "epoch":
        step = step % (config.steps_per_epoch or config.n_steps) + 1  # counted from 1, as published
    return 1.0 - config.hidden_step_base**step


def hidden_probability(rate: float | Tensor, length: int, model: NanoGPT, config: TrainConfig) -> Tensor:
    """Return the replacement probabilities of the hidden objective, float64 (length,), at a `mix_rate`."""
    device = model.embedding.weight.device
    position = torch.arange(length, dtype=torch.float64, device=device).clamp(max=model.config.context_length - 1)
    return 1.0 - torch.pow(config.hidden_position_base, position * rate)


class Draws(Protocol):
    """What one step replaces, and by what."""

    def tokens(self, model: NanoGPT, tokens: Tensor) -> Tensor:
        """Return `tokens` (B, T), each but the first of a row replaced with a probability by one sampled from pass 1.

        The state at t + 1 is replaced by one drawn from the prediction at t.
        """

    def positions(self, model: NanoGPT, tokens: Tensor) -> Tensor:
        """Return where hidden states are replaced, bool (B, T)."""


@dataclass(frozen=True, slots=True)
class GeneratorDraws:
    """Draws from a generator; the head runs only where a state is drawn.

    Parameters
    ----------
    config : TrainConfig
    rate : float
        `mix_rate` of the step.
    generator : torch.Generator
    share : Share, optional
        Which part of the step is drawn for, where several processes work on it.
    """

    config: TrainConfig
    rate: float
    generator: torch.Generator
    share: Share | None = None

    def tokens(self, model: NanoGPT, tokens: Tensor) -> Tensor:
        """Mix sampled states into tokens (B, T); see `Draws`."""
        n_sequences, rows = self._extent(tokens)
        shape = (n_sequences, tokens.shape[1] - 1)
        coins = torch.rand(shape, generator=self.generator, device=self.generator.device)
        coins = coins.to(tokens.device) < self.rate
        before = 0 if self.share is None else int(coins[: self.share.first].sum())
        chosen = coins[rows]
        hidden = model.hidden(tokens)[:, :-1][chosen]
        current = tokens[:, :-1][chosen]
        after = 0 if self.share is None else int(coins.sum()) - before - len(hidden)
        uniform = draw_uniforms(len(hidden), self.generator, before, after).to(tokens.device)
        mixed = tokens.clone()
        if model.config.group_sizes:
            mixed[:, 1:][chosen] = grouped_head.draw(model, model.features(hidden), current, uniform)
        else:
            mixed[:, 1:][chosen] = sample_states(model.logits(hidden, current), uniform)
        return mixed

    def positions(self, model: NanoGPT, tokens: Tensor) -> Tensor:
        """Choose positions (B, T); see `Draws`."""
        n_sequences, rows = self._extent(tokens)
        shape, device = (n_sequences, tokens.shape[1]), self.generator.device
        coins = torch.rand(shape, dtype=torch.float64, generator=self.generator, device=device)
        return coins[rows].to(tokens.device) < hidden_probability(self.rate, tokens.shape[1], model, self.config)

    def _extent(self, tokens: Tensor) -> tuple[int, slice]:
        return (len(tokens), slice(None)) if self.share is None else (self.share.n_sequences, self.share.rows)


@dataclass(frozen=True, slots=True)
class CounterDraws:
    """Draws by operations of fixed shapes.

    Parameters
    ----------
    config : TrainConfig
    rate : Tensor, float64 of one element
        `mix_rate` of the step.
    step : Tensor, int64 of one element
        The optimiser step, from which sampled states are drawn.
    coins : Tensor, float64, shape (n_sequences, T)
        In [0, 1), for all windows of the step: what decides in the hidden objective.
    share : Share, optional
    """

    config: TrainConfig
    rate: Tensor
    step: Tensor
    coins: Tensor
    share: Share | None = None

    def tokens(self, model: NanoGPT, tokens: Tensor) -> Tensor:
        """Mix sampled states into tokens (B, T); see `Draws`."""
        mixed: Tensor = sample_mix(
            model.scores(model.hidden(tokens)),
            tokens,
            probability=self.rate,
            step=self.step,
            seed=self.config.seed,
            first_sequence=0 if self.share is None else self.share.first,
            markov=model.table,
            backend=model.backend,
        )
        return mixed

    def positions(self, model: NanoGPT, tokens: Tensor) -> Tensor:
        """Choose positions (B, T); see `Draws`."""
        own = self.coins if self.share is None else self.coins[self.share.rows]
        return own < hidden_probability(self.rate, tokens.shape[1], model, self.config)


def draw_uniforms(n: int, generator: torch.Generator, before: int = 0, after: int = 0) -> Tensor:
    """Return float64 numbers (n,) in [0, 1), where other processes draw `before` and `after` ours."""
    size = (before + n + after, 1)
    uniform = torch.rand(size, dtype=torch.float64, generator=generator, device=generator.device)
    return uniform[before : before + n, 0]


def sample_states(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw one state from the softmax of each row of logits (n, V), by inversion of the cumulative sum in float64."""
    cumulative = torch.softmax(logits.double(), dim=-1).cumsum(dim=-1)
    # Scaling by the last entry keeps u below the total, whatever the rounding of the sum.
    threshold = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True)[:, 0].clamp_(max=logits.shape[1] - 1)
