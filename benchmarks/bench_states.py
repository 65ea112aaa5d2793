"""Time and memory of every step of a study with many microstates: tokenize, train, generate, validate, report.

    python benchmarks/bench_states.py [--states 1000 10000 65536] [--out benchmarks/results/states.json]
    python benchmarks/bench_states.py --markov 10000 --out benchmarks/results/states_markov.json

The data are the four-state potential in x and y (preset "demo") and a slow Ornstein-Uhlenbeck process in z, 20
trajectories; 400,000 frames for 1000 states, a million for 10,000, four million for 65,536. Each step is the command a
user would type, with its defaults and one thread, in a process of its own, whose processor time and peak memory
(resource.getrusage of the child) are recorded. With --markov: the reversible Markov model of so many states at lag 1,
by deeptime's fixed-point iteration and by Newton's method, and its slowest timescales.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from nanomd.base.environment import cpu_model, environment
from nanomd.systems import four_state

RESULTS = Path(__file__).parent / "results"
FRAMES = {1000: 400_000, 10_000: 1_000_000, 65_536: 4_000_000}
N_TRAJS = 20
STEPS = ("tokenize", "train", "generate", "validate", "report")


def write_features(folder: Path, n_frames: int) -> list[str]:
    """Write features (n_frames / 20, 3), one file a trajectory."""
    from scipy.signal import lfilter

    length = n_frames // N_TRAJS
    xy = four_state.simulate(length, N_TRAJS, preset="demo", seed=1, n_threads=1)
    noise = np.random.default_rng(2).standard_normal((N_TRAJS, length))
    z = lfilter([0.2], [1.0, -0.98], noise, axis=1)
    files = []
    for i, one in enumerate(np.concatenate([xy, z[..., None]], axis=2).astype(np.float32)):
        files.append(str(folder / f"f_{i:02d}.npy"))
        np.save(files[-1], one)
    return files


def measured(arguments: list[str], limit: float) -> dict[str, Any]:
    """Run a command of nanomd; return its wall and processor seconds, and its peak memory in GiB."""
    code = (
        "import resource, subprocess, sys, json; "
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True); "
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); "
        "print(json.dumps([done.returncode, used.ru_utime + used.ru_stime, used.ru_maxrss, done.stderr[-2000:]]))"
    )
    begin = time.perf_counter()
    whole = [sys.executable, "-c", code, sys.executable, "-m", "nanomd", *arguments]
    try:
        done = subprocess.run(whole, capture_output=True, text=True, check=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {limit:.0f} s"}
    status, seconds, kilobytes, error = json.loads(done.stdout)
    if status:
        return {"failed": error.strip().splitlines()[-1] if error.strip() else f"exit status {status}"}
    return {
        "wall_seconds": time.perf_counter() - begin,
        "processor_seconds": seconds,
        "peak_gib": kilobytes / 2**20,
    }


def study(n_states: int, more: list[str], limit: float) -> dict[str, Any]:
    """Return what every step took."""
    found: dict[str, Any] = {"n_states": n_states, "n_frames": FRAMES.get(n_states, 60 * n_states)}
    with tempfile.TemporaryDirectory() as folder:
        files = write_features(Path(folder), found["n_frames"])
        run = str(Path(folder) / "run")
        of_step = {
            "tokenize": ["--features", "arrays", "--states", str(n_states), *files],
            "train": ["--n-threads", "1", *more],
            "generate": ["--n-threads", "1"],
        }
        for step in STEPS:
            found[step] = measured([step, "--run", run, "--quiet", *of_step.get(step, [])], limit)
            print(f"{n_states} states, {step}: {json.dumps(found[step])}", flush=True)
            if "failed" in found[step]:
                break
    return found


def markov(n_states: int) -> dict[str, Any]:
    """Time both ways to the reversible Markov model of the same data."""
    from deeptime.markov.tools.estimation import transition_matrix
    from scipy.sparse import csr_matrix

    from nanomd import Tokenizer
    from nanomd.data.counts import largest_connected_set, sparse_transition_counts, submatrix
    from nanomd.kinetics.markov import MarkovModel
    from nanomd.kinetics.reversible import balancing_vector, reversible_matrix

    with tempfile.TemporaryDirectory() as folder:
        features = [np.load(file) for file in write_features(Path(folder), FRAMES.get(n_states, 60 * n_states))]
    dtrajs = Tokenizer(n_states=n_states, progress=False).fit_transform_arrays(features)
    counts = sparse_transition_counts(dtrajs, n_states)
    inner = submatrix(counts, largest_connected_set(counts))
    found: dict[str, Any] = {"n_states": inner.shape[0], "n_different_transitions": int(inner.nnz)}
    for name in ("newton", "fixed_point"):
        begin = time.process_time()
        if name == "newton":
            matrix, stationary = reversible_matrix(inner, balancing_vector(inner))
        else:
            matrix, stationary = transition_matrix(csr_matrix(inner), reversible=True, return_statdist=True)
        seconds = time.process_time() - begin
        model = MarkovModel(matrix.tocsr(), stationary / stationary.sum(), np.arange(inner.shape[0]), 1)
        found[name] = {"processor_seconds": seconds, "timescales": model.timescales(3).tolist()}
        print(f"{n_states} states, {name}: {json.dumps(found[name])}", flush=True)
    return found


def main() -> None:
    """Run all, and write the record after each number of states."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=int, nargs="+", default=list(FRAMES), help="(default: %(default)s)")
    parser.add_argument("--markov", type=int, metavar="N", help="only the Markov model of N states, both ways")
    parser.add_argument("--train", nargs="*", default=[], metavar="OPTION", help="more options of `nanomd train`")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds a step may take (default: %(default)s)")
    parser.add_argument("--out", default=str(RESULTS / "states.json"), help="(default: %(default)s)")
    options = parser.parse_args()
    record: dict[str, Any] = {
        "benchmark": "states",
        "environment": {**environment(), "cpu": cpu_model(), "load_average": os.getloadavg()},
        "command": ["python", "benchmarks/bench_states.py", *sys.argv[1:]],
        "results": {"states": {}},
    }
    if options.markov is not None:
        record["results"] = {"markov": markov(options.markov)}
        Path(options.out).write_text(json.dumps(record, indent=1) + "\n")
        return
    for n_states in options.states:
        record["results"]["states"][str(n_states)] = study(n_states, options.train, options.limit)
        Path(options.out).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
