"""How a rare event happens, against transition path theory: is the time of a passage right, does its interval hold?

    python benchmarks/bench_rare_paths.py [--seeds 50] [--out benchmarks/results/rare_paths.json]

The model is the second-order chain of bench_rare.py, whose passages linear algebra knows. Every seed is a whole call
with its own interval of the mean transition-path time, and of the visits of each of the ten states on the way.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from bench_rare import measure
from rare_chain import Exact, make_model

from nanomd import Sampler


def study(sampler: Sampler, name: str, n_seeds: int, density: np.ndarray) -> dict[str, object]:
    exact, inside, states, seconds = density.sum() + 1, 0, [], [0.0, 0.0]
    found, errors = [], []
    for seed in range(n_seeds):
        begun = time.process_time()
        result = sampler.rare_event([10], [21], start=[[10, 10]], seed=seed, method=name, n_threads=1, record=True)
        seconds[0] += (time.process_time() - begun) / n_seeds
        begun = time.process_time()
        paths = result.paths()
        duration, visits = paths.duration, paths.density
        seconds[1] += (time.process_time() - begun) / n_seeds
        found.append(float(duration.value))
        errors.append(float(duration.error))
        inside += bool(duration.low <= exact <= duration.high)
        states.append(((visits.low <= density) & (density <= visits.high))[1:-1].mean())
    scatter = np.std(found, ddof=1)
    return {
        "mean_over_exact": np.mean(found) / exact,
        "standard_error_of_mean": scatter / n_seeds**0.5 / exact,
        "scatter": scatter / exact,
        "scatter_claimed": float(np.sqrt(np.mean(np.square(errors))) / exact),
        "coverage_of_95": inside / n_seeds,
        "coverage_of_95_of_the_states": float(np.mean(states)),
        "processor_seconds": seconds[0],
        "processor_seconds_of_the_paths": seconds[1],
        "durations": found,
    }


def main() -> None:
    exact = Exact.of(make_model())
    rate, _ = exact.process([11], (0, 0))
    density = exact.reactive([0], [11], (0, 0))[0] / rate
    known = {"exact_duration": density.sum() + 1}
    measure("rare_paths", __doc__, known, lambda *which: study(*which, density), "durations")


if __name__ == "__main__":
    main()
