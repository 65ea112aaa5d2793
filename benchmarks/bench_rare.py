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
from pathlib import Path

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50, help="(default: %(default)s)")
    parser.add_argument("--out", default=str(RESULTS / "rare.json"), help="(default: %(default)s)")
    options = parser.parse_args()
    files = make_model()
    rate, _ = Exact.of(files).process([11], (0, 0))
    sampler = Sampler(files, "cpu")
    record = {
        "benchmark": "rare", "environment": {**environment(), "cpu": cpu_model(), "load_average": os.getloadavg()},
        "engine": sampler.engine_name, "n_seeds": options.seeds, "exact_rate": rate,
        "results": {"rare": {}},
    }  # fmt: skip
    for name in METHODS:
        record["results"]["rare"][name] = one = study(sampler, name, options.seeds, rate)
        shown = {key: round(value, 4) for key, value in one.items() if key != "rates"}
        print(f"{name}: {json.dumps(shown)}", flush=True)
    Path(options.out).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
