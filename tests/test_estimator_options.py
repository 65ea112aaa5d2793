"""The estimator's options: spelt out, typed, as scikit-learn asks for them, and what objects say of themselves."""

from __future__ import annotations

import inspect
from typing import Any, get_type_hints

import numpy as np
import pytest
from sklearn.base import clone

import nanomd.estimator
from nanomd.base.config import ModelConfig, TrainConfig
from nanomd.base.errors import InputError
from nanomd.base.options import option_types
from nanomd.estimator import GPTEstimator
from nanomd.training.options import FurtherOptions

DTRAJ = np.tile([2, 2, 5, 5, 5], 60)
QUICK: dict[str, Any] = {"n_steps": 3, "batch_size": 2, "n_threads": 1, "refit": "off"}
OWN = ("self", "preset", "train", "frame_interval", "run_dir", "resume", "progress", "options")


def test_every_field_of_the_configurations_is_an_option_of_its_type_once() -> None:
    names = vars(nanomd.estimator) | {"FurtherOptions": FurtherOptions}
    hints = get_type_hints(GPTEstimator.__init__, names)
    spelt_out = {name: hint for name, hint in hints.items() if name not in (*OWN, "return")}
    further = get_type_hints(FurtherOptions)
    fields = {**option_types(ModelConfig), **option_types(TrainConfig)}
    del fields["n_states"], fields["group_sizes"]  # these come from the data
    assert not set(spelt_out) & set(further)
    assert set(spelt_out) | set(further) == set(fields)
    for name, hint in further.items():
        assert hint == fields[name], name
    for name, hint in spelt_out.items():
        assert hint == (fields[name] | None), name
    signature = inspect.signature(GPTEstimator)
    assert all(signature.parameters[name].default is None for name in spelt_out)


def test_none_leaves_an_option_to_preset_and_train() -> None:
    estimator = GPTEstimator("base", train=TrainConfig(n_threads=2, seed=5), n_threads=None, seed=None, d_model=None)
    assert estimator.train_config == TrainConfig(n_threads=2, seed=5) and estimator.model_overrides == {}
    assert GPTEstimator(train=TrainConfig(train_length=9), train_length=None).train_config.train_length is None
    assert GPTEstimator(train=TrainConfig(seed=5), seed=0).train_config.seed == 0


def test_parameters_are_got_set_and_cloned() -> None:
    estimator = GPTEstimator("tiny", weight_decay=0.1, frame_interval="0.2 ns", **QUICK)
    params = estimator.get_params()
    assert params["preset"] == "tiny" and params["weight_decay"] == 0.1 and params["frame_interval"] == "0.2 ns"
    assert params["learning_rate"] is None and "beta1" not in params
    assert clone(estimator).get_params() == params
    assert estimator.set_params(preset="xs", seed=4, beta1=0.8) is estimator
    assert estimator.train_config == TrainConfig(weight_decay=0.1, seed=4, beta1=0.8, **QUICK)
    assert estimator.preset == "xs" and estimator.get_params()["beta1"] == 0.8
    for wrong, message in (({"sead": 1}, "no option sead"), ({"d_model": 30}, "multiple of 8")):
        with pytest.raises(InputError, match=message):
            estimator.set_params(**wrong)
    assert estimator.get_params() == {**params, "preset": "xs", "seed": 4, "beta1": 0.8}  # refused as a whole
    assert estimator.train_config.seed == 4


def test_objects_say_what_they_are() -> None:
    estimator = GPTEstimator("tiny", seed=0, select="last", **QUICK)
    assert repr(estimator) == (
        "GPTEstimator('tiny', n_steps=3, batch_size=2, select='last', refit='off', seed=0, n_threads=1)"
    )
    assert eval(repr(estimator)).get_params() == estimator.get_params()
    assert not estimator.has_model
    model = estimator.fit(DTRAJ).fetch_model()
    assert estimator.has_model
    size = sum(parameter.numel() for parameter in model.module.parameters())
    assert repr(model) == f"GPTModel(2 states, 2 layers of width 32, window 32 frames, {size:,} parameters)"
    other = clone(estimator)
    assert other.get_params() == estimator.get_params() and not other.has_model
