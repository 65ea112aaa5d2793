"""Errors that say what is wrong, the value, and the remedy, in one sentence.

The command line prints any `NanomdError` as one line and exits with code 2.
"""

from __future__ import annotations


class NanomdError(Exception):
    """Base of every error that nanomd raises on purpose."""


class InputError(NanomdError, ValueError):
    """An argument, file or configuration that cannot be used."""


class BackendUnavailableError(NanomdError, RuntimeError):
    """A backend was asked for by name, and cannot run here or cannot run this model."""


class StoreError(NanomdError, RuntimeError):
    """A run folder or token store that is damaged, busy, or cannot be written."""


class CancelledError(NanomdError, RuntimeError):
    """Work that the caller's own ``cancel`` stopped."""


class NanomdWarning(UserWarning):
    """Something that was done as asked, and may not be what was meant."""


def one_line(error: BaseException) -> str:
    """Return the words of another library's error as one line of bounded length."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    text = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
    return text if len(text) <= 300 else f"{text[:300]} ..."


def shown(value: object) -> str:
    """Return the repr of a value, shortened where it is long."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]} ..."
