"""Whether ``backend="auto"`` may take the CUDA engine: it must first agree with the CPU engine on this very machine.

Small models are rolled out for a few hundred steps by every kind of kernel. Every state drawn must be the one that the
CPU engine's probabilities and the same random number give, within the precision that is promised; so must the
probabilities themselves, and the counts must be those of the states. It takes about a second, once for each driver,
card and build of nanomd, and is remembered in ``$XDG_CACHE_HOME/nanomd`` (``~/.cache/nanomd``).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd import _native
from nanomd.base.codec import decode_json
from nanomd.base.config import ModelConfig
from nanomd.base.errors import BackendUnavailableError, NanomdError, one_line
from nanomd.base.files import sha256_of, write_atomic
from nanomd.model.rope import rope_multipliers

N_STEPS = 300
TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2}  # of ln p where p >= 1e-7
_SMALLEST = float(np.log(1e-7))
_SEED = 11
# Grouped queries in a ring buffer, and the shape of learned positions with its refills.
_MODELS = (
    ModelConfig(n_states=23, d_model=32, n_layer=2, n_head=2, n_kv_head=1, context_length=16, markov_head=True),
    ModelConfig(
        n_states=9, d_model=24, n_layer=2, n_head=3, context_length=8, mlp_ratio=1, norm="post", activation="relu",
        position="learned",
    ),
)  # fmt: skip
_KERNELS = {"throughput": 40, "latency": 2}  # regime -> trajectories

_LOG = logging.getLogger(__name__)
_known: dict[str, str] = {}  # of this process


def objection() -> str:
    """Say why `auto` must not take the CUDA engine here; empty if it may. Runs the check where none is remembered."""
    info = _native.cuda_info()
    if info["reason"]:
        return str(info["reason"])
    key = _installation(info)
    if key not in _known:
        found = _remembered().get(key)
        if found is None:
            try:
                found = disagreement(_native.NativeCudaEngine)
            except (NanomdError, MemoryError, RuntimeError) as error:  # the card may be full: ask again another time
                return f"its self-check could not run: {one_line(error)}"
            _remember(key, found)
        _known[key] = found
    return _known[key]


def disagreement(make: Callable[..., _native.NativeCudaEngine], n_steps: int = N_STEPS) -> str:
    """Compare a CUDA engine with the CPU engine; return in a line what differs, or nothing.

    Parameters
    ----------
    make : callable
        Takes configuration, tensors and rotary multipliers, `precision` and `regime`, and returns an engine.
    n_steps : int
        Steps of each trajectory.
    """
    for config in _MODELS:
        multipliers = rope_multipliers(config) if config.position == "rope" else np.zeros(0, np.uint32)
        model = (config, _tensors(config), multipliers)
        cpu = _native.NativeEngine(*model)
        for precision, tolerance in TOLERANCE.items():
            for regime, n_trajs in _KERNELS.items():
                try:
                    engine = make(*model, precision=precision, regime=regime)
                except BackendUnavailableError:  # clusters before compute capability 9
                    continue
                problem = _compare(engine, cpu, config, n_trajs, n_steps, tolerance)
                if problem:
                    return f"self-check, {config.position} positions, {regime}, {precision}: {problem}"
    return ""


def _compare(
    engine: _native.NativeCudaEngine,
    cpu: _native.NativeEngine,
    config: ModelConfig,
    n_trajs: int,
    n_steps: int,
    tolerance: float,
) -> str:
    """Say what differs between two engines of one model, in states, probabilities or counts."""
    mode: dict[str, Any] = {"mode": "ring"}
    if config.position != "rope":
        mode = {"mode": "hop", "hop_keep": config.context_length // 2}
    index = np.arange(n_trajs, dtype=np.uint64)
    starts = (index % config.n_states).astype(np.uint16)[:, None]
    sets = tuple(k % 3 - 1 for k in range(config.n_states))
    spec = _native.ObservablesSpec(config.n_states, (1, 5), 2, sets, (0, 1, 2, 4, 8, 16, 32))
    counted, again = _native.NativeObservables(spec, n_trajs), _native.NativeObservables(spec, n_trajs)
    session = engine.open(starts, index, **mode, seed=_SEED, observables=counted)
    states = np.full((n_trajs, n_steps), config.n_states, np.uint16)  # poisoned: every element must be written
    session.advance(n_steps, states)
    if not (states < config.n_states).all():
        return "states that were not drawn"
    before = np.concatenate([starts, states[:, :-1]], axis=1)
    expected = cpu.log_probs(before, **mode).astype(np.float64)
    error = float(np.abs(engine.log_probs(before, **mode) - expected)[expected >= _SMALLEST].max())
    if not error <= tolerance:
        return f"|ln p error| {error:.1e} > {tolerance:g}"
    # A state is right where the random number falls into its part of [0, 1); errors of ln p move the ends by no more.
    ends = np.cumsum(np.exp(expected), axis=2)
    u = np.array([[_native.rollout_uniform(_SEED, step, i) for step in range(n_steps)] for i in range(n_trajs)])
    upper = np.take_along_axis(ends, states[:, :, None].astype(np.int64), axis=2)[:, :, 0]
    lower = upper - np.exp(np.take_along_axis(expected, states[:, :, None].astype(np.int64), axis=2)[:, :, 0])
    wrong = int(((u < lower - tolerance) | (u > upper + tolerance)).sum())
    if wrong:
        return f"{wrong} of {states.size} states are not those that the random numbers give"
    if session.observes:
        session.collect(counted)
        again.add(states, 1)
        if not np.array_equal(counted.totals(), again.totals()):
            return "counts that are not those of the states"
    return ""


def _tensors(config: ModelConfig) -> dict[str, NDArray[np.float32]]:
    """Return weights with which every part matters and probabilities span orders of magnitude."""
    random = np.random.default_rng(_SEED)
    tensors = {}
    for name, shape in config.tensor_shapes().items():
        scale = shape[1] ** -0.5 if len(shape) == 2 and not name.startswith(("embedding", "position", "markov")) else 1
        value = random.standard_normal(shape) * (0.1 if len(shape) == 1 else scale)
        value = value + 1.0 if "norm" in name and name.endswith("weight") else value
        tensors[name] = (value * (1.5 if name == "head.weight" else 1.0)).astype(np.float32)
    return tensors


def _installation(info: dict[str, Any]) -> str:
    """Return a digest of what the verdict depends on: the compiled core, the driver, the cards."""
    driver = Path("/proc/driver/nvidia/version")  # the version in full; CUDA itself tells that of its interface alone
    told = driver.read_text(encoding="utf-8", errors="replace") if driver.exists() else ""
    facts = [sha256_of(_native.core_file()), told, info["driver"], info["devices"], N_STEPS]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _memory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "nanomd" / "cuda_self_check.json"


def _remembered() -> dict[str, str]:
    """Return all verdicts, by installation; none where they cannot be read."""
    try:
        return decode_json(_memory().read_bytes(), dict[str, str], "the record of self-checks")
    except (OSError, RuntimeError, NanomdError):
        return {}


def _remember(key: str, verdict: str) -> None:
    """Write a verdict down; where that is impossible, the next process checks again."""
    try:
        file = _memory()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps({**_remembered(), key: verdict}, indent=1) + "\n")
    except (OSError, RuntimeError, NanomdError) as error:
        _LOG.info("the self-check of the CUDA engine is not remembered: %s", one_line(error))
