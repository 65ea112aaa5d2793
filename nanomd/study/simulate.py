"""`simulate`: a model potential into simulation/, or a molecule with OpenMM, into a run folder or one of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nanomd.base.checks import check_range
from nanomd.base.errors import InputError, StoreError
from nanomd.base.files import replacing
from nanomd.base.progress import progress_bar
from nanomd.study.folder import RunFolder
from nanomd.study.step import begin_step

if TYPE_CHECKING:
    from nanomd.systems.replicas import Simulated

MOLECULES = ("alanine-dipeptide", "ww-domain")


def simulate_potential(
    run: str | Path,
    *,
    preset: Literal["demo", "paper"] = "demo",
    n_frames: int = 100_000,
    n_trajs: int = 8,
    n_threads: int | None = None,
    seed: int = 0,
    force: bool = False,
    progress: bool | None = None,
) -> str:
    """Simulate the four-state potential into simulation/xy_0000.npy ..., float64 (n_frames, 2)."""
    from nanomd.systems import four_state

    check_range("n_frames", n_frames, 2)
    check_range("n_trajs", n_trajs, 1)
    folder = RunFolder(run)
    settings = {"system": "four-state", "preset": preset, "n_frames": n_frames, "n_trajs": n_trajs, "seed": seed}
    with begin_step(folder, "simulate", settings, force=force) as step:
        if step.done:
            return step.nothing_to_do()
        bar = progress_bar(n_frames * n_trajs, "simulate", "frame", progress)
        try:
            xy = four_state.simulate(n_frames, n_trajs, seed=seed, preset=preset, n_threads=n_threads, progress=bar)
        finally:
            bar.close()
        with replacing(folder.work / "simulation") as part:
            part.mkdir()
            for index, coordinates in enumerate(xy):
                np.save(part / f"xy_{index:04d}.npy", coordinates)
        seconds = step.seconds
        speed = n_frames * n_trajs / seconds
        step.record |= {"seconds": seconds, "frames_per_second": speed}
    return f"simulated {n_trajs} x {n_frames:,} frames in {seconds:.1f} s ({speed:,.0f} frames/s)"


def simulate_molecule(
    system: str,
    *,
    out: str | Path | None = None,
    run: str | Path = "run",
    force: bool = False,
    resume: bool = False,
    progress: bool | None = None,
    **options: Any,
) -> str:
    """Simulate a molecule and return what to tell the user.

    Parameters
    ----------
    system : str
        One of `MOLECULES`.
    out : path, optional
        The folder of topology and trajectories; what later steps take as ``data``.
    run : path
        Without `out`: a run folder, whose simulation/ gets them, and where `nanomd tokenize` finds them.
    force, resume, progress
        As in every step.
    **options
        Those of `nanomd.systems.alanine_dipeptide.simulate` or `nanomd.systems.ww_domain.simulate`.
    """
    if system not in MOLECULES:
        raise InputError(f"system must be one of {', '.join(MOLECULES)}, got {system!r}")
    from nanomd.systems.record import read_record

    # None stands for "not given" on the command line: each system has its own defaults.
    given = {key: value for key, value in options.items() if value is not None}
    if out is not None:
        return _describe(_simulate(system, Path(out), force, resume, progress, given), Path(out))
    folder = RunFolder(run)
    settings = {"system": system, **{key: value for key, value in given.items() if key != "n_workers"}}
    if not (force or resume or folder.record("simulate")) and read_record(folder.simulation):
        raise StoreError(
            f"{folder.path} holds an unfinished `simulate`; go on with --resume, or start again with --force"
        )
    with begin_step(folder, "simulate", settings, force=force, resume=resume) as step:
        if step.done:
            return step.nothing_to_do()
        # What --force replaces lies elsewhere, so the folder below is new.
        result = _simulate(system, folder.work / "simulation", False, resume, progress, given)
        step.record |= {
            "seconds": result.seconds,
            "n_frames": result.n_frames,
            "frame_interval": str(result.frame_interval),
            "platform": result.platform,
            "ns_per_day": round(result.ns_per_day, 1),
        }
    return _describe(result, folder.simulation)


def _simulate(
    system: str, out: Path, force: bool, resume: bool, progress: bool | None, options: dict[str, Any]
) -> Simulated:
    common: dict[str, Any] = {"force": force, "resume": resume, "progress": progress}
    if system == "alanine-dipeptide":
        from nanomd.systems import alanine_dipeptide

        return alanine_dipeptide.simulate(out, **options, **common)
    from nanomd.systems import ww_domain

    return ww_domain.simulate(out, **options, **common)


def _describe(result: Simulated, folder: Path) -> str:
    if not result.seconds:
        return f"simulate: {folder} already holds this result; nothing to do"
    return (
        f"simulated {len(result.trajectories)} x {result.n_frames:,} frames of {result.frame_interval} "
        f"({result.frame_interval.describe(result.n_frames)} each) on platform {result.platform} in "
        f"{result.seconds:.1f} s ({result.ns_per_day:,.0f} ns/day); {result.topology.name} and "
        f"{result.trajectories[0].name} ... in {folder}"
    )
