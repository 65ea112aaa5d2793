"""What the kernel benchmarks share: refuse without a GPU, verify, time side by side, write one JSON record.

A benchmark is an operation with problems (named sizes), rivals, a proof and a floor. Every rival runs as a CUDA graph,
so that launches cost what they cost in training; graphs are replayed in turn, in one process, and the median and the
spread are kept. Inputs rotate among several copies, so that they do not sit in the L2 cache.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

NO_DEVICE = 3  # exit code
COPIES = 3
HBM_BYTES_PER_SECOND = 4.8e12  # H200, data sheet: what a time is compared with, not what was measured


@dataclass(frozen=True)
class Row:
    """One problem in one type: how to prove it, what to time, and the bytes that nothing avoids."""

    name: str
    dtype: torch.dtype
    sizes: dict[str, int]
    verify: Callable[[], dict[str, float]]  # error of each rival; raises SystemExit if ours is wrong
    inputs: Callable[[int], tuple[Any, ...]]  # from a seed
    rivals: dict[str, Callable[..., Any]]  # ours is called "triton"
    floor_bytes: int


def grid(
    shapes: dict[str, tuple[int, ...]],
    sizes: Sequence[str],
    dtypes: Iterable[torch.dtype],
    verify: Callable[..., dict[str, float]],
    problem: Callable[..., tuple[Any, ...]],
    rivals: Callable[[], dict[str, Callable[..., Any]]],
    floor_bytes: Callable[..., int],
    quick: bool,
) -> Iterator[Row]:
    """Yield a row for every shape and type; the first two shapes where `quick`."""
    for name, shape in list(shapes.items())[: 2 if quick else None]:
        for dtype in dtypes:
            runs = rivals()
            yield Row(
                name,
                dtype,
                dict(zip(sizes, shape, strict=True)),
                partial(verify, shape, dtype, runs),
                partial(problem, shape, dtype, "cuda"),
                runs,
                floor_bytes(shape, dtype),
            )


def time_side_by_side(row: Row, repeats: int) -> dict[str, dict[str, float | str]]:
    """Milliseconds of one call of every rival; one that cannot be captured is recorded with its reason."""
    problems = [row.inputs(seed) for seed in range(COPIES)]
    graphs: dict[str, torch.cuda.CUDAGraph] = {}
    times: dict[str, dict[str, float | str]] = {}
    for name, run in row.rivals.items():
        try:
            graphs[name] = _capture(run, problems)
        except Exception as error:  # a rival that fails must not end the session
            if name == "triton":
                raise
            times[name] = {"not timed": f"{type(error).__name__}: {error}"[:300]}
    samples: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(repeats):
        for name, graph in graphs.items():
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            graph.replay()
            stop.record()
            stop.synchronize()
            samples[name].append(start.elapsed_time(stop) / len(problems))
    for name, x in samples.items():
        times[name] = {"median_ms": statistics.median(x), "low_ms": min(x), "high_ms": max(x)}
    return times


def _capture(run: Callable[..., Any], problems: list[tuple[Any, ...]]) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for case in problems:
            for _ in range(3):
                run(*case)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for case in problems:
            run(*case)
    return graph


def stamp() -> dict[str, Any]:
    """Where and with what this runs."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    triton = sys.modules.get("triton")
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": getattr(triton, "__version__", None),
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg(),
    }


def main(operation: str, rows: Callable[[bool], Iterable[Row]]) -> int:
    """Verify and time every row (`rows(quick)`), write bench_OPERATION.json, print a table. Code 3 without a device."""
    parser = argparse.ArgumentParser(description=f"Prove and time {operation} on a GPU.")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--quick", action="store_true", help="two shapes, few repeats")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print(f"bench_{operation} needs a CUDA device; none is visible. Nothing was measured.", file=sys.stderr)
        return NO_DEVICE
    record: dict[str, Any] = {"benchmark": operation, "rows": []}
    print(f"{'shape':20s} {'type':15s} {'triton ms':>10s} {'floor ms':>9s} {'GB/s':>7s}  speed against the others")
    for row in rows(arguments.quick):
        error = row.verify()
        times = time_side_by_side(row, 10 if arguments.quick else 50)
        floor = {"bytes": row.floor_bytes, "ms": row.floor_bytes / HBM_BYTES_PER_SECOND * 1e3}
        record["rows"].append(
            {"name": row.name, "dtype": str(row.dtype), "sizes": row.sizes, "error": error, "floor": floor}
            | {"times": times}
        )
        mine = float(times["triton"]["median_ms"])
        ratios = [f"{n} {float(t['median_ms']) / mine:.2f}x" for n, t in times.items() if "median_ms" in t]
        rate = row.floor_bytes / mine / 1e6
        print(f"{row.name:20s} {row.dtype!s:15s} {mine:10.3f} {floor['ms']:9.3f} {rate:7.0f}  {', '.join(ratios[1:])}")
    record["environment"] = stamp()
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"bench_{operation}.json").write_text(json.dumps(record, indent=1))
    return 0
