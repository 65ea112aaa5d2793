r"""Heads that predict the state several frames ahead, in training only, so that the hidden states carry slow modes.

One linear head per lag k reads the normalised hidden state of frame t, the same that the model's own head reads, and is
scored on the state k frames later. To the loss is added

.. math:: \lambda \frac1{|K|} \sum_{k \in K} \frac{- \sum_t v_{tk} \ln q^{(k)}_t(x_{t+k})}{\sum_t v_{tk}}, \quad
          v_{tk} = w_t \, [w_{t+k-1} > 0]

with w_t the weight of the target of frame t: zero in the burn-in and on padding, so that a frame is used where its own
prediction counts and the state k frames later is inside the same window. The last k - 1 frames of a window have no such
target; a lag counts only in windows longer than it.

The heads are no part of the model: they are left behind when the training ends.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nanomd.base.config import ModelConfig, TrainConfig
from nanomd.base.errors import InputError
from nanomd.model.network import NanoGPT


class HorizonHeads(nn.Module):
    """The heads of the lags of a `TrainConfig`.

    Parameters
    ----------
    model : ModelConfig
    config : TrainConfig
        `lookahead_lags`, `lookahead_weight` and `seed`.
    length, burn_in : int
        Targets of a training window, and how many of the first are not scored.
    n_processes : int
        That add their gradients up; each divides by the weights of its own windows.

    Raises
    ------
    InputError
        For a lag that no window has room for.
    """

    def __init__(
        self, model: ModelConfig, config: TrainConfig, length: int, burn_in: int, n_processes: int = 1
    ) -> None:
        super().__init__()
        longest = length - burn_in
        if max(config.lookahead_lags) > longest:
            raise InputError(
                f"lookahead_lags must be at most {longest} (train_length {length} less burn_in {burn_in}), "
                f"got {max(config.lookahead_lags)}; use longer windows"
            )
        self.lags, self.share, self.n_processes = config.lookahead_lags, config.lookahead_weight, n_processes
        generator = torch.Generator().manual_seed(config.seed)
        self.latest: Tensor  # the term in the last step, for the record
        self.register_buffer("latest", torch.zeros(()), persistent=False)
        with torch.random.fork_rng(devices=[]):
            self.heads = nn.ModuleList([nn.Linear(model.d_model, model.n_states) for _ in self.lags])
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()
                if parameter.ndim == 2:  # small, so that the first predictions are nearly uniform
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.06 / math.sqrt(model.d_model))

    def gradient(self, model: NanoGPT, hidden: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Return zero with the gradient of `loss`: added to a loss, it leaves the number to be the model's own."""
        term = self.loss(model, hidden, targets, weights)
        self.latest.copy_(term.detach())
        return (term - term.detach()) / self.n_processes

    def loss(self, model: NanoGPT, hidden: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Return the term.

        Parameters
        ----------
        model : NanoGPT
            Gives the LayerNorm before the head.
        hidden : Tensor, shape (B, T, d)
            Output of the last block.
        targets, weights : Tensor, shape (B, T)
            The states one frame later, and their weights.
        """
        normalised = model.normalise(hidden)
        total = hidden.new_zeros(())
        for lag, head in zip(self.lags, self.heads, strict=True):
            kept = targets.shape[1] - lag + 1
            valid = (weights[:, :kept] * (weights[:, lag - 1 :] > 0)).flatten()
            logits = head(normalised[:, :kept]).flatten(0, 1)
            nll = cross_entropy(logits, targets[:, lag - 1 :].flatten(), reduction="none")
            # Windows of short trajectories may hold no target that far ahead, and then the term is zero.
            total = total + (nll * valid).sum() / valid.sum().clamp(min=1e-6)
        return self.share / len(self.lags) * total
