"""The nano-GPT: a decoder-only transformer over microstates, in one file.

Reads like the compiled engines: embed, blocks of attention and MLP, head. The names of the parameters are the names of
the tensors in a model file (`ModelConfig.tensor_shapes`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the usual name

from nanomd.base.config import ModelConfig
from nanomd.base.errors import InputError
from nanomd.kernels import attention
from nanomd.model.grouped_head import log_probs
from nanomd.model.rope import rope_tables

LAYER_NORM_EPS = 1e-5


class Attention(nn.Module):
    """Causal, windowed attention with grouped queries; the projections around the kernel."""

    def __init__(self, config: ModelConfig, backend: str) -> None:
        super().__init__()
        self.config, self.backend = config, backend
        self.qkv = nn.Linear(config.d_model, config.d_model + 2 * config.kv_heads * config.d_head)
        self.proj = nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor, tables: tuple[Tensor, Tensor] | None) -> Tensor:
        """Map (B, T, d) to (B, T, d); `tables` are the rotary cos and sin, each (T, d_head / 2)."""
        config = self.config
        kv_width = config.kv_heads * config.d_head
        q, k, v = self.qkv(x).split((config.d_model, kv_width, kv_width), dim=-1)
        q = q.unflatten(-1, (config.n_head, config.d_head)).transpose(1, 2)  # (B, n_head, T, d_head)
        k = k.unflatten(-1, (config.kv_heads, config.d_head)).transpose(1, 2)
        v = v.unflatten(-1, (config.kv_heads, config.d_head)).transpose(1, 2)
        cos, sin = tables if tables is not None else (None, None)
        mixed = attention(q, k, v, window=config.context_length, cos=cos, sin=sin, backend=self.backend)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out


class MLP(nn.Module):
    """d -> mlp_ratio d -> d."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gelu = config.activation == "gelu"
        self.up = nn.Linear(config.d_model, config.d_mlp)
        self.down = nn.Linear(config.d_mlp, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, d) to (B, T, d)."""
        hidden = self.up(x)
        hidden = F.gelu(hidden, approximate="tanh") if self.gelu else F.relu(hidden)
        out: Tensor = self.down(hidden)
        return out


class Block(nn.Module):
    """One layer. pre: a = x + Attn(LN x), x = a + MLP(LN a); post: a = LN(x + Attn x), x = LN(a + MLP a)."""

    def __init__(self, config: ModelConfig, backend: str) -> None:
        super().__init__()
        self.pre = config.norm == "pre"
        self.dropout = config.dropout
        self.attention = Attention(config, backend)
        self.mlp = MLP(config)
        self.norm1 = nn.LayerNorm(config.d_model, eps=LAYER_NORM_EPS)
        self.norm2 = nn.LayerNorm(config.d_model, eps=LAYER_NORM_EPS)

    def forward(self, x: Tensor, tables: tuple[Tensor, Tensor] | None) -> Tensor:
        """Map (B, T, d) to (B, T, d)."""
        if self.pre:
            x = x + self._drop(self.attention(self.norm1(x), tables))
            return x + self._drop(self.mlp(self.norm2(x)))
        x = self.norm1(x + self._drop(self.attention(x, tables)))
        out: Tensor = self.norm2(x + self._drop(self.mlp(x)))
        return out

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class NanoGPT(nn.Module):
    """The next-state model.

    Parameters
    ----------
    config : ModelConfig
        The shape.
    backend : str
        Implementation of attention, and of the training's operations: ``"auto"``, ``"reference"`` or ``"triton"``.
    seed : int, optional
        Seeds the initial weights, without touching PyTorch's global generator.

    Examples
    --------
    >>> import torch
    >>> from nanomd.base.config import ModelConfig
    >>> model = NanoGPT(ModelConfig(n_states=5, d_model=16, n_head=2, context_length=8), seed=1)
    >>> model(torch.zeros((2, 30), dtype=torch.int64)).shape
    torch.Size([2, 30, 5])
    """

    def __init__(self, config: ModelConfig, backend: str = "auto", seed: int = 0) -> None:
        super().__init__()
        self.config, self.backend = config, backend
        # Modules draw initial weights from the global generator on construction; they are redrawn below from our own.
        with torch.random.fork_rng(devices=[]):
            self.embedding = nn.Embedding(config.n_states, config.d_model)
            if config.position == "learned":
                self.position = nn.Embedding(config.context_length, config.d_model)
            self.blocks = nn.ModuleList([Block(config, backend) for _ in range(config.n_layer)])
            if config.norm == "pre":
                self.norm = nn.LayerNorm(config.d_model, eps=LAYER_NORM_EPS)
            self.head = nn.Linear(config.d_model, config.n_states)
            if config.group_sizes:
                self.group = nn.Linear(config.d_model, config.n_groups)
            if config.markov_head:
                self.markov = nn.Embedding(config.n_states, config.n_groups or config.n_states)
        self._tables: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}
        self.initialise(seed)

    @property
    def _first_head(self) -> str:
        """The weights of the decision that a markov head adds to."""
        return "group.weight" if self.config.group_sizes else "head.weight"

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Draw the initial weights.

        Linear layers start at 0.6 / sqrt(inputs), those that write to the residual stream at 1 / sqrt(2 L) of that, so
        that depth does not swell it; the head starts small, so that the first predictions are nearly uniform.
        """
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif "norm" in name:
                parameter.fill_(1.0)
            elif name == "markov.weight" or (name == self._first_head and self.config.markov_head):
                parameter.zero_()
            else:
                std = 0.3 if name in ("embedding.weight", "position.weight") else 0.6 / math.sqrt(parameter.shape[1])
                if name in ("head.weight", "group.weight"):
                    std *= 0.1
                elif name.endswith(("proj.weight", "down.weight")):
                    std /= math.sqrt(2 * self.config.n_layer)
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)

    @torch.no_grad()
    def initialise_glorot(self, seed: int) -> None:
        """Draw the initial weights as Keras does for a TransformerDecoder with Glorot-uniform embeddings.

        Uniform in +- sqrt(6 / (inputs + outputs)). Keras counts those of the projections of attention by head: d H and
        d d_head for queries, keys and values, d and d H for the output.
        """
        generator = torch.Generator().manual_seed(seed)
        d, heads, d_head = self.config.d_model, self.config.n_head, self.config.d_head
        self.initialise(seed)
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2 or name == "markov.weight":
                continue
            fans = sum(parameter.shape)
            if "attention" in name:
                fans = d * (heads + d_head) if "qkv" in name else d * (1 + heads)
            limit = math.sqrt(6.0 / fans)
            parameter.copy_((2.0 * torch.rand(parameter.shape, generator=generator) - 1.0) * limit)

    @torch.no_grad()
    def start_at_markov(self, counts: NDArray[np.floating], pseudocount: float) -> None:
        """Set the markov head to the Markov state model of the data, and the transformer's output to zero.

        Parameters
        ----------
        counts : ndarray, shape (V, V), or with groups (V, G)
            Transition counts at lag 1, to groups where there are any.
        pseudocount : float
            Added to every count, so that no logarithm diverges.
        """
        if not self.config.markov_head:
            raise InputError("start_at_markov needs a model with markov_head=True")
        smooth = np.asarray(counts, dtype=np.float64) + pseudocount
        smooth /= smooth.sum(axis=1, keepdims=True)
        self.markov.weight.copy_(torch.from_numpy(np.log(smooth)))
        head = self.group if self.config.group_sizes else self.head
        head.weight.zero_()
        head.bias.zero_()

    def embed(self, tokens: Tensor) -> Tensor:
        """Return the input embeddings (B, T, d): token, and learned position where there is one."""
        x: Tensor = self.embedding(tokens)
        if self.config.position == "learned":
            if tokens.shape[1] > self.config.context_length:
                raise InputError(
                    f"a model with learned positions takes at most context_length = {self.config.context_length} "
                    f"frames at once, got {tokens.shape[1]}: cut the sequence into windows"
                )
            x = x + self.position.weight[: tokens.shape[1]]
        return x

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        only_hidden: bool = False,
    ) -> Tensor:
        """Return next-state logits (B, T, V).

        Parameters
        ----------
        tokens : Tensor, shape (B, T)
            Current states, int64.
        positions : Tensor, optional, shape (T,)
            Positions in time of a rotary model, int64; 0..T-1 when None. Only differences matter.
        inputs_embeds : Tensor, optional, shape (B, T, d)
            Takes the place of `embed(tokens)`; the markov head still reads `tokens`.
        only_hidden : bool
            Return the output of the last block (B, T, d) instead.
        """
        x = self.embed(tokens) if inputs_embeds is None else inputs_embeds
        if self.training and self.config.dropout:
            x = F.dropout(x, self.config.dropout)
        rope = self._rope(tokens.shape[1], positions, x.device) if self.config.position == "rope" else None
        for block in self.blocks:
            x = block(x, rope)
        if only_hidden:
            return x
        return self.logits(x, tokens)  # LayerNorm, linear head, and the row of the markov head's table

    def hidden(self, tokens: Tensor, positions: Tensor | None = None, inputs_embeds: Tensor | None = None) -> Tensor:
        """Return the output of the last block (B, T, d), before a final LayerNorm; arguments as in `forward`."""
        return self.forward(tokens, positions, inputs_embeds, only_hidden=True)

    def logits(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Map hidden states (..., d) and the current states (...) to logits (..., V); of grouped states ln p."""
        return self.read_out(self.features(hidden), tokens)

    def scores(self, hidden: Tensor) -> Tensor:
        """Map hidden states (..., d) to logits (..., V) without the markov head's table.

        In float32 also where the blocks run in 16 bits: rounding of the logits would be an error of every rate. With
        groups they are those of the states within theirs (`nanomd.model.grouped_head`).
        """
        return self._project(self.features(hidden))

    def features(self, hidden: Tensor) -> Tensor:
        """Map hidden states (..., d) to what the head reads (..., d), in training with the dropout before it."""
        x = self.normalise(hidden)
        return F.dropout(x, self.config.final_dropout) if self.training and self.config.final_dropout else x

    def read_out(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Map what the head reads (..., d), see `normalise`, and the current states (...) to logits (..., V)."""
        if self.config.group_sizes:
            return log_probs(self, features, tokens)
        scores = self._project(features)
        return scores + self.markov(tokens) if self.config.markov_head else scores

    def _project(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            scores: Tensor = self.head(x.to(self.head.weight.dtype))
        return scores

    def normalise(self, hidden: Tensor) -> Tensor:
        """Return what the head reads: hidden states (..., d) after the final LayerNorm, where there is one."""
        x: Tensor = self.norm(hidden) if self.config.norm == "pre" else hidden
        return x

    @property
    def table(self) -> Tensor | None:
        """The markov head's table (V, V), with groups (V, G), if there is one."""
        return self.markov.weight if self.config.markov_head else None

    def _rope(self, length: int, positions: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
        if positions is not None:
            return self._make_tables(positions.cpu().numpy().astype(np.uint64), device)
        key = (length, device)
        if key not in self._tables:
            self._tables[key] = self._make_tables(np.arange(length, dtype=np.uint64), device)
        return self._tables[key]

    def _make_tables(self, positions: NDArray[np.uint64], device: torch.device) -> tuple[Tensor, Tensor]:
        cos, sin = rope_tables(self.config, positions)
        return torch.from_numpy(cos).to(device), torch.from_numpy(sin).to(device)

    def to_tensors(self) -> dict[str, NDArray[np.float32]]:
        """Return the weights as float32 arrays on the host, named as in a model file."""
        return {
            name: value.detach().to("cpu", torch.float32).contiguous().numpy().copy()
            for name, value in self.state_dict().items()
        }

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        """Take the weights of a model file; names and shapes must be those of the configuration."""
        shapes = self.config.tensor_shapes()
        for name in sorted(set(shapes) ^ set(tensors)):
            state = "missing from" if name in shapes else "unknown in"
            raise InputError(f"tensor {name} is {state} the weights of this model")
        own = self.state_dict()
        for name, shape in shapes.items():
            if tuple(tensors[name].shape) != shape:
                raise InputError(f"tensor {name} must have shape {shape}, got {tuple(tensors[name].shape)}")
            own[name].copy_(torch.from_numpy(np.array(tensors[name])))
