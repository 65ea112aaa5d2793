"""NVTX ranges for profilers; a no-op where nvtx is absent."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

try:
    import nvtx as _nvtx
except ImportError:
    _nvtx = None


def annotate(name: str) -> AbstractContextManager[object]:
    """Return a context manager that marks a named range, ``with annotate("pass 1"): ...``."""
    if _nvtx is None:
        return nullcontext()
    return _nvtx.annotate(name)  # type: ignore[no-any-return]
