r"""The floor under a training: the Markov model at the same stride, on the same held-out data.

A transformer that predicts held-out steps worse than the table of transition counts has learnt its data by heart, or
nothing. The table is that of the training part, with \kappa observations a state of where steps go overall:

.. math:: p(j | i) = (n_{ij} + \kappa q_j) / (n_i + \kappa), \qquad q_j \propto n_j + 1

the best of a few \kappa, so that the floor is that of somebody who knew it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd.data.counts import model_counts
from nanomd.model.files import ModelFiles

TOLERANCE = 0.005  # of the loss: chance moves a held-out tenth of few data by as much
_STRENGTHS = (0.3, 1.0, 3.0, 10.0)


def markov_loss(
    training: Sequence[NDArray[Any]], validation: Sequence[NDArray[Any]], n_states: int, both_ways: bool
) -> float | None:
    """Return the loss of the Markov model on held-out steps in nats a step; None without any.

    Parameters
    ----------
    training, validation : sequences of 1-D integer arrays
        Tokens, at the stride of the model.
    n_states : int
    both_ways : bool
        Count trajectories backwards too.
    """
    counts = model_counts(training, n_states).astype(np.float64)
    counts = counts + counts.T if both_ways else counts
    held_out = model_counts(validation, n_states)
    row, column = held_out.nonzero()
    if not len(row):
        return None
    overall = counts.sum(axis=0) + 1.0
    overall /= overall.sum()
    visits = counts.sum(axis=1)[row]
    known, number = counts[row, column], held_out[row, column]
    losses = []
    for strength in _STRENGTHS:
        p = (known + strength * overall[column]) / (visits + strength)
        losses.append(-(number * np.log(p)).sum() / number.sum())
    return float(min(losses))


def without_context(files: ModelFiles) -> ModelFiles:
    """Return a model whose output does not read the transformer: the last fit makes it the Markov model."""
    off = {name: np.zeros_like(files.tensors[name]) for name in ("head.weight", "head.bias")}
    return dataclasses.replace(files, tensors={**files.tensors, **off})
