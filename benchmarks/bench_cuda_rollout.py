"""The CUDA engine beside what a person would otherwise run on the same card, verified first, then timed in turns.

Peers: eager PyTorch on a cropped context, and a static ring cache captured in a CUDA graph, one replay a step, which is
the fairest of them. ``python benchmarks/bench_cuda_rollout.py [--quick] [--preset xs base base-1kv] [--dry-run]``

``--dry-run`` needs no device: it checks the peers and the emulated engine on a tiny model and times nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import numpy as np
import torch
from common import RESULTS
from torch.nn import functional

from nanomd import _native
from nanomd.bench import interleaved, random_model, write_record
from nanomd.config import ModelConfig, model_preset
from nanomd.model import NanoGPT
from nanomd.rope import rope_multipliers, rope_tables

PRESETS = {
    "xs": model_preset("xs", 20),
    "base": model_preset("base", 100),
    "base-1kv": model_preset("base", 100, n_kv_head=1),
    "tiny": model_preset("tiny", 20, n_kv_head=1, markov_head=True),
}
HBM_BYTES_PER_SECOND = 4.3e12  # of an H200, as a copy reaches it; for the floor beside the measurement


class StaticCacheLoop:
    """A step of the model with a ring cache of fixed tensors; on a GPU captured once and replayed."""

    def __init__(self, files, n_trajs: int, device: str, dtype: torch.dtype, n_positions: int) -> None:
        config: ModelConfig = files.config
        self.config, self.dtype = config, dtype
        model = NanoGPT(config)
        model.load_tensors(files.tensors)
        self.model = model.to(device).eval()
        for layer in self.model.blocks:
            layer.attention.qkv.to(dtype)
            layer.attention.proj.to(dtype)
            layer.mlp.to(dtype)
        shape = (config.n_layer, n_trajs, config.kv_heads, config.context_length, config.d_head)
        self.keys, self.values = (torch.zeros(shape, device=device, dtype=dtype) for _ in range(2))
        cos, sin = rope_tables(config, np.arange(n_positions, dtype=np.uint64))
        self.cos, self.sin = torch.from_numpy(cos).to(device), torch.from_numpy(sin).to(device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self.slots = torch.arange(config.context_length, device=device)
        self.tokens = torch.zeros(n_trajs, dtype=torch.int64, device=device)
        self.logits = torch.zeros(n_trajs, config.n_states, device=device)
        self.graph: torch.cuda.CUDAGraph | None = None

    def _rotate(self, x: torch.Tensor) -> torch.Tensor:
        cos, sin = self.cos[self.position], self.sin[self.position]
        x1, x2 = x.float().chunk(2, dim=-1)
        return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], dim=-1).to(self.dtype)

    @torch.no_grad()
    def decode(self) -> None:
        """Feed the tokens at the position, leave logits, go one position on."""
        config, n = self.config, len(self.tokens)
        x = self.model.embed(self.tokens[:, None])[:, 0]
        slot = self.position % config.context_length
        unwritten = torch.where(self.slots > self.position, -torch.inf, 0.0).to(self.dtype)[None, None, None, :]
        for i, block in enumerate(self.model.blocks):
            h = (block.norm1(x) if block.pre else x).to(self.dtype)
            kv = config.kv_heads * config.d_head
            q, k, v = block.attention.qkv(h).split((config.d_model, kv, kv), dim=-1)
            q = self._rotate(q.view(n, config.n_head, config.d_head))
            self.keys[i].index_copy_(2, slot, self._rotate(k.view(n, config.kv_heads, config.d_head))[:, :, None])
            self.values[i].index_copy_(2, slot, v.view(n, config.kv_heads, config.d_head)[:, :, None])
            # Query heads of a group become queries of one head: no copy of keys and values.
            q = q.view(n, config.kv_heads, -1, config.d_head)
            out = functional.scaled_dot_product_attention(q, self.keys[i], self.values[i], attn_mask=unwritten)
            out = block.attention.proj(out.reshape(n, config.d_model)).float()
            x = x + out if block.pre else block.norm1(x + out)
            h = block.mlp((block.norm2(x) if block.pre else x).to(self.dtype)).float()
            x = x + h if block.pre else block.norm2(x + h)
        self.logits.copy_(self.model.logits(x, self.tokens))
        self.position += 1

    @torch.no_grad()
    def step(self) -> None:
        """Decode and draw by inverse cumulative probability, in double."""
        self.decode()
        cumulative = torch.softmax(self.logits.double(), dim=-1).cumsum(dim=-1)
        uniform = torch.rand(len(self.tokens), 1, dtype=torch.float64, device=self.tokens.device)
        self.tokens.copy_(torch.searchsorted(cumulative, uniform)[:, 0].clamp_(max=self.config.n_states - 1))

    def capture(self) -> None:
        """Record `step` as a CUDA graph."""
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.step()

    def run(self, n_steps: int) -> int:
        """Replay n_steps steps; returns the number of tokens."""
        assert self.graph is not None
        if int(self.position) + n_steps >= len(self.cos):
            self.position.fill_(self.config.context_length)  # speed does not depend on it, and the table is finite
        for _ in range(n_steps):
            self.graph.replay()
        torch.cuda.synchronize()
        return n_steps * len(self.tokens)


def engine_of(files, **options) -> _native.NativeCudaEngine:
    return _native.NativeCudaEngine(files.config, files.tensors, rope_multipliers(files.config), **options)


def worst_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest |ln p - ln p_ref| where p_ref >= 1e-7."""
    return float(np.abs(found - expected)[expected >= np.log(1e-7)].max())


