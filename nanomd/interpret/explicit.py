"""The model once more, written out: attention weights in the open, and every part's output open to intervention.

The training path never forms the T x T attention weights, and the rollout path keeps no intermediate states. This one
does both, on the same modules and weights, and its logits are tested to be those of `NanoGPT.forward`. Dropout is off.

Parts, counted as in the model of L layers:

- ``residual`` l = 0..L: the residual stream at the input of block l, so 0 is the embedding and L the last output;
- ``attention`` l, ``mlp`` l = 0..L-1: what the sublayer of block l adds to the stream (before a LayerNorm that
  follows the sum, in post-norm models).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanomd.base.errors import InputError
from nanomd.data.dtrajs import DtrajsLike
from nanomd.kernels.reference.attention import rotate
from nanomd.model.grouped_head import log_probs_with
from nanomd.model.network import Attention, Block, NanoGPT
from nanomd.model.rope import rope_tables

if TYPE_CHECKING:
    from nanomd.estimator import GPTModel

Part = Literal["residual", "attention", "mlp"]
MAX_SCORES = 1 << 24  # elements of the attention weights held at once, 64 MiB


@dataclass(frozen=True, slots=True)
class Restore:
    """Set the output of `part` in `layer` at frame `position[b]` of sequence b to `value[b]`; (B,) and (B, d)."""

    part: Part
    layer: int
    position: Tensor
    value: Tensor

    def apply(self, part: Part, layer: int, x: Tensor) -> Tensor:
        """Return x (B, T, d), with the frame replaced if this is the part and layer."""
        if (part, layer) != (self.part, self.layer):
            return x
        changed = x.clone()
        changed[torch.arange(len(x), device=x.device), self.position] = self.value
        return changed


@dataclass(slots=True)
class Record:
    """What `run_blocks` saw: per layer the attention weights (B, n_head, T, T) and the parts' outputs (B, T, d)."""

    weights: list[Tensor] = field(default_factory=list)
    residual: list[Tensor] = field(default_factory=list)
    attention: list[Tensor] = field(default_factory=list)
    mlp: list[Tensor] = field(default_factory=list)

    def part(self, name: Part) -> list[Tensor]:
        """Return the outputs of a part by layer."""
        found: list[Tensor] = getattr(self, name)
        return found


