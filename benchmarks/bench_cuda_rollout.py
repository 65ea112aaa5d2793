"""The CUDA engine beside what a person would otherwise run on the same card, verified first, then timed in turns.

``python benchmarks/bench_cuda_rollout.py [--quick] [--compile] [--preset xs base base-1kv] [--out FOLDER] [--dry-run]``

The peers are in `cuda_peers`. Beside each speed stands the floor: the operations and the bytes of a token over the
rates that a matrix product and a copy reach on this card in this run. ``--dry-run`` needs no device: it checks the
peers, the emulated engine, and that everything runs, on a tiny model, and times nothing of worth.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import RESULTS
from cuda_peers import HuggingFaceStatic, PeerSkippedError, StaticCacheLoop, eager_rollout, synchronize

from nanomd import _native
from nanomd.base.config import ModelConfig, model_preset
from nanomd.base.errors import BackendUnavailableError
from nanomd.bench import interleaved, random_model, write_record
from nanomd.bench.floor import cache_elements, operations_per_token, weight_elements
from nanomd.model.rope import rope_multipliers
from nanomd.rollout.observables import Observables

PRESETS = {
    "xs": model_preset("xs", 20),
    "base": model_preset("base", 100),
    "base-1kv": model_preset("base", 100, n_kv_head=1),
    "tiny": model_preset("tiny", 20, n_kv_head=1, markov_head=True),
}
DRY = ModelConfig(n_states=20, d_model=32, n_layer=2, n_head=2, context_length=12, mlp_ratio=2)
POSITIONS = 1 << 17
TOLERANCE = 2e-2  # of ln p where p >= 1e-7, in 16 bits


def engine_of(files: Any, **options: Any) -> _native.NativeCudaEngine:
    return _native.NativeCudaEngine(files.config, files.tensors, rope_multipliers(files.config), **options)


def worst_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest |ln p - ln p_ref| where p_ref >= 1e-7."""
    return float(np.abs(found - expected)[expected >= np.log(1e-7)].max())


def hugging_face(
    files: Any, device: str, dtype: torch.dtype, cpu: _native.NativeEngine, compiled: bool = False
) -> tuple[HuggingFaceStatic, float] | None:
    """The peer and its error, in half precision or, where that is too coarse for it, in single; None without it."""
    try:
        for kind in dict.fromkeys((dtype, torch.float32)):
            peer = HuggingFaceStatic(files, device, kind, compiled)
            tokens, found, first = peer.drawn_from(3)
            error = worst_error(found, cpu.log_probs(tokens[:, :-1], mode="ring")[:, first - 1 :])
            if error <= TOLERANCE:
                return peer, error
            print(f"Hugging Face in {kind}: |ln p error| {error:.3g} > {TOLERANCE}", flush=True)
    except PeerSkippedError as reason:
        print(f"Hugging Face skipped: {reason}", flush=True)
    return None


def verify(
    files: Any, device: str, dtype: torch.dtype, compiled: bool = False, **options: Any
) -> tuple[dict[str, float], HuggingFaceStatic | None]:
    """Errors of ln p of the engine and the peers against the CPU engine; none may exceed the tolerance."""
    config = files.config
    cpu = _native.NativeEngine(config, files.tensors, rope_multipliers(config))
    tokens = np.random.default_rng(0).integers(0, config.n_states, (3, 2 * config.context_length)).astype(np.uint16)
    expected = cpu.log_probs(tokens, mode="ring")
    many = {**options, "regime": "throughput"}
    variants = {"cuda": options, "cuda, many": many}  # so few sequences would not show the kernels of many
    variants |= {f"cuda, weights {kind}": {**many, "weights": kind} for kind in other_weights(files, 3, **many)}
    errors = {
        name: worst_error(engine_of(files, **chosen).log_probs(tokens, mode="ring"), expected)
        for name, chosen in variants.items()
    }
    loop = StaticCacheLoop(files, 3, device, dtype, tokens.shape[1] + 1)
    errors["graph"] = worst_error(loop.log_probs(tokens), expected)
    for name, error in errors.items():
        if not error <= TOLERANCE:
            sys.exit(f"{name} does not compute the model: |ln p error| {error:.3g} > {TOLERANCE}; a time means nothing")
    verified = hugging_face(files, device, dtype, cpu, compiled)
    if verified is None:
        return errors, None
    return {**errors, "Hugging Face": verified[1]}, verified[0]


