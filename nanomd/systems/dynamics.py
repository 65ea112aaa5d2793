"""What is simulated and how: a molecule, and the settings of Langevin dynamics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nanomd.base.checks import check_range
from nanomd.base.errors import BackendUnavailableError, InputError
from nanomd.base.extras import install
from nanomd.base.units import FrameInterval

_SEGMENT_STEPS = 500_000
_SEGMENT_FRAMES = 10_000


class Molecule(Protocol):
    """What is simulated; sent to the worker processes by pickle."""

    @property
    def positions(self) -> NDArray[np.float64]:
        """Starting positions, nm, shape (n_atoms, 3)."""

    def topology(self) -> Any:
        """Return the `mdtraj.Topology`."""

    def system(self) -> Any:
        """Return the `openmm.System`."""

    def description(self) -> dict[str, Any]:
        """Return what the force field is, for simulation.json."""

    def write_files(self, folder: Path) -> list[Path]:
        """Write what a reader of the trajectories needs beside the topology, and return the files."""


@dataclass(frozen=True)
class Dynamics:
    """Langevin dynamics (OpenMM's LangevinMiddleIntegrator).

    Parameters
    ----------
    temperature : float
        K.
    friction : float
        Per ps.
    time_step : float
        ps.
    frame_steps : int
        Steps between frames.
    equilibration_steps : int
        Steps before the first frame's interval, thrown away.
    minimize : bool
        Go to the nearest energy minimum first.
    """

    temperature: float
    friction: float
    time_step: float
    frame_steps: int
    equilibration_steps: int
    minimize: bool

    @property
    def frame_interval(self) -> FrameInterval:
        """Time between frames."""
        return FrameInterval(float(f"{self.frame_steps * self.time_step:.9g}"), "ps")

    @property
    def segment_frames(self) -> int:
        """Frames of a segment: half a million steps, half a minute or less for a small molecule."""
        return max(1, min(_SEGMENT_FRAMES, _SEGMENT_STEPS // self.frame_steps))


def make_dynamics(
    *,
    temperature: float,
    friction: float,
    time_step: float,
    frame_interval: str | FrameInterval,
    equilibration: float,
    minimize: bool,
) -> Dynamics:
    """Check physical settings: `temperature` in K, `friction` per ps, `time_step` in fs, `equilibration` in ps."""
    for name, value, unit in (
        ("temperature", temperature, "K"), ("friction", friction, "per ps"), ("time_step", time_step, "fs"),
    ):  # fmt: skip
        if not 0 < value < float("inf"):
            raise InputError(f"{name} must be a positive number ({unit}), got {value}")
    check_range("equilibration", equilibration, 0, 1e9, "ps")
    interval = FrameInterval.parse(frame_interval)
    if interval.ps is None:
        raise InputError(f"frame_interval must be in fs, ps, ns or us, got {interval}")
    steps = interval.ps / (time_step / 1000)
    if round(steps) < 1 or abs(steps - round(steps)) > 1e-6 * steps:
        raise InputError(
            f"frame_interval must be a whole number of time steps, got {interval} with steps of {time_step:g} fs"
        )
    equilibration_steps = round(equilibration / (time_step / 1000))
    return Dynamics(temperature, friction, time_step / 1000, round(steps), equilibration_steps, minimize)


def count_frames(ns: float | None, n_frames: int | None, dynamics: Dynamics) -> int:
    """Return the frames of each trajectory, from a length in ns or a number of frames."""
    if (ns is None) == (n_frames is None):
        raise InputError("give the length of the trajectories either as ns or as n_frames")
    if n_frames is not None:
        check_range("n_frames", n_frames, 2, 2**31 - 1)
        return n_frames
    assert ns is not None
    interval = dynamics.frame_steps * dynamics.time_step / 1000
    if not 1.5 * interval <= ns < 2**31 * interval:
        raise InputError(f"ns must be at least two frames of {1000 * interval:g} ps (below {2**31} frames), got {ns}")
    return round(ns / interval)


def import_openmm() -> Any:
    """Return the module openmm, or say how to get it."""
    try:
        import openmm
    except ImportError as error:
        raise BackendUnavailableError(
            f"this simulation needs OpenMM, which cannot be imported here ({error}); "
            f"install it with `{install('openmm')}`"
        ) from None
    return openmm
