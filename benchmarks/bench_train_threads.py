"""The compiled training step on several threads: steps in turns, wall clock, and how much faster than one thread.

    python benchmarks/bench_train_threads.py [--models demo small:200 S] [--threads 1 2] [--seconds 5]

On a machine that others use, a step on two threads waits for the core that is taken: the fastest steps tell what the
step can do, and the medians what was left of the machine. Matrix products, one for each thread, are timed beside it.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from nanomd.base.config import TrainConfig
from nanomd.bench.models import bench_config
from nanomd.bench.training import FIRST_STEP, N_STEPS, TOKENS, make_step, window_length
from nanomd.training.setup import torch_settings

QUANTILES = (0.0, 0.05, 0.25, 0.5)


def step_seconds(model: str, threads: list[int], seconds: float) -> dict[int, list[float]]:
    """Return the times of steps, by their number of threads."""
    device, shape = torch.device("cpu"), bench_config(model)
    batch = max(1, TOKENS["cpu"] // window_length(shape))
    config = TrainConfig(compile="native", n_steps=N_STEPS, batch_size=batch, learning_rate=1e-4, device="cpu")
    step, number = make_step(shape, config, plain=False, device=device), FIRST_STEP
    times: dict[int, list[float]] = {n: [] for n in threads}
    with torch_settings(device, max(threads)):
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(times[threads[0]]) < 10:
            for n in threads:
                torch.set_num_threads(n)
                begin = time.perf_counter()
                step(number)
                times[n].append(time.perf_counter() - begin)
                number += 1
    return times


def product_seconds(threads: list[int]) -> dict[int, list[float]]:
    """Return the times in which every thread makes one large matrix product: the cores that this process is given."""
    matrices = [np.ones((768, 768), dtype=np.float32) for _ in range(max(threads))]
    times: dict[int, list[float]] = {n: [] for n in threads}
    with ThreadPoolExecutor(max(threads)) as pool:
        for _ in range(60):
            for n in threads:
                begin = time.perf_counter()
                list(pool.map(lambda a: a @ a, matrices[:n]))
                times[n].append((time.perf_counter() - begin) / n)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["demo", "small:200", "S"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=5.0, help="for each model")
    options = parser.parse_args()
    work = {name: step_seconds(name, options.threads, options.seconds) for name in options.models}
    work["a product for each thread"] = product_seconds(options.threads)
    for name, times in work.items():
        first = np.quantile(times[options.threads[0]], QUANTILES)
        for n, taken in times.items():
            ratios = first / np.quantile(taken, QUANTILES)
            print(
                json.dumps(
                    {
                        "work": name,
                        "threads": n,
                        "over_first": dict(zip(QUANTILES, ratios.round(2).tolist(), strict=True)),
                    }
                )
            )


if __name__ == "__main__":
    main()
