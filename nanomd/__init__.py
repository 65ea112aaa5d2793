"""nanomd learns long-time dynamics from molecular dynamics, and generates million-step trajectories.

Public names are loaded when they are first used, so that ``import nanomd`` takes milliseconds and imports no torch.
"""

from __future__ import annotations

import os.path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if os.path.exists(os.path.join(os.path.dirname(__file__), "modules", "detectMod.py")):  # noqa: PTH110, PTH118, PTH120
    raise ImportError(
        "the package `nanomd` of the index, tools for nanopore sequencing, has put its files among those of "
        f"nanomd-kinetics in {os.path.dirname(__file__)}; remove both and install ours anew: "  # noqa: PTH120
        "pip uninstall nanomd nanomd-kinetics; pip install nanomd-kinetics"
    )

_PUBLIC = {
    "ConditionalGPTEstimator": "nanomd.conditional",
    "ConditionalModel": "nanomd.conditional",
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
    "constrain": "nanomd.caliber",
    "load_dtrajs": "nanomd.data.dtrajs",
    "load_model": "nanomd.estimator",
    "merge_parts": "nanomd.rollout.parts",
    "validate": "nanomd.kinetics",
}

_MODULES = ("baselines", "caliber", "conditional", "experiments", "interpret", "kinetics", "plots", "report", "systems")

__all__ = ["__version__", *_MODULES, *_PUBLIC]

if TYPE_CHECKING:
    from nanomd import baselines, caliber, conditional, experiments, interpret, kinetics, plots, report, systems
    from nanomd.base.config import ModelConfig, RolloutConfig, TrainConfig
    from nanomd.base.errors import InputError, NanomdError
    from nanomd.base.units import FrameInterval
    from nanomd.caliber import constrain
    from nanomd.conditional import ConditionalGPTEstimator, ConditionalModel
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
    module = f"nanomd.{name}" if name in _MODULES else _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module 'nanomd' has no attribute {name!r}")
    from nanomd.base.extras import load

    found = load(module)
    if name in _MODULES:
        return found
    value = getattr(found, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List public names, loaded or not."""
    return sorted(__all__)
