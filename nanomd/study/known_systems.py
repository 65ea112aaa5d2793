"""Systems that read their own files, wherever those lie: in a folder of the user or in simulation/ of the run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nanomd.base.arrays import map_npy
from nanomd.base.errors import InputError
from nanomd.study.token_sources import Choices, Tokens, TokenSource

if TYPE_CHECKING:
    from numpy.typing import NDArray

    PathLike = str | Path

Scheme = Literal["cores", "x-bins", "kmeans"]


@dataclass(frozen=True)
class FourState(TokenSource):
    """Coordinates of the simulated four-state potential."""

    files: list[Path]
    choices: Choices
    scheme: Scheme

    @property
    def settings(self) -> dict[str, Any]:
        """See `TokenSource`."""
        return {
            "system": "four-state",
            "scheme": self.scheme,
            "n_states": self.choices.n_states,
            **self.choices.settings(),
        }

    def make(self, part: Path) -> Tokens:  # noqa: ARG002
        """See `TokenSource`."""
        from nanomd.systems import four_state
        from nanomd.tokenize.clustering import mean_coordinates

        xy = _load_plane(self.files)[:, :: self.choices.stride]
        dtrajs = four_state.tokenize(xy, scheme=self.scheme, **self.choices.number)
        return Tokens(dtrajs, self.choices.between_frames(), mean_coordinates(xy, dtrajs))


@dataclass(frozen=True)
class AlanineDipeptide(TokenSource):
    """Torsions of alanine dipeptide, or a simulation of it, in one folder."""

    choices: Choices
    data: PathLike | None
    files: list[Path] = field(init=False)

    def __post_init__(self) -> None:
        from nanomd.systems import alanine_dipeptide

        object.__setattr__(self, "files", alanine_dipeptide.paths(self.data))

    @property
    def settings(self) -> dict[str, Any]:
        """See `TokenSource`."""
        return {"system": "alanine-dipeptide", "n_states": self.choices.n_states, **self.choices.settings()}

    def make(self, part: Path) -> Tokens:  # noqa: ARG002
        """See `TokenSource`."""
        from nanomd.systems import alanine_dipeptide

        folder = self.files[0].parent
        torsions = [angles[:: self.choices.stride] for angles in alanine_dipeptide.load(folder)]
        dtrajs, centers = alanine_dipeptide.tokenize(torsions, seed=self.choices.seed, **self.choices.number)
        interval = self.choices.between_frames(alanine_dipeptide.frame_interval(folder))
        on_circle = alanine_dipeptide.on_circle(np.radians(centers)).astype(np.float64)
        return Tokens(dtrajs, interval, on_circle)


@dataclass(frozen=True)
class WWDomain(TokenSource):
    """Trajectories of the WW domain with their topology, in one folder."""

    choices: Choices
    data: PathLike | None
    files: list[Path] = field(init=False)

    def __post_init__(self) -> None:
        from nanomd.systems import ww_domain

        found = ww_domain.files(self.data)
        object.__setattr__(self, "files", [Path(found.topology), *map(Path, found.trajectories)])

    @property
    def settings(self) -> dict[str, Any]:
        """See `TokenSource`."""
        return {"system": "ww-domain", "n_states": self.choices.n_states, **self.choices.settings()}

    def make(self, part: Path) -> Tokens:
        """See `TokenSource`."""
        from nanomd.systems import ww_domain

        tokenizer, dtrajs = ww_domain.tokenize(
            **self.choices.number,
            stride=self.choices.stride,
            seed=self.choices.seed,
            data_dir=self.files[0].parent,
            progress=self.choices.progress,
        )
        tokenizer.save(part / "tokenizer")
        return Tokens(dtrajs, tokenizer.frame_interval, tokenizer.state_coordinates)


SYSTEMS = {"alanine-dipeptide": AlanineDipeptide, "ww-domain": WWDomain}


def known_system(name: str, choices: Choices, data: PathLike | None) -> TokenSource:
    """Return the source that reads the files of a system by name."""
    if name not in SYSTEMS:
        raise InputError(f"system must be one of {', '.join(SYSTEMS)}, got {name!r}")
    return SYSTEMS[name](choices, data)


def _load_plane(files: list[Path]) -> NDArray[np.float64]:
    """Return trajectories (n_trajs, n_frames, 2) of equal length."""
    arrays = [map_npy(path) for path in files]
    for path, array in zip(files, arrays, strict=True):
        if array.dtype != np.float64 or array.ndim != 2 or array.shape != (len(arrays[0]), 2):
            raise InputError(
                f"{path} must hold float64 of shape ({len(arrays[0])}, 2), got {array.dtype} of shape {array.shape}; "
                "simulate again"
            )
    return np.stack(arrays)
