"""The models that are timed, and the float64 reference that everything timed must agree with first."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nanomd.base.config import PRESETS, ModelConfig, model_preset
from nanomd.base.errors import InputError, NanomdError

if TYPE_CHECKING:
    from nanomd.model.files import ModelFiles

TOLERANCE = 1e-3  # largest |ln p - ln p_ref| over states with p >= 1e-7, in fp32
HALF_TOLERANCE = 2e-2  # the same for 16-bit weights or caches
_LN_RARE = float(np.log(1e-7))

# Name -> (preset, n_states, changed fields). The first two are the benchmark configurations S and XS.
MODELS: MappingProxyType[str, tuple[str, int, dict[str, Any]]] = MappingProxyType(
    {
        "S": ("base", 100, {}),
        "XS": ("xs", 20, {}),
        "demo": ("tiny", 20, {"markov_head": True, "context_length": 32}),  # of `nanomd demo`
        "S-learned": ("base", 100, {"position": "learned"}),
        "XS-learned": ("xs", 20, {"position": "learned"}),
        "tiny-learned": ("tiny", 100, {"position": "learned"}),
        "S-V1000-markov": ("base", 1000, {"markov_head": True}),
        "paper-four-state": ("paper-four-state", 4, {}),
        "paper-alanine-dipeptide": ("paper-alanine-dipeptide", 100, {}),
        "paper-ww-domain": ("paper-ww-domain", 100, {}),
    }
)


class VerificationError(NanomdError):
    """A fast path does not compute what the reference does; a time for it would mean nothing."""


def bench_config(name: str, **changes: Any) -> ModelConfig:
    """Return the shape of a benchmark model: a name of `MODELS`, or a preset (with 100 states; xs with 20).

    ``small:543`` is that of small with 543 states.

    Raises
    ------
    InputError
        For an unknown name.
    """
    if ":" in name:
        base, _, states = name.partition(":")
        if not states.isdecimal():
            raise InputError(f"a model is NAME or NAME:STATES with a whole number, got {name!r}")
        return bench_config(base, **changes).replace(n_states=int(states))
    if name in MODELS:
        preset, n_states, fields = MODELS[name]
        return model_preset(preset, n_states, **{**fields, **changes})
    if name not in PRESETS:
        raise InputError(f"model must be one of {', '.join([*MODELS, *PRESETS])}, got {name!r}")
    return model_preset(name, 20 if name == "xs" else 100, **changes)


def random_model(config: ModelConfig, seed: int = 0) -> ModelFiles:
    """Return a model with random weights of the size that training starts from (speed depends on the shape alone)."""
    from nanomd.base.units import FrameInterval
    from nanomd.data.states import StateMap
    from nanomd.model.files import ModelFiles, Starts

    random = np.random.default_rng(seed)
    tensors = {}
    for name, shape in config.tensor_shapes().items():
        if "norm" in name:
            tensors[name] = np.full(shape, 1.0 if name.endswith("weight") else 0.0, np.float32)
        elif name == "markov.weight":
            tensors[name] = random.standard_normal(shape).astype(np.float32)
        else:
            scale = 0.02 if len(shape) == 1 or "embedding" in name or "position" in name else shape[1] ** -0.5
            tensors[name] = (random.standard_normal(shape) * scale).astype(np.float32)
    V = config.n_states
    return ModelFiles(
        config=config,
        tensors=tensors,
        state_map=StateMap.fit([np.arange(V)]),
        starts=Starts(stationary=np.full(V, 1 / V), windows=np.zeros((0, config.context_length), np.int32)),
        frame_interval=FrameInterval(),
        provenance={"made by": "nanomd bench", "seed": seed},
    )


def reference_log_probs(files: ModelFiles, tokens: NDArray[Any], mode: str) -> NDArray[np.float64]:
    """Return ln p(next state) after every token in float64, without any cache.

    Parameters
    ----------
    tokens : (T,) integer tokens
    mode : str
        ``"ring"``, ``"hop"`` (K = W / 2) or ``"crop"``: what the model reads at each step.

    Returns
    -------
    (T, n_states)
    """
    import torch

    from nanomd.model.network import NanoGPT
    from nanomd.rollout.modes import context_start

    config = files.config
    model = NanoGPT(config, backend="reference")
    model.load_tensors(files.tensors)
    model = model.double().eval()
    frames = torch.from_numpy(np.asarray(tokens, np.int64))
    T, keep = len(tokens), max(1, config.context_length // 2)
    result = np.empty((T, config.n_states))

    @torch.no_grad()
    def forward(first: int, last: int) -> NDArray[np.float64]:
        out: NDArray[np.float64] = torch.log_softmax(model(frames[None, first:last])[0], -1).numpy()
        return out

    if mode == "ring":  # one forward with the window mask is a ring rollout
        return forward(0, T)
    starts = [context_start(config, mode, t + 1, keep) for t in range(T)]
    for start in sorted(set(starts)):
        steps = [t for t in range(T) if starts[t] == start]
        rows = forward(start, steps[-1] + 1)
        result[steps] = rows[[t - start for t in steps]]
    return result


def largest_error(found: NDArray[Any], expected: NDArray[np.float64]) -> float:
    """Return max |ln p - ln p_ref| over the states with p_ref >= 1e-7."""
    difference = np.abs(np.asarray(found, np.float64) - expected)
    return float(difference[expected >= _LN_RARE].max())


def verify(
    files: ModelFiles,
    log_probs: Callable[[NDArray[np.int64]], NDArray[Any]],
    *,
    mode: str,
    n_tokens: int,
    tolerance: float = TOLERANCE,
    who: str = "the sampler",
    seed: int = 0,
) -> float:
    """Return the largest error of ``log_probs(tokens) -> (T, n_states)`` against the float64 reference.

    Raises
    ------
    VerificationError
        If it exceeds `tolerance`.
    """
    tokens = np.random.default_rng(seed).integers(0, files.config.n_states, n_tokens)
    error = largest_error(log_probs(tokens), reference_log_probs(files, tokens, mode))
    if not error <= tolerance:
        raise VerificationError(
            f"{who} differs from the reference: |ln p - ln p_ref| = {error:.2g} > {tolerance:g} (mode {mode})"
        )
    return error
