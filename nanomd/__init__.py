"""nanomd learns long-time dynamics from molecular dynamics, and generates million-step trajectories.

Public names are loaded when they are first used, so that ``import nanomd`` takes milliseconds and imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "FrameInterval": "nanomd.units",
    "GPTEstimator": "nanomd.estimator",
    "GPTModel": "nanomd.estimator",
    "InputError": "nanomd.errors",
    "ModelConfig": "nanomd.config",
    "NanomdError": "nanomd.errors",
    "Observables": "nanomd.observables",
    "Rollout": "nanomd.rollout",
    "RolloutConfig": "nanomd.config",
    "Sampler": "nanomd.rollout",
    "StateMap": "nanomd.dtrajs",
    "Tokenizer": "nanomd.tokenize",
    "TrainConfig": "nanomd.config",
    "load_dtrajs": "nanomd.dtrajs",
    "load_model": "nanomd.estimator",
    "merge_parts": "nanomd.parts",
    "validate": "nanomd.kinetics",
}

_MODULES = ("interpret",)

__all__ = ["__version__", *_MODULES, *_PUBLIC]

if TYPE_CHECKING:
    from nanomd import interpret
    from nanomd.config import ModelConfig, RolloutConfig, TrainConfig
    from nanomd.dtrajs import StateMap, load_dtrajs
    from nanomd.errors import InputError, NanomdError
    from nanomd.estimator import GPTEstimator, GPTModel, load_model
    from nanomd.kinetics import validate
    from nanomd.observables import Observables
    from nanomd.parts import merge_parts
    from nanomd.rollout import Rollout, Sampler
    from nanomd.tokenize import Tokenizer
    from nanomd.units import FrameInterval


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name in _MODULES:
        return import_module(f"nanomd.{name}")
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module 'nanomd' has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List public names, loaded or not."""
    return sorted(__all__)
