"""The only way to the compiled core.

Arrays are checked here once, with friendly errors; the core checks again defensively.
"""

from __future__ import annotations

from nanomd._native.clustering import lloyd
from nanomd._native.core import core_file
from nanomd._native.counting import (
    Blocks,
    Derived,
    count_passages,
    count_stays,
    count_transitions,
    count_visits,
    project_transitions,
)
from nanomd._native.dynamics import four_state_potential, simulate_four_state
from nanomd._native.engine import NativeCudaEngine, NativeEngine, NativeSession
from nanomd._native.observables import NativeObservables, ObservablesSpec, observables_layout
from nanomd._native.parts import (
    available_isas,
    cuda_info,
    exp_array,
    instruction_set,
    philox,
    rollout_uniform,
    sample_counts,
)
from nanomd._native.training import NativeTrainingStep, sweep_output
from nanomd._native.walkers import Histories, NativeWalkers, resample_walkers

__all__ = [
    "Blocks",
    "Derived",
    "Histories",
    "NativeCudaEngine",
    "NativeEngine",
    "NativeObservables",
    "NativeSession",
    "NativeTrainingStep",
    "NativeWalkers",
    "ObservablesSpec",
    "available_isas",
    "core_file",
    "count_passages",
    "count_stays",
    "count_transitions",
    "count_visits",
    "cuda_info",
    "exp_array",
    "four_state_potential",
    "instruction_set",
    "lloyd",
    "observables_layout",
    "philox",
    "project_transitions",
    "resample_walkers",
    "rollout_uniform",
    "sample_counts",
    "simulate_four_state",
    "sweep_output",
]
