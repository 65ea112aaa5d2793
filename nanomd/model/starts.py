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
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)  # of Philox4x64
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_AT_ONCE = 1 << 18  # trajectories, which bounds the memory on the way


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
    labels = start_labels(start)
    if labels.ndim not in (1, 2) or labels.shape[0] != n_trajs or labels.size == 0:
        raise InputError(
            f"start must have shape (n_trajs,) or (n_trajs, P) with n_trajs = {n_trajs} and P >= 1, got {labels.shape}"
        )
    tokens = files.state_map.encode_labels(labels)
    return tokens.reshape(n_trajs, -1).astype(np.uint16)


def start_labels(start: ArrayLike) -> NDArray[Any]:
    """Return raw labels as an array of integers.

    Raises
    ------
    InputError
        For anything else.
    """
    try:
        labels = np.asarray(start)
    except ValueError:
        raise InputError("start must be an array of state labels, got rows of different lengths") from None
    if labels.dtype.kind not in "iu":
        raise InputError(f"start must hold integer state labels, got {labels.dtype}")
    return labels


def _drawn(files: ModelFiles, kind: str, n_trajs: int, first_trajectory: int, seed: int) -> NDArray[np.uint16]:
    if kind not in ("stationary", "uniform", "data"):
        raise InputError(f"start must be stationary, uniform, data or an array of states, got {kind!r}")
    windows = files.starts.windows
    if kind == "data" and not len(windows):
        raise InputError("start='data' needs windows of the training data, but the model has none; use 'stationary'")
    u = uniforms(seed, first_trajectory, n_trajs)
    if kind == "data":
        chosen: NDArray[np.int32] = windows[_index(u, len(windows))]
        return chosen.astype(np.uint16)
    if kind == "uniform":
        return _index(u, files.config.n_states)[:, None].astype(np.uint16)
    cumulative = np.cumsum(files.starts.stationary)
    if not cumulative[-1] > 0:
        raise InputError("the stationary distribution of the model is empty; use another start, such as 'uniform'")
    last = int(np.flatnonzero(files.starts.stationary)[-1])
    tokens: NDArray[np.int64] = np.searchsorted(cumulative, u * cumulative[-1], side="right")
    return np.minimum(tokens, last)[:, None].astype(np.uint16)


def _index(u: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    return np.minimum((u * n).astype(np.int64), n - 1)


def uniforms(seed: int, first_trajectory: int, n_trajs: int) -> NDArray[np.float64]:
    """Return a uniform number in [0, 1) for each trajectory, (n_trajs,), a function of the seed and its global index.

    The first that ``numpy.random.Philox(key=[seed, "start"], counter=[0, 0, trajectory, 0])`` gives, for all at once.
    Source: J. K. Salmon et al., *Parallel random numbers: as easy as 1, 2, 3* (2011), Philox4x64-10.
    """
    u = np.empty(n_trajs)
    for begin in range(0, n_trajs, _AT_ONCE):
        end = min(begin + _AT_ONCE, n_trajs)
        trajectory = np.arange(first_trajectory + begin, first_trajectory + end, dtype=np.uint64)
        a, b, d = np.uint64(1), np.uint64(0), np.uint64(0)  # NumPy steps the counter before it is used
        c: Any = trajectory
        for turn in range(10):
            key = [np.uint64((word + turn * step) % 2**64) for word, step in zip((seed, _DOMAIN), _WEYL, strict=True)]
            (high_a, low_a), (high_c, low_c) = _product(_MULTIPLIERS[0], a), _product(_MULTIPLIERS[1], c)
            a, b, c, d = high_c ^ b ^ key[0], low_c, high_a ^ d ^ key[1], low_a
        u[begin:end] = (a >> np.uint64(11)) * 2.0**-53
    return u


def _product(factor: int, x: Any) -> tuple[Any, Any]:
    """Return the high and the low 64 bits of factor * x; x is uint64."""
    x = np.asarray(x)
    half, mask = np.uint64(32), np.uint64(2**32 - 1)
    f_high, f_low = np.uint64(factor >> 32), np.uint64(factor % 2**32)
    x_high, x_low = x >> half, x & mask
    middle = (x_low * f_low >> half) + (x_low * f_high & mask) + (x_high * f_low & mask)  # carries into the high half
    high = x_high * f_high + (x_low * f_high >> half) + (x_high * f_low >> half) + (middle >> half)
    return high, np.array([factor], np.uint64) * x


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
