"""Time and rollouts of `nanomd.constrain` against the number of states and of wishes.

    python benchmarks/bench_constrain.py [--states 10 100 300 1000] [--wishes 1 4 16] [--out FILE]

The models are reversible Markov chains of three wells in a markov head, so that what comes out can be verified: the
wishes must hold in the stationary vector of the new table, within the error of a rollout of 2000 slowest timescales.
Processor seconds, one thread; apart, the seconds of the nearest chain, which is what grows with the wishes: the rest is
rollouts and what is measured in them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from common import RESULTS

import nanomd.caliber.reweight as reweight
from nanomd import FrameInterval
from nanomd.base.config import ModelConfig
from nanomd.base.environment import environment
from nanomd.caliber import Average, Constrained, Population, constrain
from nanomd.caliber.chain import Chain
from nanomd.data.states import StateMap
from nanomd.model.files import ModelFiles, Starts
from nanomd.model.network import NanoGPT


def three_wells(n: int, seed: int = 0) -> ModelFiles:
    """A reversible chain: states of a well exchange freely, wells once in some hundred steps."""
    rng = np.random.default_rng(seed)
    well = np.arange(n) * 3 // n
    weights = rng.gamma(1.0, 1.0, (n, n)) + 0.05
    weights *= np.where(well[:, None] == well[None, :], 1.0, 0.003)
    weights += weights.T
    weights += np.diag(2 * weights.sum(axis=1))
    chain = weights / weights.sum(axis=1, keepdims=True)
    config = ModelConfig(n_states=n, d_model=16, n_layer=1, n_head=1, context_length=16, mlp_ratio=2, markov_head=True)
    network = NanoGPT(config)
    network.start_at_markov(chain, 1e-9)
    stationary = weights.sum(axis=1) / weights.sum()
    starts = Starts(stationary, np.zeros((0, 16), np.int32))
    return ModelFiles(config, network.to_tensors(), StateMap(np.arange(n)), starts, FrameInterval(), {})


def wishes_for(files: ModelFiles, number: int, seed: int = 1) -> dict[str, Any]:
    """One population, and averages of random observables, all a tenth of their range away from what they are."""
    n, pi = files.config.n_states, files.starts.stationary
    first = list(range(n // 3))
    rng = np.random.default_rng(seed)
    observables = [
        rng.normal(size=n) + np.repeat(rng.normal(size=3), [*np.bincount(np.arange(n) * 3 // n)])
        for _ in range(number - 1)
    ]
    averages = [
        Average(f, float(pi @ f + 0.1 * np.sqrt(pi @ f**2 - (pi @ f) ** 2)), name=f"f{k}")
        for k, f in enumerate(observables)
    ]
    return {"populations": [Population(first, float(pi[first].sum()) + 0.1)], "averages": averages}


def verify(found: Constrained, asked: dict[str, Any]) -> float:
    """Return the largest error of a wish in the stationary vector of the new table."""
    p = np.exp(found.files.tensors["markov.weight"].astype(np.float64))
    pi = Chain(p / p.sum(axis=1, keepdims=True)).pi
    off = [pi[list(x.states)].sum() - x.wanted for x in asked["populations"]]
    return float(max(abs(x) for x in [*off, *(pi @ x.values - x.wanted for x in asked["averages"])]))


def measure(n: int, number: int) -> dict[str, Any]:
    files = three_wells(n)
    asked = wishes_for(files, number)
    spent = 0.0

    def timed(*arguments: Any) -> Any:
        nonlocal spent
        begin = time.process_time()
        found = reweight_nearest(*arguments)
        spent += time.process_time() - begin
        return found

    reweight_nearest = reweight.nearest_chain
    begin = time.process_time()
    with patch.object(reweight, "nearest_chain", timed):
        found = constrain(files, **asked, n_threads=1, progress=False)
    seconds = time.process_time() - begin
    worst = verify(found, asked)
    assert worst < 0.04, f"{n} states, {number} wishes: a wish is off by {worst}"
    return {
        "n_states": n, "n_wishes": number, "seconds": round(seconds, 2), "seconds_nearest_chain": round(spent, 3),
        "rollouts": found.rollouts, "worst_error": worst, "relative_entropy": found.relative_entropy,
        "met": all(row.met for row in found.rows),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--states", type=int, nargs="+", default=[10, 100, 300, 1000])
    parser.add_argument("--wishes", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--out", type=Path, default=RESULTS / "constrain.json")
    options = parser.parse_args()
    measure(6, 1)  # imports and the first call of everything
    cases = [(n, 1) for n in options.states] + [(100, k) for k in options.wishes if k > 1]
    rows = []
    for n, number in cases:
        rows.append(measure(n, number))
        print(rows[-1], flush=True)
    options.out.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
