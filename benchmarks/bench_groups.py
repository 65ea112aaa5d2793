"""What groups of states and initial coordinates do to a model of some 4000 states, judged by MD that it has not seen.

    python benchmarks/bench_groups.py [--models groups coordinates flat] [--out benchmarks/results/groups.json]

The four-state potential (beta = 5, a frame every 20 steps) in cells of 0.12 x 0.12; eight trajectories of 50,000 frames
to learn from and eight more to judge, by passage times between macrostates and the loss on held-out frames. Models: the
defaults with 64 groups, whose embeddings begin among the slow processes; the same with the places of the cells as
coordinates; and one softmax over all states (n_groups=0). One thread.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd import GPTEstimator, validate
from nanomd.base.environment import cpu_model, environment
from nanomd.data.groups import to_groups
from nanomd.data.states import StateMap
from nanomd.systems import four_state
from nanomd.training.grouping import group_states
from nanomd.training.plan import make_plan

RESULTS = Path(__file__).parent / "results"
CELL, N_CELLS = 0.12, 67  # width, and cells a side from -4 on
MODELS = ("groups", "coordinates", "flat")


def trajectories(seed: int) -> list[NDArray[np.int64]]:
    """Return eight trajectories of cells, row-major."""
    xy = four_state.simulate(50_000, 8, seed=seed, beta=5.0, spacing=20, n_threads=1)
    cell = np.clip(np.floor((xy + 4.0) / CELL).astype(np.int64), 0, N_CELLS - 1)
    return list(cell @ [N_CELLS, 1])


def measure(name: str) -> dict[str, Any]:
    """Train one model, roll it out and judge it."""
    training, judge = trajectories(1), trajectories(99)
    options = {"n_groups": 0 if name == "flat" else 64, "n_threads": 1, "progress": False}
    places = np.indices((N_CELLS, N_CELLS)).reshape(2, -1).T.astype(np.float64) if name == "coordinates" else None
    begin = time.process_time()
    model = GPTEstimator(**options).fit_fetch(training, coordinates=places)
    seconds = time.process_time() - begin
    rollout = model.generate(400_000 // model.frame_stride, 64, seed=3, n_threads=1)
    result = validate(judge, rollout, training=training, progress=False)
    whole = result.rows[0].cells
    return {
        "n_states": model.config.n_states,
        "n_groups": model.config.n_groups,
        "training_seconds": seconds,
        "choices": model.provenance["choices"],
        "frame_stride": model.frame_stride,
        "validation_loss": model.provenance["validation_loss"],
        "markov_validation_loss": model.provenance["markov_validation_loss"],
        "passage_times_off": {
            source: [cell.value, cell.low, cell.high] for source, cell in whole.items() if source != result.reference
        },
        "verdict": result.verdicts["GPT"].outcome,
        "failed": [row.quantity for row in result.rows if row.cells["GPT"].passed is False],
    }


def plans() -> dict[str, list[str]]:
    """Return what the defaults read from the trajectories of states, and from those of their groups."""
    training = trajectories(1)
    states = StateMap.fit(training)
    grouped = group_states(states, states.encode(training), 64)
    return {
        "states": make_plan(grouped.tokens, states.n_states).describe(),
        "groups": make_plan(to_groups(grouped.tokens, grouped.sizes), 64).describe(),
    }


def main() -> None:
    """Measure the models one by one, and write the record after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="(default: all)")
    parser.add_argument("--out", type=Path, default=RESULTS / "groups.json", help="(default: %(default)s)")
    options = parser.parse_args()
    record: dict[str, Any] = {
        "benchmark": "groups",
        "environment": {**environment(), "cpu": cpu_model(), "load_average": os.getloadavg()},
        "command": ["python", "benchmarks/bench_groups.py", *sys.argv[1:]],
        "results": {"plans": plans()},
    }
    for name in options.models:
        record["results"][name] = measure(name)
        print(f"{name}: {json.dumps(record['results'][name])}", flush=True)
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
