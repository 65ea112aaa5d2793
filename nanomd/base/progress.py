"""Progress of long work: a bar where a person watches, a line now and then where none does."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

EVERY = 60.0  # seconds between two lines where there is no terminal


class Progress(Protocol):
    """What long work reports to: a callable `update(n)`, a one-line note, and an end."""

    def update(self, n: float = 1) -> object:
        """Advance by `n` units."""

    def note(self, text: str) -> None:
        """Show a short text behind the bar, such as the current loss."""

    def close(self) -> None:
        """Finish the bar."""


class _Silent:
    def update(self, n: float = 1) -> object:  # noqa: ARG002
        return None

    def note(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


class _Bar:
    def __init__(self, total: float, description: str, unit: str) -> None:
        try:
            if not _in_notebook():
                raise ImportError
            import ipywidgets  # noqa: F401
            from tqdm.auto import tqdm  # a notebook has bars of its own
        except ImportError:
            from tqdm import tqdm

        self._bar = tqdm(total=total, desc=description, unit=unit, unit_scale=True, dynamic_ncols=True, smoothing=0.1)

    def update(self, n: float = 1) -> object:
        return self._bar.update(n)

    def skip(self, n: float) -> None:
        """Count work that was done earlier, without taking it for speed."""
        self._bar.initial += n
        self._bar.n += n
        self._bar.last_print_n += n
        self._bar.refresh()

    def expect(self, total: float) -> None:
        """Change the amount of work."""
        self._bar.total = total
        self._bar.refresh()

    def note(self, text: str) -> None:
        self._bar.set_postfix_str(text)

    def close(self) -> None:
        self._bar.close()


class _Lines:
    """One line every so often: what is done, how much is left, and the latest note. Short work says nothing."""

    def __init__(self, total: float, description: str, unit: str, stream: TextIO) -> None:
        self._total, self._description, self._unit, self._stream = total, description, unit, stream
        self._done = self._skipped = 0.0
        self._note = ""
        self._start = self._said = time.monotonic()

    def update(self, n: float = 1) -> object:
        self._done += n
        self._speak()
        return None

    def skip(self, n: float) -> None:
        """Count work that was done earlier, without taking it for speed."""
        self._done += n
        self._skipped += n

    def expect(self, total: float) -> None:
        """Change the amount of work."""
        self._total = total

    def note(self, text: str) -> None:
        self._note = text
        self._speak()  # work that does not advance is work too, such as the last fit of a training

    def close(self) -> None:
        pass

    def _speak(self) -> None:
        now = time.monotonic()
        if now - self._said >= EVERY:
            self._said = now
            self._say(now - self._start)

    def _say(self, seconds: float) -> None:
        speed = (self._done - self._skipped) / seconds
        share = f", {100 * self._done / self._total:.0f} %" if self._total else ""
        rest = self._total - self._done
        left = f", {_duration(rest / speed)} left" if speed > 0 and rest > 0 else ""
        text = f"{self._description}: {self._done:,.0f} of {self._total:,.0f} {self._unit}s{share}{left}"
        print(text + (f"; {self._note}" if self._note else ""), file=self._stream, flush=True)


def _duration(seconds: float) -> str:
    """Write a time in its one or two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes >= 10 else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def skip(progress: Progress, n: float) -> None:
    """Advance by work that an earlier process did: bars that can leave it out of their speed."""
    getattr(progress, "skip", progress.update)(n)


def expect(progress: Progress, total: float) -> None:
    """Tell a bar that can change it how much work there is after all."""
    change = getattr(progress, "expect", None)
    if change is not None:
        change(total)


def progress_bar(total: float, description: str, unit: str = "step", enabled: bool | None = None) -> Progress:
    """Return what reports progress on standard error.

    Parameters
    ----------
    total : float
        The amount of work, in `unit`.
    description : str
        What is being done, shown before the bar.
    unit : str
        The unit of the speed shown behind the bar.
    enabled : bool, optional
        Force the bar on, or all output off; by default a bar on a terminal and in a notebook, elsewhere a line every
        `EVERY` seconds.
    """
    if enabled is False:
        return _Silent()
    if enabled or sys.stderr.isatty() or _in_notebook():
        return _Bar(total, description, unit)
    return _Lines(total, description, unit, sys.stderr)


@contextmanager
def reporting(
    progress: Progress | bool | None, total: float, description: str, unit: str = "step"
) -> Iterator[Progress]:
    """Yield what a caller gave to report to.

    True stands for a bar of its own, False for nothing, and None for a line every `EVERY` seconds, of long work only.
    """
    if not isinstance(progress, bool | None):
        yield progress
        return
    bar = (
        _Lines(total, description, unit, sys.stderr)
        if progress is None
        else progress_bar(total, description, unit, progress)
    )
    try:
        yield bar
    finally:
        bar.close()


def _in_notebook() -> bool:
    """Tell whether this process is the kernel of a notebook; others may have loaded the package."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")