def engine_rollout(files: Any, n_trajs: int, observe: bool = False, **options: Any) -> Callable[[int], int]:
    """Steps of the engine from full windows, tokens stored on the host, or only counted on the device."""
    config = files.config
    history = np.random.default_rng(1).integers(0, config.n_states, (n_trajs, config.receptive_field)).astype(np.uint16)
    n_drafts = options.pop("n_drafts", -1)
    watch = None
    if observe:
        V = config.n_states
        spec = Observables([1, 10, 100], {"A": range(V // 4), "B": range(V // 2, V)}).spec(files.state_map)
        watch = _native.NativeObservables(spec, n_trajs)
    session = engine_of(files, **options).open(
        history, np.arange(n_trajs, dtype=np.uint64), mode="ring", seed=1, n_drafts=n_drafts, observables=watch
    )

    def run(n_steps: int) -> int:
        out = None if observe else np.empty((n_trajs, n_steps), np.uint8)
        session.advance(n_steps, out)
        return n_trajs * n_steps

    return run


def graph_rollout(files: Any, n_trajs: int, device: str, compiled: bool = False) -> Callable[[int], int]:
    """The static-cache loop from a full window, on a GPU captured."""
    dtype = torch.float16 if device == "cuda" else torch.float32
    loop = StaticCacheLoop(files, n_trajs, device, dtype, POSITIONS if device == "cuda" else 64, compiled)
    loop.position.fill_(files.config.context_length)
    if device == "cuda":
        loop.capture()
    return loop.run


def other_weights(files: Any, n_trajs: int, **options: Any) -> list[str]:
    """Where weights may lie instead of where the engine would leave them by itself, with many trajectories."""
    chosen = engine_of(files, **options).describe(n_trajs)
    others = []
    for weights in ("streamed", "resident"):
        try:
            found = engine_of(files, weights=weights, **options).describe(n_trajs)
        except BackendUnavailableError:  # they do not fit
            continue
        if found != chosen and chosen.startswith("throughput"):
            others.append(weights)
    return others


def contenders(
    files: Any, n: int, device: str, peer: HuggingFaceStatic | None, compiled: bool, **options: Any
) -> dict[str, Callable[[int], int]]:
    """Everything that can run so many trajectories."""
    functions = {
        "cuda": engine_rollout(files, n, **options),
        "cuda, counted": engine_rollout(files, n, True, **options),
    }
    if n <= 16:
        functions["cuda, no drafts"] = engine_rollout(files, n, n_drafts=0, **options)
    for weights in other_weights(files, n, **options):
        functions[f"cuda, weights {weights}"] = engine_rollout(files, n, weights=weights, **options)
    functions["graph"] = graph_rollout(files, n, device)
    if compiled:
        functions["graph, compiled"] = graph_rollout(files, n, device, True)
    if n <= 1024:
        functions["eager"] = eager_rollout(files, n, device)
    if peer is not None and n <= 4096:
        functions["Hugging Face"] = peer.rollout(n)
    return functions


def ceilings(device: str, size: int) -> dict[str, float]:
    """Bytes per second of a copy and operations per second of a half-precision product: the best of several."""
    data = torch.randn(size * size * 4, device=device)
    target = torch.empty_like(data)
    dtype = torch.float16 if device == "cuda" else torch.float32
    a, b = torch.randn(2, size, size, device=device).to(dtype)

    def best(work: Callable[[], Any], amount: float) -> float:
        rate = 0.0
        for _ in range(6):
            synchronize(device)
            begin = time.perf_counter()
            for _ in range(10):
                work()
            synchronize(device)
            rate = max(rate, 10 * amount / (time.perf_counter() - begin))
        return rate

    return {
        "bytes_per_second": best(lambda: target.copy_(data), 2.0 * data.numel() * 4),
        "operations_per_second": best(lambda: torch.mm(a, b), 2.0 * size**3),
    }


def floor(config: ModelConfig, n_trajs: int, limits: dict[str, float]) -> dict[str, Any]:
    """Operations and bytes of a token with a full window in 16 bits, and the speed that no engine can exceed.

    The cache is read once a token, the weights once a step for all trajectories (from device memory; where they stay
    on the chip the floor is that of the caches alone).
    """
    W = config.context_length
    operations = operations_per_token(config, W)
    cached, weights = 2.0 * cache_elements(config, W), 2.0 * weight_elements(config) / n_trajs
    seconds = {
        "operations": operations / limits["operations_per_second"],
        "bytes": (cached + weights) / limits["bytes_per_second"],
    }
    bound = max(seconds, key=lambda name: seconds[name])
    return {
        "operations": operations,
        "cache_bytes": cached,
        "weight_bytes": weights,
        "bound": bound,
        "tokens_per_second": 1 / seconds[bound],
    }


def measure(
    name: str, files: Any, batches: list[int], device: str, limits: dict[str, float], timing: tuple[float, int],
    compiled: bool = False, **options: Any,
) -> list[dict[str, Any]]:  # fmt: skip
    """Verify one model and time it at every batch size that fits."""
    errors, peer = verify(files, device, torch.float16 if device == "cuda" else torch.float32, compiled, **options)
    engine = engine_of(files, **options)
    print(f"{name}: |ln p error| " + ", ".join(f"{k} {v:.1e}" for k, v in errors.items()), flush=True)
    cases = []
    for n in batches:
        if n > engine.memory_plan("ring", n)["largest_n_trajs"] // 4:  # three engines and the graph's caches
            continue
        speed = interleaved(contenders(files, n, device, peer, compiled, **options), *timing)
        limit = floor(files.config, n, limits)
        cases.append(
            {
                "preset": name,
                "n_trajs": n,
                "regime": engine.describe(n),
                "errors": errors,
                "floor": limit,
                "tokens_per_second": speed,
            }
        )
        row = "  ".join(f"{who} {value['median']:.3g}/s" for who, value in speed.items())
        each = n / speed["cuda"]["median"] * 1e6
        print(f"  {n:6d} trajectories  {row}", flush=True)
        print(
            f"         {each:.3g} us a step; floor {limit['tokens_per_second']:.3g}/s by {limit['bound']}", flush=True
        )
        if device == "cuda":
            torch.cuda.empty_cache()
    return cases


def dry_run() -> list[dict[str, Any]]:
    """Everything once, on the CPU and on emulated threads: what a device would meet, without its speed."""
    limits = ceilings("cpu", 128)
    options = {"emulate": True, "tile": 8}
    verify(random_model(PRESETS["tiny"]), "cpu", torch.float32, **options)  # the markov head and grouped queries
    return measure("dry", random_model(DRY), [1, 9], "cpu", limits, (1e-3, 1), **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one and 4096 trajectories, less repeats")
    parser.add_argument("--compile", action="store_true", help="let torch.compile fuse the peers (a minute each)")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--preset", nargs="+", default=["xs", "base", "base-1kv"], choices=list(PRESETS))
    parser.add_argument("--out", default=str(RESULTS), help="folder of the record")
    options = parser.parse_args()
    if options.dry_run:
        dry_run()
        return
    if not torch.cuda.is_available() or not _native.cuda_info()["devices"]:
        sys.exit(f"no CUDA device: {_native.cuda_info()['reason'] or 'torch sees none'}")
    limits = ceilings("cuda", 8192)
    print("this card: " + ", ".join(f"{value:.3g} {name}" for name, value in limits.items()), flush=True)
    batches = [1, 4096] if options.quick else [1, 16, 128, 1024, 8448, 67584]
    timing = (0.3, 3) if options.quick else (0.5, 3)
    cases: list[dict[str, Any]] = []
    path = None
    for preset in options.preset:
        cases += measure(preset, random_model(PRESETS[preset]), batches, "cuda", limits, timing, options.compile)
        # After every preset: what is cut short keeps what was found.
        path = write_record("cuda_rollout", {"ceilings": limits, "cases": cases}, path, options.out)
    print(path)


if __name__ == "__main__":
    main()
