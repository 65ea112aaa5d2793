"""What the output layer of a model reads: the features of every context of the data, as in a rollout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanomd.base.config import ModelConfig
from nanomd.model.network import NanoGPT
from nanomd.model.scoring import Piece, cut, full_context, token_batches

_SCORED = 256  # new contexts of a piece, at least: most of it is then not read twice
_ROWS = 1 << 14  # of a batch


@dataclass(frozen=True, slots=True)
class Contexts:
    """Contexts of the data, in no order.

    Parameters
    ----------
    features : Tensor, shape (n, d + 1)
        What the head reads (after the final LayerNorm), and a column of ones, float32.
    current, following : Tensor, shape (n,)
        The last state of each context and the one that came next, int64.
    """

    features: Tensor
    current: Tensor
    following: Tensor

    def __len__(self) -> int:
        return len(self.current)

    def chunks(self, size: int = 1 << 12) -> Iterator[Contexts]:
        """Yield parts of up to `size` contexts; by default as many as stay in a core's cache."""
        for begin in range(0, len(self), size):
            part = slice(begin, begin + size)
            yield Contexts(self.features[part], self.current[part], self.following[part])


def default_burn_in(config: ModelConfig, longest: int) -> int:
    """Return how many frames at the start of a trajectory are context only: W - 1 with rotary positions.

    A rotary model cannot tell that its window has only begun (`nanomd.training.windows`). Of short trajectories it is
    half.
    """
    return min(config.context_length - 1, max(0, longest - 1) // 2) if config.position == "rope" else 0


def find_pieces(config: ModelConfig, lengths: Sequence[int], burn_in: int) -> list[Piece]:
    """Cut trajectories of the given numbers of frames so that every frame after the burn-in is scored once."""
    length, context = full_context(config, _SCORED)
    pieces = []
    for piece in cut(lengths, length, context):
        first = piece.scored_from if piece.start else burn_in
        if first < piece.n_targets:
            pieces.append(Piece(piece.trajectory, piece.start, piece.n_targets, first))
    return pieces


@torch.no_grad()
def iterate_contexts(
    model: NanoGPT, trajectories: Sequence[NDArray[Any]], pieces: Sequence[Piece]
) -> Iterator[Contexts]:
    """Yield the scored contexts of pieces, on the model's device."""
    device = model.embedding.weight.device
    longest = max((piece.n_targets for piece in pieces), default=1)
    training = model.training
    model.eval()
    try:
        for group, frames in token_batches(trajectories, pieces, max(1, _ROWS // longest)):
            chosen = np.zeros((len(group), frames.shape[1] - 1), dtype=bool)
            for row, piece in zip(chosen, group, strict=True):
                row[piece.scored_from : piece.n_targets] = True
            keep = torch.from_numpy(chosen).to(device)
            tokens = frames.to(device)
            features = model.normalise(model.hidden(tokens[:, :-1]))[keep]
            ones = torch.ones((len(features), 1), device=device)
            yield Contexts(torch.cat([features, ones], dim=1), tokens[:, :-1][keep], tokens[:, 1:][keep])
    finally:
        model.train(training)
