"""Model folders: round trips, atomic replacement, and files that nobody should trust."""

import contextlib
import dataclasses
import json
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nanomd.base.config import ModelConfig
from nanomd.base.errors import InputError, StoreError
from nanomd.base.units import FrameInterval
from nanomd.data.states import StateMap
from nanomd.model.files import ModelFiles, Starts, check_model_files, load_model_files, save_model


@pytest.fixture
def files():
    config = ModelConfig(n_states=5, d_model=16, n_layer=1, n_head=2, n_kv_head=1, context_length=6, markov_head=True)
    rng = np.random.default_rng(0)
    shapes = config.tensor_shapes().items()
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes}
    windows = rng.integers(0, 5, (3, 6)).astype(np.int32)
    starts = Starts(np.full(5, 0.2), windows)
    return ModelFiles(
        config, tensors, StateMap(np.array([1, 2, 5, 8, 13])), starts, FrameInterval(2, "ps"), {"seed": 3}
    )


def test_round_trip(files, tmp_path):
    for _ in range(2):  # the second replaces the first
        save_model(tmp_path / "model", files)
    loaded = load_model_files(tmp_path / "model")
    assert loaded.config == files.config and loaded.provenance == {"seed": 3}
    assert loaded.frame_interval == files.frame_interval
    assert np.array_equal(loaded.state_map.symbols, files.state_map.symbols)
    assert all(np.array_equal(loaded.tensors[name], value) for name, value in files.tensors.items())
    assert np.array_equal(loaded.starts.windows, files.starts.windows)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [
        "config.json",
        "model.safetensors",
        "starts.safetensors",
    ]


def test_no_windows(files, tmp_path):
    bare = dataclasses.replace(files, starts=Starts(files.starts.stationary, np.zeros((0, 6), np.int32)))
    assert load_model_files(save_model(tmp_path / "m", bare)).starts.windows.shape == (0, 6)


def test_refuses_inconsistent_models(files, tmp_path):
    def wrong(**changes):
        with pytest.raises(InputError) as caught:
            save_model(tmp_path / "m", dataclasses.replace(files, **changes))
        assert not list(tmp_path.iterdir())
        return str(caught.value)

    assert "3 values that are not finite" in wrong(
        tensors={**files.tensors, "head.bias": np.float32([np.nan, np.inf, 1, -np.inf, 0])}
    )
    assert "float64" in wrong(tensors={**files.tensors, "head.bias": np.zeros(5)})
    assert "missing ['head.bias']" in wrong(tensors={k: v for k, v in files.tensors.items() if k != "head.bias"})
    assert "sum to 1" in wrong(starts=Starts(np.full(5, 0.3), files.starts.windows))
    assert "tokens in [0, 4]" in wrong(starts=Starts(files.starts.stationary, np.full((1, 6), 5, np.int32)))
    assert "state_map has 2 states" in wrong(state_map=StateMap(np.array([0, 1])))


def test_does_not_replace_other_folders(files, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years")
    with pytest.raises(InputError, match="not a model folder"):
        save_model(tmp_path / "precious", files)
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "years"


def test_unwritable_place_is_a_clear_error(files, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((StoreError, InputError), match="file"):
        save_model(tmp_path / "file" / "model", files)


def header_of(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def write_with(path, header, payload):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + payload)


def test_hostile_and_truncated_weights(files, tmp_path):
    model = save_model(tmp_path / "m", files)
    weights = model / "model.safetensors"
    good = weights.read_bytes()
    tensors = load_file(weights)

    def refused(pattern):
        with pytest.raises(InputError, match=pattern):
            load_model_files(model)

    for cut in (0, 5, 8, 100, len(good) // 2, len(good) - 1):
        weights.write_bytes(good[:cut])
        refused("model.safetensors")
    for size in (2**63, 2**40, len(good), 2**64 - 1):
        weights.write_bytes(struct.pack("<Q", size) + good[8:])
        refused("header said to take|damaged")
    weights.write_bytes(good + b"\0" * 100)
    refused("damaged")
    weights.write_bytes(b"\x80\x04pickle" * 50)
    refused("model.safetensors")
    rng = np.random.default_rng(1)
    for _ in range(100):  # flipped bytes: an error, or numbers that are finite and of the right shape
        broken = bytearray(good)
        broken[rng.integers(0, 2000)] ^= 1 << rng.integers(0, 8)
        weights.write_bytes(bytes(broken))
        with contextlib.suppress(InputError):
            check_model_files(load_model_files(model))
    save_file({**tensors, "head.bias": np.full(5, np.nan, np.float32)}, weights)
    refused("not finite")
    save_file({**tensors, "head.bias": np.zeros(6, np.float32)}, weights)
    refused(r"head\.bias must be F32 of shape \(5,\)")
    save_file({**tensors, "head.bias": np.zeros(5, np.float64)}, weights)
    refused("got F64")
    save_file({**tensors, "extra": np.zeros(5, np.float32)}, weights)
    refused(r"unexpected \['extra'\]")
    header, payload = header_of(model / "starts.safetensors")
    weights.write_bytes(good)
    load_model_files(model)
    header["windows"]["shape"] = [2**40, 6]
    write_with(model / "starts.safetensors", header, payload)
    refused("starts.safetensors")
    (model / "starts.safetensors").unlink()
    refused("cannot be read")


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda c: c.update(format="other"), "must say format"),
        (lambda c: c.update(format_version=2), "version 2"),
        (lambda c: c["config"].update(n_states=10**9), "n_states must be in"),
        (lambda c: c["config"].update(d_model="16"), "d_model must be int"),
        (lambda c: c["config"].update(n_layer=2), "missing"),
        (lambda c: c["config"].update(surprise=1), "no option surprise"),
        (lambda c: c.pop("state_map"), "state_map"),
        (lambda c: c["frame_interval"].update(value=-1), "frame_interval"),
        (lambda c: c["frame_interval"].update(value="x"), "damaged"),
        (lambda c: c.update(provenance=[]), "provenance"),
    ],
)
def test_hostile_configuration(files, tmp_path, change, pattern):
    model = save_model(tmp_path / "m", files)
    content = json.loads((model / "config.json").read_text())
    change(content)
    (model / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=pattern):
        load_model_files(model)


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000, '{"a": NaN'])
def test_configuration_that_is_no_json(files, tmp_path, text):
    model = save_model(tmp_path / "m", files)
    (model / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json"):
        load_model_files(model)
    with pytest.raises(InputError, match="not a model folder"):
        load_model_files(tmp_path / "nothing")
