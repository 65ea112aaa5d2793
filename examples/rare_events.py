"""A rate of 1e-8 a step, known exactly; and the rate of a trained model, leaks included: docs/rare-events.md.

PYTHONPATH=tests python examples/rare_events.py docs/records/rare_events.json docs/pictures/rare_events.png
"""

import json
import sys

import matplotlib
import numpy as np
from rare_chain import Exact, make_model

from nanomd import GPTEstimator, Observables, Sampler, plots

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def numbers(found):
    mfpt = [float(found.mfpt.value), float(found.mfpt.low), float(found.mfpt.high)]
    return {
        "mfpt": mfpt,
        "time": found.mfpt_time,
        "steps": found.steps,
        "gain": found.gain,
        "error": found.relative_error,
    }


# --- twelve states in a row, of memory two, whose exact rate linear algebra gives ------------------------------------
files = make_model()
rate, _ = Exact.of(files).process([11], (0, 0))
sampler = Sampler(files, "cpu")
ensemble = sampler.rare_event([10], [21], n_threads=1)
splitting = sampler.rare_event([10], [21], method="splitting", n_threads=1)
record = {"chain": {"rate": rate, "mfpt": 1 / rate, "ensemble": numbers(ensemble), "splitting": numbers(splitting)}}
figure, panels = plt.subplots(1, 2, figsize=(10.4, 3.8), layout="constrained")
for axes, found in zip(panels, (ensemble, splitting), strict=True):
    plots.rare_event(found, axes)
panels[0].axhline(rate, color="k", ls=":", label="exact")
panels[0].legend(fontsize="small")
panels[0].set_title("weighted ensemble")
panels[1].set_title("adaptive multilevel splitting")
figure.savefig(sys.argv[2], dpi=110)

# --- a model trained on 2016 trajectories of 200 steps, begun all over a barrier of 9 kT, none of which passes it -----
x = np.linspace(-1.3, 1.3, 24)
energy = 9 * (x**2 - 1) ** 2 + 0.5 * x
move = 0.4 * np.minimum(1, np.exp(energy[:-1] - energy[1:])), 0.4 * np.minimum(1, np.exp(energy[1:] - energy[:-1]))
matrix = np.diag(move[0], 1) + np.diag(move[1], -1)
matrix += np.diag(1 - matrix.sum(axis=1))
source, target = np.flatnonzero(x < -0.9), np.flatnonzero(x > 0.9)
rng = np.random.default_rng(0)
cumulative = np.cumsum(matrix, axis=1)
cumulative[:, -1] = 1.0
state = np.repeat(np.arange(24), 84)
dtrajs = np.empty((len(state), 200), np.int64)
for step in range(200):
    dtrajs[:, step] = state
    state = (rng.random(len(state))[:, None] >= cumulative[state]).sum(axis=1)
ends = [d[np.isin(d, [*source, *target])] for d in dtrajs]
passed = sum(bool(np.isin(e, source).any() and np.isin(e, target).any()) for e in ends)
free = ~np.isin(np.arange(24), target)
exact = np.linalg.solve((np.eye(24) - matrix)[np.ix_(free, free)], np.ones(free.sum()))[3]
model = (
    GPTEstimator(
        "tiny", d_model=16, n_layer=1, context_length=8, train_length=64, frame_stride=1, n_steps=400, seed=0,
        frame_interval="10 ps", n_threads=1, calibrate=False,
    )
    .fit(list(dtrajs))
    .fetch_model()
)  # fmt: skip
sampler = Sampler(model, "cpu")
jumps = sampler.rare_event(source, target, n_threads=1, record=True).paths()
watch = Observables(sets={"A": source.tolist(), "B": target.tolist()})
rollout = sampler.generate(500_000, 16, start=np.full((16, 1), 3), n_threads=1, store_tokens=False, observables=watch)
record["trained"] = {
    "exact": float(exact),
    "passed": passed,
    "rollout": float(rollout.observables.first_passage.mean[0, 1]),
    "events": int(rollout.observables.first_passage.events[0, 1]),
    "jumped": float(jumps.duration_distribution([1, 4]).value[0]),  # passages of at most three steps
    "shortest": int(target[0] - source[-1]),
    "ensemble": numbers(sampler.rare_event(source, target, n_threads=1)),
    "splitting": numbers(sampler.rare_event(source, target, method="splitting", n_threads=1)),
}
print(json.dumps(record, indent=1))
with open(sys.argv[1], "w") as stream:  # noqa: PTH123
    stream.write(json.dumps(record, indent=1) + "\n")
