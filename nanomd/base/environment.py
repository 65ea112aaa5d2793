"""Where a result was made: versions, machine and commit."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from nanomd import __version__


def environment() -> dict[str, Any]:
    """Return versions, machine and commit. Nothing heavy is imported."""
    versions: dict[str, str | None] = {"nanomd": __version__}
    for name in ("numpy", "scipy", "torch", "triton", "deeptime", "mdtraj"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "versions": {**versions, "python": platform.python_version()},
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "commit": source_commit(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def source_commit() -> str | None:
    """Return the commit of the source tree that nanomd runs from, with ``+`` if it was changed; None for a wheel."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists() or not (root / "pyproject.toml").exists():
        return None
    try:
        options: dict[str, Any] = dict(cwd=root, capture_output=True, text=True, timeout=10, check=True)
        commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], **options).stdout.strip()  # noqa: S607
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], **options).stdout.strip()  # noqa: S607
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}{'+' if changed else ''}"


def cpu_model() -> str:
    """Return the name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
