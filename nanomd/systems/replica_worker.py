"""One replica of a simulation with OpenMM: Langevin steps, frames to an XTC file, and going on after an interruption.

A replica is simulated in segments. A segment starts from positions and velocities in double precision and a random seed
that follows from (seed, replica, segment), and when it ends its frames and its last state are on the disk. So an
interrupted replica goes on with the trajectory that it would have had (to the last bit on the Reference platform).
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import BackendUnavailableError, CancelledError, InputError, StoreError
from nanomd.base.files import write_atomic

_SEGMENT_STEPS = 500_000
_SEGMENT_FRAMES = 10_000
_REPORT_SECONDS = 0.25
_CONSTRAINT_TOLERANCE = 1e-5


class Molecule(Protocol):
    """What is simulated; sent to the worker processes by pickle."""

    @property
    def positions(self) -> NDArray[np.float64]:
        """Starting positions, nm, shape (n_atoms, 3)."""

    def topology(self) -> Any:
        """Return the `mdtraj.Topology`."""

    def system(self) -> Any:
        """Return the `openmm.System`."""


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
    def segment_frames(self) -> int:
        """Frames of a segment: half a million steps, half a minute or less for a small molecule."""
        return max(1, min(_SEGMENT_FRAMES, _SEGMENT_STEPS // self.frame_steps))


@dataclass(frozen=True)
class Replica:
    """One trajectory to simulate.

    Parameters
    ----------
    path : Path
        The XTC file. It appears when it is complete; until then hidden files beside it hold what there is.
    index : int
        Number of the replica.
    n_frames, seed : int
    platform : str
        OpenMM's name of it.
    device : int
        GPU, where the platform has several.
    """

    path: Path
    index: int
    n_frames: int
    seed: int
    platform: str
    device: int = 0

    @property
    def part(self) -> Path:
        """The frames of the finished segments."""
        return self.path.with_name(f".{self.path.name}.part")

    @property
    def state(self) -> Path:
        """How the last finished segment ended."""
        return self.path.with_name(f".{self.path.name}.state.npz")

    @property
    def segment(self) -> Path:
        """The segment that is being written."""
        return self.path.with_name(f".{self.path.stem}.segment.xtc")

    def frames_done(self) -> int:
        """Return how many frames are on the disk."""
        if self.path.exists():
            return self.n_frames
        return _load_state(self)[2] if self.state.exists() else 0

    def remove(self) -> None:
        """Delete the trajectory and what there is of it."""
        for path in (self.path, self.part, self.state, self.segment):
            path.unlink(missing_ok=True)

    def random_seed(self, purpose: int, number: int = 0) -> int:
        """Return a seed for OpenMM in [1, 2^31), since it takes 0 for "draw one from the clock"."""
        words = np.random.SeedSequence(self.seed, spawn_key=(self.index, purpose, number)).generate_state(1)
        return int(words[0]) % (2**31 - 1) + 1


_VELOCITIES, _EQUILIBRATION, _SEGMENT = range(3)


def import_openmm() -> Any:
    """Return the module openmm, or say how to get it."""
    try:
        import openmm
    except ImportError as error:
        raise BackendUnavailableError(
            f"this simulation needs OpenMM, which cannot be imported here ({error}); "
            "install it with `pip install 'nanomd[openmm]'`"
        ) from None
    return openmm


def run_replica(
    replica: Replica,
    molecule: Molecule,
    dynamics: Dynamics,
    report: Callable[[int], object],
    stop: Callable[[], bool],
) -> float:
    """Simulate what is missing of a replica.

    Parameters
    ----------
    replica, molecule, dynamics
        What to simulate.
    report : function
        Told of new frames.
    stop : function
        Asked after each frame; True ends the work, and the finished segments are kept.

    Returns
    -------
    float
        Seconds spent on frames, without start and equilibration.
    """
    if replica.path.exists():
        return 0.0
    mm = import_openmm()
    try:
        return _run(mm, replica, molecule, dynamics, report, stop)
    except mm.OpenMMException as error:
        raise InputError(
            f"{replica.path.name}: OpenMM stopped ({' '.join(str(error).split())[:200]}); "
            "a smaller time step or a lower temperature may help"
        ) from None


def _run(
    mm: Any,
    replica: Replica,
    molecule: Molecule,
    dynamics: Dynamics,
    report: Callable[[int], object],
    stop: Callable[[], bool],
) -> float:
    integrator = mm.LangevinMiddleIntegrator(dynamics.temperature, dynamics.friction, dynamics.time_step)
    integrator.setConstraintTolerance(_CONSTRAINT_TOLERANCE)
    platform = mm.Platform.getPlatformByName(replica.platform)
    context = mm.Context(molecule.system(), integrator, platform, properties(replica.platform, replica.device))

    def restart(positions: Any, velocities: Any, seed: int) -> None:
        integrator.setRandomNumberSeed(seed)
        context.reinitialize()  # the integrator reads its seed only here
        context.setPositions(positions)
        if velocities is not None:
            context.setVelocities(velocities)

    if replica.state.exists():
        positions, velocities, done = _load_state(replica)
        _cut_part(replica)
    else:
        restart(molecule.positions, None, replica.random_seed(_EQUILIBRATION))
        if dynamics.minimize:
            mm.LocalEnergyMinimizer.minimize(context)
        context.setVelocitiesToTemperature(dynamics.temperature, replica.random_seed(_VELOCITIES))
        for first in range(0, dynamics.equilibration_steps, 1000):
            _go_on(stop)
            integrator.step(min(1000, dynamics.equilibration_steps - first))
        positions, velocities = _snapshot(context)
        done = 0
        replica.part.unlink(missing_ok=True)

    seconds = 0.0
    while done < replica.n_frames:
        restart(positions, velocities, replica.random_seed(_SEGMENT, done // dynamics.segment_frames))
        size = min(dynamics.segment_frames, replica.n_frames - done)
        start = time.perf_counter()
        xyz = _frames(context, integrator, dynamics, size, report, stop)
        seconds += time.perf_counter() - start
        bad = np.flatnonzero(~np.isfinite(xyz).all(axis=(1, 2)))
        if bad.size:
            raise InputError(
                f"{replica.path.name}: the molecule flew apart before frame {done + int(bad[0])}; "
                "use a smaller time step or a lower temperature"
            )
        positions, velocities = _snapshot(context)
        _append(replica, dynamics, done, xyz, positions, velocities)
        done += size
    replica.part.replace(replica.path)
    replica.state.unlink(missing_ok=True)
    return seconds


def properties(platform: str, device: int) -> dict[str, str]:
    """Return the options of an OpenMM platform: one thread each on a CPU, since replicas run beside each other."""
    if platform == "CPU":
        return {"Threads": "1"}
    return {"DeviceIndex": str(device), "Precision": "mixed"} if platform in {"CUDA", "OpenCL"} else {}


def _frames(
    context: Any,
    integrator: Any,
    dynamics: Dynamics,
    n_frames: int,
    report: Callable[[int], object],
    stop: Callable[[], bool],
) -> NDArray[np.float32]:
    """Simulate frames; shape (n_frames, n_atoms, 3), nm."""
    xyz = np.empty((n_frames, context.getSystem().getNumParticles(), 3), dtype=np.float32)
    told, last = 0, time.perf_counter()
    for frame in range(n_frames):
        integrator.step(dynamics.frame_steps)
        xyz[frame] = context.getState(positions=True).getPositions(asNumpy=True)._value
        if time.perf_counter() - last > _REPORT_SECONDS:
            _go_on(stop)
            report(frame + 1 - told)
            told, last = frame + 1, time.perf_counter()
    report(n_frames - told)
    return xyz


def _go_on(stop: Callable[[], bool]) -> None:
    if stop():
        raise CancelledError("the simulation was stopped; finished segments are kept")


def _snapshot(context: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return positions (nm) and velocities (nm/ps)."""
    state = context.getState(positions=True, velocities=True)
    return (
        np.array(state.getPositions(asNumpy=True)._value, dtype=np.float64),
        np.array(state.getVelocities(asNumpy=True)._value, dtype=np.float64),
    )


