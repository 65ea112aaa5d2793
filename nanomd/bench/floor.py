r"""The floor: the time that no engine can beat here, from operations, bytes, and peaks measured in the same run.

Per token, with d the width, k the width of the keys (n_kv_head d_head), m that of the hidden layer, and a context of c
positions:

- operations :math:`2 [L (d (d + 2k) + d^2 + 2 d m + 2 d c) + d V]`, counting a fused multiply-add as two, and neither
  softmax nor LayerNorm nor GELU (small, and not fused multiply-adds);
- bytes: the cache, 2 L k c elements, is each trajectory's own and is read in full at every step; the weights are read
  once per step for the whole group of trajectories that runs together (16, the lanes of the engine).

A model with G groups of states has G + V / G rows of the head for V: those of the groups, and those of the states of
one group, of mean size, which each trajectory reads for itself.

The floor is the larger of operations over the peak and bytes over the bandwidth, so it assumes that both overlap fully.
The peak is that of a float32 matrix product, the bandwidth the best of a dot product and two matrix-vector products
over a working set of the size of the engine's, so that it is the bandwidth of the right level of cache. Both come from
numpy's BLAS, on as many threads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np

from nanomd.base.config import ModelConfig

GROUP = 16  # trajectories that share one reading of the weights
# precision -> bytes of a weight, bytes of a cache element
ELEMENT_BYTES = {"fp32": (4, 4), "fp16-cache": (4, 2), "fp16": (2, 2)}


@dataclass(frozen=True)
class Floor:
    """What a token costs at least, and the speed that follows."""

    operations: float  # per token, a fused multiply-add is two
    cache_bytes: float  # per token
    weight_bytes: float  # per token
    working_set: float  # bytes that one thread goes through at every step
    peak_gflops: float  # measured, all threads
    bandwidth_gbytes: float  # measured at this working set, all threads
    tokens_per_second: float
    bound: str  # "operations" or "bytes"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def _layer_operations(config: ModelConfig, context: float) -> float:
    d, k, m = config.d_model, config.kv_heads * config.d_head, config.d_mlp
    return 2 * (d * (d + 2 * k) + d * d + 2 * d * m + 2 * d * context)


def operations_per_token(config: ModelConfig, context: float) -> float:
    """Return floating point operations per token at a context of so many positions (the token itself included)."""
    rows = config.n_groups + member_rows(config) if config.group_sizes else config.n_states
    return config.n_layer * _layer_operations(config, context) + 2 * config.d_model * rows


def member_rows(config: ModelConfig) -> float:
    """Return rows of the head that a trajectory needs for itself: the mean size of a group of states, or none."""
    return config.n_states / config.n_groups if config.group_sizes else 0.0


def operations_per_past_token(config: ModelConfig, context: float) -> float:
    """Return operations for a token that only later ones look at: of the last layer, its key and value are enough."""
    last = 4 * config.d_model * config.kv_heads * config.d_head
    return (config.n_layer - 1) * _layer_operations(config, context) + last


def weight_elements(config: ModelConfig) -> int:
    """Return weights that a step reads in full (tables read by row or by group are left out)."""
    skipped: tuple[str, ...] = ("embedding.weight", "position.weight", "markov.weight")
    skipped += ("head.weight", "head.bias") if config.group_sizes else ()
    return sum(int(np.prod(shape)) for name, shape in config.tensor_shapes().items() if name not in skipped)


def cache_elements(config: ModelConfig, context: float) -> float:
    """Return keys and values of one trajectory."""
    return 2 * config.n_layer * config.kv_heads * config.d_head * context


def mean_context(config: ModelConfig, mode: str) -> float:
    """Return positions read per step: W in a full ring and in crop, (K + W) / 2 in hop with K = W / 2."""
    W = config.context_length
    return (max(1, W // 2) + W) / 2 if mode == "hop" else float(W)


def rollout_floor(config: ModelConfig, mode: str, n_trajs: int, n_threads: int, precision: str = "fp32") -> Floor:
    """Return the floor of a rollout with full windows.

    Hop also pays its prefills: K - 1 more tokens per W - K + 1 generated, which need no logits and whose weights are
    read once for the whole prefill; crop recomputes W positions at every step. Neither is counted in bytes, both are in
    operations.
    """
    context = mean_context(config, mode)
    per_weight, per_cached = ELEMENT_BYTES[precision]
    operations = operations_per_token(config, context)
    W = config.context_length
    if mode == "hop":
        keep = max(1, W // 2)
        operations += (keep - 1) / (W - keep + 1) * operations_per_past_token(config, keep / 2)
    elif mode == "crop":
        operations += (W - 1) * operations_per_past_token(config, W / 2)
    threads = min(n_threads, n_trajs)
    together = min(-(-n_trajs // threads), GROUP)
    weights = weight_elements(config) * per_weight
    members = member_rows(config) * (config.d_model + 1) * per_weight
    cached = 0.0 if mode == "crop" else cache_elements(config, context) * per_cached
    working_set = weights + together * (members + cached)
    peak, bandwidth = measure_peak(threads), measure_bandwidth(threads, _round_size(working_set))
    seconds = {
        "operations": operations / peak,
        "bytes": (cached + members + weights / together) / bandwidth,
    }
    bound = max(seconds, key=lambda name: seconds[name])
    return Floor(
        operations=operations,
        cache_bytes=cached,
        weight_bytes=weights / together + members,
        working_set=working_set,
        peak_gflops=peak / 1e9,
        bandwidth_gbytes=bandwidth / 1e9,
        tokens_per_second=1 / seconds[bound],
        bound=bound,
    )


def _round_size(n_bytes: float) -> int:
    """Round to a quarter of an octave, so that few sizes are measured, in whole rows of 2 kB."""
    return 2048 * max(32, int(2.0 ** (round(4 * math.log2(max(n_bytes, 1))) / 4) / 2048))


def _rate(work: list[Callable[[], Any]], amount: float, seconds: float = 0.05, repeats: int = 9) -> float:
    """Return the best rate of several tries: a peak, not a typical value. One function per thread."""
    from threadpoolctl import threadpool_limits

    def loop(function: Callable[[], Any], n: int) -> None:
        for _ in range(n):
            function()

    best = 0.0
    with threadpool_limits(limits=1), ThreadPoolExecutor(len(work)) as pool:
        n = 1
        while True:
            elapsed = float("inf")
            for _ in range(3):  # the shortest: a stall of a busy machine must not end the search
                begin = time.perf_counter()
                loop(work[0], n)
                elapsed = min(elapsed, time.perf_counter() - begin)
            if elapsed > seconds / 4 or n >= 1 << 20:
                break
            n *= 4
        n = max(1, int(n * seconds / elapsed))
        for _ in range(repeats):
            begin = time.perf_counter()
            list(pool.map(loop, work, [n] * len(work)))
            best = max(best, len(work) * n * amount / (time.perf_counter() - begin))
    return best


@cache
def measure_peak(n_threads: int) -> float:
    """Return float32 operations per second of a matrix product of 384 x 384, one per thread."""
    size = 384

    def one(seed: int) -> Callable[[], Any]:
        a, b = np.random.default_rng(seed).random((2, size, size), np.float32)
        c = np.empty_like(a)
        return lambda: np.matmul(a, b, out=c)

    return _rate([one(i) for i in range(n_threads)], 2.0 * size**3)


@cache
def measure_bandwidth(n_threads: int, working_set: int) -> float:
    """Return bytes per second read from `working_set` bytes per thread, by the best of three ways to read them."""

    def one(seed: int) -> list[Callable[[], Any]]:
        matrix = np.random.default_rng(seed).random((working_set // 2048, 512), np.float32)
        flat = matrix.reshape(-1)
        left, right = np.ones(len(matrix), np.float32), np.ones(512, np.float32)
        rows, columns = np.empty_like(left), np.empty_like(right)
        return [
            lambda: np.dot(flat, flat),
            lambda: np.dot(matrix, right, out=rows),
            lambda: np.dot(left, matrix, out=columns),
        ]

    ways = zip(*(one(i) for i in range(n_threads)), strict=True)
    return max(_rate(list(way), float(working_set)) for way in ways)
