r"""The training objectives.

All three end in the same cross-entropy, in nats per frame, of predictions q_t against the MD states x_{t+1}:

.. math:: \mathcal L = -\frac{\sum_t w_t \ln q_t(x_{t+1})}{\sum_t w_t}

with weights w that are zero on padding. They differ in what the model reads.

``one_pass``
    Teacher forcing: q_t = softmax f(x_0 ... x_t). The control, and the validation loss of every objective.

``two_pass_token`` (parallel scheduled sampling)
    Pass 1, without gradient and without dropout, gives q; a state y_{t+1} ~ q_t is *sampled*, and replaces the input
    at t + 1 with probability p(s). Pass 2 reads the mixture and gives the loss. p rises linearly to `mix_max` over the
    first third of the training and, when `mix_anneal`, falls back to zero over the second: a sampled state beside true
    ones is not what a rollout reads, and as long as it is mixed in, the model trusts the past less than it should. The
    last third, on the MD alone, repairs that while the learning rate still allows it. Sampling matters: in metastable
    data the likeliest next state is the present one, and an argmax would delete every transition.

``two_pass_hidden``
    Pass 1 runs the blocks on the embeddings e_t; their last output h_t replaces e_t, at the same position, with
    probability

    .. math:: 1 - a^{t (1 - b^s)}, \quad a = 0.95, \; b = 0.99995, \; t = 0 \ldots W - 1

    s being the optimiser step, and t staying at W - 1 in training windows longer than W. Pass 2 runs the same blocks on
    the mixture. Gradients flow through both passes.

There are two ways through the token objective. `training_loss` runs the head only where a state is drawn, which costs
least where there is no launch to save; how many those are decides the shapes. `fixed_loss` draws with
`nanomd.kernels.sample_mix` from counters (step, sequence, position): its shapes never change, so that a CUDA graph can
hold the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from nanomd.base.config import TrainConfig
from nanomd.base.nvtx import annotate
from nanomd.kernels import sample_mix
from nanomd.model.network import NanoGPT
from nanomd.model.scoring import weighted_nll

# A further term of the loss: hidden states (B, T, d) of the scored pass, targets and weights (B, T).
ExtraTerm = Callable[[Tensor, Tensor, Tensor], Tensor]


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


def token_mix_probability(step: int, config: TrainConfig) -> float:
    """Return the replacement probability of the token objective at an optimiser step, 0 <= step < n_steps."""
    progress = step / config.n_steps
    rise = min(1.0, 3.0 * progress)
    fall = min(1.0, max(0.0, 2.0 - 3.0 * progress)) if config.mix_anneal else 1.0
    return config.mix_max * min(rise, fall)


def hidden_mix_probability(step: int, length: int, context_length: int, config: TrainConfig) -> Tensor:
    """Return the replacement probabilities of the hidden objective, float64 (length,), at an optimiser step."""
    position = torch.arange(length, dtype=torch.float64).clamp(max=context_length - 1)
    exponent = position * (1.0 - config.hidden_step_base**step)
    return 1.0 - torch.pow(torch.tensor(config.hidden_position_base, dtype=torch.float64), exponent)


def sample_states(logits: Tensor, generator: torch.Generator, before: int = 0, after: int = 0) -> Tensor:
    """Draw one state from the softmax of each row of logits (n, V), by inversion of the cumulative sum in float64.

    `before` and `after` count the draws of other processes, on either side of ours.
    """
    cumulative = torch.softmax(logits.double(), dim=-1).cumsum(dim=-1)
    n_draws = before + len(logits) + after
    uniform = torch.rand(n_draws, 1, dtype=torch.float64, generator=generator, device=generator.device)
    uniform = uniform[before : before + len(logits)]
    # Scaling by the last entry keeps u below the total, whatever the rounding of the sum.
    threshold = uniform.to(logits.device) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True)[:, 0].clamp_(max=logits.shape[1] - 1)


def one_pass_loss(
    model: NanoGPT,
    tokens: Tensor,
    targets: Tensor,
    weights: Tensor,
    extra: ExtraTerm | None = None,
    share: Share | None = None,
) -> Tensor:
    """Teacher forcing; `tokens`, `targets` and `weights` are (B, T)."""
    return _scored(model, tokens, None, targets, weights, extra, share)


def _scored(
    model: NanoGPT,
    tokens: Tensor,
    inputs_embeds: Tensor | None,
    targets: Tensor,
    weights: Tensor,
    extra: ExtraTerm | None,
    share: Share | None,
) -> Tensor:
    hidden = model.hidden(tokens, inputs_embeds=inputs_embeds)
    loss = weighted_nll(
        model.scores(hidden),
        targets,
        weights,
        current=tokens,
        markov=model.table,
        total=None if share is None else share.total,
        backend=model.backend,
    )
    return loss if extra is None else loss + extra(hidden, targets, weights)


def _marked(name: str) -> AbstractContextManager[object]:
    return nullcontext() if torch.compiler.is_compiling() else annotate(name)


@contextmanager
def _evaluating(model: NanoGPT) -> Iterator[None]:
    """Run without dropout; a model that has none is left alone."""
    toggled = model.training and bool(model.config.dropout or model.config.final_dropout)
    if toggled:
        model.eval()
    try:
        yield
    finally:
        if toggled:
            model.train()


@torch.no_grad()
def mix_sampled_tokens(
    model: NanoGPT, tokens: Tensor, probability: float, generator: torch.Generator, share: Share | None = None
) -> Tensor:
    """Return `tokens` (B, T), each but the first of a row replaced with a probability by one sampled from pass 1.

    The state at t + 1 is replaced by one drawn from the prediction at t. The head runs only where a state is drawn.
    """
    n_sequences, rows = (len(tokens), slice(None)) if share is None else (share.n_sequences, share.rows)
    shape = (n_sequences, tokens.shape[1] - 1)
    coins = torch.rand(shape, generator=generator, device=generator.device).to(tokens.device) < probability
    before = 0 if share is None else int(coins[: share.first].sum())
    chosen = coins[rows]
    with _evaluating(model):
        hidden = model.hidden(tokens)[:, :-1][chosen]
        logits = model.logits(hidden, tokens[:, :-1][chosen])
    after = 0 if share is None else int(coins.sum()) - before - len(logits)
    mixed = tokens.clone()
    mixed[:, 1:][chosen] = sample_states(logits, generator, before, after)
    return mixed


def two_pass_token_loss(
    model: NanoGPT,
    tokens: Tensor,
    targets: Tensor,
    weights: Tensor,
    probability: float,
    generator: torch.Generator,
    extra: ExtraTerm | None = None,
    share: Share | None = None,
) -> Tensor:
    """Parallel scheduled sampling at one replacement probability; see the head of this module."""
    if probability > 0.0:
        with _marked("pass 1"):
            tokens = mix_sampled_tokens(model, tokens, probability, generator, share)
    with _marked("pass 2"):
        return one_pass_loss(model, tokens, targets, weights, extra, share)


def draw_coins(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Return uniform numbers in [0, 1), float64, on the generator's device: what decides in the hidden objective."""
    return torch.rand(shape, dtype=torch.float64, generator=generator, device=generator.device)


