"""The only importer of the compiled core.

Arrays are checked here once, with friendly errors; `_core` checks again defensively.
"""

from __future__ import annotations

from typing import Any

try:
    from nanomd import _core
except ImportError as error:  # pragma: no cover
    raise ImportError(
        "the compiled core nanomd._core is missing: install the package (`pip install .`), not its source tree"
    ) from error


def cuda_info() -> dict[str, Any]:
    """Return ``{"built": bool, "devices": [...], "reason": str}``: what CUDA this build and machine offer."""
    info: dict[str, Any] = _core.cuda_info()
    return info
