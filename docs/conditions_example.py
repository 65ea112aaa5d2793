"""The example of docs/conditions.md: the four-state potential at three temperatures, and its picture.

python docs/conditions_example.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from nanomd import ConditionalGPTEstimator
from nanomd.kinetics.estimates import Sample, passage_times, populations
from nanomd.report.style import look
from nanomd.systems import four_state

TRAINED, LEFT_OUT, OTHERS = (3.5, 5.0, 7.0), 6.0, (4.2, 8.5)  # inverse temperatures
xy = [four_state.simulate(5000, 10, seed=k, beta=b, spacing=100, n_threads=1) for k, b in enumerate(TRAINED)]
centers = four_state.kmeans_centers(list(np.concatenate(xy)), 50)
groups = [four_state.tokenize(x, "kmeans", centers=centers) for x in xy]
model = ConditionalGPTEstimator(seed=1, n_threads=1).fit_fetch(groups, [{"temperature": 1 / b} for b in TRAINED])
print(model)
print(*model.provenance["choices"], sep="\n")
print(model.at(temperature=1 / LEFT_OUT).provenance["choices"][-1])
print(model.at(temperature=1 / 8.5).provenance["choices"][-1])

distance = np.linalg.norm(centers[:, None] - four_state.MINIMA[None], axis=2)
basin = distance.argmin(axis=1)
core = np.where(distance.min(axis=1) < 0.5, basin, -1)
PAIRS = ((0, 1), (0, 3))  # between neighbours, and across


def measured(dtrajs, stride=1, unit=1):
    """Populations of basins and passage times between cores: value, low, high."""
    sample = Sample.make(dtrajs, len(centers), timescale=500.0)
    times, _ = passage_times(sample.coarse(core, 4), stride)
    return populations(sample.coarse(basin, 4)), [
        unit * np.array([times.value, times.low, times.high])[:, a, b] for a, b in PAIRS
    ]


def md(beta, seed):
    dtrajs = four_state.tokenize(
        four_state.simulate(100_000, 40, seed=seed, beta=beta, spacing=100, n_threads=1), "kmeans", centers=centers
    )
    return measured(dtrajs, model.frame_stride)


def rolled(beta):
    rollout = model.at(temperature=1 / beta).generate(30_000, 64, seed=1, n_threads=1)
    return measured([np.asarray(x)[4000:] for x in rollout.dtrajs], 1, model.frame_stride)


curve = np.linspace(3.2, 9.0, 12)
lines = np.array([[t[0] for t in rolled(b)[1]] for b in curve])
known = {b: md(b, 100 + k) for k, b in enumerate((*TRAINED, LEFT_OUT, *OTHERS))}
seen = {b: measured(x, model.frame_stride) for b, x in zip(TRAINED, groups, strict=True)}
for beta in (LEFT_OUT, *OTHERS):
    own, reference = rolled(beta), known[beta]
    print(f"beta {beta}: populations {np.round(own[0].value, 3)}, MD {np.round(reference[0].value, 3)}")
    for pair, a, b in zip(PAIRS, own[1], reference[1], strict=True):
        print(f"   passage {pair}: {a[0]:.0f} [{a[1]:.0f}, {a[2]:.0f}], MD {b[0]:.0f} [{b[1]:.0f}, {b[2]:.0f}]")

with look():
    figure, axes = plt.subplots(1, 2, figsize=(11.0, 4.2), layout="constrained")
    for k, name in enumerate(("to the neighbour", "across")):
        axes[0].plot(curve, lines[:, k], color=f"C{k}", label=f"model, {name}")
    for beta, (_, times) in known.items():
        for k, (value, low, high) in enumerate(times):
            style = dict(fmt="o", color=f"C{k}", capsize=3, ms=6, mfc="white" if beta not in TRAINED else f"C{k}")
            axes[0].errorbar(beta, value, yerr=[[value - low], [high - value]], **style)
            line = np.exp(np.interp(beta, curve, np.log(lines[:, k])))
            error = [[np.log(value / low)], [np.log(high / value)]]
            axes[1].errorbar(beta + 0.06 * (2 * k - 1), np.log(value / line), yerr=error, **style)
    for beta, (_, times) in seen.items():
        for k, (value, low, high) in enumerate(times):
            line = np.exp(np.interp(beta, curve, np.log(lines[:, k])))
            error = [[np.log(value / low)], [np.log(high / value)]]
            axes[1].errorbar(
                beta + 0.06 * (2 * k - 1) + 0.12,
                np.log(value / line),
                yerr=error,
                fmt="x",
                color=f"C{k}",
                capsize=3,
                alpha=0.6,
            )
    axes[1].axhline(0, color="0.5", lw=1)
    for ax in axes:
        ax.axvline(LEFT_OUT, color="0.8", lw=6, zorder=0)
        ax.axvspan(TRAINED[-1], 9.2, color="0.95", zorder=0)
        ax.set(xlabel="inverse temperature 1/T", xlim=(3.0, 9.2))
    axes[0].set(yscale="log", ylabel="mean first passage time (frames)")
    axes[0].text(LEFT_OUT, axes[0].get_ylim()[0] * 1.2, "left out", rotation=90, ha="center", va="bottom", color="0.4")
    axes[0].text(9.1, axes[0].get_ylim()[0] * 1.2, "colder than all", ha="right", va="bottom", color="0.4")
    axes[1].set(ylabel="ln(passage time of MD / of the model)")
    axes[0].plot([], [], "o", color="0.3", label="MD of 4,000,000 frames, trained temperature")
    axes[0].plot([], [], "o", color="0.3", mfc="white", label="MD, temperature never trained")
    axes[1].plot([], [], "x", color="0.3", label="the training data, 50,000 frames each")
    axes[0].legend(frameon=False)
    axes[1].legend(frameon=False)
    for letter, ax in zip("ab", axes, strict=True):
        ax.text(-0.12, 1.03, letter, transform=ax.transAxes, fontsize=14, fontweight="bold")
    figure.savefig(Path(__file__).parent / "pictures" / "conditions.png", dpi=120, metadata={"Software": None})
