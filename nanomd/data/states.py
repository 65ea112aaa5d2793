"""Raw labels and tokens: `StateMap` is the only translation between the two."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd.base.config import MAX_STATES
from nanomd.base.errors import InputError
from nanomd.data.dtrajs import MAX_LABEL, Dtraj, DtrajsLike, check_dtraj, load_dtrajs


def token_dtype(n_states: int) -> np.dtype[Any]:
    """Return the type tokens are stored in: uint8 up to 256 states, else uint16."""
    if not 1 <= n_states <= MAX_STATES:
        raise InputError(f"n_states must be in [1, {MAX_STATES}] (tokens are stored in 16 bits), got {n_states}")
    return np.dtype(np.uint8 if n_states <= 256 else np.uint16)


@dataclass(frozen=True, eq=False)
class StateMap:
    """The two-way map between raw labels and tokens: token k stands for ``symbols[k]``.

    Parameters
    ----------
    symbols : int64 array, shape (n_states,)
        The raw labels that occur, non-negative and distinct; in increasing order but in models whose states stand in
        groups, where tokens are numbered group by group.

    Examples
    --------
    >>> import numpy as np
    >>> states = StateMap.fit([np.array([7, 7, 90000, 0])])
    >>> states.n_states
    3
    >>> states.encode([np.array([0, 90000])])
    [array([0, 2], dtype=uint8)]
    >>> states.decode([2, 0])
    array([90000,     0])
    """

    symbols: Dtraj
    _order: NDArray[np.int64] = field(init=False, repr=False)  # tokens by increasing label

    def __post_init__(self) -> None:
        """Check that the labels are distinct and few enough."""
        symbols = check_dtraj(self.symbols, "symbols")
        token_dtype(symbols.size)
        order = np.argsort(symbols, kind="stable")
        ordered = symbols[order]
        if ordered[0] < 0 or np.any(np.diff(ordered) <= 0):
            raise InputError("symbols must be non-negative and distinct")
        symbols.setflags(write=False)
        object.__setattr__(self, "symbols", symbols)
        object.__setattr__(self, "_order", order)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StateMap) and np.array_equal(self.symbols, other.symbols)

    def __hash__(self) -> int:
        return hash(self.symbols.tobytes())

    @property
    def n_states(self) -> int:
        """Number of states, V."""
        return int(self.symbols.size)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the tokens."""
        return token_dtype(self.n_states)

    @classmethod
    def fit(cls, dtrajs: DtrajsLike) -> StateMap:
        """Map the labels that occur in `dtrajs`, in increasing order, to 0..V-1; unassigned frames are left out."""
        found = np.unique(np.concatenate([np.unique(array) for array in load_dtrajs(dtrajs)]))
        found = found[found >= 0]
        if found.size == 0:
            raise InputError("every frame of the dtrajs is unassigned (negative); nothing can be learnt")
        if found.size > MAX_STATES:
            raise InputError(f"dtrajs have {found.size} states, at most {MAX_STATES} are supported; use coarser states")
        return cls(found)

    def encode_labels(self, labels: ArrayLike) -> NDArray[Any]:
        """Map raw labels of any shape to tokens, element by element.

        Raises
        ------
        InputError
            For a label that the map does not know, negative ones included.
        """
        values = np.asarray(labels)
        flat = check_dtraj(values.reshape(-1), "labels") if values.size else np.empty(0, np.int64)
        place = np.searchsorted(self.symbols, flat, sorter=self._order)
        tokens = self._order[np.minimum(place, self.n_states - 1)]
        unknown = np.unique(flat[self.symbols[tokens] != flat])
        if unknown.size:
            raise InputError(
                f"unknown state {', '.join(map(str, unknown[:5]))}{', ...' if unknown.size > 5 else ''}: the model "
                f"knows {self.n_states} states, {self.symbols.min()} to {self.symbols.max()}; "
                "use the tokenizer and the states it was trained with"
            )
        return tokens.astype(self.dtype).reshape(values.shape)

    def encode(self, dtrajs: DtrajsLike) -> list[NDArray[Any]]:
        """Turn raw labels into tokens, never joining what an unassigned frame separates.

        Returns
        -------
        list of uint8 or uint16 arrays
            Trajectories, split at unassigned frames; pieces of fewer than two frames hold no transition: dropped.
        """
        pieces: list[NDArray[Any]] = []
        for array in load_dtrajs(dtrajs):
            edges = np.flatnonzero(np.diff(np.concatenate(([False], array >= 0, [False])).astype(np.int8)))
            for start, stop in edges.reshape(-1, 2):
                if stop - start >= 2:
                    pieces.append(self.encode_labels(array[start:stop]))
        return pieces

    def reordered(self, order: NDArray[np.integer]) -> StateMap:
        """Return the map of the same labels whose token k is token ``order[k]`` of this one."""
        return StateMap(self.symbols[order])

    def decode(self, tokens: ArrayLike) -> Dtraj:
        """Turn tokens of any shape back into raw labels (int64)."""
        array = np.asarray(tokens)
        if array.size == 0:
            return np.empty(array.shape, np.int64)
        if array.dtype.kind not in "iu":
            raise InputError(f"tokens must be integers, got {array.dtype}")
        if array.min() < 0 or array.max() >= self.n_states:
            raise InputError(f"tokens must be in [0, {self.n_states - 1}], got {array.min()} to {array.max()}")
        labels: Dtraj = self.symbols[array]
        return labels

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {"symbols": self.symbols.tolist()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> StateMap:
        """Build from `to_dict`'s values, checked as if they came from a hostile file."""
        symbols = values.get("symbols")
        if not isinstance(symbols, list) or not all(isinstance(s, int) and not isinstance(s, bool) for s in symbols):
            raise InputError("state_map must be a table with 'symbols', a list of integers")
        if not all(0 <= s <= MAX_LABEL for s in symbols):
            raise InputError(f"state_map.symbols must be in [0, {MAX_LABEL}]")
        return cls(np.array(symbols, dtype=np.int64))