def verify(files, device: str, dtype: torch.dtype, **options) -> dict[str, float]:
    """Errors of ln p of the engine and the static-cache loop against the CPU engine, over two windows."""
    config = files.config
    tokens = np.random.default_rng(0).integers(0, config.n_states, (3, 2 * config.context_length)).astype(np.uint16)
    expected = _native.NativeEngine(config, files.tensors, rope_multipliers(config)).log_probs(tokens, mode="ring")
    errors = {"cuda": worst_error(engine_of(files, **options).log_probs(tokens, mode="ring"), expected)}
    loop, rows = StaticCacheLoop(files, 3, device, dtype, tokens.shape[1] + 1), []
    for t in range(tokens.shape[1]):
        loop.tokens.copy_(torch.from_numpy(tokens[:, t].astype(np.int64)))
        loop.decode()
        rows.append(torch.log_softmax(loop.logits.double(), dim=-1).cpu().numpy())
    errors["graph"] = worst_error(np.stack(rows, axis=1), expected)
    for name, error in errors.items():
        if not error <= 2e-2:
            sys.exit(f"{name} does not compute the model: |ln p error| {error:.3g} > 2e-2; a time would mean nothing")
    return errors


def engine_rollout(files, n_trajs: int) -> Callable[[int], int]:
    """Steps of the engine from full windows, tokens stored on the host."""
    config = files.config
    history = np.random.default_rng(1).integers(0, config.n_states, (n_trajs, config.receptive_field)).astype(np.uint16)
    session = engine_of(files).open(history, np.arange(n_trajs, dtype=np.uint64), mode="ring", seed=1)

    def run(n_steps: int) -> int:
        out = np.empty((n_trajs, n_steps), np.uint8)
        session.advance(n_steps, out)
        return out.size

    return run


def eager_rollout(files, n_trajs: int) -> Callable[[int], int]:
    """Eager PyTorch, the whole window recomputed for each step."""
    model = NanoGPT(files.config)
    model.load_tensors(files.tensors)
    model = model.cuda().eval()
    context = torch.randint(files.config.n_states, (n_trajs, files.config.context_length), device="cuda")

    @torch.no_grad()
    def run(n_steps: int) -> int:
        nonlocal context
        for _ in range(n_steps):
            p = torch.softmax(model(context)[:, -1].double(), dim=-1)
            context = torch.cat([context[:, 1:], torch.multinomial(p, 1)], dim=1)
        torch.cuda.synchronize()
        return n_steps * n_trajs

    return run


def graph_rollout(files, n_trajs: int) -> Callable[[int], int]:
    """The static-cache loop, captured, from a full window."""
    loop = StaticCacheLoop(files, n_trajs, "cuda", torch.float16, 1 << 17)
    loop.position.fill_(files.config.context_length)
    loop.capture()
    return loop.run


def cache_floor(config: ModelConfig) -> float:
    """Tokens per second at which reading the 16-bit caches once a token takes all bandwidth of the memory."""
    return HBM_BYTES_PER_SECOND / (config.n_layer * 2 * config.kv_heads * config.d_head * config.context_length * 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--preset", nargs="+", default=["xs", "base", "base-1kv"], choices=list(PRESETS))
    options = parser.parse_args()
    if options.dry_run:
        files = random_model(PRESETS["tiny"])
        print("verified:", verify(files, "cpu", torch.float32, emulate=True))
        return
    if not torch.cuda.is_available() or not _native.cuda_info()["devices"]:
        sys.exit(f"no CUDA device: {_native.cuda_info()['reason'] or 'torch sees none'}")
    cases = []
    batches = [1, 4096] if options.quick else [1, 16, 128, 1024, 8448, 67584]
    for preset in options.preset:
        files = random_model(PRESETS[preset])
        errors = verify(files, "cuda", torch.float16)
        engine = engine_of(files)
        print(f"{preset}: |ln p error| " + ", ".join(f"{k} {v:.1e}" for k, v in errors.items()), flush=True)
        for n in batches:
            if n > engine.memory_plan("ring", n)["largest_n_trajs"] // 3:  # beside the graph's caches
                continue
            functions = {"cuda": engine_rollout(files, n), "graph": graph_rollout(files, n)}
            if n <= 1024:
                functions["eager"] = eager_rollout(files, n)
            seconds, repeats = (0.3, 3) if options.quick else (0.7, 5)
            speed = interleaved(functions, seconds, repeats)
            floor = cache_floor(files.config)
            cases.append(
                {
                    "preset": preset,
                    "n_trajs": n,
                    "regime": engine.describe(n),
                    "errors": errors,
                    "cache_floor": floor,
                    "tokens_per_second": speed,
                }
            )
            row = "  ".join(f"{name} {value['median']:.3g}/s" for name, value in speed.items())
            print(f"  {n:6d} trajectories  {row}  (cache floor {floor:.3g}/s)", flush=True)
            del functions
            torch.cuda.empty_cache()
    print(write_record("cuda_rollout", cases, folder=RESULTS))


if __name__ == "__main__":
    main()