def two_pass_hidden_loss(
    model: NanoGPT,
    tokens: Tensor,
    targets: Tensor,
    weights: Tensor,
    probability: Tensor,
    generator: torch.Generator,
    extra: ExtraTerm | None = None,
    share: Share | None = None,
) -> Tensor:
    """Hidden states of pass 1 mixed into the input of pass 2; `probability` is (T,), see the head of this module."""
    if not bool((probability > 0).any()):
        return _mixed_hidden_loss(model, tokens, targets, weights, None, extra, share)
    n_sequences, rows = (len(tokens), slice(None)) if share is None else (share.n_sequences, share.rows)
    coins = draw_coins((n_sequences, tokens.shape[1]), generator)[rows]
    chosen = (coins < probability.to(coins.device)).to(tokens.device)
    return _mixed_hidden_loss(model, tokens, targets, weights, chosen, extra, share)


def _mixed_hidden_loss(
    model: NanoGPT,
    tokens: Tensor,
    targets: Tensor,
    weights: Tensor,
    chosen: Tensor | None,
    extra: ExtraTerm | None,
    share: Share | None,
) -> Tensor:
    embedded = model.embed(tokens)
    if chosen is not None:
        with _marked("pass 1"):
            hidden = model.hidden(tokens, inputs_embeds=embedded)
        embedded = torch.where(chosen[..., None], hidden, embedded)
    with _marked("pass 2"):
        return _scored(model, tokens, embedded, targets, weights, extra, share)


