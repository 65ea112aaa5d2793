"""Time of the last fit of the output layer: prove that it has the rates of the data, then say what it took.

    python benchmarks/bench_refit.py --states 100 --frames 1e6 [--width 64] [--n-threads 1]
    python benchmarks/bench_refit.py --model run/model --dtrajs "run/tokens/md_*.npy" --both-ways

Without a model, one with random weights reads a random walk on states in a plane with a rough landscape.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np
import torch

from nanomd import GPTModel, load_dtrajs, load_model
from nanomd.base.config import ModelConfig
from nanomd.data.counts import transition_counts
from nanomd.model.contexts import collect_contexts, default_burn_in, find_pieces
from nanomd.model.network import NanoGPT
from nanomd.training.refit import refit


def walk(n_states: int, n_frames: int) -> np.ndarray:
    """Jumps to near states, Metropolis in a landscape of a few kT; one jump in about seven frames."""
    rng = np.random.default_rng(0)
    place = rng.random((n_states, 2))
    energy = 3.0 * (np.sin(6.0 * place) ** 2).sum(axis=1)
    distance = ((place[:, None] - place[None]) ** 2).sum(axis=-1)
    rates = np.exp(-distance * n_states) * np.minimum(1.0, np.exp(energy[:, None] - energy[None]))
    np.fill_diagonal(rates, 0.0)
    rates *= 0.5 / rates.sum(axis=1).max()
    cumulative = (rates + np.diag(1.0 - rates.sum(axis=1))).cumsum(axis=1)
    uniform, frames, state = rng.random(n_frames), np.empty(n_frames, np.int64), 0
    for t in range(n_frames):
        state = min(int(np.searchsorted(cumulative[state], uniform[t])), n_states - 1)
        frames[t] = state
    return np.unique(frames, return_inverse=True)[1]


def largest_error(model: NanoGPT, dtrajs: list[np.ndarray]) -> float:
    """Of the mean rates of transitions seen ten times or more, on contexts, in standard errors; of 2^16 at most."""
    read = [d[: (1 << 16)] for d in dtrajs[:1]]
    pieces = find_pieces(model.config, [len(d) for d in read], default_burn_in(model.config, len(read[0])))
    contexts, n = collect_contexts(model, read, pieces), model.config.n_states
    made = torch.zeros((n, n), dtype=torch.float64)
    for one in contexts.by_state(512):
        logits = one.features[:, :-1] @ model.head.weight.T + model.head.bias + model.table[one.state]
        made[one.state] += logits.double().softmax(dim=1).sum(dim=0).detach()
    counts = transition_counts(dtrajs, n)
    wanted = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) * made.sum(dim=1, keepdim=True).numpy()
    often = wanted >= 10
    return float((np.abs(made.numpy() - wanted) / np.sqrt(np.maximum(wanted, 1e-9)))[often].max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=int, default=100)
    parser.add_argument("--frames", type=float, default=1e6)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--model")
    parser.add_argument("--dtrajs")
    parser.add_argument("--both-ways", action="store_true")
    parser.add_argument("--n-threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.n_threads)
    torch.set_flush_denormal(True)
    if options.model is None:
        dtrajs = [walk(options.states, int(options.frames))]
        model = NanoGPT(ModelConfig(n_states=int(dtrajs[0].max()) + 1, d_model=options.width), seed=0)
    else:
        loaded: GPTModel = load_model(options.model)
        model, dtrajs = loaded.module, loaded.state_map.encode(load_dtrajs(options.dtrajs))
    wall, processor = time.perf_counter(), time.process_time()
    found = refit(model, dtrajs, both_ways=options.both_ways)
    record = {
        "wall_seconds": time.perf_counter() - wall,
        "processor_seconds": time.process_time() - processor,
        "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "n_states": model.config.n_states,
        **found.describe(),
    }
    fitted = NanoGPT(model.config.replace(markov_head=True))
    tensors = model.to_tensors()
    layer = {"head.weight": found.head, "head.bias": found.bias, "markov.weight": found.table}
    fitted.load_tensors({**tensors, **layer})
    record["largest_rate_error"] = largest_error(fitted.eval(), dtrajs)
    if not record["converged"] or record["largest_rate_error"] > 5.0:
        raise SystemExit(f"the fit is not right: {record}")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
