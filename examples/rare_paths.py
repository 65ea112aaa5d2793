"""How an event of 1e-8 a step happens: its passages, beside transition path theory; and west.h5: docs/rare-events.md.

PYTHONPATH=tests python examples/rare_paths.py docs/records/rare_paths.json docs/pictures/rare_paths.png [west.h5]
"""

import json
import sys

import matplotlib
import numpy as np
from rare_chain import Exact, make_model

from nanomd import Sampler, plots

matplotlib.use("Agg")
import matplotlib.pyplot as plt

files = make_model()
exact = Exact.of(files)
rate, _ = exact.process([11], (0, 0))
density = exact.reactive([0], [11], (0, 0))[0] / rate
found = Sampler(files, "cpu").rare_event([10], [21], n_threads=1, record=True)
paths = found.paths()

figure, (progress, times, states) = plt.subplots(1, 3, figsize=(13.5, 3.8), layout="constrained")
plots.reactive_paths(found, progress)
plots.transition_times(paths, times)
share = exact.durations([0], [11], (0, 0), 90)
times.plot(np.arange(11, 60), share[11:60], "k:", label="exact")
times.legend(fontsize="small")
visits = paths.density
inner = np.arange(1, 11)
ends = np.stack((visits.value - visits.low, visits.high - visits.value))[:, inner]
states.errorbar(10 + inner, visits.value[inner], ends, fmt="o", ms=4, capsize=2, label="95 % intervals")
states.plot(10 + inner, density[inner], "k:", label="transition path theory")
states.set(xlabel="state", ylabel="visits on a passage", ylim=(0, None))
states.legend(fontsize="small")
figure.savefig(sys.argv[2], dpi=110)

duration, most = paths.duration, int(np.argmax(visits.value))
record = {
    "n": len(paths),
    "effective": paths.effective_number,
    "duration": [float(duration.value), float(duration.low), float(duration.high)],
    "exact_duration": density.sum() + 1,
    "mfpt": float(found.mfpt.value),
    "segments": len(found.segments.weight),
    "most_visited": int(files.state_map.symbols[most]),
    "visits": [float(visits.value[most]), float(visits.low[most]), float(visits.high[most])],
    "exact_visits": float(density[most]),
}
if len(sys.argv) > 3:
    found.save_west(sys.argv[3])
print(json.dumps(record, indent=1))
with open(sys.argv[1], "w") as stream:  # noqa: PTH123
    stream.write(json.dumps(record, indent=1) + "\n")