def _append(
    replica: Replica,
    dynamics: Dynamics,
    done: int,
    xyz: NDArray[np.float32],
    positions: NDArray[np.float64],
    velocities: NDArray[np.float64],
) -> None:
    """Put a segment behind the earlier ones (XTC files may be joined), then declare it done."""
    from mdtraj.formats import XTCTrajectoryFile

    numbers = done + 1 + np.arange(len(xyz))  # the start is not a frame
    times = (numbers * (dynamics.frame_steps * dynamics.time_step)).astype(np.float32)
    with XTCTrajectoryFile(str(replica.segment), "w", force_overwrite=True) as file:
        file.write(xyz, time=times, step=numbers.astype(np.int32))
    with replica.part.open("ab") as part:
        part.write(replica.segment.read_bytes())
        part.flush()
        os.fsync(part.fileno())
        size = part.tell()
    buffer = io.BytesIO()
    np.savez(buffer, positions=positions, velocities=velocities, progress=np.array([done + len(xyz), size], np.int64))
    write_atomic(replica.state, buffer.getvalue())
    replica.segment.unlink()


def _load_state(replica: Replica) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Return positions, velocities and frames done; the part holds at least the frames that the state names."""
    done, size = _read_state(replica)["progress"].tolist()
    if not 0 < done <= replica.n_frames or not replica.part.is_file() or replica.part.stat().st_size < size:
        raise StoreError(f"{replica.part} and {replica.state.name} do not fit each other; start again with force")
    arrays = _read_state(replica)
    return arrays["positions"], arrays["velocities"], int(done)


def _read_state(replica: Replica) -> dict[str, NDArray[Any]]:
    try:
        with np.load(replica.state, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("positions", "velocities", "progress")}
    except (ValueError, OSError, EOFError, KeyError) as error:
        raise StoreError(f"{replica.state} is damaged ({error}); start again with force") from None
    if (
        arrays["progress"].shape != (2,)
        or arrays["progress"].dtype != np.int64
        or arrays["positions"].shape != arrays["velocities"].shape
        or not all(arrays[name].dtype == np.float64 for name in ("positions", "velocities"))
    ):
        raise StoreError(f"{replica.state} is damaged (wrong shapes); start again with force")
    return arrays


def _cut_part(replica: Replica) -> None:
    """Drop what a crash left behind the declared frames."""
    os.truncate(replica.part, int(_read_state(replica)["progress"][1]))