def training_loss(
    model: NanoGPT,
    tokens: Tensor,
    targets: Tensor,
    weights: Tensor,
    *,
    step: int,
    config: TrainConfig,
    generator: torch.Generator,
    extra: ExtraTerm | None = None,
    share: Share | None = None,
) -> Tensor:
    """Return the loss of the configured objective at an optimiser step.

    Parameters
    ----------
    model : NanoGPT
    tokens, targets : Tensor, shape (B, T)
        int64 states, and the states one frame later.
    weights : Tensor, shape (B, T)
        Weight of each target, zero on padding.
    step : int
        The optimiser step, from 0.
    config : TrainConfig
    generator : torch.Generator
        Decides what is replaced, and by what.
    extra : callable, optional
        A further term, of the hidden states of the pass that is scored, the targets and their weights.
    share : Share, optional
        Which part of the step these windows are, where several processes work on it.
    """
    if config.objective == "one_pass":
        return one_pass_loss(model, tokens, targets, weights, extra, share)
    if config.objective == "two_pass_token":
        probability = token_mix_probability(step, config)
        return two_pass_token_loss(model, tokens, targets, weights, probability, generator, extra, share)
    hidden = hidden_mix_probability(step, tokens.shape[1], model.config.context_length, config)
    return two_pass_hidden_loss(model, tokens, targets, weights, hidden, generator, extra, share)


def mix_rate(step: int, config: TrainConfig) -> float:
    """Return the number that sets the replacement of a step: p(s) of the token objective, 1 - b^s of the hidden one."""
    if config.objective == "two_pass_token":
        return token_mix_probability(step, config)
    return 1.0 - config.hidden_step_base**step if config.objective == "two_pass_hidden" else 0.0


def fixed_loss(
    model: NanoGPT,
    tokens: Tensor,
    targets: Tensor,
    weights: Tensor,
    *,
    config: TrainConfig,
    two_passes: bool,
    rate: Tensor,
    step: Tensor,
    coins: Tensor | None = None,
    extra: ExtraTerm | None = None,
    share: Share | None = None,
) -> Tensor:
    """Return the loss of the configured objective by operations of fixed shapes that never ask the device.

    Parameters
    ----------
    model, tokens, targets, weights, config, extra, share
        As `training_loss`.
    two_passes : bool
        Whether the step has a first pass; false where nothing would be replaced.
    rate : Tensor, float64 of one element
        `mix_rate` of the step.
    step : Tensor, int64 of one element
        The optimiser step, from which the token objective draws.
    coins : Tensor, float64, shape (n_sequences, T)
        Hidden objective: `draw_coins` for all windows of the step.
    """
    if config.objective == "two_pass_hidden":
        chosen = None
        if two_passes:
            assert coins is not None
            position = torch.arange(tokens.shape[1], dtype=torch.float64, device=tokens.device)
            exponent = position.clamp(max=model.config.context_length - 1) * rate
            own = coins if share is None else coins[share.rows]
            chosen = own < 1.0 - torch.pow(config.hidden_position_base, exponent)
        return _mixed_hidden_loss(model, tokens, targets, weights, chosen, extra, share)
    if two_passes and config.objective == "two_pass_token":
        with _marked("pass 1"), torch.no_grad(), _evaluating(model):
            tokens = sample_mix(
                model.scores(model.hidden(tokens)),
                tokens,
                probability=rate,
                step=step,
                seed=config.seed,
                first_sequence=0 if share is None else share.first,
                markov=model.table,
                backend=model.backend,
            )
    with _marked("pass 2"):
        return one_pass_loss(model, tokens, targets, weights, extra, share)
