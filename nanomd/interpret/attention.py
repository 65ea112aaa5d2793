"""Where the model looks: attention weights on chosen windows, and their mean by lag for every layer and head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from nanomd.base.checks import check_range
from nanomd.data.dtrajs import DtrajsLike
from nanomd.interpret.explicit import MAX_SCORES, encode_windows, explicit_logits, prepare
from nanomd.interpret.results import AttentionByLag
from nanomd.interpret.sampling import block_interval, spread_windows, usable_length
from nanomd.model.network import NanoGPT

if TYPE_CHECKING:
    from nanomd.estimator import GPTModel

MAX_MAP_FRAMES = 48


def _weights(module: NanoGPT, windows: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
    """Yield attention weights (b, L, n_head, T, T) of windows (n, T) of tokens, some at a time."""
    length, config = windows.shape[1], module.config
    batch = max(1, MAX_SCORES // (config.n_layer * config.n_head * length * length))
    for begin in range(0, len(windows), batch):
        tokens = torch.from_numpy(windows[begin : begin + batch])
        _, record = explicit_logits(module, tokens)
        yield torch.stack(record.weights, dim=1).numpy()


def attention_maps(model: GPTModel, windows: Sequence[Any] | NDArray[Any]) -> NDArray[np.float32]:
    """Return the attention weights of chosen windows.

    Parameters
    ----------
    model : GPTModel
    windows : array (n, T) or (T,), or sequence of arrays of one length
        Raw labels; T at most W for models with learned positions.

    Returns
    -------
    weights : ndarray float32, shape (n, L, n_head, T, T)
        Weight of frame j (column) for the prediction at frame i (row); 0 unless 0 <= i - j < W. Rows sum to 1.

    Raises
    ------
    InputError
        For windows of different lengths, unknown states or unassigned frames.
    """
    tokens = encode_windows(model, windows)
    return np.concatenate(list(_weights(model.module.eval(), tokens)))


def attention_by_lag(
    model: GPTModel,
    dtrajs: DtrajsLike,
    *,
    n_windows: int = 200,
    n_maps: int = 2,
    length: int | None = None,
    confidence: float = 0.95,
) -> AttentionByLag:
    """Return the mean attention weight at every lag, per layer and head.

    Parameters
    ----------
    model : GPTModel
    dtrajs : arrays or paths
        Raw labels, best of data that the training did not see.
    n_windows : int
        Windows, spread evenly over the data.
    n_maps : int
        Of so many windows the whole weights are kept, for pictures.
    length : int, optional
        Frames of a window. Default: enough that the last W queries see as far back as in a long rollout, that is
        L (W - 1) + W, or W with learned positions; less where the trajectories are shorter.
    confidence : float
        Of the intervals over windows.

    Raises
    ------
    InputError
        For unknown states, or no window of this length.
    """
    config = model.config
    check_range("n_maps", n_maps, 0)
    module, tokens = prepare(model, dtrajs)
    learned = config.position == "learned"
    if length is None:
        wanted = config.context_length if learned else config.receptive_field - 1 + config.context_length
        length = usable_length(tokens, wanted)
    check_range("length", length, 2, config.context_length if learned else None)
    windows = spread_windows(tokens, length, n_windows)
    keys = min(config.context_length, length)
    # Only queries with all their keys, whose keys' own contexts are as complete as the window allows.
    first = length - 1 if learned else min(length - 1, config.n_layer * (keys - 1))
    query = np.arange(first, length)
    key = query[:, None] - np.arange(keys)[None, :]
    means = [
        np.take_along_axis(weights[:, :, :, query], key[None, None, None], axis=-1).mean(axis=3)
        for weights in _weights(module, windows)
    ]
    shown = windows[:: max(1, len(windows) // max(1, n_maps))][:n_maps, -min(keys, MAX_MAP_FRAMES) :]
    maps = np.concatenate(list(_weights(module, shown))) if len(shown) else np.zeros((0, 0, 0, 0, 0))
    return AttentionByLag(
        lags=np.arange(keys),
        mean=block_interval(np.concatenate(means), confidence),
        n_windows=len(windows),
        n_queries=len(query),
        window_length=length,
        confidence=confidence,
        maps=np.asarray(maps, np.float64).round(5),
        map_labels=model.state_map.symbols[shown].astype(np.int64),
    )
