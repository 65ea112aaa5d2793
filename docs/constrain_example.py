"""The example of docs/constrain.md: a coupling of alanine dipeptide, end to end, and its picture.

nanomd demo --system alanine-dipeptide --data DIR --run ala
python docs/constrain_example.py ala DIR
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from nanomd import GPTModel
from nanomd.caliber import Average, Population, constrain, karplus, state_averages
from nanomd.model.files import load_model_files
from nanomd.report.style import look
from nanomd.rollout.sampler import Sampler
from nanomd.study.folder import RunFolder
from nanomd.study.results import load_tokens
from nanomd.systems import alanine_dipeptide

run, data = sys.argv[1:3]
dtrajs, _ = load_tokens(RunFolder(run, create=False))
torsions = alanine_dipeptide.load(data)
coupling = [karplus(x[:, 0]) for x in torsions]
values = state_averages(dtrajs, coupling)
mean_phi = np.angle(state_averages(dtrajs, [np.cos(x[:, 0]) for x in torsions])
                    + 1j * state_averages(dtrajs, [np.sin(x[:, 0]) for x in torsions]))  # fmt: skip
mean_psi = np.angle(state_averages(dtrajs, [np.cos(x[:, 1]) for x in torsions])
                    + 1j * state_averages(dtrajs, [np.sin(x[:, 1]) for x in torsions]))  # fmt: skip
left_handed = np.flatnonzero(mean_phi > 0).tolist()
print(f"MD: 3J = {np.concatenate(coupling).mean():.3f} Hz; states with phi > 0: {len(left_handed)}")

files = load_model_files(Path(run, "model"))
one = constrain(files, averages=[Average(values, 7.0, 0.1, name="3J(HN-HA) (Hz)")])
print(one)
static = constrain(files, averages=[Average(values, 7.0, 0.1, name="3J(HN-HA) (Hz)")], static=True)
print("static:", static)
both = constrain(
    files,
    averages=[Average(values, 7.0, 0.1, name="3J(HN-HA) (Hz)")],
    populations=[Population(left_handed, 0.05, 0.005, name="phi > 0")],
)
print(both)


def populations(files):
    rollout = Sampler(files, "cpu").generate(200_000, 16, seed=5)
    visits = np.bincount(np.concatenate(rollout.dtrajs), minlength=len(values))
    return visits / visits.sum()


before, alone, after, entropy = (populations(x.to_files()) for x in (GPTModel(files), one, both, static))
print("phi > 0:", *(f"{x[left_handed].sum():.4f}" for x in (before, alone, after, entropy)))
with look():
    figure, axes = plt.subplots(1, 3, figsize=(13.5, 4.0), layout="constrained")
    degrees = np.rad2deg(mean_phi), np.rad2deg(mean_psi)
    points = axes[0].scatter(*degrees, c=values, s=36, cmap="viridis")
    figure.colorbar(points, ax=axes[0], label="3J(HN-HA) (Hz), mean of the state")
    change = np.log2(np.maximum(after, 1e-7) / np.maximum(before, 1e-7))
    points = axes[1].scatter(*degrees, c=change, s=36, cmap="RdBu_r", vmin=-1, vmax=1)
    figure.colorbar(points, ax=axes[1], label="log2 of population, after / before", extend="both")
    for ax in axes[:2]:
        ax.set(xlabel="phi (degrees)", ylabel="psi (degrees)", xlim=(-180, 180), ylim=(-180, 180))
        ax.set_xticks([-180, -90, 0, 90, 180])
        ax.set_yticks([-180, -90, 0, 90, 180])
    for k, row in enumerate(both.rows):
        scale = row.error
        for x, interval, label in ((0, row.before, "before"), (1, row.after, "after")):
            v, low, high = ((float(y) - row.wanted) / scale for y in (interval.value, interval.low, interval.high))
            axes[2].errorbar(x + 0.12 * k - 0.06, v, yerr=[[v - low], [high - v]], fmt="os"[k], color=f"C{k}", capsize=3,
                             label=row.name if label == "before" else None)  # fmt: skip
    axes[2].axhspan(-1, 1, color="0.85", zorder=0)
    axes[2].axhline(0, color="0.5", lw=1)
    axes[2].set(xticks=[0, 1], xlim=(-0.4, 1.4), ylabel="distance from the wish (errors)")
    axes[2].set_xticklabels(["before", "after"])
    axes[2].legend(frameon=False)
    for letter, ax in zip("abc", axes, strict=True):
        ax.text(-0.15, 1.04, letter, transform=ax.transAxes, fontsize=14, fontweight="bold")
    figure.savefig(Path(__file__).parent / "pictures" / "constrain.png", dpi=120, metadata={"Software": None})
