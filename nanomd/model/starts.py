"""Where rollouts start: what a model keeps of its data for it, and prompts, drawn reproducibly or given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd.base.errors import InputError
from nanomd.data.counts import largest_connected_set, sparse_transition_counts, stationary_vector
from nanomd.model.files import MAX_START_WINDOWS, ModelFiles

# Second half of the key of the generator that draws starts: apart from every other use of the seed.
_DOMAIN = 0x7374617274  # "start"


def start_prompts(
    files: ModelFiles, start: str | ArrayLike, n_trajs: int, first_trajectory: int, seed: int
) -> NDArray[np.uint16]:
    """Return the prompts, (n_trajs, P) tokens.

    A drawn prompt depends on the seed and the global index of its trajectory alone, not on how trajectories are split.

    Parameters
    ----------
    files : ModelFiles
        Gives the stationary distribution, the windows, and the map of raw labels.
    start : str or (n_trajs,) or (n_trajs, P) integers
        ``"stationary"``, ``"uniform"``, ``"data"``, or raw labels.

    Raises
    ------
    InputError
        For an unknown kind, an unknown state, or a shape that does not fit.
    """
    if isinstance(start, str):
        return _drawn(files, start, n_trajs, first_trajectory, seed)
    labels = np.asarray(start)
    if labels.dtype.kind not in "iu":
        raise InputError(f"start must hold integer state labels, got {labels.dtype}")
    if labels.ndim not in (1, 2) or labels.shape[0] != n_trajs or labels.size == 0:
        raise InputError(
            f"start must have shape (n_trajs,) or (n_trajs, P) with n_trajs = {n_trajs} and P >= 1, got {labels.shape}"
        )
    tokens = files.state_map.encode_labels(labels)
    return tokens.reshape(n_trajs, -1).astype(np.uint16)


def _drawn(files: ModelFiles, kind: str, n_trajs: int, first_trajectory: int, seed: int) -> NDArray[np.uint16]:
    if kind not in ("stationary", "uniform", "data"):
        raise InputError(f"start must be stationary, uniform, data or an array of states, got {kind!r}")
    windows = files.starts.windows
    if kind == "data" and not len(windows):
        raise InputError("start='data' needs windows of the training data, but the model has none; use 'stationary'")
    u = np.array([_uniform(seed, first_trajectory + i) for i in range(n_trajs)])
    if kind == "data":
        chosen: NDArray[np.int32] = windows[_index(u, len(windows))]
        return chosen.astype(np.uint16)
    if kind == "uniform":
        return _index(u, files.config.n_states)[:, None].astype(np.uint16)
    cumulative = np.cumsum(files.starts.stationary)
    last = int(np.flatnonzero(files.starts.stationary)[-1])
    tokens = np.array([int(k) for k in np.searchsorted(cumulative, u * cumulative[-1], side="right")], dtype=np.int64)
    return np.minimum(tokens, last)[:, None].astype(np.uint16)


def _index(u: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    return np.minimum((u * n).astype(np.int64), n - 1)


def _uniform(seed: int, trajectory: int) -> float:
    key = np.array([seed, _DOMAIN], dtype=np.uint64)
    counter = np.array([0, 0, trajectory, 0], dtype=np.uint64)
    return float(np.random.Generator(np.random.Philox(key=key, counter=counter)).random())


def start_windows(tokens: Sequence[NDArray[Any]], context_length: int) -> NDArray[np.int32]:
    """Return up to 256 windows of the data, int32 (n, W), spread evenly; none if every trajectory is shorter."""
    places = [
        np.arange(len(trajectory) - context_length + 1) for trajectory in tokens if len(trajectory) >= context_length
    ]
    sources = [trajectory for trajectory in tokens if len(trajectory) >= context_length]
    total = sum(len(place) for place in places)
    if total == 0:
        return np.zeros((0, context_length), dtype=np.int32)
    number = min(MAX_START_WINDOWS, total)
    ends = np.cumsum([len(place) for place in places])
    rows = []
    for k in range(number):
        place = (2 * k + 1) * total // (2 * number)
        index = int(np.searchsorted(ends, place, side="right"))
        start = place - (int(ends[index - 1]) if index else 0)
        rows.append(sources[index][start : start + context_length])
    return np.asarray(rows, dtype=np.int32)


def stationary_distribution(tokens: Sequence[NDArray[Any]], n_states: int) -> NDArray[np.float64]:
    """Return the stationary distribution (V,) of the lag-1 Markov model of the data.

    On the largest connected set of the observed transitions, zero elsewhere; the observed populations where that set is
    a single state or the solution is not a distribution.
    """
    from scipy.sparse import diags_array

    populations = np.bincount(np.concatenate([np.asarray(t, dtype=np.int64) for t in tokens]), minlength=n_states)
    empirical: NDArray[np.float64] = populations / populations.sum()
    counts = sparse_transition_counts(tokens, n_states)
    members = largest_connected_set(counts)
    if len(members) < 2:
        return empirical
    inside = counts[members][:, members].astype(np.float64)
    stationary = np.zeros(n_states)
    stationary[members] = stationary_vector(diags_array(1.0 / inside.sum(axis=1)) @ inside)
    return stationary if np.isfinite(stationary).all() else empirical
