"""Langevin steps of one molecule by OpenMM, from a state and a seed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import CancelledError
from nanomd.systems.dynamics import Dynamics, Molecule, import_openmm
from nanomd.systems.platforms import platform_properties

_REPORT_SECONDS = 0.25
_CONSTRAINT_TOLERANCE = 1e-5
_EQUILIBRATION_STEPS = 1000  # between two questions whether to stop


class Phase(NamedTuple):
    """Where the atoms are and how they move: float64 arrays of shape (n_atoms, 3), nm and nm/ps."""

    positions: NDArray[np.float64]
    velocities: NDArray[np.float64]


class Watch(NamedTuple):
    """Who follows a simulation: `report` is told of new frames, and True from `stop` ends the work."""

    report: Callable[[int], object]
    stop: Callable[[], bool]

    def check(self) -> None:
        """Raise `CancelledError` if the work is to end."""
        if self.stop():
            raise CancelledError("the simulation was stopped; finished segments are kept")


class Langevin:
    """OpenMM's context of a molecule.

    Parameters
    ----------
    molecule, dynamics
        What is simulated.
    platform : str
        OpenMM's name of it.
    device : int
        GPU, where the platform has several.
    """

    def __init__(self, molecule: Molecule, dynamics: Dynamics, platform: str, device: int) -> None:
        mm = import_openmm()
        self._mm, self._dynamics = mm, dynamics
        self._integrator = mm.LangevinMiddleIntegrator(dynamics.temperature, dynamics.friction, dynamics.time_step)
        self._integrator.setConstraintTolerance(_CONSTRAINT_TOLERANCE)
        self._context = mm.Context(
            molecule.system(),
            self._integrator,
            mm.Platform.getPlatformByName(platform),
            platform_properties(platform, device),
        )

    def start(self, positions: NDArray[np.float64], seed: int, velocity_seed: int, watch: Watch) -> Phase:
        """Minimise, draw velocities and equilibrate."""
        dynamics = self._dynamics
        self._set(positions, seed)
        if dynamics.minimize:
            self._mm.LocalEnergyMinimizer.minimize(self._context)
        self._context.setVelocitiesToTemperature(dynamics.temperature, velocity_seed)
        for first in range(0, dynamics.equilibration_steps, _EQUILIBRATION_STEPS):
            watch.check()
            self._integrator.step(min(_EQUILIBRATION_STEPS, dynamics.equilibration_steps - first))
        return self.phase()

    def frames(self, phase: Phase, seed: int, n_frames: int, watch: Watch) -> NDArray[np.float32]:
        """Simulate frames from a state; shape (n_frames, n_atoms, 3), nm."""
        self._set(phase.positions, seed)
        self._context.setVelocities(phase.velocities)
        xyz = np.empty((n_frames, len(phase.positions), 3), dtype=np.float32)
        told, last = 0, time.perf_counter()
        for frame in range(n_frames):
            self._integrator.step(self._dynamics.frame_steps)
            xyz[frame] = self._context.getState(positions=True).getPositions(asNumpy=True)._value
            if time.perf_counter() - last > _REPORT_SECONDS:
                watch.check()
                watch.report(frame + 1 - told)
                told, last = frame + 1, time.perf_counter()
        watch.report(n_frames - told)
        return xyz

    def phase(self) -> Phase:
        """Return the present state."""
        state = self._context.getState(positions=True, velocities=True)
        return Phase(
            np.array(state.getPositions(asNumpy=True)._value, dtype=np.float64),
            np.array(state.getVelocities(asNumpy=True)._value, dtype=np.float64),
        )

    def _set(self, positions: NDArray[np.float64], seed: int) -> None:
        self._integrator.setRandomNumberSeed(seed)
        self._context.reinitialize()  # the integrator reads its seed only here
        self._context.setPositions(positions)
