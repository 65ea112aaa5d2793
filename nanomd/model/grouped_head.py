r"""The head of a model whose states stand in groups: the next group first, then the state among its members.

.. math:: p(j | x, i) = \operatorname{softmax}_g (v_g \cdot x + b_g + T_{ig})_{g(j)} \;
          \operatorname{softmax}_{k \in g(j)} (w_k \cdot x + c_k)_j

with x what the head reads and i the current state. Tokens are numbered group by group: a group is a slice of the head's
rows. Only the group that came, or is drawn, has its members' logits computed: of V states in sqrt(V) groups a
prediction costs some 2 sqrt(V) rows instead of V.

Functions of a `NanoGPT` with `group_sizes`; features are (..., d), states (...).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the usual name

if TYPE_CHECKING:
    from nanomd.base.model_config import ModelConfig
    from nanomd.model.network import NanoGPT


def group_of(config: ModelConfig, device: torch.device | None = None) -> Tensor:
    """Return the group of every state, int64 (V,)."""
    sizes = torch.tensor(config.group_sizes, device=device)
    return torch.repeat_interleave(torch.arange(config.n_groups, device=device), sizes)


def group_logits(model: NanoGPT, features: Tensor, tokens: Tensor) -> Tensor:
    """Return the logits of the next group (..., G), float32 whatever the blocks run in."""
    return _with_rows(model, features, model.markov(tokens) if model.config.markov_head else None)


def log_probs(model: NanoGPT, features: Tensor, tokens: Tensor) -> Tensor:
    """Return ln p of all states (..., V): as much work as with one softmax; for few predictions."""
    return log_probs_with(model, features, model.markov(tokens) if model.config.markov_head else None)


def log_probs_with(model: NanoGPT, features: Tensor, rows: Tensor | None) -> Tensor:
    """Return ln p of all states (..., V) with rows (..., G) in place of those of the markov head."""
    groups = _with_rows(model, features, rows).log_softmax(dim=-1)
    with torch.autocast(features.device.type, enabled=False):
        scores = model.head(features.to(model.head.weight.dtype))
    parts = [one.log_softmax(dim=-1) for one in torch.split(scores, list(model.config.group_sizes), dim=-1)]
    return torch.cat([one + groups[..., g, None] for g, one in enumerate(parts)], dim=-1)


def nll(model: NanoGPT, features: Tensor, tokens: Tensor, targets: Tensor) -> Tensor:
    """Return -ln p of the states that came, in the shape of `targets`; of each group the members' logits once."""
    shape, features = targets.shape, features.flatten(0, -2)
    tokens, targets = tokens.flatten(), targets.flatten()
    group = group_of(model.config, targets.device)[targets]
    coarse = F.cross_entropy(group_logits(model, features, tokens), group, reduction="none")
    order, parts = [], []
    for g, rows, logits in _of_groups(model, features, group):
        order.append(rows)
        member = targets[rows] - model.config.group_starts[g]
        parts.append(F.cross_entropy(logits, member, reduction="none"))
    if not parts:
        return coarse.view(shape)
    place = torch.empty_like(group)
    place[torch.cat(order)] = torch.arange(len(group), device=group.device)
    return (coarse + torch.cat(parts)[place]).view(shape)


def draw(model: NanoGPT, features: Tensor, tokens: Tensor, uniform: Tensor) -> Tensor:
    """Draw one state for each of features (n, d), by inversion with uniform numbers (n,), float64 in [0, 1).

    One number decides both: what is left of it when the group is drawn is uniform again.
    """
    group, rest = _invert(group_logits(model, features, tokens), uniform)
    states = torch.empty_like(group)
    for g, rows, logits in _of_groups(model, features, group):
        states[rows] = model.config.group_starts[g] + _invert(logits, rest[rows])[0]
    return states


def _with_rows(model: NanoGPT, features: Tensor, rows: Tensor | None) -> Tensor:
    with torch.autocast(features.device.type, enabled=False):
        scores: Tensor = model.group(features.to(model.group.weight.dtype))
        return scores if rows is None else scores + rows


def _of_groups(model: NanoGPT, features: Tensor, group: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield each group that occurs, the rows that are of it, and the logits (rows, size) of its members."""
    sizes = list(model.config.group_sizes)
    rows = group.argsort(stable=True)
    numbers = torch.bincount(group, minlength=len(sizes)).tolist()
    # Split, not sliced: the gradient is then one concatenation, and not as many tables of the head's size as groups.
    weights, biases = torch.split(model.head.weight, sizes), torch.split(model.head.bias, sizes)
    with torch.autocast(features.device.type, enabled=False):
        ordered = torch.split(features[rows].to(model.head.weight.dtype), numbers)
        for g, (own, of_group) in enumerate(zip(torch.split(rows, numbers), ordered, strict=True)):
            if len(own):
                yield g, own, F.linear(of_group, weights[g], biases[g])


def _invert(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Return the smallest index whose cumulative probability exceeds u, and where in its share u lies, in [0, 1)."""
    weights = torch.softmax(logits.double(), dim=-1)
    cumulative = weights.cumsum(dim=-1)
    target = uniform[:, None] * cumulative[:, -1:]
    found = torch.searchsorted(cumulative, target, right=True).clamp_(max=logits.shape[-1] - 1)
    share = weights.gather(1, found)
    rest = (target - (cumulative.gather(1, found) - share)) / share.clamp(min=1e-300)
    return found[:, 0], rest[:, 0].clamp(0.0, 1.0 - 2.0**-53)
