"""`nanomd simulate` for molecules: simulations with OpenMM, into a folder of their own or into a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanomd.base.errors import InputError, StoreError
from nanomd.study.folder import RunFolder

if TYPE_CHECKING:
    from nanomd.systems.replicas import Simulated

SYSTEMS = ("alanine-dipeptide", "ww-domain")


def simulate(
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
        One of `SYSTEMS`.
    out : path, optional
        The folder of topology and trajectories; what later steps take as ``data``.
    run : path
        Without `out`: a run folder, whose simulation/ gets them, and where `nanomd tokenize` finds them.
    force, resume, progress
        As in every step.
    **options
        Those of `nanomd.systems.alanine_dipeptide.simulate` or `nanomd.systems.ww_domain.simulate`.
    """
    if system not in SYSTEMS:
        raise InputError(f"system must be one of {', '.join(SYSTEMS)}, got {system!r}")
    from nanomd.systems.record import read_record

    # None stands for "not given" on the command line: each system has its own defaults.
    given = {key: value for key, value in options.items() if value is not None}
    if out is not None:
        return _describe(_simulate(system, Path(out), force, resume, progress, given), Path(out))
    folder = RunFolder(run)
    settings = {"system": system, **{key: value for key, value in given.items() if key != "n_workers"}}
    with folder.lock():
        if not (force or resume or folder.record("simulate")) and read_record(folder.simulation):
            raise StoreError(
                f"{folder.path} holds an unfinished `simulate`; go on with --resume, or start again with --force"
            )
        if not folder.begin("simulate", settings, {}, force=force, resume=resume):
            return f"simulate: {folder.path} already holds this result; nothing to do"
        # What --force replaces was set aside, so the folder below is new.
        result = _simulate(system, folder.simulation, False, resume, progress, given)
        folder.finish(
            "simulate",
            settings,
            {},
            result.seconds,
            n_frames=result.n_frames,
            frame_interval=str(result.frame_interval),
            platform=result.platform,
            ns_per_day=round(result.ns_per_day, 1),
        )
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
