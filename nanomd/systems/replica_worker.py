"""One replica of a simulation with OpenMM: Langevin steps, frames to an XTC file, and going on after an interruption.

A replica is simulated in segments. A segment starts from positions and velocities in double precision and a random seed
that follows from (seed, replica, segment), and when it ends its frames and its last state are on the disk. So an
interrupted replica goes on with the trajectory that it would have had (to the last bit on the Reference platform).
"""

from __future__ import annotations

import io
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError, StoreError
from nanomd.base.files import write_atomic
from nanomd.systems.dynamics import Dynamics, Molecule, import_openmm
from nanomd.systems.langevin import Langevin, Phase, Watch


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
        return _load_segments(self).n_frames if self.state.exists() else 0

    def remove(self) -> None:
        """Delete the trajectory and what there is of it."""
        for path in (self.path, self.part, self.state, self.segment):
            path.unlink(missing_ok=True)

    def random_seed(self, purpose: int, number: int = 0) -> int:
        """Return a seed for OpenMM in [1, 2^31), since it takes 0 for "draw one from the clock"."""
        words = np.random.SeedSequence(self.seed, spawn_key=(self.index, purpose, number)).generate_state(1)
        return int(words[0]) % (2**31 - 1) + 1


_VELOCITIES, _EQUILIBRATION, _SEGMENT = range(3)


class _Segments(NamedTuple):
    """The finished segments of a replica: how the last one ended, frames, and bytes of the part."""

    phase: Phase
    n_frames: int
    size: int


def run_replica(replica: Replica, molecule: Molecule, dynamics: Dynamics, watch: Watch) -> float:
    """Simulate what is missing of a replica; when `watch` ends the work, the finished segments are kept.

    Returns
    -------
    float
        Seconds spent on frames, without start and equilibration.
    """
    if replica.path.exists():
        return 0.0
    try:
        return _simulate(replica, molecule, dynamics, watch)
    except import_openmm().OpenMMException as error:
        raise InputError(
            f"{replica.path.name}: OpenMM stopped ({' '.join(str(error).split())[:200]}); "
            "a smaller time step or a lower temperature may help"
        ) from None


def _simulate(replica: Replica, molecule: Molecule, dynamics: Dynamics, watch: Watch) -> float:
    langevin = Langevin(molecule, dynamics, replica.platform, replica.device)
    if replica.state.exists():
        phase, done, size = _load_segments(replica)
        os.truncate(replica.part, size)  # drops what a crash left behind the declared frames
    else:
        seeds = replica.random_seed(_EQUILIBRATION), replica.random_seed(_VELOCITIES)
        phase, done = langevin.start(molecule.positions, *seeds, watch), 0
        replica.part.unlink(missing_ok=True)

    seconds = 0.0
    while done < replica.n_frames:
        seed = replica.random_seed(_SEGMENT, done // dynamics.segment_frames)
        start = time.perf_counter()
        xyz = langevin.frames(phase, seed, min(dynamics.segment_frames, replica.n_frames - done), watch)
        seconds += time.perf_counter() - start
        bad = np.flatnonzero(~np.isfinite(xyz).all(axis=(1, 2)))
        if bad.size:
            raise InputError(
                f"{replica.path.name}: the molecule flew apart before frame {done + int(bad[0])}; "
                "use a smaller time step or a lower temperature"
            )
        phase = langevin.phase()
        _append(replica, dynamics, done, xyz, phase)
        done += len(xyz)
    replica.part.replace(replica.path)
    replica.state.unlink(missing_ok=True)
    return seconds


def _append(replica: Replica, dynamics: Dynamics, done: int, xyz: NDArray[np.float32], phase: Phase) -> None:
    """Put a segment behind the earlier ones (XTC files may be joined), then declare it done."""
    from mdtraj.formats import XTCTrajectoryFile

    from nanomd.tokenize.headers import check_written
    from nanomd.tokenize.plain_path import plain_path

    numbers = done + 1 + np.arange(len(xyz))  # the start is not a frame
    times = (numbers * (dynamics.frame_steps * dynamics.time_step)).astype(np.float32)
    with plain_path(replica.segment) as name, XTCTrajectoryFile(name, "w", force_overwrite=True) as file:
        file.write(xyz, time=times, step=numbers.astype(np.int32))
    check_written(replica.segment, len(xyz))
    with replica.part.open("ab") as part:
        part.write(replica.segment.read_bytes())
        part.flush()
        os.fsync(part.fileno())
        size = part.tell()
    buffer = io.BytesIO()
    np.savez(buffer, **phase._asdict(), progress=np.array([done + len(xyz), size], np.int64))
    write_atomic(replica.state, buffer.getvalue())
    replica.segment.unlink()


def _load_segments(replica: Replica) -> _Segments:
    """Read the state; the part holds at least the frames that it names."""
    try:
        with np.load(replica.state, allow_pickle=False) as file:
            arrays = {name: file[name] for name in (*Phase._fields, "progress")}
    except (ValueError, OSError, EOFError, KeyError) as error:
        raise StoreError(f"{replica.state} is damaged ({error}); start again with force") from None
    phase, progress = Phase(arrays["positions"], arrays["velocities"]), arrays["progress"]
    if (
        progress.shape != (2,)
        or progress.dtype != np.int64
        or phase.positions.shape != phase.velocities.shape
        or not all(array.dtype == np.float64 for array in phase)
    ):
        raise StoreError(f"{replica.state} is damaged (wrong shapes); start again with force")
    done, size = progress.tolist()
    if not 0 < done <= replica.n_frames or not replica.part.is_file() or replica.part.stat().st_size < size:
        raise StoreError(f"{replica.part} and {replica.state.name} do not fit each other; start again with force")
    return _Segments(phase, done, size)
