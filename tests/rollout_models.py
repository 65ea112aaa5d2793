"""Small random models for tests of rollouts."""

import importlib.util
from pathlib import Path

import numpy as np

from nanomd.base.config import ModelConfig
from nanomd.base.units import FrameInterval
from nanomd.data.states import StateMap
from nanomd.model.files import ModelFiles, Starts

_spec = importlib.util.spec_from_file_location("reference_numpy", Path(__file__).with_name("reference_numpy.py"))
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

LABELS = np.arange(11) * 3 + 5  # raw labels that are not tokens


def make_files(seed=0, **changes):
    config = ModelConfig(
        **{"n_states": 11, "d_model": 16, "n_layer": 2, "n_head": 2, "context_length": 6, "mlp_ratio": 2, **changes}
    )
    rng = np.random.default_rng(seed)
    p = rng.random(config.n_states)
    windows = rng.integers(0, config.n_states, (5, config.context_length)).astype(np.int32)
    symbols = np.arange(config.n_states) * 3 + 5
    return ModelFiles(
        config,
        reference.random_tensors(config, seed),
        StateMap(symbols),
        Starts(p / p.sum(), windows),
        FrameInterval(0.2, "ns"),
        {},
    )


def generate(engine, config, mode, keep, n_steps, n_trajs=1, cuts=(), **options):
    """Return what a compiled engine draws after three frames of history, in pieces that end at `cuts`."""
    history = np.random.default_rng(2).integers(0, config.n_states, (n_trajs, 3)).astype(np.uint16)
    session = engine.open(history, np.arange(7, 7 + n_trajs, dtype=np.uint64), mode=mode, hop_keep=keep, **options)
    pieces = []
    for n in np.diff([0, *cuts, n_steps]):
        pieces.append(np.empty((n_trajs, n), np.uint16))
        assert session.advance(int(n), pieces[-1])
    return np.concatenate(pieces, axis=1)
