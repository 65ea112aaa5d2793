"""Triton reads TRITON_INTERPRET when it is imported, for the whole process: its interpreter gets one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for kernel_problems


@pytest.fixture(scope="session")
def run_with():
    """Run a file of cases beside this one in a fresh interpreter with TRITON_INTERPRET set or cleared."""
    pytest.importorskip("triton", reason="triton is not installed")

    def run(file: str, *, interpret: bool, select: str = "") -> str:
        environment = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "PYTEST_ADDOPTS")}
        if interpret:
            environment["TRITON_INTERPRET"] = "1"
        environment.setdefault("OMP_NUM_THREADS", "1")
        target = Path(__file__).parent / file
        command = [sys.executable, "-m", "pytest", str(target), "-q", "-x", "-p", "no:cacheprovider"]
        command += ["-c", str(Path(__file__).parents[2] / "pyproject.toml"), "--import-mode=importlib"]
        if select:
            command += ["-m", select]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        return done.stdout

    return run
