"""The environment variable NANOMD_BACKEND: one name for two kinds of work, of which each heeds what concerns it."""

from __future__ import annotations

import logging
import os

from nanomd.base.errors import InputError

VARIABLE = "NANOMD_BACKEND"
BACKENDS = {  # of rollouts, and of the operations of training
    "rollouts": ("auto", "reference", "cpu", "cuda"),
    "training": ("auto", "reference", "triton"),
}

_LOG = logging.getLogger("nanomd")
_said: set[str] = set()


def choose_backend(work: str, asked: str) -> str:
    """Return the name of the backend to use: what NANOMD_BACKEND says, if that is one of this kind of work's.

    A name of the other kind is ignored, which the log says once.

    Parameters
    ----------
    work : str
        ``"rollouts"`` or ``"training"``.
    asked : str
        The argument of the caller.

    Raises
    ------
    InputError
        For a name of neither kind, in the variable or from the caller.
    """
    known = BACKENDS[work]
    named = os.environ.get(VARIABLE, "")
    if named in known:
        return named
    if named:
        others = sorted({name for names in BACKENDS.values() for name in names})
        if named not in others:
            raise InputError(f"{VARIABLE} must be one of {', '.join(others)}, got {named!r}; correct or unset it")
        if work not in _said:
            _said.add(work)
            _LOG.warning("%s=%s does not concern %s, whose backend is %s", VARIABLE, named, work, asked)
    if asked not in known:
        raise InputError(f"backend must be one of {', '.join(known)}, got {asked!r}")
    return asked
