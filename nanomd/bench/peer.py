"""What a peer is, and how it says that it cannot run a model."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nanomd.base.config import ModelConfig

Tokens = NDArray[np.int64]


class PeerSkippedError(Exception):
    """The peer cannot run this case; the message says why."""


class Peer(Protocol):
    """One peer, loaded with one model."""

    def generate(self, prompts: Tokens, n_new: int, want_logits: bool) -> tuple[Tokens, NDArray[Any] | None]:
        """Sample after prompts (n, P): the new states (n, n_new), and their logits (n, n_new, V) if wanted."""


def require_plain_gpt(config: ModelConfig, *, post_norm: bool = False) -> None:
    """Refuse what GPT-2-like peers have no parts for."""
    if config.markov_head:
        raise PeerSkippedError("has no table of logits by current state (markov head)")
    if config.norm == "post" and not post_norm:
        raise PeerSkippedError("has no post-norm blocks")
