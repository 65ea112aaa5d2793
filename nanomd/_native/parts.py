"""Parts of the core: devices, instruction sets, random numbers, and what tests look at."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd._native.core import CORE, core_errors


def cuda_info() -> dict[str, Any]:
    """Return what CUDA this build and machine offer: built, driver, devices, and reason, empty where there is one."""
    info: dict[str, Any] = CORE.cuda_info()
    return info


def available_isas() -> list[str]:
    """Return the instruction sets that this processor and build can use, best first."""
    return list(CORE.available_isas())


def instruction_set() -> str:
    """Return the instruction set that the compiled engine uses here."""
    forced = os.environ.get("NANOMD_ISA")
    return f"{forced} (NANOMD_ISA)" if forced else available_isas()[0]


def sample_counts(
    logits: NDArray[np.float32],
    n_draws: int,
    seed: int = 0,
    trajectory: int = 0,
    temperature: float = 1.0,
    isa: str = "",
) -> NDArray[np.int64]:
    """Draw from fixed logits with the sampler of rollouts; return how often each state came.

    Parameters
    ----------
    logits : (n_states,) float32
    n_draws : int
        Draws use the uniforms of steps 0 to n_draws - 1 of the given trajectory.

    Returns
    -------
    counts : (n_states,) int64
    """
    row = np.ascontiguousarray(logits, dtype=np.float32)
    with core_errors():
        counts: NDArray[np.int64] = CORE.sample_counts(row, seed, trajectory, n_draws, temperature, isa)
    return counts


def exp_array(x: NDArray[np.float32], isa: str = "") -> NDArray[np.float32]:
    """Return e^x, (n,) float32 with n a multiple of 16, by the polynomial of the kernels; for tests."""
    row = np.ascontiguousarray(x, dtype=np.float32)
    with core_errors():
        result: NDArray[np.float32] = CORE.exp_array(row, isa)
    return result


def philox(seed: int, step: int, trajectory: int) -> tuple[int, int, int, int]:
    """Return the four words of Philox4x32-10 with key `seed` and counter (`step`, `trajectory`)."""
    a, b, c, d = CORE.philox(seed, step, trajectory)
    return a, b, c, d


def rollout_uniform(seed: int, step: int, trajectory: int) -> float:
    """Return the uniform number in [0, 1) that draws a state: 53 bits, a function of its arguments alone."""
    return float(CORE.rollout_uniform(seed, step, trajectory))
