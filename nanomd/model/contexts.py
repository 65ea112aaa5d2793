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
from nanomd.model.features import read_features
from nanomd.model.network import NanoGPT
from nanomd.model.scoring import Piece, cut, full_context, token_batches

_SCORED = 512  # new contexts of a piece, at least: most of it is then not read twice
_ROWS = 1 << 12  # of a batch: its hidden states stay in a core's cache


@dataclass(frozen=True, slots=True)
class Contexts:
    """Contexts of the data, those that end in the same state together, the states rising.

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

    def every(self, stride: int) -> Contexts:
        """Return every `stride`-th context: evenly spread over the states, and over the time spent in each."""
        part = slice(stride // 2, None, stride)
        return Contexts(self.features[part], self.current[part], self.following[part])

    def by_state(self, size: int | None = None) -> Iterator[OfState]:
        """Yield contexts of one state each, up to `size` at once; all of the state when None."""
        size = max(1, len(self)) if size is None else size
        states, numbers = torch.unique_consecutive(self.current, return_counts=True)
        begin = 0
        for state, number in zip(states.tolist(), numbers.tolist(), strict=True):
            for first in range(begin, begin + number, size):
                part = slice(first, min(first + size, begin + number))
                yield OfState(state, self.features[part], self.following[part])
            begin += number


@dataclass(frozen=True, slots=True)
class OfState:
    """Contexts that end in `state`: features (n, d + 1), and the states that came next (n,)."""

    state: int
    features: Tensor
    following: Tensor


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
    """Yield the scored contexts of pieces, batch by batch, on the model's device."""
    for tokens, keep in _batches(model, trajectories, pieces):
        current, order = tokens[:, :-1][keep].sort(stable=True)
        yield Contexts(_features(model, tokens, keep)[order], current, tokens[:, 1:][keep][order])


@torch.no_grad()
def collect_contexts(model: NanoGPT, trajectories: Sequence[NDArray[Any]], pieces: Sequence[Piece]) -> Contexts:
    """Return all scored contexts of pieces, on the model's device, with no second copy of them on the way."""
    pairs = [(tokens[:, :-1][keep], tokens[:, 1:][keep]) for tokens, keep in _batches(model, trajectories, pieces)]
    current, order = torch.cat([pair[0] for pair in pairs]).sort(stable=True)
    following = torch.cat([pair[1] for pair in pairs])[order]
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    features = torch.empty((len(order), model.config.d_model + 1), device=order.device)
    begin = 0
    for tokens, keep in _batches(model, trajectories, pieces):
        own = _features(model, tokens, keep)
        features[place[begin : begin + len(own)]] = own
        begin += len(own)
    return Contexts(features, current, following)


def _batches(
    model: NanoGPT, trajectories: Sequence[NDArray[Any]], pieces: Sequence[Piece]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield frames (B, T + 1), and which of their contexts are scored, bool (B, T)."""
    device = model.embedding.weight.device
    longest = max((piece.n_targets for piece in pieces), default=1)
    for group, frames in token_batches(trajectories, pieces, max(1, _ROWS // longest)):
        chosen = np.zeros((len(group), frames.shape[1] - 1), dtype=bool)
        for row, piece in zip(chosen, group, strict=True):
            row[piece.scored_from : piece.n_targets] = True
        yield frames.to(device), torch.from_numpy(chosen).to(device)


def _features(model: NanoGPT, tokens: Tensor, keep: Tensor) -> Tensor:
    first = int(keep.any(dim=0).byte().argmax())  # frames before it are context alone
    features = read_features(model, tokens[:, :-1], first)[keep]
    return torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
