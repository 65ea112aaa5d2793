"""Teacher-forced likelihood: the cross-entropy of training, and the score of whole trajectories.

These are cut into overlapping pieces, so that every frame keeps its context. Rotary models: a piece begins L (W - 1)
frames before the first one that it scores, so every prediction is that of one parallel pass over the whole trajectory
(ring mode). Learned positions: pieces of W frames as the windows of hop mode, half of each new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanomd.base.config import ModelConfig
from nanomd.kernels import cross_entropy
from nanomd.model import grouped_head
from nanomd.model.features import read_features
from nanomd.model.network import NanoGPT


def weighted_nll(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor,
    *,
    current: Tensor | None = None,
    markov: Tensor | None = None,
    total: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Return the mean negative log-likelihood in nats per frame.

    Parameters
    ----------
    logits : Tensor, shape (B, T, V)
    targets : Tensor, shape (B, T)
        int64 states.
    weights : Tensor, shape (B, T)
        Zero on padding.
    current, markov : Tensor, optional
        Current states (B, T) and a table (V, V) of which their rows are added to the logits; both or neither.
    total : Tensor, optional
        Divides the sum in place of the sum of the weights: that of a step which several processes share.
    backend : str
        Implementation of the cross-entropy.
    """
    nll = cross_entropy(
        logits.flatten(0, 1),
        targets.flatten(),
        current=None if markov is None or current is None else current.flatten(),
        markov=markov,
        backend=backend,
    )
    flat = weights.flatten()
    loss: Tensor = (nll * flat).sum() / (flat.sum() if total is None else total)
    return loss


def loss_of(
    model: NanoGPT,
    hidden: Tensor,
    tokens: Tensor,
    targets: Tensor,
    weights: Tensor,
    total: Tensor | None = None,
) -> Tensor:
    """Return the mean negative log-likelihood of a model's hidden states (B, T, d); see `weighted_nll`."""
    if not model.config.group_sizes:
        scores = model.scores(hidden)
        return weighted_nll(
            scores, targets, weights, current=tokens, markov=model.table, total=total, backend=model.backend
        )
    scored = weights > 0
    nll = grouped_head.nll(model, model.features(hidden)[scored], tokens[scored], targets[scored])
    loss: Tensor = (nll * weights[scored]).sum() / (weights.sum() if total is None else total)
    return loss


@dataclass(frozen=True, slots=True)
class Piece:
    """Frames [start, start + length] of a trajectory; targets before `scored_from` (in the piece) only give context."""

    trajectory: int
    start: int
    n_targets: int
    scored_from: int


def full_context(config: ModelConfig, scored: int = 64) -> tuple[int, int]:
    """Return (length, context) of the pieces that give every frame the context of a rollout.

    Of each piece at least `scored` targets are new; with learned positions a piece cannot be longer than the window.
    """
    if config.position == "learned":
        return config.context_length, max(1, config.context_length // 2)
    context = config.receptive_field - 1
    return context + max(context, scored), context


def cut(lengths: Sequence[int], length: int, context: int) -> list[Piece]:
    """Cut trajectories of the given numbers of frames into pieces of up to `length` targets, each scored once."""
    pieces = []
    for index, frames in enumerate(lengths):
        start = 0
        while True:
            n_targets = min(length, frames - 1 - start)
            if n_targets <= (context if start else 0):
                break
            pieces.append(Piece(index, start, n_targets, context if start else 0))
            start += length - context
    return pieces


def token_batches(
    trajectories: Sequence[NDArray[Any]], pieces: Sequence[Piece], batch_size: int
) -> Iterator[tuple[Sequence[Piece], Tensor]]:
    """Yield pieces with their frames, int64 (B, T + 1) on the host, zero behind a shorter piece's end."""
    ordered = sorted(pieces, key=lambda piece: -piece.n_targets)  # pieces of one length together: little padding
    for begin in range(0, len(ordered), batch_size):
        group = ordered[begin : begin + batch_size]
        frames = np.zeros((len(group), group[0].n_targets + 1), dtype=np.int64)
        for row, piece in zip(frames, group, strict=True):
            stop = piece.start + piece.n_targets + 1
            row[: piece.n_targets + 1] = trajectories[piece.trajectory][piece.start : stop]
        yield group, torch.from_numpy(frames)


@torch.no_grad()
def _scored_batches(
    model: NanoGPT,
    trajectories: Sequence[NDArray[Any]],
    pieces: Sequence[Piece],
    batch_size: int,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[tuple[Sequence[Piece], Tensor]]:
    """Yield pieces with their log-probabilities of the observed next states, (B, T)."""
    device = model.embedding.weight.device
    training = model.training
    model.eval()
    try:
        for group, frames in token_batches(trajectories, pieces, batch_size):
            tokens = frames.to(device)
            read = tokens[:, :-1]
            if forward is None and model.config.group_sizes:
                yield group, -grouped_head.nll(model, read_features(model, read), read, tokens[:, 1:])
                continue
            logits = model.read_out(read_features(model, read), read) if forward is None else forward(read)
            log_probs = logits.log_softmax(dim=-1)
            yield group, log_probs.gather(-1, tokens[:, 1:, None])[..., 0]
    finally:
        model.train(training)


def mean_log_likelihood(
    model: NanoGPT,
    trajectories: Sequence[NDArray[Any]],
    *,
    length: int | None = None,
    context: int | None = None,
    max_targets: int | None = None,
    batch_size: int = 32,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> float:
    """Return the mean log-likelihood of the next state, in nats per frame.

    Parameters
    ----------
    model : NanoGPT
    trajectories : sequence of 1-D integer arrays
        Tokens; at least one with two frames.
    length, context : int, optional
        Targets per piece, and how many of them only give context; what a rollout sees when None.
    max_targets : int, optional
        Score about this many targets only, in pieces spread evenly over the data; all when None.
    batch_size : int
        Pieces per forward pass.
    forward : callable, optional
        Maps tokens (B, T) to the logits (B, T, V) that are scored; the model's own when None.
    """
    if length is None or context is None:
        length, context = full_context(model.config)
    pieces = cut([len(trajectory) for trajectory in trajectories], length, context)
    if max_targets is not None:
        keep = max(1, max_targets // (length - context))
        if keep < len(pieces):
            pieces = [pieces[(2 * k + 1) * len(pieces) // (2 * keep)] for k in range(keep)]
    total, number = 0.0, 0
    for group, scores in _scored_batches(model, trajectories, pieces, batch_size, forward):
        values = scores.double().cpu().numpy()
        for row, piece in zip(values, group, strict=True):
            total += float(row[piece.scored_from : piece.n_targets].sum())
            number += piece.n_targets - piece.scored_from
    return total / number
