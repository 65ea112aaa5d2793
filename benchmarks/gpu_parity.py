"""The CUDA engine against the CPU engine on small shapes: probabilities, states, counts; one JSON record.

``python benchmarks/gpu_parity.py [--brief] [--emulate] [--out FOLDER]``

``--brief`` runs every kind of kernel for a few steps and compares nothing: for tools that watch memory and races.
``--emulate`` needs no device: emulated threads, fewer trajectories.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np
from common import RESULTS

from nanomd import _native
from nanomd.base.config import ModelConfig, model_preset
from nanomd.bench import random_model, write_record
from nanomd.model.rope import rope_multipliers
from nanomd.rollout.observables import Observables

TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2}  # of ln p where p >= 1e-7
SHAPES = {
    "tiny, grouped, markov": model_preset("tiny", 20, n_kv_head=1, markov_head=True),
    "xs": model_preset("xs", 20),
    "post-norm, learned, hop": ModelConfig(
        n_states=37, d_model=40, n_layer=2, n_head=5, context_length=12, norm="post", position="learned", mlp_ratio=1
    ),
}
# Every kind of kernel, each with a number of trajectories that reaches it.
KERNELS: dict[str, tuple[int, dict[str, Any]]] = {
    "throughput, streamed": (19, {"regime": "throughput", "tile": 16, "weights": "streamed"}),
    "throughput, resident": (2200, {"regime": "throughput", "tile": 8, "weights": "resident"}),
    "throughput, fp32": (19, {"precision": "fp32", "regime": "throughput"}),
    "latency, ahead": (2, {"regime": "latency", "ranks": 2}),
    "latency, fp32": (3, {"precision": "fp32", "regime": "latency", "ranks": 4}),
    "latency, many": (200, {"regime": "latency", "ranks": 4}),
}


def multipliers(config: ModelConfig) -> np.ndarray:
    return rope_multipliers(config) if config.position == "rope" else np.zeros(0, np.uint32)


def mode_of(config: ModelConfig) -> dict[str, Any]:
    return {"mode": "ring"} if config.position == "rope" else {"mode": "hop", "hop_keep": config.context_length // 2}


def rollout(engine: Any, files: Any, n: int, n_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """States, and the counts that the session (or else the writer) makes of them."""
    spec = Observables([1, 7], {"A": [1, 2], "B": [3]}).spec(files.state_map)
    watch = _native.NativeObservables(spec, n)
    start = (np.arange(n) % files.config.n_states).astype(np.uint16)[:, None]
    index = np.arange(n, dtype=np.uint64)
    session = engine.open(start, index, **mode_of(files.config), seed=3, observables=watch)
    out = np.full((n, n_steps), 0xFFFF, np.uint16)  # poisoned: every element must be written
    if not session.advance(n_steps, out):
        raise SystemExit("the session stopped")
    if session.observes:
        session.collect(watch)
    else:
        watch.add(out, 1)
    return out, watch.totals()


def check(name: str, config: ModelConfig, emulate: bool) -> list[dict[str, Any]]:
    """One row for every kind of kernel that can run the shape."""
    files = random_model(config)
    model = (files.config, files.tensors, multipliers(config))
    cpu = _native.NativeEngine(*model)
    tokens = np.random.default_rng(0).integers(0, config.n_states, (3, 2 * config.context_length)).astype(np.uint16)
    expected = cpu.log_probs(tokens, **mode_of(config))
    n_steps = 12 if emulate else 300
    rows, states = [], {}
    for kernel, (wanted, options) in KERNELS.items():
        engine = _native.NativeCudaEngine(*model, **options, emulate=emulate)
        n = min(wanted, 5) if emulate else wanted
        found = engine.log_probs(tokens, **mode_of(config))
        error = float(np.abs(found - expected)[expected >= np.log(1e-7)].max())
        precision = options.get("precision", "fp16")
        drawn, counts = rollout(engine, files, n, n_steps)
        known, known_counts = rollout(cpu, files, n, n_steps)
        same = float((drawn == known).all(axis=1).mean())
        # A trajectory depends on neither kernel nor company; so kernels of one precision draw the same states.
        first = states.setdefault(precision, drawn)
        m = min(len(first), n)
        row = {
            "shape": name,
            "kernel": kernel,
            "runs_as": engine.describe(n),
            "n_trajs": n,
            "error": error,
            "trajectories_as_on_the_cpu": same,
            "same_states_in_every_kernel": bool((first[:m] == drawn[:m]).all()),
            "counts_equal": bool((counts == known_counts).all()) if same == 1 else None,
        }
        row["passed"] = (
            error <= TOLERANCE[precision]
            and row["same_states_in_every_kernel"]
            and row["counts_equal"] is not False
            and bool((drawn < config.n_states).all())
            and (precision == "fp16" or same >= 0.9)  # fp32 differs by 1e-6 a draw
        )
        rows.append(row)
        verdict = "ok    " if row["passed"] else "FAILED"
        print(f"{verdict} {name}; {kernel}: |ln p error| {error:.1e}, {same:.0%} as on the cpu", flush=True)
    return rows


def brief(emulate: bool) -> None:
    """Every kind of kernel for 40 steps on the smallest shape."""
    files = random_model(SHAPES["tiny, grouped, markov"])
    for kernel, (n, options) in KERNELS.items():
        engine = _native.NativeCudaEngine(
            files.config, files.tensors, multipliers(files.config), **options, emulate=emulate
        )
        states, counts = rollout(engine, files, min(n, 5) if emulate else n, 40)
        if not ((states < files.config.n_states).all() and counts.sum() > 0):
            raise SystemExit(f"{kernel}: states that were not written")
        print(f"ok     {kernel}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--brief", action="store_true")
    parser.add_argument("--emulate", action="store_true")
    parser.add_argument("--out", default=str(RESULTS), help="folder of the record")
    options = parser.parse_args()
    if not options.emulate and not _native.cuda_info()["devices"]:
        sys.exit(f"no CUDA device: {_native.cuda_info()['reason']}")
    if options.brief:
        brief(options.emulate)
        return 0
    rows: list[dict[str, Any]] = []
    path = None
    for name, config in SHAPES.items():
        rows += check(name, config, options.emulate)
        # After every shape: what was cut short keeps what was found.
        path = write_record("cuda_parity", {"rows": rows, "emulated": options.emulate}, path, options.out)
    print(path)
    failed = sum(not row["passed"] for row in rows)
    print(f"{len(rows) - failed} of {len(rows)} passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
