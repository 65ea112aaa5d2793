"""Interpretation of models trained on chains of known memory; the numbers of docs/interpretation.md.

PYTHONPATH=tests python examples/interpretation.py docs/records/interpretation.json && python docs/fill_numbers.py
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from known_chain import default_chain

from nanomd import GPTEstimator
from nanomd.cli.main import main
from nanomd.interpret import Interpretation, interpret_model

record = {}
for name, memory in (("two", 0.6), ("one", 0.0)):
    chain = default_chain(memory)
    training, held_out = chain.sample(5000, 40, seed=10), chain.sample(5000, 20, seed=99)
    model = (
        GPTEstimator(
            "tiny", objective="one_pass", d_model=16, n_layer=1, context_length=8, train_length=64, n_steps=300,
            batch_size=16, learning_rate=5e-3, validation_interval=1000, seed=0, n_threads=1,
        )
        .fit(training)
        .fetch_model()
    )  # fmt: skip
    found = interpret_model(model, held_out, training=training, memory={"n_windows": 5000}, tracing={"n_windows": 200})
    tracing, nats = found.tracing, found.memory.log_likelihood.value
    record[name] = {
        "memory": {"frames": found.memory.frames, "low": found.memory.low, "high": found.memory.high},
        "nats": {str(context): float(nats[context - 1]) for context in (1, 2, 8)},
        "markov": float(found.memory.markov.value),
        "entropy_rate": chain.entropy_rate,
        "markov_entropy_rate": chain.markov_entropy_rate,
        "attention": [[*map(float, head[:3]), float(head[3:].sum())] for head in found.attention.mean.value[0]],
        "clean": float(tracing.clean.value),
        "corrupted": float(tracing.corrupted.value),
        "single": [float(x) for x in tracing.single.value],
        "single_half": [float(x) for x in tracing.single.high - tracing.single.value],
        "single_later": float(np.abs(tracing.single.value[2:]).max()),
        "residual": [float(x) for x in tracing.residual.value[0]],
        "attention_output": float(tracing.attention.value[0, 0]),
        "mlp": float(tracing.mlp.value[0, 0]),
        "markov_head": float(tracing.markov.value),
    }
# The four-state potential seen through 32 bins of x: the commands of the page.
with tempfile.TemporaryDirectory() as folder:
    for command in (
        "simulate --n-frames 20000 --n-trajs 6",
        "tokenize",
        "train --preset tiny --n-steps 300 --batch-size 16 --hold-out 2",
        "interpret",
    ):
        assert main([*command.split(), "--run", f"{folder}/r", "--quiet"]) == 0, command
    found = Interpretation.load(f"{folder}/r/interpret")
nats, single = found.memory.log_likelihood.value, found.tracing.single.value
best = int(nats.argmax())
record["bins"] = {
    "memory": {"frames": found.memory.frames, "low": found.memory.low, "high": found.memory.high},
    "nats": {"one": float(nats[0]), "best": float(nats[best])},
    "best": int(found.memory.contexts[best]),
    "markov": float(found.memory.markov.value),
    "single": float(single[0]),
    "single_later": float(np.abs(single[1:]).max()),
    "correlation": [float(getattr(found.distances.correlation, end)[1]) for end in ("value", "low", "high")],
    "p": float(found.distances.p_value[1]),
}
text = json.dumps(record, indent=1) + "\n"
if sys.argv[1:]:
    Path(sys.argv[1]).write_text(text)
else:
    print(text)
