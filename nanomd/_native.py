"""The only importer of the compiled core.

Arrays are checked here once, with friendly errors; `_core` checks again defensively.
"""

from __future__ import annotations

from typing import Any

try:
    from nanomd import _core
except ImportError as error:  # pragma: no cover
    raise ImportError(
        "the compiled core nanomd._core is missing: install the package (`pip install .`) instead of importing the source tree"
    ) from error


def cuda_info() -> dict[str, Any]:
    """Return ``{"built": bool, "devices": [...], "reason": str}``: what CUDA this build and machine offer."""
    info: dict[str, Any] = _core.cuda_info()
    return info


# Random numbers


def rollout_uniform(seed: int, step: int, trajectory: int) -> float:
    """Return the uniform in [0, 1) that draws the state of one step of one trajectory, the same in every engine."""
    value: float = _core.rollout_uniform(seed, step, trajectory)
    return value
