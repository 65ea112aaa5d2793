"""What a trained model has learnt: attention by lag, causal tracing, memory length, distances between states.

Each number says something about the model, and about the dynamics only as far as the model has learnt it; see
docs/interpretation.md. Names are loaded when they are first used: importing this package imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nanomd.base.extras import load

_PUBLIC = {
    "AttentionByLag": "results",
    "CausalTracing": "results",
    "Interpretation": "results",
    "KineticDistances": "results",
    "MemoryLength": "results",
    "attention_by_lag": "attention",
    "attention_maps": "attention",
    "causal_tracing": "tracing",
    "interpret_model": "whole",
    "kinetic_distances": "distances",
    "memory_length": "memory",
}

__all__ = [
    "AttentionByLag",
    "CausalTracing",
    "Interpretation",
    "KineticDistances",
    "MemoryLength",
    "attention_by_lag",
    "attention_maps",
    "causal_tracing",
    "interpret_model",
    "kinetic_distances",
    "memory_length",
]

if TYPE_CHECKING:
    from nanomd.interpret.attention import attention_by_lag, attention_maps
    from nanomd.interpret.distances import kinetic_distances
    from nanomd.interpret.memory import memory_length
    from nanomd.interpret.results import (
        AttentionByLag,
        CausalTracing,
        Interpretation,
        KineticDistances,
        MemoryLength,
    )
    from nanomd.interpret.tracing import causal_tracing
    from nanomd.interpret.whole import interpret_model


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module 'nanomd.interpret' has no attribute {name!r}")
    value = getattr(load(f"nanomd.interpret.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List public names, loaded or not."""
    return sorted(__all__)
