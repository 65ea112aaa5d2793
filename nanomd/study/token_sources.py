"""Where discrete trajectories come from: one class a kind of source, all with the same few members.

Here files of any molecular dynamics and ready-made trajectories; `nanomd.study.known_systems` has the others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from nanomd.base.paths import by_folder
from nanomd.base.units import Duration, FrameInterval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nanomd.tokenize import Tokenizer

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

    @property
    def microstates(self) -> int:
        """The number of states of a clustering."""
        return 100 if self.n_states is None else self.n_states

    def between_frames(self, of_files: str | FrameInterval | None = None) -> FrameInterval:
        """Return the time between the frames that are used; the files' own where the user gave none."""
        return FrameInterval.parse(of_files if self.frame_interval is None else self.frame_interval).times(self.stride)


class Tokens(NamedTuple):
    """Trajectories as sequences of states.

    Parameters
    ----------
    dtrajs : list of int64 arrays, shape (n_frames,)
    interval : FrameInterval
        Between frames.
    coordinates : float64 array, shape (n_labels, n_coordinates), or None
        Where each state lies, row k that of label k; NaN where there is no frame. None where only labels are known.
    """

    dtrajs: list[NDArray[np.int64]]
    interval: FrameInterval
    coordinates: NDArray[np.float64] | None = None


class TokenSource(ABC):
    """Trajectories that can be had as sequences of states."""

    files: list[Path]
    choices: Choices

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What the result depends on beside the files, plain values."""

    @abstractmethod
    def make(self, part: Path) -> Tokens:
        """Return discrete trajectories and what belongs to them; a tokenizer is saved in `part`."""


@dataclass(frozen=True)
class Measured:
    """What is measured on MD frames: see `nanomd.tokenize.features.make_feature`."""

    features: str
    select: str | None = None
    min_separation: int | None = None
    periodic: bool = True

    @property
    def chosen(self) -> bool:
        """Whether something was asked for that only MD files have."""
        return self.select is not None or self.min_separation is not None or not self.periodic

    def settings(self) -> dict[str, Any]:
        """Return what the result depends on; what was not chosen is left out."""
        chosen = {"select": self.select, "min_separation": self.min_separation}
        given = {name: value for name, value in chosen.items() if value is not None}
        return {"features": self.features, **given, **({} if self.periodic else {"periodic": False})}


@dataclass(frozen=True)
class Coordinates:
    """The slow coordinates in which frames are clustered; None stands for the default of `Tokenizer`."""

    reduction: Reduction = None
    lagtime: Duration | None = None
    n_components: int | None = None

    def settings(self) -> dict[str, Any]:
        """Return what the result depends on."""
        return {"reduction": self.reduction, "lagtime": self.lagtime, "n_components": self.n_components}


def _tokenizer(features: Any, coordinates: Coordinates, choices: Choices) -> Tokenizer:
    from nanomd.tokenize import Tokenizer

    return Tokenizer(
        features,
        n_states=choices.microstates,
        seed=choices.seed,
        frame_interval=choices.frame_interval,
        progress=choices.progress,
        **{name: value for name, value in coordinates.settings().items() if value is not None},
    )


@dataclass(frozen=True)
class MDFiles(TokenSource):
    """Trajectory files with a topology, which comes first in `files`."""

    files: list[Path]
    choices: Choices
    measured: Measured
    coordinates: Coordinates
    join_folders: bool

    @property
    def settings(self) -> dict[str, Any]:
        """See `TokenSource`."""
        return {
            **self.measured.settings(),
            **self.coordinates.settings(),
            "n_states": self.choices.microstates,
            "top": str(self.files[0]),
            **({"join_folders": True} if self.join_folders else {}),
            **self.choices.settings(),
        }

    def make(self, part: Path) -> Tokens:
        """See `TokenSource`."""
        from nanomd.tokenize.features import make_feature

        wanted = self.measured
        feature = make_feature(
            wanted.features, atoms=wanted.select, min_separation=wanted.min_separation, periodic=wanted.periodic
        )
        tokenizer = _tokenizer(feature, self.coordinates, self.choices)
        topology, *files = self.files
        dtrajs = tokenizer.fit_transform(
            topology, by_folder(files) if self.join_folders else files, self.choices.stride
        )
        tokenizer.save(part / "tokenizer")
        return Tokens(dtrajs, tokenizer.frame_interval, tokenizer.state_coordinates)


@dataclass(frozen=True)
class FeatureArrays(TokenSource):
    """Features that were measured elsewhere, one file a trajectory: .npy (n_frames, n_features), or PLUMED's COLVAR."""

    files: list[Path]
    choices: Choices
    coordinates: Coordinates
    columns: Sequence[str] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """See `TokenSource`."""
        return {
            "features": "arrays",
            **({} if self.columns is None else {"columns": list(self.columns)}),
            **self.coordinates.settings(),
            "n_states": self.choices.microstates,
            **self.choices.settings(),
        }

    def make(self, part: Path) -> Tokens:
        """See `TokenSource`."""
        from nanomd.tokenize.stream import load_arrays

        tokenizer = _tokenizer("backbone_torsions", self.coordinates, self.choices)
        loaded = load_arrays(self.files, self.columns)
        arrays = [array[:: self.choices.stride] for array in loaded.arrays]
        interval = self.choices.between_frames(loaded.interval)
        dtrajs = tokenizer.fit_transform_arrays(arrays, interval)
        tokenizer.save(part / "tokenizer")
        return Tokens(dtrajs, interval, tokenizer.state_coordinates)


@dataclass(frozen=True)
class ReadyMade(TokenSource):
    """Discrete trajectories that were made elsewhere."""

    files: list[Path]
    choices: Choices

    @property
    def settings(self) -> dict[str, Any]:
        """See `TokenSource`."""
        return {"dtrajs": True, **self.choices.settings()}

    def make(self, part: Path) -> Tokens:  # noqa: ARG002
        """See `TokenSource`."""
        from nanomd.data.dtrajs import load_dtrajs

        dtrajs = load_dtrajs([str(path) for path in self.files])
        return Tokens([labels[:: self.choices.stride] for labels in dtrajs], self.choices.between_frames())
