"""`ConditionalModel`: one model for several ensembles, which is an ordinary `GPTModel` at each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nanomd.base.config import ModelConfig
from nanomd.base.units import FrameInterval
from nanomd.conditional.conditions import Conditions, Value
from nanomd.conditional.files import ConditionalFiles, load_conditional_files, save_conditional
from nanomd.data.states import StateMap
from nanomd.training.gpt_model import GPTModel


class ConditionalModel:
    """A nano-GPT that was trained at several conditions, and is sampled at any one of them.

    Parameters
    ----------
    files : ConditionalFiles
        What its folder holds.
    history : sequence of dict
        Training metrics; empty for a model that was loaded.

    Examples
    --------
    >>> import numpy as np
    >>> from nanomd import ConditionalGPTEstimator
    >>> cold, hot = np.tile([3, 3, 3, 7], 200), np.tile([3, 7], 400)
    >>> estimator = ConditionalGPTEstimator("tiny", n_steps=5, seed=1)
    >>> model = estimator.fit([cold, hot], [{"temperature": 300}, {"temperature": 330}]).fetch_model()
    >>> model
    ConditionalModel(2 states, temperature from 300 to 330 (inverse), trained at 2 conditions)
    >>> model.at(temperature=310).generate(100, 2, seed=1).dtrajs[0].shape
    (100,)
    """

    def __init__(self, files: ConditionalFiles, history: Sequence[Mapping[str, float]] = ()) -> None:
        self._files = files
        self.history: list[dict[str, float]] = [dict(record) for record in history]

    def __repr__(self) -> str:
        number = len(self._files.conditions.trained)
        return f"ConditionalModel({self.config.n_states} states, {self.space}, trained at {number} conditions)"

    @property
    def space(self) -> str:
        """What conditions there are, in words."""
        return "; ".join(axis.describe() for axis in self._files.conditions.axes)

    @property
    def conditions(self) -> Conditions:
        """The axes, and the conditions that were trained."""
        return self._files.conditions

    @property
    def config(self) -> ModelConfig:
        """The shape of the model."""
        return self._files.shared.config

    @property
    def state_map(self) -> StateMap:
        """The map between raw labels and tokens, the same at all conditions."""
        return self._files.shared.state_map

    @property
    def frame_interval(self) -> FrameInterval:
        """The time of a step, which is `frame_stride` frames of the data."""
        return self._files.shared.frame_interval

    @property
    def frame_stride(self) -> int:
        """Frames of the data a step, the same at all conditions."""
        return self._files.shared.frame_stride

    @property
    def provenance(self) -> dict[str, Any]:
        """How the model came to be."""
        return dict(self._files.shared.provenance)

    def at(self, condition: Mapping[str, Value] | None = None, /, **values: Value) -> GPTModel:
        """Return the model of a condition: ``model.at(temperature=310)``, or ``model.at({"temperature": 310})``.

        It is a model like any other. Its provenance says what condition it is, and whether it was trained,
        interpolated, or, with a warning, extrapolated.

        Raises
        ------
        InputError
            For a name that is missing or unknown, an unknown category, or a value that is no number.
        """
        if condition is None or isinstance(condition, Mapping):
            condition = {**(condition or {}), **values}
        return GPTModel(self._files.at(condition), history=self.history)

    def to_files(self) -> ConditionalFiles:
        """Return what `nanomd.conditional.files.save_conditional` takes."""
        return self._files

    def save(self, path: str | Path) -> Path:
        """Write a folder of safetensors and JSON."""
        return save_conditional(path, self._files)

    @classmethod
    def load(cls, path: str | Path) -> ConditionalModel:
        """Load a folder written by `save` or ``nanomd condition``."""
        return cls(load_conditional_files(path))
