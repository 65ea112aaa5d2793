"""Rollout speed: the compiled sampler against the eager reference, verified before it is timed.

The eager reference is what one writes first in PyTorch: no cache, the last W states through the whole model at every
step. Both run in one process, in turns, several times; medians and spreads are reported in one JSON record.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nanomd.config import PRESETS, ModelConfig, model_preset
from nanomd.errors import InputError, NanomdError
from nanomd.run_folder import environment, write_atomic

if TYPE_CHECKING:
    from nanomd.checkpoint import ModelFiles

TOLERANCE = 1e-3  # largest |ln p - ln p_ref| over states with p >= 1e-7, in fp32
_N_STATES = {"xs": 20}  # the others: 100


class VerificationError(NanomdError):
    """The fast path does not compute what the reference does; a time for it would mean nothing."""


def random_model(config: ModelConfig, seed: int = 0) -> ModelFiles:
    """Return a model with random weights of the size that training starts from (speed depends on the shape alone)."""
    from nanomd.checkpoint import ModelFiles, Starts
    from nanomd.dtrajs import StateMap
    from nanomd.units import FrameInterval

    random = np.random.default_rng(seed)
    tensors = {}
    for name, shape in config.tensor_shapes().items():
        if "norm" in name:
            tensors[name] = np.full(shape, 1.0 if name.endswith("weight") else 0.0, np.float32)
        else:
            scale = 0.02 if len(shape) == 1 or "embedding" in name or "position" in name else shape[1] ** -0.5
            tensors[name] = (random.standard_normal(shape) * scale).astype(np.float32)
    V = config.n_states
    return ModelFiles(
        config=config,
        tensors=tensors,
        state_map=StateMap.fit([np.arange(V)]),
        starts=Starts(stationary=np.full(V, 1 / V), windows=np.zeros((0, config.context_length), np.int32)),
        frame_interval=FrameInterval(),
        provenance={"made by": "nanomd bench", "seed": seed},
    )


def verify(files: ModelFiles, seed: int = 0) -> float:
    """Return the largest |ln p - ln p_ref| of the sampler against the parallel float64 forward pass, over 5 windows.

    Raises
    ------
    VerificationError
        If it exceeds `TOLERANCE`.
    """
    import torch

    from nanomd.model import NanoGPT
    from nanomd.rollout import Sampler

    config = files.config
    length = 5 * config.context_length if config.position == "rope" else config.context_length
    tokens = np.random.default_rng(seed).integers(0, config.n_states, length)
    model = NanoGPT(config)
    model.load_tensors(files.tensors)
    model = model.double().eval()
    with torch.no_grad():
        expected = torch.log_softmax(model(torch.from_numpy(tokens)[None])[0], -1).numpy()
    (found,) = Sampler(files).log_probs([tokens])
    found = np.asarray(found, np.float64)
    n = min(len(found), len(expected))
    seen = expected[:n] >= np.log(1e-7)
    error = float(np.abs(found[:n] - expected[:n])[seen].max())
    if not error <= TOLERANCE:
        raise VerificationError(
            f"the sampler differs from the reference: |ln p - ln p_ref| = {error:.2g} > {TOLERANCE:g}"
        )
    return error


def eager_rollout(files: ModelFiles, n_trajs: int, n_threads: int) -> Callable[[int], int]:
    """Return a function that generates n steps with PyTorch from a full window, and returns the number of tokens."""
    import torch

    from nanomd.model import NanoGPT

    config = files.config
    model = NanoGPT(config)
    model.load_tensors(files.tensors)
    model.eval()
    context = torch.randint(
        config.n_states, (n_trajs, config.context_length), generator=torch.Generator().manual_seed(0)
    )

    @torch.no_grad()
    def run(n_steps: int) -> int:
        before = torch.get_num_threads()
        torch.set_num_threads(n_threads)
        try:
            known = context
            for _ in range(n_steps):
                probabilities = torch.softmax(model(known[:, -config.context_length :])[:, -1], -1)
                known = torch.cat([known, torch.multinomial(probabilities, 1)], 1)
        finally:
            torch.set_num_threads(before)
        return n_steps * n_trajs

    return run


def sampler_rollout(files: ModelFiles, n_trajs: int, n_threads: int) -> Callable[[int], int]:
    """Return a function that generates n steps with the compiled sampler from a full window."""
    from nanomd.rollout import Sampler

    sampler = Sampler(files, backend="cpu")
    prompts = np.random.default_rng(0).integers(0, files.config.n_states, (n_trajs, files.config.context_length))

    def run(n_steps: int) -> int:
        sampler.generate(n_steps, n_trajs, start=prompts, seed=1, n_threads=n_threads)
        return n_steps * n_trajs

    return run


def interleaved(
    functions: dict[str, Callable[[int], int]], seconds: float, repeats: int
) -> dict[str, dict[str, float]]:
    """Time functions in turns, so that a busy moment of the machine hits all of them.

    Parameters
    ----------
    functions : dict
        Name to a function of the number of steps that returns the number of tokens made.
    seconds : float
        Target time of one timing; the number of steps is found in a warm-up.
    repeats : int
        Timings of each.

    Returns
    -------
    dict
        Name to tokens per second: median, lowest, highest, and the steps of one timing.
    """
    steps: dict[str, int] = {}
    for name, function in functions.items():
        n, elapsed = 1, 0.0
        while True:
            begin = time.perf_counter()
            function(n)
            elapsed = time.perf_counter() - begin
            if elapsed > seconds / 4:
                break
            n = max(n + 1, min(n * 8, int(n * seconds / max(elapsed, 1e-6) / 2)))
        steps[name] = max(1, int(n * seconds / elapsed))
    speeds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            begin = time.perf_counter()
            tokens = function(steps[name])
            speeds[name].append(tokens / (time.perf_counter() - begin))
    return {
        name: {"median": statistics.median(s), "low": min(s), "high": max(s), "n_steps": steps[name]}
        for name, s in speeds.items()
    }


def rollout_cases(
    presets: Sequence[str], batches: Sequence[int], *, n_threads: int, repeats: int, seconds: float, seed: int
) -> list[dict[str, Any]]:
    """Verify and time each preset at each number of trajectories."""
    cases = []
    for preset in presets:
        config = model_preset(preset, _N_STATES.get(preset, 100))
        files = random_model(config, seed)
        error = verify(files, seed)
        for n_trajs in batches:
            timed = interleaved(
                {
                    "eager": eager_rollout(files, n_trajs, n_threads),
                    "sampler": sampler_rollout(files, n_trajs, n_threads),
                },
                seconds,
                repeats,
            )
            cases.append(
                {
                    "preset": preset, "config": config.to_dict(), "n_trajs": n_trajs, "n_threads": n_threads,
                    "max_log_prob_error": error, "tokens_per_second": timed,
                    "speedup": timed["sampler"]["median"] / timed["eager"]["median"],
                }
            )  # fmt: skip
    return cases


def stamp() -> dict[str, Any]:
    """Return what a measurement depends on: versions, commit, processor, threads, load, date."""
    from nanomd import doctor

    facts = environment()
    facts |= {
        "cpu": doctor.cpu_model(),
        "instruction_set": doctor.instruction_set(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": list(os.getloadavg()),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    return facts


def write_record(name: str, results: Any, out: str | Path | None = None, folder: str | Path | None = None) -> Path:
    """Write one JSON record: `out`, or a new file in `folder`, benchmarks/results, or the working folder."""
    if out is None:
        default = Path("benchmarks/results")
        parent = Path(folder) if folder is not None else default if default.parent.is_dir() else Path()
        path = parent / f"{name}_{time.strftime('%Y%m%d_%H%M%S', time.gmtime())}.json"
    else:
        path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"benchmark": name, "format_version": 1, "environment": stamp(), "results": results}
    write_atomic(path, json.dumps(record, indent=1) + "\n")
    return path


def table(cases: Sequence[dict[str, Any]]) -> str:
    """Return the cases as text."""
    rows = [f"{'preset':<10}{'trajs':>6}{'threads':>8}{'eager/s':>12}{'sampler/s':>14}{'ratio':>9}   {'|dlnp|':>8}"]
    for case in cases:
        speed = case["tokens_per_second"]
        rows.append(
            f"{case['preset']:<10}{case['n_trajs']:>6}{case['n_threads']:>8}{speed['eager']['median']:>12,.0f}"
            f"{speed['sampler']['median']:>14,.0f}{case['speedup']:>8.0f}x   {case['max_log_prob_error']:>8.1e}"
        )
    return "\n".join(rows)


def run(
    *,
    presets: Sequence[str] | None = None,
    quick: bool = False,
    n_threads: int | None = None,
    repeats: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    folder: str | Path | None = None,
) -> str:
    """Run the rollout benchmark, write its record, and return a table."""
    names = list(presets or (["tiny"] if quick else ["base", "xs"]))
    for name in names:
        if name not in PRESETS:
            raise InputError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
    threads = n_threads or len(os.sched_getaffinity(0))
    cases = rollout_cases(
        names,
        (1, 8) if quick else (1, 64),
        n_threads=threads,
        repeats=repeats or (2 if quick else 5),
        seconds=0.05 if quick else 1.0,
        seed=seed,
    )
    path = write_record("rollout", {"quick": quick, "cases": cases}, out, folder)
    return f"{table(cases)}\nrecord: {path}"
