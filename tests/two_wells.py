"""A small case of an experiment: two wells of two states each."""

from __future__ import annotations

from typing import Any

from nanomd.base.units import FrameInterval
from nanomd.experiments.case import Case


def two_wells(load: Any, n_steps: int, **changes: Any) -> Case:
    """Return the case of what `load` loads, trained for `n_steps`."""
    fields: dict[str, Any] = {
        "n_datasets": 2,
        "n_macrostates": 2,
        "lagtime": 2,
        "frame_interval": FrameInterval(1.0, "frame"),
        "gpt": {"preset": "tiny", "context_length": 8, "train_length": 32, "batch_size": 8, "n_steps": n_steps},
        "lstm": {},
        "paper": "paper-four-state",
        "lstm_steps": 50,
    }
    return Case("two-wells", "Two wells", load, **{**fields, **changes})
