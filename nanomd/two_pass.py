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
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nanomd._nvtx import annotate
from nanomd.config import TrainConfig
from nanomd.likelihood import weighted_nll
from nanomd.model import NanoGPT

# A further term of the loss: hidden states (B, T, d) of the scored pass, targets and weights (B, T).
ExtraTerm = Callable[[Tensor, Tensor, Tensor], Tensor]


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


def sample_states(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one state from the softmax of each row of logits (n, V), by inversion of the cumulative sum in float64."""
    cumulative = torch.softmax(logits.double(), dim=-1).cumsum(dim=-1)
    uniform = torch.rand(len(logits), 1, dtype=torch.float64, generator=generator, device=generator.device)
    # Scaling by the last entry keeps u below the total, whatever the rounding of the sum.
    threshold = uniform.to(logits.device) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True)[:, 0].clamp_(max=logits.shape[1] - 1)


def one_pass_loss(
    model: NanoGPT, tokens: Tensor, targets: Tensor, weights: Tensor, extra: ExtraTerm | None = None
) -> Tensor:
    """Teacher forcing; `tokens`, `targets` and `weights` are (B, T)."""
    return _scored(model, tokens, None, targets, weights, extra)


def _scored(
    model: NanoGPT,
    tokens: Tensor,
    inputs_embeds: Tensor | None,
    targets: Tensor,
    weights: Tensor,
    extra: ExtraTerm | None,
) -> Tensor:
    if extra is None:
        return weighted_nll(model(tokens, inputs_embeds=inputs_embeds), targets, weights)
    hidden = model.hidden(tokens, inputs_embeds=inputs_embeds)
    return weighted_nll(model.logits(hidden, tokens), targets, weights) + extra(hidden, targets, weights)


@torch.no_grad()
def mix_sampled_tokens(model: NanoGPT, tokens: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Return `tokens` (B, T), each but the first of a row replaced with a probability by one sampled from pass 1.

    The state at t + 1 is replaced by one drawn from the prediction at t. The head runs only where a state is drawn.
    """
    chosen = (
        torch.rand(tokens[:, 1:].shape, generator=generator, device=generator.device).to(tokens.device) < probability
    )
    training = model.training
    model.eval()
    try:
        hidden = model.hidden(tokens)[:, :-1][chosen]
        drawn = sample_states(model.logits(hidden, tokens[:, :-1][chosen]), generator)
    finally:
        model.train(training)
    mixed = tokens.clone()
    mixed[:, 1:][chosen] = drawn
    return mixed


def two_pass_token_loss(
    model: NanoGPT,
    tokens: Tensor,
    targets: Tensor,
    weights: Tensor,
    probability: float,
    generator: torch.Generator,
    extra: ExtraTerm | None = None,
) -> Tensor:
    """Parallel scheduled sampling at one replacement probability; see the head of this module."""
    if probability > 0.0:
        with annotate("pass 1"):
            tokens = mix_sampled_tokens(model, tokens, probability, generator)
    with annotate("pass 2"):
        return one_pass_loss(model, tokens, targets, weights, extra)


def two_pass_hidden_loss(
    model: NanoGPT,
    tokens: Tensor,
    targets: Tensor,
    weights: Tensor,
    probability: Tensor,
    generator: torch.Generator,
    extra: ExtraTerm | None = None,
) -> Tensor:
    """Hidden states of pass 1 mixed into the input of pass 2; `probability` is (T,), see the head of this module."""
    embedded = model.embed(tokens)
    if bool((probability > 0).any()):
        with annotate("pass 1"):
            hidden = model.hidden(tokens, inputs_embeds=embedded)
        uniform = torch.rand(tokens.shape, dtype=torch.float64, generator=generator, device=generator.device)
        chosen = (uniform < probability.to(uniform.device)).to(tokens.device)
        embedded = torch.where(chosen[..., None], hidden, embedded)
    with annotate("pass 2"):
        return _scored(model, tokens, embedded, targets, weights, extra)


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
    """
    if config.objective == "one_pass":
        return one_pass_loss(model, tokens, targets, weights, extra)
    if config.objective == "two_pass_token":
        probability = token_mix_probability(step, config)
        return two_pass_token_loss(model, tokens, targets, weights, probability, generator, extra)
    hidden = hidden_mix_probability(step, tokens.shape[1], model.config.context_length, config)
    return two_pass_hidden_loss(model, tokens, targets, weights, hidden, generator, extra)
