"""Interpretation of models trained on chains of known memory; the numbers of docs/interpretation.md.

PYTHONPATH=tests python examples/interpretation.py
"""

import numpy as np
from known_chain import default_chain

from nanomd import GPTEstimator
from nanomd.interpret import interpret_model

np.set_printoptions(precision=3, suppress=True, linewidth=120)

for memory in (0.6, 0.0):
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
    print(f"--- probability to go back: {memory}")
    print("entropy rate", chain.entropy_rate, "and of its Markov model", chain.markov_entropy_rate)
    print("attention by lag, per head\n", found.attention.mean.value[0])
    print("half-widths\n", (found.attention.mean.high - found.attention.mean.low)[0] / 2)
    tracing = found.tracing
    print("p clean", tracing.clean.value, "corrupted", tracing.corrupted.value, "between draws", tracing.draw_std)
    print(
        "corrupted alone, by lag\n", tracing.single.value, "\n half-widths", tracing.single.high - tracing.single.value
    )
    print("restored: embedding\n", tracing.residual.value[0])
    print("restored at lag 0: attention", tracing.attention.value[0, 0], "MLP", tracing.mlp.value[0, 0])
    print("nats per frame by context\n", found.memory.log_likelihood.value, "\n loss", found.memory.loss.value)
    print(" half-widths", found.memory.loss.high - found.memory.loss.value)
    print("memory", found.memory.frames, found.memory.low, found.memory.high, "Markov", found.memory.markov.value)
