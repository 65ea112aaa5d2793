"""Draw the gallery from a small validation: python docs/gallery.py. Equal code gives equal pictures."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np

import nanomd
from nanomd.report import write_report
from nanomd.systems import four_state

OUT = Path(__file__).parent / "pictures" / "gallery"

xy = four_state.simulate(20_000, n_trajs=8, preset="demo", seed=7)
edges = np.linspace(-1.6, 1.6, 21)[1:-1]
dtrajs = [np.digitize(x, edges) for x in xy[..., 0]]
model = nanomd.GPTEstimator(seed=1, n_threads=1, frame_interval="0.2 ns", progress=False).fit_fetch(dtrajs[:4])
rollout = model.generate("20 us", n_trajs=8, seed=1, n_threads=1)
result = nanomd.validate(dtrajs[4:], rollout, training=dtrajs[:4], n_macrostates=4)
shown = {"xy": np.concatenate(xy[4:]), "states": np.concatenate(dtrajs[4:]), "labels": ("x", "y")}
with tempfile.TemporaryDirectory() as folder:
    write_report(folder, result, title="Gallery", landscape=shown)
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    for name in (
        "timescales_process_1", "mfpt_GPT", "mfpt_MSM_lag_1", "populations_macrostates", "populations_microstates_GPT",
        "chapman_kolmogorov_A", "residence_A", "transition_paths_A_to_B", "free_energy_MD", "free_energy_GPT",
        "free_energy_GPT_minus_MD",
    ):  # fmt: skip
        source = Path(folder, "png", f"{name}.png")
        if source.exists():
            shutil.copy(source, OUT)
        else:
            print(f"no {name}: there are {sorted(p.stem for p in source.parent.iterdir())}")