def attend(module: Attention, x: Tensor, tables: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """Return attention weights (B, n_head, T, T), rows of queries, and the sublayer's output (B, T, d)."""
    config = module.config
    kv_width = config.kv_heads * config.d_head
    q, k, v = module.qkv(x).split((config.d_model, kv_width, kv_width), dim=-1)
    q = q.unflatten(-1, (config.n_head, config.d_head)).transpose(1, 2)
    k = k.unflatten(-1, (config.kv_heads, config.d_head)).transpose(1, 2)
    v = v.unflatten(-1, (config.kv_heads, config.d_head)).transpose(1, 2)
    if tables is not None:
        q, k = rotate(q, *tables), rotate(k, *tables)
    group = config.n_head // config.kv_heads
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    frame = torch.arange(x.shape[1], device=x.device)
    lag = frame[:, None] - frame[None, :]
    scores = (q @ k.transpose(-1, -2)) * config.d_head**-0.5
    weights = scores.masked_fill((lag < 0) | (lag >= config.context_length), float("-inf")).softmax(dim=-1)
    out: Tensor = module.proj((weights @ v).transpose(1, 2).flatten(2))
    return weights, out


def run_blocks(
    model: NanoGPT, x: Tensor, first: int = 0, restore: Restore | None = None, record: Record | None = None
) -> Tensor:
    """Run the blocks from `first` on, on the residual stream x (B, T, d) at its input, and return the last output.

    Parameters
    ----------
    model : NanoGPT
    x : Tensor, shape (B, T, d)
    first : int
        Block to start with; L runs none.
    restore : Restore, optional
        One frame of one part to be replaced on the way.
    record : Record, optional
        Takes what the blocks compute.
    """
    config = model.config
    tables = None
    if config.position == "rope":
        cos, sin = rope_tables(config, np.arange(x.shape[1], dtype=np.uint64))
        tables = torch.from_numpy(cos).to(x.device), torch.from_numpy(sin).to(x.device)
    x = _pass("residual", first, x, restore, record)
    for layer in range(first, config.n_layer):
        block = model.blocks[layer]
        assert isinstance(block, Block)
        weights, mixed = attend(block.attention, block.norm1(x) if block.pre else x, tables)
        if record is not None:
            record.weights.append(weights)
        x = x + _pass("attention", layer, mixed, restore, record)
        x = x if block.pre else block.norm1(x)
        x = x + _pass("mlp", layer, block.mlp(block.norm2(x) if block.pre else x), restore, record)
        x = x if block.pre else block.norm2(x)
        x = _pass("residual", layer + 1, x, restore, record)
    return x


def _pass(part: Part, layer: int, x: Tensor, restore: Restore | None, record: Record | None) -> Tensor:
    x = x if restore is None else restore.apply(part, layer, x)
    if record is not None:
        record.part(part).append(x)
    return x


def read_out(model: NanoGPT, x: Tensor, markov: Tensor | None) -> Tensor:
    """Map last outputs (..., d) to logits (..., V), with rows of the Markov head where the model has one.

    Rows are (..., V), or (..., G) where states stand in groups; the logits are then ln p.
    """
    x = model.norm(x) if model.config.norm == "pre" else x
    if model.config.group_sizes:
        return log_probs_with(model, x, markov)
    logits: Tensor = model.head(x)
    return logits if markov is None else logits + markov


def markov_rows(model: NanoGPT, tokens: Tensor) -> Tensor | None:
    """Return what the Markov head adds after the states `tokens` (...), see `read_out`; None without such a head."""
    return model.markov(tokens) if model.config.markov_head else None


@torch.no_grad()
def explicit_logits(model: NanoGPT, tokens: Tensor) -> tuple[Tensor, Record]:
    """Return next-state logits (B, T, V) for int64 tokens (B, T), and everything computed on the way."""
    record = Record()
    x = run_blocks(model, model.embed(tokens), record=record)
    return read_out(model, x, markov_rows(model, tokens)), record


def prepare(model: GPTModel, dtrajs: DtrajsLike) -> tuple[NanoGPT, list[NDArray[np.int64]]]:
    """Return the module in evaluation mode, and raw labels as tokens.

    Raises
    ------
    InputError
        For states that the model does not know, or no two successive assigned frames.
    """
    tokens = [np.asarray(piece, np.int64) for piece in model.encode(dtrajs)]
    if not tokens:
        raise InputError("dtrajs hold no two successive assigned frames, so there is nothing to interpret")
    return model.module.eval(), tokens


def encode_windows(model: GPTModel, windows: Sequence[Any] | NDArray[Any]) -> NDArray[np.int64]:
    """Return windows (n, T) of raw labels as tokens, int64.

    Raises
    ------
    InputError
        Unless they are whole numbers of one length, of states that the model knows, and none is unassigned.
    """
    try:
        labels = np.atleast_2d(np.asarray(windows))
    except ValueError:
        raise InputError("windows must all have one length; cut them, or pass them one by one") from None
    if labels.ndim != 2 or labels.size == 0 or labels.dtype.kind not in "iu":
        raise InputError(f"windows must be whole-number labels (n, T), got {labels.dtype} of shape {labels.shape}")
    if labels.shape[1] < 2:
        raise InputError(f"windows must have at least 2 frames, got {labels.shape[1]}")
    if (labels < 0).any():
        raise InputError("windows must not hold unassigned frames (negative labels); choose others")
    return np.stack([np.asarray(row, np.int64) for row in model.state_map.encode(list(labels.astype(np.int64)))])
