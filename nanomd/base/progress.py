"""Progress bars on long work, silent where nobody watches."""

from __future__ import annotations

import sys
from typing import Protocol


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


def skip(progress: Progress, n: float) -> None:
    """Advance by work that an earlier process did: bars that can leave it out of their speed."""
    getattr(progress, "skip", progress.update)(n)


def expect(progress: Progress, total: float) -> None:
    """Tell a bar that can change it how much work there is after all."""
    change = getattr(progress, "expect", None)
    if change is not None:
        change(total)


def progress_bar(total: float, description: str, unit: str = "step", enabled: bool | None = None) -> Progress:
    """Return a progress bar on standard error.

    Parameters
    ----------
    total : float
        The amount of work, in `unit`.
    description : str
        What is being done, shown before the bar.
    unit : str
        The unit of the speed shown behind the bar.
    enabled : bool, optional
        Force the bar on or off; by default it is shown only on a terminal.
    """
    if enabled is None:
        enabled = sys.stderr.isatty()
    return _Bar(total, description, unit) if enabled else _Silent()
