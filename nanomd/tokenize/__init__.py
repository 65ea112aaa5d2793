"""From molecular dynamics files to discrete trajectories, and back to structures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["BackboneTorsions", "Contacts", "Distances", "Tokenizer"]

if TYPE_CHECKING:
    from nanomd.tokenize.features import BackboneTorsions, Contacts, Distances
    from nanomd.tokenize.tokenizer import Tokenizer


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in __all__:
        raise AttributeError(f"module 'nanomd.tokenize' has no attribute {name!r}")
    from importlib import import_module

    module = import_module(f"nanomd.tokenize.{'tokenizer' if name == 'Tokenizer' else 'features'}")
    value = getattr(module, name)
    globals()[name] = value
    return value
