"""Draw docs/pictures/many_states.png: groups of states, and what every step costs: python docs/many_states_picture.py.

The costs are those of benchmarks/results/states.json (`python benchmarks/bench_states.py`).
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from nanomd.data.counts import sparse_transition_counts
from nanomd.data.groups import kinetic_groups
from nanomd.report.style import look
from nanomd.systems import four_state

HERE = Path(__file__).parent
N_STATES, N_FRAMES = 10_000, 1_000_000

xy = four_state.simulate(N_FRAMES // 20, 20, preset="demo", seed=1)
centers = four_state.kmeans_centers(xy, N_STATES)
dtrajs = four_state.tokenize(xy, "kmeans", centers=centers)
groups = kinetic_groups(sparse_transition_counts(dtrajs, N_STATES))
record = json.loads((HERE.parent / "benchmarks" / "results" / "states.json").read_text())["results"]["states"]
with look():
    figure, axes = plt.subplots(1, 3, figsize=(13.5, 4.3), layout="constrained")
    shuffled = np.random.default_rng(0).permutation(groups.max() + 1)
    axes[0].scatter(*centers.T, c=shuffled[groups] % 20, s=2, cmap="tab20", linewidths=0)
    axes[0].set(xlabel="x", ylabel="y", title=f"{N_STATES:,} states in {groups.max() + 1} groups", aspect="equal")
    for ax, key, label, line in (
        (axes[1], "processor_seconds", "processor seconds", None),
        (axes[2], "peak_gib", "peak memory (GiB)", 2.0),
    ):
        steps = ["tokenize", "train", "generate", "validate", "report"]
        width = 0.8 / len(record)
        for i, one in enumerate(record.values()):
            heights = [one.get(step, {}).get(key, np.nan) for step in steps]
            place = np.arange(len(steps)) + (i - (len(record) - 1) / 2) * width
            ax.bar(place, heights, width, label=f"{one['n_states']:,} states")
        ax.set_xticks(np.arange(len(steps)), steps)
        ax.set(ylabel=label)
        if line is None:
            ax.set(yscale="log", ylim=(1, 2000))
            ax.legend(frameon=False, loc="upper right")
        else:
            ax.axhline(line, color="0.4", linestyle="--", linewidth=1)
    for letter, ax in zip("abc", axes, strict=True):
        ax.text(-0.13, 1.04, letter, transform=ax.transAxes, fontsize=14, fontweight="bold")
    figure.savefig(HERE / "pictures" / "many_states.png", dpi=110, metadata={"Software": None})
