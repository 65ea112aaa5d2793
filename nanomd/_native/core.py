"""The compiled core itself, and its errors turned into those of nanomd. Nothing else imports `nanomd._core`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from nanomd.base.errors import BackendUnavailableError, InputError

try:
    CORE: Any = import_module("nanomd._core")  # compiled: it has no types to check
except ImportError as error:  # pragma: no cover
    raise ImportError(
        "the compiled core nanomd._core is missing: install the package (`pip install .`), not its source tree"
    ) from error


def core_file() -> str:
    """Return the path of the compiled core, which tells one build from another."""
    return str(CORE.__file__)


@contextmanager
def core_errors() -> Iterator[None]:
    """Turn the core's errors into those of nanomd."""
    try:
        yield
    except CORE.CoreInputError as error:
        raise InputError(str(error)) from None
    except CORE.CoreUnsupportedError as error:
        raise BackendUnavailableError(str(error)) from None
    except MemoryError:
        raise InputError("not enough memory for the caches of this model; use fewer trajectories at a time") from None
