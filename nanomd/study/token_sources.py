"""Where discrete trajectories come from: one class a kind of source, all with the same few members.

Here files of any molecular dynamics and ready-made trajectories; `nanomd.study.known_systems` has the others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nanomd.base.paths import by_folder
from nanomd.base.units import FrameInterval

if TYPE_CHECKING:
    from numpy.typing import NDArray

Reduction = Literal["tica", "vamp"] | None


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What applies to every kind of source."""

    n_states: int | None
    stride: int
    seed: int
    frame_interval: str | FrameInterval | None
    progress: bool | None

    def settings(self) -> dict[str, Any]:
        """Return what the result depends on."""
        interval = None if self.frame_interval is None else str(FrameInterval.parse(self.frame_interval))
        return {"seed": self.seed, "stride": self.stride, "frame_interval": interval}

    @property
    def number(self) -> dict[str, Any]:
        """The number of states as an argument, absent where it was not chosen."""
        return {} if self.n_states is None else {"n_states": self.n_states}

    def between_frames(self, of_files: str | FrameInterval | None = None) -> FrameInterval:
        """Return the time between the frames that are used; the files' own where the user gave none."""
        interval = FrameInterval.parse(self.frame_interval if self.frame_interval is not None else of_files)
        return FrameInterval(interval.value * self.stride, interval.unit) if self.stride > 1 else interval


class TokenSource(ABC):
    """Trajectories that can be had as sequences of states."""

    files: list[Path]
    choices: Choices

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What the result depends on beside the files, plain values."""

    @abstractmethod
    def make(self, part: Path) -> tuple[list[NDArray[np.int64]], FrameInterval]:
        """Return discrete trajectories and the time between their frames; a tokenizer is saved in `part`."""


@dataclass(frozen=True)
class MDFiles(TokenSource):
    """Trajectory files with a topology, which comes first in `files`."""

    files: list[Path]
    choices: Choices
    features: str
    reduction: Reduction
    lagtime: int | None
    n_components: int | None
    join_folders: bool

    @property
    def settings(self) -> dict[str, Any]:
        """See `TokenSource`."""
        return {
            "features": self.features,
            "reduction": self.reduction,
            "lagtime": self.lagtime,
            "n_components": self.n_components,
            "n_states": self._n_states,
            "top": str(self.files[0]),
            **({"join_folders": True} if self.join_folders else {}),
            **self.choices.settings(),
        }

    @property
    def _n_states(self) -> int:
        return 100 if self.choices.n_states is None else self.choices.n_states

    def make(self, part: Path) -> tuple[list[NDArray[np.int64]], FrameInterval]:
        """See `TokenSource`."""
        from nanomd.tokenize import Tokenizer

        options = {"lagtime": self.lagtime, "n_components": self.n_components}
        tokenizer = Tokenizer(
            self.features,
            reduction=self.reduction,
            n_states=self._n_states,
            seed=self.choices.seed,
            frame_interval=self.choices.frame_interval,
            progress=self.choices.progress,
            **{name: value for name, value in options.items() if value is not None},
        )
        topology, *files = self.files
        dtrajs = tokenizer.fit_transform(
            topology, by_folder(files) if self.join_folders else files, self.choices.stride
        )
        tokenizer.save(part / "tokenizer")
        return dtrajs, tokenizer.frame_interval


@dataclass(frozen=True)
class ReadyMade(TokenSource):
    """Discrete trajectories that were made elsewhere."""

    files: list[Path]
    choices: Choices

    @property
    def settings(self) -> dict[str, Any]:
        """See `TokenSource`."""
        return {"dtrajs": True, **self.choices.settings()}

    def make(self, part: Path) -> tuple[list[NDArray[np.int64]], FrameInterval]:  # noqa: ARG002
        """See `TokenSource`."""
        from nanomd.data.dtrajs import load_dtrajs

        dtrajs = load_dtrajs([str(path) for path in self.files])
        return [labels[:: self.choices.stride] for labels in dtrajs], self.choices.between_frames()
