r"""The training objectives.

All three end in the same cross-entropy, in nats per frame, of predictions q_t against the MD states x_{t+1}:

.. math:: \mathcal L = -\frac{\sum_t w_t \ln q_t(x_{t+1})}{\sum_t w_t}

with weights w that are zero on padding. They differ in what the model reads.

``one_pass``
    Teacher forcing: q_t = softmax f(x_0 ... x_t). The control, and the validation loss of every objective; that of the
    hidden objective's own mixture is recorded beside it, ``mixed_validation_loss``, as its authors validate.

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

    s being the optimiser step of the current epoch, from 1, or of the whole training (`hidden_schedule`), and t staying
    at W - 1 in training windows longer than W. Pass 2 runs the same blocks on the mixture. Gradients flow through both
    passes.

What is replaced, and by what, is drawn by `nanomd.training.draws`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from nanomd.base.config import TrainConfig
from nanomd.base.nvtx import annotate
from nanomd.model.network import NanoGPT
from nanomd.model.scoring import loss_of
from nanomd.training.draws import Draws

# A further term of the loss: hidden states (B, T, d) of the scored pass, targets and weights (B, T).
ExtraTerm = Callable[[Tensor, Tensor, Tensor], Tensor]


def training_loss(
    model: NanoGPT,
    tokens: Tensor,
    targets: Tensor,
    weights: Tensor,
    *,
    config: TrainConfig,
    draws: Draws | None = None,
    extra: ExtraTerm | None = None,
    total: Tensor | None = None,
) -> Tensor:
    """Return the loss of the configured objective, nats per frame.

    Parameters
    ----------
    model : NanoGPT
    tokens, targets : Tensor, shape (B, T)
        int64 states, and the states one frame later.
    weights : Tensor, shape (B, T)
        Weight of each target, zero on padding.
    config : TrainConfig
        `objective` and what belongs to it.
    draws : Draws, optional
        What the second pass reads in place of the MD; None where nothing is replaced, and then there is one pass.
    extra : callable, optional
        A further term, of the hidden states of the pass that is scored, the targets and their weights.
    total : Tensor, optional
        Divides the sum in place of the sum of the weights: that of a step which several processes share.
    """
    embedded: Tensor | None = None
    if draws is not None and config.objective == "two_pass_token":
        with _marked("pass 1"), torch.no_grad(), _evaluating(model):
            tokens = draws.tokens(model, tokens)
    elif draws is not None and config.objective == "two_pass_hidden":
        embedded = _mixed(model, tokens, draws)
    with _marked("pass 2"):
        hidden = model.hidden(tokens, inputs_embeds=embedded)
        loss = loss_of(model, hidden, tokens, targets, weights, total)
        return loss if extra is None else loss + extra(hidden, targets, weights)


def mixed_logits(model: NanoGPT, tokens: Tensor, *, draws: Draws) -> Tensor:
    """Return the logits (B, T, V) of the second pass of the hidden objective on tokens (B, T)."""
    return model.logits(model.hidden(tokens, inputs_embeds=_mixed(model, tokens, draws)), tokens)


def _mixed(model: NanoGPT, tokens: Tensor, draws: Draws) -> Tensor:
    """Return what the second pass of the hidden objective reads, (B, T, d)."""
    embedded = model.embed(tokens)
    with _marked("pass 1"):
        hidden = model.hidden(tokens, inputs_embeds=embedded)
    return torch.where(draws.positions(model, tokens)[..., None], hidden, embedded)


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
