"""Draw docs/pictures/demo.png from a finished demo: nanomd demo --run demo_run && python docs/demo_picture.py demo_run."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt

from nanomd import plots
from nanomd.kinetics import ValidationResult
from nanomd.report.drawing import tidy_log_axis
from nanomd.report.style import look

result = ValidationResult.load(Path(sys.argv[1], "report", "validation.json"))
with look():
    figure, axes = plt.subplots(1, 3, figsize=(13.5, 4.3), layout="constrained")
    plots.timescales(result, axes[0])
    plots.mfpt(result, axes[1])
    plots.mfpt(result, axes[2], source="MSM (lag 1)")
    axes[2].set(xlim=axes[1].get_xlim(), ylim=axes[1].get_ylim())
    tidy_log_axis(axes[2])
    for letter, ax in zip("abc", axes, strict=True):
        ax.text(-0.13, 1.04, letter, transform=ax.transAxes, fontsize=14, fontweight="bold")
    figure.savefig(Path(__file__).parent / "pictures" / "demo.png", dpi=130, metadata={"Software": None})
