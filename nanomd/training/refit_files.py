"""The last fit of the output layer, from model files to model files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from nanomd.model.files import ModelFiles
from nanomd.model.network import NanoGPT
from nanomd.training.refit import refit
from nanomd.training.refit_groups import refit_groups
from nanomd.training.setup import resolve_device, torch_settings


def refit_files(
    files: ModelFiles,
    tokens: Sequence[NDArray[Any]],
    *,
    both_ways: bool,
    pseudocount: float,
    ridge: float,
    device: str = "auto",
    n_threads: int | None = None,
    note: Callable[[str], None] | None = None,
    table_only: bool = False,
) -> ModelFiles:
    """Return a model whose output layer is fitted to all transitions of tokens.

    It has a markov head, and its provenance tells of the fit; see `nanomd.training.refit.refit` for the arguments.
    With `table_only` the table alone is fitted.
    """
    place = resolve_device(device)
    with torch_settings(place, n_threads):
        module = NanoGPT(files.config)
        module.load_tensors(files.tensors)
        options: dict[str, Any] = {"both_ways": both_ways, "pseudocount": pseudocount, "ridge": ridge}
        how = options | {"note": note} | ({"max_iterations": 0} if table_only else {})
        if files.config.group_sizes:
            layer, record = refit_groups(module.to(place), tokens, **how)
        else:
            found = refit(module.to(place), tokens, **how)
            layer = {"head.weight": found.head, "head.bias": found.bias, "markov.weight": found.table}
            record = found.describe()
    return dataclasses.replace(
        files,
        config=files.config.replace(markov_head=True),
        tensors={**files.tensors, **layer},
        provenance={**files.provenance, "refit": {**options, **record}},
    )
