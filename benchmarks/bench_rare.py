"""Rare events against exact numbers: bias, coverage of the intervals, and steps saved over ordinary rollouts.

    python benchmarks/bench_rare.py [--seeds 50] [--out benchmarks/results/rare.json]

The model is a second-order Markov chain exactly (one layer, a window of two frames), with memory and a rate of 1.2e-8 a
step, which linear algebra gives. Every seed is a whole `Sampler.rare_event` with its own interval. The gain is measured
from the scatter of the seeds: steps of rollouts that see as many passages as give that error, over the steps spent.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from rare_chain import Exact, make_model

from nanomd import Sampler
from nanomd.base.environment import cpu_model, environment

RESULTS = Path(__file__).parent / "results"
METHODS = ("weighted_ensemble", "splitting")


def study(sampler: Sampler, name: str, n_seeds: int, rate: float) -> dict[str, object]:
    found, inside, steps, errors, seconds = [], 0, 0, [], time.process_time()
    for seed in range(n_seeds):
        result = sampler.rare_event([10], [21], start=[[10, 10]], seed=seed, method=name, n_threads=1)
        found.append(float(result.rate.value))
        inside += bool(result.rate.low <= rate <= result.rate.high)
        steps += result.steps / n_seeds
        errors.append(result.relative_error)
    values = np.array(found) / rate
    error = values.std(ddof=1)
    return {
        "mean_over_exact": values.mean(),
        "standard_error_of_mean": error / n_seeds**0.5,
        "scatter": error,
        "scatter_claimed": float(np.sqrt(np.mean(np.square(errors)))),
        "coverage_of_95": inside / n_seeds,
        "steps": steps,
        "gain": 1 / rate / error**2 / steps,
        "processor_seconds": (time.process_time() - seconds) / n_seeds,
        "rates": found,
    }


def measure(
    benchmark: str,
    description: str | None,
    exact: dict[str, float],
    study: Callable[[Sampler, str, int], dict[str, Any]],
    in_full: str,
) -> None:
    """Study both methods over the seeds that the command line asks for, and write the record.

    What `study` returns is printed but for `in_full`, a number for every seed.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50, help="(default: %(default)s)")
    parser.add_argument("--out", default=str(RESULTS / f"{benchmark}.json"), help="(default: %(default)s)")
    options = parser.parse_args()
    sampler = Sampler(make_model(), "cpu")
    found: dict[str, Any] = {}
    record = {
        "benchmark": benchmark, "environment": {**environment(), "cpu": cpu_model(), "load_average": os.getloadavg()},
        "engine": sampler.engine_name, "n_seeds": options.seeds, **exact, "results": {benchmark: found},
    }  # fmt: skip
    for name in METHODS:
        found[name] = study(sampler, name, options.seeds)
        shown = {key: round(value, 4) for key, value in found[name].items() if key != in_full}
        print(f"{name}: {json.dumps(shown)}", flush=True)
    Path(options.out).write_text(json.dumps(record, indent=1) + "\n")


def main() -> None:
    rate, _ = Exact.of(make_model()).process([11], (0, 0))
    measure("rare", __doc__, {"exact_rate": rate}, lambda *which: study(*which, rate), "rates")


if __name__ == "__main__":
    main()
