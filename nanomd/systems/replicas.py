"""Independent simulations of one molecule with OpenMM, one process each, into a folder of PDB and XTC files.

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from nanomd.base.config import check_choice, check_range
from nanomd.base.environment import environment
from nanomd.base.errors import BackendUnavailableError, InputError, StoreError
from nanomd.base.files import write_atomic
from nanomd.base.progress import progress_bar, skip
from nanomd.base.store_files import lock_folder
from nanomd.base.units import FrameInterval
from nanomd.systems.replica_pool import run_replicas
from nanomd.systems.replica_worker import Dynamics, Molecule, Replica, import_openmm, properties

Platform = Literal["auto", "Reference", "CPU", "CUDA", "OpenCL"]
RECORD = "simulation.json"
_PER_PS = {"fs": 1e-3, "ps": 1.0, "ns": 1e3, "us": 1e6, "µs": 1e6}


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
    if interval.unit not in _PER_PS:
        raise InputError(f"frame_interval must be in {', '.join(_PER_PS)}, got {interval}")
    steps = interval.value * _PER_PS[interval.unit] / (time_step / 1000)
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


def resolve_platform(platform: Platform = "auto") -> str:
    """Return the platform to use: CUDA where OpenMM has it and a device answers, else Reference.

    OpenMM's CPU platform pays off for thousands of atoms only; with tens of atoms Reference is several times faster.

    Raises
    ------
    BackendUnavailableError
        If OpenMM is absent, or the platform asked for by name cannot run here.
    """
    check_choice("platform", platform, Platform)
    mm = import_openmm()
    if platform == "auto":
        return "CUDA" if _refusal(mm, "CUDA") is None else "Reference"
    refusal = _refusal(mm, platform)
    if refusal is not None:
        raise BackendUnavailableError(f"OpenMM's platform {platform} cannot run here: {refusal}")
    return platform


def _refusal(mm: Any, platform: str) -> str | None:
    names = [mm.Platform.getPlatform(index).getName() for index in range(mm.Platform.getNumPlatforms())]
    if platform not in names:
        return f"this installation has {', '.join(names)}"
    system = mm.System()
    system.addParticle(1.0)
    try:
        mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName(platform), properties(platform, 0))
    except mm.OpenMMException as error:
        return " ".join(str(error).split())[:200]
    return None


def simulate(
    out: str | Path,
    molecule: Molecule,
    dynamics: Dynamics,
    *,
    system: str,
    stem: str,
    n_frames: int,
    n_trajs: int,
    seed: int,
    platform: Platform,
    n_workers: int | None,
    description: dict[str, Any],
    write_more: Callable[[Path], Sequence[Path]] = lambda _: (),
    resume: bool = False,
    force: bool = False,
    progress: bool | None = None,
) -> Simulated:
    """Simulate replicas of a molecule.

    Parameters
    ----------
    out : path
        The folder.
    molecule, dynamics
        What is simulated.
    system, stem : str
        Name of the system, and of its files.
    n_frames, n_trajs : int
        Frames per trajectory, and independent trajectories.
    seed : int
        Replica k depends on (seed, k) and the settings alone, not on how many run, nor in which process.
    platform : str
    n_workers : int, optional
        Processes at a time: one per core by default, one on a GPU. With 1 no process is started.
    description : dict
        What the force field is, for simulation.json.
    write_more : function
        Writes further files for the reader of the trajectories to a folder, and returns them.
    resume, force : bool
        Go on with an unfinished simulation; replace an earlier one.
    progress : bool, optional
        Show a bar over all replicas; by default on a terminal.

    Raises
    ------
    BackendUnavailableError
        Without OpenMM.
    StoreError
        If the folder holds something else, or is in use.
    """
    check_range("n_trajs", n_trajs, 1, 100_000)
    check_range("seed", seed, 0, 2**63 - 1)
    chosen = resolve_platform(platform)
    cores = len(os.sched_getaffinity(0)) if chosen in {"Reference", "CPU"} else 1
    n_workers = min(cores if n_workers is None else n_workers, n_trajs)
    check_range("n_workers", n_workers, 1)
    out = Path(out)
    replicas = [Replica(out / f"{stem}_{k}.xtc", k, n_frames, seed, chosen) for k in range(n_trajs)]
    settings = _settings(system, dynamics, n_frames, n_trajs, seed, chosen, description)
    topology = out / f"{stem}.pdb"
    interval = _interval(dynamics)
    files = [replica.path for replica in replicas]
    with lock_folder(out):
        if _begin(out, settings, [topology, *files], resume=resume, force=force):
            return Simulated(topology, files, n_frames, interval, chosen, 0.0, 0.0)
        record: dict[str, Any] = {
            "format": "nanomd-simulation",
            "format_version": 1,
            "finished": False,
            "settings": settings,
            "files": {"topology": topology.name, "trajectories": [path.name for path in files]},
        }
        write_atomic(out / RECORD, json.dumps(record, indent=1) + "\n")
        _write_topology(molecule, topology)
        more = [path.name for path in write_more(out)]
        missing = sum(replica.n_frames - replica.frames_done() for replica in replicas)
        start = time.perf_counter()
        bar = progress_bar(n_frames * n_trajs, f"simulate on {chosen}", "frame", progress)
        try:
            skip(bar, n_frames * n_trajs - missing)
            bar.note(f"{n_workers} process{'es' if n_workers > 1 else ''}")
            busy = run_replicas(replicas, molecule, dynamics, n_workers, bar)
        finally:
            bar.close()
        seconds = time.perf_counter() - start
        simulated_ns = missing * dynamics.frame_steps * dynamics.time_step / 1000
        # Replicas side by side: the time that each spent on frames, shared by the processes.
        speed = simulated_ns / (busy / n_workers) * 86400 if busy > 0 else 0.0
        record["finished"] = True
        record["files"]["others"] = more
        record["speed"] = {
            "ns_per_day": round(speed, 1), "wall_seconds": round(seconds, 2), "n_workers": n_workers,
            "frames_of_this_call": missing,
        }  # fmt: skip
        facts = environment()
        record["environment"] = {**facts, "versions": {**facts["versions"], "openmm": metadata.version("openmm")}}
        write_atomic(out / RECORD, json.dumps(record, indent=1) + "\n")
    return Simulated(topology, files, n_frames, interval, chosen, seconds, speed)


def _interval(dynamics: Dynamics) -> FrameInterval:
    return FrameInterval(float(f"{dynamics.frame_steps * dynamics.time_step:.9g}"), "ps")


def _settings(
    system: str, dynamics: Dynamics, n_frames: int, n_trajs: int, seed: int, platform: str, description: dict[str, Any]
) -> dict[str, Any]:
    """Return everything that the trajectories depend on, with units."""
    value: dict[str, Any] = {
        "system": system,
        **description,
        "integrator": "LangevinMiddle",
        "temperature": {"value": dynamics.temperature, "unit": "K"},
        "friction": {"value": dynamics.friction, "unit": "1/ps"},
        "time_step": {"value": dynamics.time_step, "unit": "ps"},
        "frame_interval": {"value": _interval(dynamics).value, "unit": "ps", "steps": dynamics.frame_steps},
        "equilibration": {
            "value": dynamics.equilibration_steps * dynamics.time_step, "unit": "ps", "minimize": dynamics.minimize,
        },
        "segment": {"value": dynamics.segment_frames, "unit": "frame"},
        "n_frames": n_frames,
        "n_trajs": n_trajs,
        "seed": seed,
        "platform": platform,
    }  # fmt: skip
    plain: dict[str, Any] = json.loads(json.dumps(value))
    return plain


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return simulation.json of a folder, None where there is none."""
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        good = (
            record["format"] == "nanomd-simulation"
            and isinstance(record["settings"], dict)
            and isinstance(record["files"]["topology"], str)
            and all(isinstance(name, str) for name in record["files"]["trajectories"])
        )
    except (ValueError, KeyError, TypeError):
        good = False
    if not good:
        raise StoreError(f"{path} is damaged; simulate into another folder")
    return dict(record)


