"""Where a step works while an older result stays in its place, and how the new one takes that place.

The new outputs lie in ``run/.STAGE.new/`` under the names that they will have. An output that is a link to a folder,
such as ``generated -> /scratch/generated``, stays one: its new content lies beside what the link points to, on the same
disk. Exchanging the two is a list of renames that can be repeated from any point at which a process was killed.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from nanomd.base.files import fsync


class Staging:
    """The new outputs of one step.

    Parameters
    ----------
    run : Path
        The run folder.
    stage : str
    outputs : sequence of str
        Names of the step's files and folders, relative to the run folder.
    """

    def __init__(self, run: Path, stage: str, outputs: Sequence[str]) -> None:
        self.run, self.outputs = run, tuple(outputs)
        self.path = run / f".{stage}.new"

    @property
    def exists(self) -> bool:
        """Whether a step works, or was killed at work, in here."""
        return self.path.is_dir()

    def make(self) -> None:
        """Begin empty."""
        self.discard()
        self.path.mkdir()
        for name in self.outputs:
            new = self.path / name
            new.parent.mkdir(parents=True, exist_ok=True)
            if (self.run / name).is_symlink():
                target = _beside(_real(self.run / name), "new")
                remove(target)
                target.mkdir(parents=True)
                new.symlink_to(target)

    def discard(self) -> None:
        """Remove the new outputs."""
        for name in self.outputs:
            if (self.path / name).is_symlink():
                remove(_beside(_real(self.run / name), "new"))
        remove(self.path)

    def made(self) -> list[str]:
        """Return the names of the outputs that are there."""
        return [name for name in self.outputs if is_filled(self.path / name)]

    def exchange(self, made: Sequence[str]) -> None:
        """Put the new outputs `made` in the place of the old ones, and remove all others; from wherever it was left."""
        for name in self.outputs:
            place = _real(self.run / name)
            new = _beside(place, "new") if (self.path / name).is_symlink() else self.path / name
            old = _beside(place, "old")
            if name not in made:
                remove(place)
            elif new.exists():
                if place.exists():
                    remove(old)
                    place.rename(old)
                place.parent.mkdir(parents=True, exist_ok=True)
                new.rename(place)
                fsync(place.parent)
            remove(old)
        self.discard()


def is_filled(path: Path) -> bool:
    """Whether a file is there, or a folder with anything but hidden files."""
    return any(not p.name.startswith(".") for p in path.iterdir()) if path.is_dir() else path.exists()


def make_link_targets(paths: Sequence[Path]) -> None:
    """Make the folders that links among `paths` point to, where they are missing."""
    for path in paths:
        if path.is_symlink() and not path.exists():
            path.resolve().mkdir(parents=True)


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all in it; nothing if it is absent."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _real(path: Path) -> Path:
    return path.resolve() if path.is_symlink() else path


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{kind}")
