"""Configurations: checked when made, round trips, presets, units."""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanomd.base.checks import check_memory, check_range, check_whole
from nanomd.base.codec import dump_toml, load_toml
from nanomd.base.config import PRESETS, ModelConfig, RolloutConfig, TrainConfig, model_preset
from nanomd.base.errors import InputError
from nanomd.base.units import FrameInterval


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_are_valid_and_round_trip(name):
    config = model_preset(name, 100)
    assert ModelConfig.from_dict(config.to_dict()) == config
    assert config.d_head % 8 == 0


def test_base_preset_is_the_benchmark_configuration():
    config = model_preset("base", 100)
    n_parameters = sum(math.prod(shape) for shape in config.tensor_shapes().values())
    assert n_parameters == 819_044
    assert config.receptive_field == 4 * 127 + 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_states": 1}, "n_states must be at least 2, got 1"),
        ({"n_states": 70000}, r"n_states must be in \[2, 65536\]"),
        ({"d_model": 60}, "multiple of 8"),
        ({"n_head": 4, "n_kv_head": 3}, "n_kv_head must divide"),
        ({"norm": "middle"}, "norm must be one of pre, post"),
        ({"context_length": 5000}, r"context_length must be in \[2, 1024\]"),
        ({"dropout": float("nan")}, "dropout must be"),
    ],
)
def test_bad_model_configs_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        ModelConfig(**{"n_states": 10, **changes})


@pytest.mark.parametrize("cls", [TrainConfig, RolloutConfig])
def test_unknown_and_mistyped_options_are_errors(cls):
    with pytest.raises(InputError, match="no option n_stepz"):
        cls.from_dict({"n_stepz": 3})
    with pytest.raises(InputError, match="n_steps must be int"):
        cls.from_dict({"n_steps": "many"})
    with pytest.raises(InputError, match="n_steps must be int"):
        cls.from_dict({"n_steps": True})


def test_a_missing_option_is_named():
    with pytest.raises(InputError, match="ModelConfig needs the option n_states"):
        ModelConfig.from_dict({"d_model": 16})


@pytest.mark.parametrize("config", [ModelConfig(n_states=7), TrainConfig(mix_max=0.25), RolloutConfig(start="data")])
def test_toml_round_trip(config):
    values = tomllib.loads(dump_toml({"section": config.to_dict()}))["section"]
    assert type(config).from_dict(values) == config


def test_toml_errors_name_the_file(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text("a = [")
    with pytest.raises(InputError, match=r"bad\.toml is not valid TOML"):
        load_toml(path)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_toml_strings_survive(text):
    assert tomllib.loads(dump_toml({"s": {"key": text}}))["s"]["key"] == text


@pytest.mark.parametrize("text", ["0.2 ns", "0.2ns", (0.2, "ns"), FrameInterval(0.2, "ns")])
def test_frame_interval_spellings(text):
    assert FrameInterval.parse(text) == FrameInterval(0.2, "ns")


@pytest.mark.parametrize("bad", ["ns", "0 ns", "-1 ps", "1 parsec", 3.0, "nan ns"])
def test_bad_frame_intervals(bad):
    with pytest.raises(InputError, match="frame_interval"):
        FrameInterval.parse(bad)


def test_times_are_described_in_readable_units():
    assert FrameInterval(0.2, "ns").describe(5000) == "1 us"
    assert FrameInterval(1, "ps").describe(1400) == "1.4 ns"
    assert FrameInterval().describe(12) == "12 frames"


def test_both_letters_mu_are_micro():
    for unit in ("us", "\u00b5s", "\u03bcs"):  # plain, micro sign, Greek mu
        assert FrameInterval.parse(f"1 {unit}") == FrameInterval(1.0, unit) == FrameInterval(1.0, "us")
        assert str(FrameInterval(0.5, unit)) == "0.5 us"
    assert FrameInterval(2.0, "ns").ps == 2000 and FrameInterval(2.0).ps is None


@pytest.mark.parametrize("cls", [ModelConfig, TrainConfig, RolloutConfig])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_refused_in_every_float_option(cls, bad):
    needed = {"n_states": 10} if cls is ModelConfig else {}
    floats = [field.name for field in dataclasses.fields(cls) if field.type == "float"]
    assert floats
    for name in floats:
        with pytest.raises(InputError, match=f"{name} must be a finite number, got {bad}"):
            cls(**needed, **{name: bad})


def test_numpy_numbers_become_plain_ones():
    config = RolloutConfig(
        n_steps=np.int64(5), n_trajs=np.uint8(3), seed=np.int32(2), sampling_temperature=np.float32(1)
    )
    assert config == RolloutConfig(n_steps=5, n_trajs=3, seed=2)
    assert {type(value) for value in (config.n_steps, config.n_trajs, config.seed)} == {int}
    assert type(config.sampling_temperature) is float
    assert json.loads(json.dumps(config.to_dict())) == config.to_dict()


@pytest.mark.parametrize("bad", [1.5, "3", True, None, [3], np.array([3]), 1e9, np.bool_(True)])
def test_what_is_no_whole_number_is_refused_also_when_made_directly(bad):
    with pytest.raises(InputError, match="n_trajs must be int"):
        RolloutConfig(n_trajs=bad)
    with pytest.raises(InputError, match="n_trajs must be a whole number"):
        check_whole("n_trajs", bad)


def test_single_checks_say_what_helps():
    assert check_whole("n", np.int16(7), 1) == 7
    with pytest.raises(InputError, match=r"n must be a whole number, got 1000000000.0; write 1000000000"):
        check_whole("n", 1e9)
    with pytest.raises(InputError, match=r"n must be in \[1, 4\], got 5"):
        check_whole("n", 5, 1, 4)
    with pytest.raises(InputError, match="x must be at least 0 and finite, got inf"):
        check_range("x", math.inf, 0)
    with pytest.raises(InputError, match=r"the rollout takes 9.*GiB, but this machine has .* of memory; store less"):
        check_memory(10**21, "the rollout", "store less")
    check_memory(1, "the rollout", "store less")