def _begin(out: Path, settings: dict[str, Any], files: list[Path], *, resume: bool, force: bool) -> bool:
    """Return True where the result is there already; raise where the folder holds something else."""
    record = read_record(out)
    if record is None:
        strange = [path.name for path in files if path.exists()]
        if strange:
            raise StoreError(
                f"{out} holds {strange[0]} without {RECORD}, so it was not simulated here; choose another folder"
            )
        return False
    old = record["settings"]
    if force:
        names = [Path(name).name for name in record["files"]["trajectories"]]
        for name in names:
            Replica(out / name, 0, 0, 0, "").remove()
        return False
    changed = sorted(key for key in {*old, *settings} if old.get(key) != settings.get(key))
    if changed:
        shown = ", ".join(f"{key} ({old.get(key)} -> {settings.get(key)})" for key in changed[:3])
        raise StoreError(f"{out} holds another simulation: {shown}; use --force to replace it, or another folder")
    if record.get("finished") and all(path.is_file() for path in files):
        return True
    if not resume:
        raise StoreError(f"{out} holds an unfinished simulation; go on with --resume, or start again with --force")
    return False


def _write_topology(molecule: Molecule, path: Path) -> None:
    import mdtraj

    part = path.with_name(f".{path.stem}.part.pdb")
    mdtraj.Trajectory(molecule.positions[None], molecule.topology()).save_pdb(str(part))
    part.replace(path)
