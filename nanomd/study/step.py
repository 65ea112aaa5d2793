"""What every verb does around its work: take the lock, decide whether there is work to do, time and record it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from nanomd.study.folder import RunFolder


class Step:
    """A verb at work in a run folder.

    Attributes
    ----------
    done : bool
        The folder already holds this very result: there is nothing to do.
    inputs : dict of str to str
        Name and SHA-256 of every input.
    record : dict
        What provenance.json gets beside settings and inputs. ``seconds`` replaces the time taken here, for work that
        was begun by an earlier process.
    """

    def __init__(self, folder: RunFolder, stage: str, inputs: Mapping[str, str]) -> None:
        self.inputs, self.record = dict(inputs), dict[str, Any]()
        self.done = False
        self.notes = ""  # lines on stale results that this one was made from, to be shown below the text
        self._name = f"{stage}: {folder.path}"
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the work began."""
        return time.perf_counter() - self._start

    def nothing_to_do(self, where: object = "") -> str:
        """Return what is said where the result is there already."""
        return f"{self._name} already holds this result; nothing to do{f': {where}' if where else ''}{self.notes}"


@contextmanager
def begin_step(
    folder: RunFolder,
    stage: str,
    settings: Mapping[str, Any],
    inputs: Callable[[], Mapping[str, str]] = dict,
    *,
    force: bool = False,
    resume: bool = False,
) -> Iterator[Step]:
    """Hold the folder, and record the step as finished when the block ends without an error.

    Parameters
    ----------
    folder : RunFolder
        Where.
    stage : str
        One of `nanomd.study.folder.STAGES`.
    settings : mapping
        Everything that the result depends on, plain values.
    inputs : callable
        Returns name and SHA-256 of every input; called while the lock is held, so that nobody changes them meanwhile.
    force, resume : bool
        Flags of the user; see `RunFolder.begin`.

    Yields
    ------
    Step
        Look at `Step.done` first.
    """
    with folder.lock():
        step = Step(folder, stage, inputs())
        step.done = not folder.begin(stage, settings, step.inputs, force=force, resume=resume)
        step.notes = "".join(f"\n{note}" for note in folder.stale_notes(stage, itself=step.done))
        yield step
        if not step.done:
            seconds = step.record.pop("seconds", step.seconds)
            folder.finish(stage, settings, step.inputs, seconds, **step.record)
