"""Rollouts of many states, in one softmax and in about sqrt(V) groups: verified first, then timed in turns.

    python benchmarks/bench_wide.py [--states 1000 10000 65536] [--preset small] [--batch 1 16 64] [--out FILE.json]

Weights are random, so that every trajectory draws a group of its own at every step: the case in which groups gain
least. Full ring windows, one thread, processor time; no lookahead, but where one trajectory is also timed with it, of
the same model and, in fp32, of one that mostly stays where it is.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Callable

import numpy as np
from common import RESULTS

from nanomd import _native
from nanomd.base.config import ModelConfig, model_preset
from nanomd.bench.floor import rollout_floor
from nanomd.bench.models import HALF_TOLERANCE, TOLERANCE, random_model, verify
from nanomd.bench.timing import interleaved, stamp, write_record
from nanomd.model.files import ModelFiles
from nanomd.model.rope import rope_multipliers


def shapes(preset: str, n_states: int) -> dict[str, ModelConfig]:
    """Return the flat model, and the one of ceil(sqrt(V)) groups of nearly equal size."""
    n_groups = math.isqrt(n_states - 1) + 1
    sizes = tuple(int(x) for x in np.diff(np.linspace(0, n_states, n_groups + 1).astype(int)))
    return {"flat": model_preset(preset, n_states), "groups": model_preset(preset, n_states, group_sizes=sizes)}


def staying(files: ModelFiles) -> ModelFiles:
    """Return a model that stays in its group (a logit of 10 above the others), and mostly in its state."""
    config, tensors = files.config, dict(files.tensors)
    group = np.repeat(np.arange(config.n_groups), config.group_sizes)
    tensors["markov.weight"] = 10.0 * (group[:, None] == np.arange(config.n_groups)).astype(np.float32)
    tensors["embedding.weight"] = 50.0 * tensors["embedding.weight"]
    tensors["head.weight"] = 0.3 * (tensors["embedding.weight"] + tensors["head.weight"])
    return dataclasses.replace(files, config=config.replace(markov_head=True), tensors=tensors)


def stepper(engine: _native.NativeEngine, config: ModelConfig, n_trajs: int, n_drafts: int = 0) -> Callable[[int], int]:
    """Return a function that draws so many states of all trajectories; their windows are full."""
    history = np.random.default_rng(1).integers(0, config.n_states, (n_trajs, config.receptive_field))
    session = engine.open(
        history.astype(np.uint16), np.arange(n_trajs, dtype=np.uint64), mode="ring", n_before=10**6, n_drafts=n_drafts
    )

    def run(n_steps: int) -> int:
        session.advance(n_steps)
        return n_steps * n_trajs

    return run


def measure(preset: str, n_states: int, options: argparse.Namespace) -> list[dict[str, object]]:
    engines, facts = {}, {}
    models = {name: random_model(config) for name, config in shapes(preset, n_states).items()}
    models["stays"] = staying(models["groups"])
    for name, files in models.items():
        config = files.config
        for precision in options.precision if name != "stays" else ["fp32"]:
            key = f"{name} {precision}"
            begin = time.process_time()
            engine = _native.NativeEngine(config, files.tensors, rope_multipliers(config), precision=precision)
            loaded = time.process_time() - begin

            def log_probs(tokens: np.ndarray, engine: _native.NativeEngine = engine) -> np.ndarray:
                return engine.log_probs(tokens[None].astype(np.uint16), mode="ring")[0]

            error = verify(
                files, log_probs, mode="ring", n_tokens=config.context_length + 9, who=key,
                tolerance=TOLERANCE if precision == "fp32" else HALF_TOLERANCE,
            )  # fmt: skip
            engines[key] = (engine, config, precision)
            facts[key] = {"model": name, "seconds_to_load": loaded, "largest_error": error}
            print(f"V = {n_states}, {key}: |ln p - ln p_ref| <= {error:.1e}", flush=True)
    rows: list[dict[str, object]] = []
    for n_trajs in options.batch:
        runs = {}
        for key, (engine, config, _) in engines.items():
            if n_trajs == 1 or not key.startswith("stays"):
                runs[key, 0] = stepper(engine, config, n_trajs)
            if n_trajs == 1 and config.n_groups:
                runs[key, -1] = stepper(engine, config, n_trajs, -1)
        for (key, n_drafts), speed in interleaved(runs, options.seconds, options.repeats).items():
            engine, config, precision = engines[key]
            floor = rollout_floor(config, "ring", n_trajs, 1, precision)
            row = {
                "n_states": n_states, "n_groups": config.n_groups, "precision": precision, "n_trajs": n_trajs,
                "lookahead": n_drafts != 0,
                **speed, **facts[key], "engine": engine.name, "floor": floor.to_dict(),
                "markov_table_bytes": 4 * n_states * (config.n_groups or n_states),
            }  # fmt: skip
            rows.append(row)
            who = f"{key}{' ahead' if n_drafts else ''}"
            bytes_read = floor.cache_bytes + floor.weight_bytes
            print(
                f"V = {n_states:6d}  {who:17s} {n_trajs:3d} trajectories: {speed['per_cpu_second']:10,.0f} states/s of "
                f"processor time, floor {floor.tokens_per_second:10,.0f} ({floor.bound}: "
                f"{floor.operations / 1e6:.2f} Mflop, {bytes_read / 1e3:.0f} kB)",
                flush=True,
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=int, nargs="+", default=[1000, 10_000, 65_536])
    parser.add_argument("--preset", default="small")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--precision", nargs="+", default=["fp32"])
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", default="rollout_wide.json")
    options = parser.parse_args()
    before = stamp()
    rows = [row for n in options.states for row in measure(options.preset, n, options)]
    print(write_record("rollout_wide", {"preset": options.preset, "rows": rows}, options.out, RESULTS, before))


if __name__ == "__main__":
    main()
