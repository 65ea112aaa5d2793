"""Timing side by side, the stamp of what a measurement depends on, and the record on disk."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from nanomd._native import instruction_set
from nanomd.base.environment import cpu_model, environment
from nanomd.base.errors import InputError
from nanomd.base.files import write_atomic

FORMAT_VERSION = 2
_PEERS = ("transformers", "ctranslate2", "onnxruntime", "onnx")
_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE", "NANOMD_ISA", "NANOMD_BACKEND")


def interleaved(
    functions: Mapping[str, Callable[[int], int]], seconds: float, repeats: int
) -> dict[str, dict[str, float]]:
    """Time functions in turns, so that a busy moment of the machine hits all of them.

    Parameters
    ----------
    functions : dict
        Name to a function of the number of units of work (steps, hops, ...) that returns the number of tokens made.
    seconds : float
        Target time of one timing; the number of units is found in a warm-up.
    repeats : int
        Timings of each.

    Returns
    -------
    dict
        Name to tokens per second: ``median``, ``low``, ``high``; ``n_steps``, the units of one timing; ``busy``, the
        median of processor time over wall time (below the number of threads, the machine was shared or waiting); and
        ``per_cpu_second``, the median of tokens per second of processor time, which a shared machine changes least.
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
    busy: dict[str, list[float]] = {name: [] for name in functions}
    worked: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            begin, begin_cpu = time.perf_counter(), time.process_time()
            tokens = function(steps[name])
            elapsed = time.perf_counter() - begin
            speeds[name].append(tokens / elapsed)
            processor = time.process_time() - begin_cpu
            busy[name].append(processor / elapsed)
            worked[name].append(tokens / max(processor, 1e-9))
    return {
        name: {
            "median": statistics.median(s),
            "low": min(s),
            "high": max(s),
            "n_steps": steps[name],
            "busy": round(statistics.median(busy[name]), 3),
            "per_cpu_second": statistics.median(worked[name]),
        }
        for name, s in speeds.items()
    }


def stamp() -> dict[str, Any]:
    """Return what a measurement depends on: versions, commit, processor, threads, load, date."""
    facts = environment()
    versions = dict(facts.get("versions", {}))
    for name in _PEERS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    facts |= {
        "versions": versions,
        "cpu": cpu_model(),
        "instruction_set": instruction_set(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": [round(x, 2) for x in os.getloadavg()],
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    return facts


def write_record(
    name: str,
    results: Any,
    out: str | Path | None = None,
    folder: str | Path | None = None,
    before: Mapping[str, Any] | None = None,
) -> Path:
    """Write one JSON record: `out` in `folder`, or a new file there, in benchmarks/results, or in the working folder.

    Parameters
    ----------
    before : dict, optional
        The stamp taken before the measurement, kept for its load average: afterwards the load is our own.
    """
    if out is None:
        default = Path("benchmarks/results")
        parent = Path(folder) if folder is not None else default if default.parent.is_dir() else Path()
        path = parent / f"{name}_{time.strftime('%Y%m%d_%H%M%S', time.gmtime())}.json"
    else:
        path = Path(folder or "") / out
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = stamp()
    if before is not None:
        facts["load_average_before"] = before["load_average"]
    record = {"benchmark": name, "format_version": FORMAT_VERSION, "environment": facts, "results": results}
    write_atomic(path, json.dumps(record, indent=1) + "\n")
    return path


def read_record(path: str | Path) -> dict[str, Any]:
    """Read a record.

    Raises
    ------
    InputError
        If it is missing, not JSON, or not a record of this version.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} cannot be read as a benchmark record: {error}") from None
    if not isinstance(record, dict) or not {"benchmark", "environment", "results"} <= set(record):
        raise InputError(f"{path} is not a benchmark record: it lacks benchmark, environment or results")
    if record.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path} must have format_version {FORMAT_VERSION}, got {record.get('format_version')!r}: measure again"
        )
    return record
