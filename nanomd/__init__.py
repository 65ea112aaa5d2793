"""nanomd learns long-time dynamics from molecular dynamics, and generates million-step trajectories.

Public names are loaded when they are first used, so that ``import nanomd`` takes milliseconds and imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "FrameInterval": "nanomd.base.units",
    "GPTEstimator": "nanomd.estimator",
    "GPTModel": "nanomd.estimator",
    "InputError": "nanomd.base.errors",
    "ModelConfig": "nanomd.base.config",
    "NanomdError": "nanomd.base.errors",
    "Observables": "nanomd.rollout.observables",
    "Rollout": "nanomd.rollout.sampler",
    "RolloutConfig": "nanomd.base.config",
    "Sampler": "nanomd.rollout.sampler",
    "StateMap": "nanomd.data.states",
    "Tokenizer": "nanomd.tokenize",
    "TrainConfig": "nanomd.base.config",
    "load_dtrajs": "nanomd.data.dtrajs",
    "load_model": "nanomd.estimator",
    "merge_parts": "nanomd.rollout.parts",
    "validate": "nanomd.kinetics",
}

_MODULES = ("baselines", "experiments", "interpret", "kinetics", "plots", "report", "systems")

__all__ = ["__version__", *_MODULES, *_PUBLIC]

if TYPE_CHECKING:
    from nanomd import baselines, experiments, interpret, kinetics, plots, report, systems
    from nanomd.base.config import ModelConfig, RolloutConfig, TrainConfig
    from nanomd.base.errors import InputError, NanomdError
    from nanomd.base.units import FrameInterval
    from nanomd.data.dtrajs import load_dtrajs
    from nanomd.data.states import StateMap
    from nanomd.estimator import GPTEstimator, GPTModel, load_model
    from nanomd.kinetics import validate
    from nanomd.rollout.observables import Observables
    from nanomd.rollout.parts import merge_parts
    from nanomd.rollout.sampler import Rollout, Sampler
    from nanomd.tokenize import Tokenizer


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
