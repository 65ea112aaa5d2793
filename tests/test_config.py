"""Configurations: checked when made, round trips, presets, units."""

from __future__ import annotations

import math
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
