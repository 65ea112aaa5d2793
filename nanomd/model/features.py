"""What the output layer of a model reads, without gradient: compiled where the model is on a CPU, else in PyTorch."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from nanomd._native import NativeTrainingStep
from nanomd.model.network import NanoGPT
from nanomd.model.rope import rope_tables

# The compiled pass of the last length that each model was read at: its memory is as long as the windows.
_PASSES: WeakKeyDictionary[NanoGPT, tuple[int, NativeTrainingStep]] = WeakKeyDictionary()


@torch.no_grad()
def read_features(model: NanoGPT, tokens: Tensor, first: int = 0) -> Tensor:
    """Return the normalised hidden states (B, T, d) of frames from `first` on; what stands before it means nothing.

    Without dropout, whatever mode the model is in; equal to PyTorch's to rounding.

    Parameters
    ----------
    model : NanoGPT
    tokens : Tensor, shape (B, T)
        int64, on the model's device.
    first : int
        Frames before it are context alone.
    """
    weight = model.embedding.weight
    if weight.device.type == "cpu" and weight.dtype == torch.float32 and model.backend == "auto":
        step = _compiled(model, tokens.shape[1])
        frames = np.ascontiguousarray(tokens.numpy())
        return torch.from_numpy(step.features(frames, first=first, n_threads=torch.get_num_threads()))
    training = model.training
    model.eval()
    try:
        return model.normalise(model.hidden(tokens))
    finally:
        model.train(training)


def _compiled(model: NanoGPT, length: int) -> NativeTrainingStep:
    kept = _PASSES.get(model)
    if kept is None or kept[0] != length:
        rope = None
        if model.config.position == "rope":
            rope = rope_tables(model.config, np.arange(length, dtype=np.uint64))
        # What lies behind the features is not read, and a table of all states by all states may not be had.
        config = model.config.replace(group_sizes=(), markov_head=False)
        kept = _PASSES[model] = (length, NativeTrainingStep(config, length, rope=rope))
    named = dict(model.named_parameters())  # bound anew each time: a model may have been moved
    kept[1].bind([named[name].detach().contiguous().numpy().reshape(-1) for name in kept[1].names])
    return kept[1]
