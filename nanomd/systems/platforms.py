"""OpenMM's platforms: which one runs a simulation, and with what options."""

from __future__ import annotations

from typing import Any, Literal

from nanomd.base.checks import check_choice
from nanomd.base.errors import BackendUnavailableError
from nanomd.systems.dynamics import import_openmm

Platform = Literal["auto", "Reference", "CPU", "CUDA", "OpenCL"]


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
        mm.Context(
            system,
            mm.VerletIntegrator(0.001),
            mm.Platform.getPlatformByName(platform),
            platform_properties(platform, 0),
        )
    except mm.OpenMMException as error:
        return " ".join(str(error).split())[:200]
    return None


def platform_properties(platform: str, device: int) -> dict[str, str]:
    """Return the options of an OpenMM platform: one thread each on a CPU, since replicas run beside each other."""
    if platform == "CPU":
        return {"Threads": "1"}
    return {"DeviceIndex": str(device), "Precision": "mixed"} if platform in {"CUDA", "OpenCL"} else {}
