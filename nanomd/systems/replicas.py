"""Independent simulations of a molecule with OpenMM, one process each, into a folder of PDB and XTC files.

::

    folder/
      NAME.pdb  NAME_0.xtc  NAME_1.xtc ...   topology and trajectories (nm, ps)
      simulation.json                        settings with units, files, versions, speed

A small molecule cannot keep several cores busy, so replicas run beside each other, each on one core.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from nanomd.base.checks import check_range
from nanomd.base.environment import environment
from nanomd.base.files import lock_folder, write_atomic
from nanomd.base.progress import progress_bar, skip
from nanomd.base.units import FrameInterval
from nanomd.systems.dynamics import Dynamics, Molecule, count_frames, make_dynamics
from nanomd.systems.platforms import Platform, resolve_platform
from nanomd.systems.record import RECORD, begin, settings_of
from nanomd.systems.replica_pool import run_replicas
from nanomd.systems.replica_worker import Replica


@dataclass(frozen=True)
class Simulated:
    """What a simulation left.

    Parameters
    ----------
    topology : Path
        PDB file.
    trajectories : list of Path
        XTC files.
    n_frames : int
        Of each.
    frame_interval : FrameInterval
    platform : str
        OpenMM's name of it.
    seconds : float
        Wall time of this call; 0 where everything was there already.
    ns_per_day : float
        All replicas together, without start and equilibration; 0 where nothing was simulated.
    """

    topology: Path
    trajectories: list[Path]
    n_frames: int
    frame_interval: FrameInterval
    platform: str
    seconds: float
    ns_per_day: float


@dataclass(frozen=True)
class Recipe:
    """A molecule that is simulated by name, and the settings that suit it.

    Parameters
    ----------
    system, stem : str
        Name of the system, and of its files.
    molecule : function
        From a data folder, or None, to the `Molecule`.
    ns : float
        Length of each trajectory.
    temperature : float
        K.
    friction : float
        Per ps.
    time_step : float
        fs.
    frame_interval : str
    equilibration : float
        ps before each trajectory, thrown away.
    minimize : bool
        Go to the nearest energy minimum first.
    """

    system: str
    stem: str
    molecule: Callable[[str | Path | None], Molecule]
    ns: float
    temperature: float
    friction: float
    time_step: float
    frame_interval: str
    equilibration: float
    minimize: bool

    def simulate(
        self,
        out: str | Path,
        ns: float | None = None,
        n_trajs: int = 4,
        *,
        n_frames: int | None = None,
        seed: int = 0,
        temperature: float | None = None,
        friction: float | None = None,
        time_step: float | None = None,
        frame_interval: str | FrameInterval | None = None,
        equilibration: float | None = None,
        platform: Platform = "auto",
        n_workers: int | None = None,
        data_dir: str | Path | None = None,
        resume: bool = False,
        force: bool = False,
        progress: bool | None = None,
    ) -> Simulated:
        """Simulate independent trajectories; what is not given is the recipe's.

        With several workers a script needs ``if __name__ == "__main__":``, since processes are started.

        Parameters
        ----------
        out : path
            The folder; gets the topology (PDB), trajectories (XTC) and simulation.json.
        ns : float, optional
            Length of each trajectory.
        n_trajs : int
            Independent trajectories.
        n_frames : int, optional
            Length of each trajectory in frames, in place of `ns`.
        seed : int
            Replica k depends on (seed, k) and the settings alone, not on how many run, nor in which process.
        temperature : float, optional
            K.
        friction : float, optional
            Per ps.
        time_step : float, optional
            fs.
        frame_interval : str, optional
            A whole number of time steps.
        equilibration : float, optional
            ps before each trajectory, thrown away.
        platform : str
            OpenMM's; CUDA where there is a device, else Reference.
        n_workers : int, optional
            Processes at a time: one per core by default, one on a GPU. With 1 no process is started.
        data_dir : path, optional
            What the molecule is made of, where it is made of files.
        resume, force : bool
            Go on with an unfinished simulation; replace an earlier one.
        progress : bool, optional
            Show a bar over all replicas; by default on a terminal.

        Raises
        ------
        BackendUnavailableError
            Without OpenMM (`pip install 'nanomd-kinetics[openmm]'`).
        StoreError
            If the folder holds something else, or is in use.
        """
        molecule = self.molecule(data_dir)
        dynamics = make_dynamics(
            temperature=self.temperature if temperature is None else temperature,
            friction=self.friction if friction is None else friction,
            time_step=self.time_step if time_step is None else time_step,
            frame_interval=self.frame_interval if frame_interval is None else frame_interval,
            equilibration=self.equilibration if equilibration is None else equilibration,
            minimize=self.minimize,
        )
        n_frames = count_frames(self.ns if ns is None and n_frames is None else ns, n_frames, dynamics)
        check_range("n_trajs", n_trajs, 1, 100_000)
        check_range("seed", seed, 0, 2**63 - 1)
        chosen = resolve_platform(platform)
        cores = len(os.sched_getaffinity(0)) if chosen in {"Reference", "CPU"} else 1
        n_workers = min(cores if n_workers is None else n_workers, n_trajs)
        check_range("n_workers", n_workers, 1)
        replicas = [Replica(Path(out) / f"{self.stem}_{k}.xtc", k, n_frames, seed, chosen) for k in range(n_trajs)]
        settings = settings_of(self.system, molecule, dynamics, replicas)
        topology, files = Path(out) / f"{self.stem}.pdb", [replica.path for replica in replicas]
        with lock_folder(Path(out)):
            speed = Speed(0.0, 0.0)
            if not begin(Path(out), settings, [topology, *files], resume=resume, force=force):
                speed = _run(topology, replicas, molecule, dynamics, settings, n_workers, progress)
        return Simulated(topology, files, n_frames, dynamics.frame_interval, chosen, *speed)


class Speed(NamedTuple):
    """Wall time, and nanoseconds a day of all replicas together, without start and equilibration."""

    seconds: float
    ns_per_day: float


def _run(
    topology: Path,
    replicas: list[Replica],
    molecule: Molecule,
    dynamics: Dynamics,
    settings: dict[str, Any],
    n_workers: int,
    progress: bool | None,
) -> Speed:
    """Simulate what is missing, and keep simulation.json."""
    out, total = topology.parent, sum(replica.n_frames for replica in replicas)
    record: dict[str, Any] = {
        "format": "nanomd-simulation",
        "format_version": 1,
        "finished": False,
        "settings": settings,
        "files": {"topology": topology.name, "trajectories": [replica.path.name for replica in replicas]},
    }
    write_atomic(out / RECORD, json.dumps(record, indent=1) + "\n")
    _write_topology(molecule, topology)
    others = [path.name for path in molecule.write_files(out)]
    missing = sum(replica.n_frames - replica.frames_done() for replica in replicas)
    start = time.perf_counter()
    bar = progress_bar(total, f"simulate on {replicas[0].platform}", "frame", progress)
    try:
        skip(bar, total - missing)
        bar.note(f"{n_workers} process{'es' if n_workers > 1 else ''}")
        busy = run_replicas(replicas, molecule, dynamics, n_workers, bar)
    finally:
        bar.close()
    seconds = time.perf_counter() - start
    simulated_ns = missing * dynamics.frame_steps * dynamics.time_step / 1000
    # Replicas side by side: the time that each spent on frames, shared by the processes.
    speed = simulated_ns / (busy / n_workers) * 86400 if busy > 0 else 0.0
    record["finished"] = True
    record["files"]["others"] = others
    record["speed"] = {
        "ns_per_day": round(speed, 1), "wall_seconds": round(seconds, 2), "n_workers": n_workers,
        "frames_of_this_call": missing,
    }  # fmt: skip
    facts = environment()
    record["environment"] = {**facts, "versions": {**facts["versions"], "openmm": metadata.version("openmm")}}
    write_atomic(out / RECORD, json.dumps(record, indent=1) + "\n")
    return Speed(seconds, speed)


def _write_topology(molecule: Molecule, path: Path) -> None:
    import mdtraj

    part = path.with_name(f".{path.stem}.part.pdb")
    mdtraj.Trajectory(molecule.positions[None], molecule.topology()).save_pdb(str(part))
    part.replace(path)
