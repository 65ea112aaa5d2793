"""Softmax, sample with Philox, mix, in plain PyTorch; the formula is in `nanomd.kernels.sample_mix`."""

from __future__ import annotations

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF


def philox(key: int, counter: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10: four words of a counter, int64 tensors holding 32-bit values, to four random words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key & _MASK, key >> 32 & _MASK
    for _ in range(10):
        high0, low0 = _multiply(_MULTIPLIERS[0], c0)
        high1, low1 = _multiply(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def _multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a product of two 32-bit numbers, through 48-bit partial products."""
    low, high = a * (b & 0xFFFF), a * (b >> 16)
    return (high + (low >> 16)) >> 16, (low + ((high & 0xFFFF) << 16)) & _MASK


def uniform53(high: Tensor, low: Tensor) -> Tensor:
    """Two words to a float64 in [0, 1) on the grid of 2^-53."""
    return ((high << 21) | (low >> 11)).double() * 2.0**-53


def sample_mix(
    logits: Tensor,
    tokens: Tensor,
    *,
    probability: Tensor,
    step: Tensor,
    key: int,
    first_sequence: int,
    markov: Tensor | None,
) -> Tensor:
    """Arguments as `nanomd.kernels.sample_mix`, probability and step as one-element tensors, key = seed ^ STREAM."""
    batch, length, n_states = logits.shape
    position = torch.arange(length, device=logits.device).expand(batch, length)
    sequence = (torch.arange(batch, device=logits.device) + first_sequence)[:, None].expand(batch, length)
    words = philox(key, ((step & _MASK).expand(batch, length), (step >> 32).expand(batch, length), position, sequence))
    draw, coin = uniform53(words[0], words[1]), uniform53(words[2], words[3])

    scores = logits[:, :-1].float()
    if markov is not None:
        scores = scores + markov.float()[tokens[:, :-1].long()]
    p = torch.exp(scores - scores.amax(dim=-1, keepdim=True)).double()
    cumulative = p.cumsum(dim=-1)
    target = draw[:, 1:, None] * cumulative[..., -1:]
    last = n_states - 1 - (p > 0).flip(-1).byte().argmax(dim=-1)
    drawn = torch.minimum((cumulative <= target).sum(dim=-1), last)
    mixed = tokens.clone()
    mixed[:, 1:] = torch.where(coin[:, 1:] < probability, drawn.to(tokens.dtype), tokens[:, 1:])
    return mixed
