r"""How much of the past the model needs: the likelihood of the next state against the number of frames seen.

For every target the model is given the last c frames only, for c = 1, 2, ..., as a sequence that begins there. All
contexts score the same targets, so that differences between them do not carry the scatter of the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from nanomd.base.checks import check_range
from nanomd.base.errors import InputError
from nanomd.data.counts import transition_counts
from nanomd.data.dtrajs import DtrajsLike
from nanomd.interpret.explicit import prepare
from nanomd.interpret.results import MemoryLength
from nanomd.interpret.sampling import block_interval, spread_integers, spread_windows, usable_length
from nanomd.kinetics.interval import Interval
from nanomd.model.network import NanoGPT

if TYPE_CHECKING:
    from nanomd.estimator import GPTModel

FRAMES_AT_ONCE = 1 << 14
MARKOV_PSEUDOCOUNT = 1e-3


def memory_length(
    model: GPTModel,
    dtrajs: DtrajsLike,
    *,
    contexts: Sequence[int] | None = None,
    tolerance: float = 0.005,
    n_windows: int = 1000,
    training: DtrajsLike | None = None,
    confidence: float = 0.95,
) -> MemoryLength:
    """Score the next state with ever more context, and return the shortest one that is as good as the best.

    Parameters
    ----------
    model : GPTModel
    dtrajs : arrays or paths
        Raw labels, best of data that the training did not see.
    contexts : sequence of int, optional
        Frames seen. Default: 1 to 8, then steps of about a quarter up to the receptive field L (W - 1) + 1 (W with
        learned positions), or less where the trajectories are shorter.
    tolerance : float
        Nats per frame that a context may be worse than the best.
    n_windows : int
        Targets, spread evenly over the data.
    training : arrays or paths, optional
        Adds the lag-1 Markov model of these data, scored on the same targets.
    confidence : float
        Of the intervals.

    Raises
    ------
    InputError
        For unknown states, a context that the model cannot take, or trajectories that are too short.
    """
    check_range("tolerance", tolerance, 0)
    module, tokens = prepare(model, dtrajs)
    longest = model.config.context_length if model.config.position == "learned" else model.config.receptive_field
    if contexts is None:
        chosen = spread_integers(1, usable_length(tokens, longest + 1) - 1)
    else:
        chosen = np.unique(np.asarray(contexts))
        if chosen.size == 0 or chosen.dtype.kind not in "iu" or chosen[0] < 1 or chosen[-1] > longest:
            raise InputError(f"contexts must be whole numbers in [1, {longest}], got {list(contexts)}")
        chosen = chosen.astype(np.int64)
    windows = spread_windows(tokens, int(chosen[-1]) + 1, n_windows)
    scores = np.stack([_scores(module, windows[:, -1 - c :]) for c in chosen.tolist()], axis=1)
    mean = block_interval(scores, confidence)
    loss = block_interval(scores[:, [int(np.argmax(mean.value))]] - scores, confidence)
    return MemoryLength(
        contexts=chosen,
        log_likelihood=mean,
        loss=loss,
        tolerance=tolerance,
        frames=_shortest(chosen, loss.value, tolerance),
        low=_shortest(chosen, loss.low, tolerance),
        high=_shortest(chosen, np.nan_to_num(loss.high, nan=np.inf), tolerance),
        markov=_markov(model, training, windows, confidence),
        n_windows=len(windows),
        confidence=confidence,
    )


@torch.no_grad()
def _scores(module: NanoGPT, windows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return ln p (n,) of the last frames of windows (n, c + 1), given the c before."""
    out = []
    batch = max(1, FRAMES_AT_ONCE // windows.shape[1])
    for begin in range(0, len(windows), batch):
        frames = torch.from_numpy(np.ascontiguousarray(windows[begin : begin + batch]))
        last = module.hidden(frames[:, :-1])[:, -1]
        log_probs = module.logits(last, frames[:, -2]).double().log_softmax(dim=-1)
        out.append(log_probs.gather(-1, frames[:, -1:])[:, 0].numpy())
    return np.concatenate(out)


def _shortest(contexts: NDArray[np.int64], loss: NDArray[np.float64], tolerance: float) -> int:
    """Return the shortest context with a loss of at most the tolerance; NaN, no lower end, counts as none."""
    good = np.flatnonzero(~(loss > tolerance))
    return int(contexts[good[0]]) if len(good) else int(contexts[-1])


def _markov(model: GPTModel, training: DtrajsLike | None, windows: NDArray[np.int64], confidence: float) -> Interval:
    if training is None:
        return Interval.undefined(np.nan)

    _, tokens = prepare(model, training)
    counts = transition_counts(tokens, model.config.n_states) + MARKOV_PSEUDOCOUNT
    log_probs = np.log(counts / counts.sum(axis=1, keepdims=True))
    return block_interval(log_probs[windows[:, -2], windows[:, -1]], confidence)
