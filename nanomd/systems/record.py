"""simulation.json: what a folder of simulated trajectories holds, and whether it may be gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nanomd.base.codec import read_json
from nanomd.base.errors import StoreError
from nanomd.systems.dynamics import Dynamics, Molecule
from nanomd.systems.replica_worker import Replica

RECORD = "simulation.json"


def settings_of(system: str, molecule: Molecule, dynamics: Dynamics, replicas: list[Replica]) -> dict[str, Any]:
    """Return everything that the trajectories depend on, with units."""
    one = replicas[0]
    value: dict[str, Any] = {
        "system": system,
        **molecule.description(),
        "integrator": "LangevinMiddle",
        "temperature": {"value": dynamics.temperature, "unit": "K"},
        "friction": {"value": dynamics.friction, "unit": "1/ps"},
        "time_step": {"value": dynamics.time_step, "unit": "ps"},
        "frame_interval": {"value": dynamics.frame_interval.value, "unit": "ps", "steps": dynamics.frame_steps},
        "equilibration": {
            "value": dynamics.equilibration_steps * dynamics.time_step, "unit": "ps", "minimize": dynamics.minimize,
        },
        "segment": {"value": dynamics.segment_frames, "unit": "frame"},
        "n_frames": one.n_frames,
        "n_trajs": len(replicas),
        "seed": one.seed,
        "platform": one.platform,
    }  # fmt: skip
    plain: dict[str, Any] = json.loads(json.dumps(value))
    return plain


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return simulation.json of a folder, None where there is none."""
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        record = read_json(path, dict[str, Any])
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


def begin(out: Path, settings: dict[str, Any], files: list[Path], *, resume: bool, force: bool) -> bool:
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
