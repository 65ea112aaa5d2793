"""Discrete trajectories: the map between raw state labels and tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd.errors import InputError


def token_dtype(n_states: int) -> np.dtype[Any]:
    """Return the type that tokens are stored in: uint8 up to 256 states, else uint16."""
    return np.dtype(np.uint8 if n_states <= 256 else np.uint16)


class StateMap:
    """Token k stands for the raw label ``symbols[k]``; symbols are sorted and unique."""

    def __init__(self, symbols: NDArray[np.int64]) -> None:
        self.symbols = np.asarray(symbols, dtype=np.int64)
        if self.symbols.ndim != 1 or len(self.symbols) == 0 or (np.diff(self.symbols) <= 0).any():
            raise InputError("state symbols must be a sorted 1-D list without repetitions")

    @property
    def n_states(self) -> int:
        """Number of states."""
        return len(self.symbols)

    @classmethod
    def fit(cls, dtrajs: Sequence[NDArray[Any]]) -> StateMap:
        """Collect the non-negative labels of some trajectories."""
        labels = np.unique(np.concatenate([np.asarray(d, dtype=np.int64) for d in dtrajs]))
        return cls(labels[labels >= 0])

    def encode(self, dtrajs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Turn labels into tokens, splitting at unassigned (negative) frames and dropping pieces shorter than two."""
        pieces = []
        for dtraj in dtrajs:
            labels = np.asarray(dtraj, dtype=np.int64)
            tokens = np.clip(np.searchsorted(self.symbols, labels), 0, self.n_states - 1)
            unknown = (labels >= 0) & (self.symbols[tokens] != labels)
            if unknown.any():
                raise InputError(f"unknown state {int(labels[unknown][0])}; the model knows {self.n_states} states")
            for piece in np.split(np.arange(len(labels)), np.flatnonzero(np.diff(labels >= 0)) + 1):
                if len(piece) >= 2 and labels[piece[0]] >= 0:
                    pieces.append(tokens[piece].astype(token_dtype(self.n_states)))
        return pieces

    def encode_labels(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Turn known labels of any shape into tokens."""
        values = np.asarray(labels)
        tokens = np.minimum(np.searchsorted(self.symbols, values), self.n_states - 1)
        unknown = values[self.symbols[tokens] != values]
        if unknown.size:
            raise InputError(f"unknown state {unknown.flat[0]}: the model knows {self.n_states} states")
        return tokens.astype(token_dtype(self.n_states))

    def decode(self, tokens: NDArray[Any]) -> NDArray[np.int64]:
        """Turn tokens into labels."""
        labels: NDArray[np.int64] = self.symbols[np.asarray(tokens)]
        return labels

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"symbols": self.symbols.tolist()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> StateMap:
        """Build from `to_dict`."""
        symbols = values.get("symbols")
        if not isinstance(symbols, list) or not all(isinstance(s, int) for s in symbols):
            raise InputError("state_map must hold a list of integer symbols")
        return cls(np.array(symbols, dtype=np.int64))
