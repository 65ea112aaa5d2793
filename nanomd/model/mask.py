"""A model that never makes a transition that data do not show."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError
from nanomd.data.counts import transition_counts
from nanomd.model.files import ModelFiles

_MASKED = -1e4  # as a logit: no probability in any precision, and finite also in 16 bits


def mask_unseen(files: ModelFiles, tokens: Sequence[NDArray[Any]], both_ways: bool = False) -> ModelFiles:
    """Return a model with the table of its markov head masked; see `nanomd.GPTModel.mask_unseen`.

    Parameters
    ----------
    files : ModelFiles
    tokens : sequence of 1-D integer arrays
    both_ways : bool
        A transition counts as seen if its reverse is.
    """
    if files.config.group_sizes:
        raise InputError(
            "mask_unseen needs a table of all states by all states, and those of this model stand in groups"
        )
    n = files.config.n_states
    seen = transition_counts(tokens, n) > 0
    if both_ways:
        seen |= seen.T
    seen |= ~seen.any(axis=1, keepdims=True)  # nothing is known of where such a state goes: its row stays
    table = files.tensors.get("markov.weight", np.zeros((n, n), np.float32))
    return dataclasses.replace(
        files,
        config=files.config.replace(markov_head=True),
        tensors={**files.tensors, "markov.weight": np.where(seen, table, np.float32(_MASKED))},
        provenance={**files.provenance, "mask_unseen": "both ways" if both_ways else "as seen"},
    )
