"""The C++ example reads a model folder and generates the states that Python does; its reader distrusts files."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from rollout_models import make_files

from nanomd.base.errors import InputError
from nanomd.model.files import save_model
from nanomd.rollout.sampler import Sampler

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "tests"  # shared with the C++ unit tests, so that little is left to compile


@pytest.fixture(scope="module")
def program():
    if shutil.which("cmake") is None or shutil.which("ninja") is None:
        pytest.skip("cmake and ninja are needed to build the example (pip install nanomd-kinetics[test])")
    if not (ROOT / "examples" / "cpp" / "generate.cpp").exists():
        pytest.skip("the example is not part of an installed package")
    options = ["-G", "Ninja", "-DNANOMD_BUILD_PYTHON=OFF", "-DNANOMD_BUILD_TESTS=ON", "-DNANOMD_CUDA=OFF"]
    subprocess.run(["cmake", "-S", str(ROOT), "-B", str(BUILD), *options], check=True, capture_output=True)
    build = ["cmake", "--build", str(BUILD), "--target", "generate", "-j", "2"]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    return BUILD / "examples" / "cpp" / "nanomd_generate"


def run(program, folder, n_steps=200, n_trajs=3, seed=7, start=8):
    command = [program, folder, n_steps, n_trajs, seed, start]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rope_base": 12345.678, "n_head": 1, "n_kv_head": 1, "markov_head": True},
        {"position": "learned", "norm": "post", "activation": "relu", "context_length": 7},
        {"n_states": 300, "d_model": 64, "n_head": 4, "n_kv_head": 2, "mlp_ratio": 1},
        {"n_states": 60, "group_sizes": (22, 1, 30, 7), "markov_head": True},
    ],
    ids=["ring", "markov", "hop", "wide", "groups"],
)
def test_states_equal_those_of_python(program, tmp_path, changes):
    files = make_files(**changes)
    save_model(tmp_path / "model", files)
    done = run(program, tmp_path / "model")
    assert done.returncode == 0, done.stderr
    states = np.array([line.split() for line in done.stdout.splitlines()], dtype=np.int64)
    rollout = Sampler(files).generate(200, 3, start=[8] * 3, seed=7)
    assert np.array_equal(states, np.array(rollout.dtrajs))
    assert f"3 x 200 steps of 0.2 ns on {rollout.backend}" in done.stderr
    visits = np.bincount(rollout.tokens.ravel(), minlength=files.config.n_states)
    assert f" 8:{visits[1] / 600:.4f}" in done.stderr


@pytest.mark.slow
def test_damaged_folders_are_refused_in_one_line(program, tmp_path):
    """Cut at every kind of place, and changed: never a crash, always the file's name."""
    folder = tmp_path / "model"
    save_model(folder, make_files())
    weights, config = folder / "model.safetensors", folder / "config.json"
    good, text = weights.read_bytes(), config.read_text()

    def refused(pattern):
        done = run(program, folder)
        assert done.returncode == 1 and pattern in done.stderr and done.stderr.count("\n") == 1, done.stderr

    for size in (0, 5, 8, 100, 1000, len(good) - 4, len(good) - 1):
        weights.write_bytes(good[:size])
        refused("model.safetensors")
    header = int.from_bytes(good[:8], "little")
    entries = json.loads(good[8 : 8 + header])
    for change in (
        lambda e: e.pop("head.bias"),
        lambda e: e["head.bias"].update(dtype="F16"),
        lambda e: e["head.bias"].update(shape=[12]),
        lambda e: e["head.bias"].update(data_offsets=[0, 1 << 60]),
        lambda e: e["head.weight"].update(shape=[11, 1 << 62]),
    ):
        changed = json.loads(json.dumps(entries))
        change(changed)
        new = json.dumps(changed).encode()
        weights.write_bytes(len(new).to_bytes(8, "little") + new + good[8 + header :])
        refused("model.safetensors")
    weights.write_bytes(good[:-4] + np.float32("nan").tobytes())
    refused("not finite")
    weights.write_bytes(good)
    for change in (
        lambda c: c.update(format="other"), lambda c: c.update(format_version=2), lambda c: c.pop("config"),
        lambda c: c["config"].update(n_states=10**9), lambda c: c["config"].update(n_head=0),
        lambda c: c["config"].update(d_model=17), lambda c: c["config"].update(rope_base=-1),
        lambda c: c["config"].update(norm="none"), lambda c: c["state_map"]["symbols"].pop(),
    ):  # fmt: skip
        changed = json.loads(text)
        change(changed)
        config.write_text(json.dumps(changed))
        refused("config.json")
    for size in (0, 1, len(text) // 2):
        config.write_text(text[:size])
        refused("config.json")
    config.write_text(text)
    assert run(program, folder).returncode == 0
    assert run(program, folder, start=6).returncode == 2
    with pytest.raises(InputError):
        Sampler.load(tmp_path / "nothing")
    assert run(program, tmp_path / "nothing").returncode == 1
