"""Which implementation of an operation runs: named, checked, and never silently another one.

An operation ("attention", "sample_mix", ...) has implementations in order of preference, each with its requirements.
`backend = "triton"` or `"reference"` by name must work or raise; `"auto"` takes the first that can run and says once,
in the log `nanomd.kernels`, why it passed over a faster one. The environment variable NANOMD_BACKEND, if it names a
training backend, overrides the argument.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from nanomd.base.backends import BACKENDS, choose_backend
from nanomd.base.errors import BackendUnavailableError, InputError

_log = logging.getLogger("nanomd.kernels")


@dataclass(frozen=True)
class Request:
    """What an operation is asked to run on.

    Parameters
    ----------
    device
        Device of the tensors.
    dtype
        Floating-point type of the tensors.
    sizes
        Named sizes that an implementation may limit, for example ``{"d_head": 32}``.
    """

    device: torch.device
    dtype: torch.dtype
    sizes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Implementation:
    """One way to compute an operation.

    Parameters
    ----------
    op, name
        The operation, and the backend's name.
    load
        Returns the function itself; called on first use, so that Triton is imported only where it runs.
    refuse
        Maps a request to the reason it cannot run, or None if it can.
    """

    op: str
    name: str
    load: Callable[[], Callable[..., Any]]
    refuse: Callable[[Request], str | None]

    @property
    def run(self) -> Callable[..., Any]:
        """The function, imported now if it was not yet."""
        if self.load not in _loaded:
            _loaded[self.load] = self.load()
        return _loaded[self.load]


_operations: dict[str, list[Implementation]] = {}
_said: set[tuple[str, str]] = set()
# A dictionary, where functools.cache would draw a warning from torch.compile, which traces through here.
_loaded: dict[Callable[[], Callable[..., Any]], Callable[..., Any]] = {}
_HAS_TRITON = importlib.util.find_spec("triton") is not None


def register(
    op: str,
    name: str,
    load: Callable[[], Callable[..., Any]],
    refuse: Callable[[Request], str | None] = lambda request: None,  # noqa: ARG005
) -> None:
    """Add an implementation after those that `op` has already: the first registered is the first that auto tries."""
    names = BACKENDS["training"][1:]
    if name not in names:
        raise InputError(f"an implementation's name must be one of {', '.join(names)}, got {name!r}")
    known = _operations.setdefault(op, [])
    if any(one.name == name for one in known):
        raise InputError(f"{op} has an implementation named {name} already; every name is registered once")
    known.append(Implementation(op, name, load, refuse))


def operations() -> tuple[str, ...]:
    """Names of the registered operations."""
    return tuple(_operations)


def implementations(op: str) -> tuple[Implementation, ...]:
    """Return the implementations of `op`, the preferred one first."""
    if op not in _operations:
        raise InputError(f"operation must be one of {', '.join(_operations)}, got {op!r}")
    return tuple(_operations[op])


def resolve(op: str, backend: str, request: Request) -> Implementation:
    """Choose the implementation of `op` for a request.

    Raises
    ------
    InputError
        If the operation or the backend's name is unknown.
    BackendUnavailableError
        If a backend asked for by name cannot run the request; the message lists what is available and why.
    """
    candidates = implementations(op)
    backend = choose_backend("training", backend)
    refusals = {one.name: one.refuse(request) for one in candidates}
    if backend == "auto":
        for one in candidates:
            reason = refusals[one.name] or _not_by_itself(one.name)
            if reason is None:
                return one
            _say_once(op, f"{op}: {one.name} is not used: {reason}")
    else:
        for one in candidates:
            if one.name == backend and refusals[backend] is None:
                return one
    listing = "; ".join(f"{name}: {reason or 'available'}" for name, reason in refusals.items())
    raise BackendUnavailableError(
        f'{op} cannot run with backend="{backend}" ({listing}); choose an available one or "auto"'
    )


def describe(request: Request) -> dict[str, dict[str, str | None]]:
    """Say for every operation and implementation why it cannot run the request (None: it can)."""
    return {op: {one.name: one.refuse(request) for one in known} for op, known in _operations.items()}


def _not_by_itself(name: str) -> str | None:
    if name == "triton" and interpreting():
        return "Triton interprets its kernels in this process (TRITON_INTERPRET), which is for tests only"
    return None


def _say_once(op: str, message: str) -> None:
    if (op, message) not in _said:
        _said.add((op, message))
        _log.info(message)


# ---- requirements that several operations share


def interpreting() -> bool:
    """Whether Triton kernels run in its interpreter in this process (TRITON_INTERPRET=1, on CPU tensors, for tests)."""
    return os.environ.get("TRITON_INTERPRET", "") in ("1", "true", "on")


def refuse_triton(request: Request, dtypes: tuple[torch.dtype, ...]) -> str | None:
    """Return why Triton cannot run on a request's device and type, or None."""
    if not _HAS_TRITON:
        return "triton is not installed; install the version in constraints.txt"
    if request.device.type != "cuda" and not interpreting():
        return f"it needs tensors on a CUDA device, these are on {request.device}"
    if request.device.type == "cuda" and torch.cuda.get_device_capability(request.device) < (8, 0):
        return "it needs compute capability 8.0 or later"
    if request.dtype not in dtypes:
        return f"it takes {', '.join(map(str, dtypes))}, got {request.dtype}"
    return None
