"""The shape of a model: a frozen dataclass, checked when made, and the names and shapes of its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, Literal

from nanomd.base.checks import check_range
from nanomd.base.errors import InputError
from nanomd.base.options import Options, Ranges

Norm = Literal["pre", "post"]
Activation = Literal["gelu", "relu"]
Position = Literal["rope", "learned"]

MAX_STATES = 65536
MAX_D_MODEL = 512
MAX_LAYERS = 12
MAX_CONTEXT = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig(Options):
    """The shape of a nano-GPT.

    Parameters
    ----------
    n_states : int
        V, the number of microstates.
    d_model, n_layer, n_head : int
        Width d, depth L and number of attention heads; d_head = d_model / n_head is a multiple of 8.
    n_kv_head : int, optional
        Key/value heads (grouped queries); divides n_head; n_head when None.
    context_length : int
        W: a position attends to itself and the W - 1 before it.
    mlp_ratio : int
        Width of the hidden layer over d_model.
    norm, activation, position : str
        ``"pre"|"post"``, ``"gelu"|"relu"`` and ``"rope"|"learned"``.
    group_sizes : tuple of int
        States in each of G groups, tokens being numbered group by group; empty for one softmax over all states. With
        groups the next group is drawn first, and then the state among its members: p(g | past) p(j | g, past). The
        work and the memory of a prediction are those of G + V / G states instead of V.
    markov_head : bool
        Add a table to the logits, by current state: V x V, or with groups V x G, to those of the groups.
    dropout, final_dropout : float
        In training only: on each residual branch and on the embeddings, and before the head.
    rope_base : float
        Longest rotary wavelength over 2 pi, in frames.
    """

    n_states: int
    d_model: int = 64
    n_layer: int = 2
    n_head: int = 4
    n_kv_head: int | None = None
    context_length: int = 64
    group_sizes: tuple[int, ...] = ()
    mlp_ratio: int = 4
    norm: Norm = "pre"
    activation: Activation = "gelu"
    position: Position = "rope"
    markov_head: bool = False
    dropout: float = 0.0
    final_dropout: float = 0.0
    rope_base: float = 1000.0

    RANGES: ClassVar[Ranges] = {
        "d_model": (8, MAX_D_MODEL), "n_layer": (1, MAX_LAYERS), "context_length": (2, MAX_CONTEXT),
        "mlp_ratio": (1, 8), "dropout": (0, 0.9), "final_dropout": (0, 0.9), "rope_base": (1.0, 1e7),
    }  # fmt: skip

    def __post_init__(self) -> None:
        """Check every field against what all backends support."""
        self.check()
        if self.n_states < 2:
            raise InputError(f"n_states must be at least 2, got {self.n_states}: one state has no kinetics to learn")
        check_range("n_states", self.n_states, 2, MAX_STATES, "tokens are stored in 16 bits")
        check_range("n_head", self.n_head, 1, self.d_model)
        if self.n_kv_head is None:
            object.__setattr__(self, "n_kv_head", self.n_head)
        check_range("n_kv_head", self.kv_heads, 1, self.n_head)
        if self.d_model % self.n_head or self.d_head % 8:
            raise InputError(f"d_model / n_head must be a multiple of 8, got {self.d_model} / {self.n_head}")
        if self.n_head % self.kv_heads:
            raise InputError(f"n_kv_head must divide n_head = {self.n_head}, got {self.n_kv_head}")
        if self.group_sizes and (len(self.group_sizes) < 2 or min(self.group_sizes) < 1):
            raise InputError("group_sizes must be empty, or the sizes of two or more groups, each 1 or more")
        if self.group_sizes and sum(self.group_sizes) != self.n_states:
            raise InputError(f"group_sizes must add up to n_states = {self.n_states}, got {sum(self.group_sizes)}")

    @property
    def d_head(self) -> int:
        """Width of one head."""
        return self.d_model // self.n_head

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads, resolved."""
        return self.n_head if self.n_kv_head is None else self.n_kv_head

    @property
    def d_mlp(self) -> int:
        """Width of the hidden layer."""
        return self.mlp_ratio * self.d_model

    @property
    def n_groups(self) -> int:
        """Groups of states, G; 0 where all states stand in one softmax."""
        return len(self.group_sizes)

    @property
    def group_starts(self) -> tuple[int, ...]:
        """First token of each group, and V: (0, ..., n_states); G + 1 numbers, none without groups."""
        return tuple(accumulate(self.group_sizes, initial=0)) if self.group_sizes else ()

    @property
    def receptive_field(self) -> int:
        """Frames of the past that a ring rollout can see, L (W - 1) + 1, the present one included."""
        return self.n_layer * (self.context_length - 1) + 1

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every float32 tensor in a model file (linear weights are (out, in), as in PyTorch)."""
        d, V, kv = self.d_model, self.n_states, self.kv_heads * self.d_head
        shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (V, d)}
        if self.position == "learned":
            shapes["position.weight"] = (self.context_length, d)
        for layer in range(self.n_layer):
            block = f"blocks.{layer}."
            for name, (rows, cols) in {
                "attention.qkv": (d + 2 * kv, d),
                "attention.proj": (d, d),
                "mlp.up": (self.d_mlp, d),
                "mlp.down": (d, self.d_mlp),
            }.items():
                shapes[f"{block}{name}.weight"] = (rows, cols)
                shapes[f"{block}{name}.bias"] = (rows,)
            for name in ("norm1", "norm2"):
                shapes[f"{block}{name}.weight"] = (d,)
                shapes[f"{block}{name}.bias"] = (d,)
        if self.norm == "pre":
            shapes["norm.weight"] = (d,)
            shapes["norm.bias"] = (d,)
        shapes["head.weight"] = (V, d)
        shapes["head.bias"] = (V,)
        if self.group_sizes:
            shapes["group.weight"] = (self.n_groups, d)
            shapes["group.bias"] = (self.n_groups,)
        if self.markov_head:
            shapes["markov.weight"] = (V, self.n_groups or V)
        return shapes
