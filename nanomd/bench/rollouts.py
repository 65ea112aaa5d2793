"""Rollout speed: by model, mode, number of trajectories and threads; along a long rollout; and from a cold start."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nanomd.base.errors import InputError
from nanomd.bench.engines import Contender, eager, full_windows, our_sampler
from nanomd.bench.floor import rollout_floor
from nanomd.bench.models import bench_config, random_model
from nanomd.bench.peer import PeerSkippedError
from nanomd.bench.peers import PEERS, peer
from nanomd.bench.timing import interleaved

MODES = ("ring", "hop", "crop")


@dataclass(frozen=True)
class Plan:
    """What to time.

    Parameters
    ----------
    models, modes, batches, threads : sequences
        Every combination that makes sense; ring needs rotary positions, hop and crop learned ones (crop is so slow that
        it is timed for at most 64 trajectories).
    isa : str
        Forced instruction set, or empty.
    precisions : sequence
        Of our engine, each a contender: ``"fp32"``, and what the engine offers.
    peers : sequence
        Names from `nanomd.bench.peers.PEERS`.
    with_eager : bool
        Time the eager reference too.
    seconds, repeats : float, int
        Of one timing, and timings of each contender.
    windows : sequence of int
        Context lengths, in place of the model's own.
    """

    models: Sequence[str] = ("S", "XS")
    modes: Sequence[str] = MODES
    batches: Sequence[int] = (1, 16, 64)
    threads: Sequence[int] = (1, 2)
    isa: str = ""
    precisions: Sequence[str] = ("fp32",)
    peers: Sequence[str] = tuple(PEERS)
    with_eager: bool = True
    seconds: float = 1.0
    repeats: int = 5
    seed: int = 0
    windows: Sequence[int] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        for mode in self.modes:
            if mode not in MODES:
                raise InputError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        for name, values in (("batch", self.batches), ("n_threads", self.threads), ("window", self.windows)):
            if any(value < 1 for value in values):
                raise InputError(f"{name} must be at least 1, got {min(values)}")
        for name in self.models:
            bench_config(name)


def cases(plan: Plan, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """Verify and time each combination."""
    for name in plan.models:
        for window in plan.windows or (None,):
            config = bench_config(name, **({} if window is None else {"context_length": window}))
            modes = ("ring",) if config.position == "rope" else ("hop", "crop")
            for mode in (m for m in plan.modes if m in modes):
                for n_trajs in plan.batches:
                    for n_threads in plan.threads:
                        if mode != "crop" or n_trajs <= 64:
                            case = _case(plan, name, config, mode, n_trajs, n_threads)
                            say(describe(case))
                            yield case


def _case(plan: Plan, name: str, config: Any, mode: str, n_trajs: int, n_threads: int) -> dict[str, Any]:
    files = random_model(config, plan.seed)
    contenders: list[Contender] = []
    for precision in plan.precisions:
        contenders.append(
            our_sampler(files, mode, n_trajs, n_threads, isa=plan.isa, precision=precision, seed=plan.seed)
        )
    if plan.with_eager:
        contenders.append(eager(files, n_trajs, n_threads, plan.seed))
    skipped = {}
    for each in plan.peers:
        try:
            contenders.append(peer(each, files, mode, n_trajs, n_threads, plan.seed))
        except PeerSkippedError as reason:
            skipped[each] = str(reason)
    floors = {p: rollout_floor(config, mode, n_trajs, n_threads, p) for p in plan.precisions}
    timed = interleaved({c.name: c.run for c in contenders}, plan.seconds, plan.repeats)
    engines: dict[str, dict[str, Any]] = {}
    for contender in contenders:
        speed = timed[contender.name]
        entry = {**speed, "max_log_prob_error": contender.error, "context": contender.context}
        if contender.precision in floors:
            entry["fraction_of_floor"] = speed["median"] / floors[contender.precision].tokens_per_second
        engines[contender.name] = {**entry, "precision": contender.precision}
    return {
        "model": name,
        "config": config.to_dict(),
        "mode": mode,
        "n_trajs": n_trajs,
        "n_threads": n_threads,
        "isa": plan.isa or "best",
        "floor": {p: floor.to_dict() for p, floor in floors.items()},
        "engines": engines,
        "skipped": skipped,
    }


def describe(case: dict[str, Any]) -> str:
    """Return one case as a few lines of text: the floor, then who reached how much of it."""
    floor = case["floor"]["fp32"] if "fp32" in case["floor"] else next(iter(case["floor"].values()))
    window = case["config"]["context_length"]
    lines = [
        f"{case['model']}  {case['mode']}  W={window}  {case['n_trajs']} trajectories  {case['n_threads']} threads  "
        f"isa {case['isa']}",
        f"  floor {floor['tokens_per_second']:>10,.0f} tokens/s  ({floor['bound']}: "
        f"{floor['operations'] / 1e6:.2f} MFLOP at {floor['peak_gflops']:.0f} GFLOP/s, "
        f"{(floor['cache_bytes'] + floor['weight_bytes']) / 1e3:,.0f} kB at {floor['bandwidth_gbytes']:.0f} GB/s)",
    ]
    ours = next(iter(case["engines"].values()))["median"]
    for name, entry in case["engines"].items():
        spread = (entry["high"] - entry["low"]) / entry["median"]
        lines.append(
            f"  {name:<20}{entry['median']:>12,.0f} tokens/s  spread {spread:>4.0%}"
            f"  floor x {entry['fraction_of_floor']:.3f}"
            f"  ours/this {ours / entry['median']:>7.2f}  |dlnp| {entry['max_log_prob_error']:.1e}"
            f"  busy {entry['busy']:.2f}  context {entry['context']}"
        )
    lines += [f"  {name:<20}skipped: {reason}" for name, reason in case["skipped"].items()]
    return "\n".join(lines)


def flatness(model: str, n_trajs: int, last: int, *, isa: str = "", seed: int = 0) -> dict[str, Any]:
    """Time steps around 10^3, 10^4, ... `last` of one rollout: cost per step must not grow.

    Returns
    -------
    dict
        ``steps``, ``seconds_per_step`` of the decade that ends there (median of ten parts), and ``ratio``, the last
        over the first.
    """
    from nanomd.rollout.sampler import Sampler

    files = random_model(bench_config(model), seed)
    engine = Sampler(files, backend="cpu", isa=isa).engine
    mode = "ring" if files.config.position == "rope" else "hop"
    keep = max(1, files.config.context_length // 2) if mode == "hop" else 0
    indices = np.arange(n_trajs, dtype=np.uint64)
    session = engine.open(full_windows(files, n_trajs), indices, mode=mode, hop_keep=keep, seed=1)
    steps, costs, done, stop = [], [], 0, 1000
    while stop <= last:
        part = (stop - done) // 10
        timings = []
        for _ in range(10):
            begin = time.perf_counter()
            session.advance(part)
            timings.append((time.perf_counter() - begin) / part)
        done += 10 * part
        steps.append(stop)
        costs.append(statistics.median(timings))
        stop *= 10
    return {
        "model": model, "mode": mode, "n_trajs": n_trajs, "steps": steps, "seconds_per_step": costs,
        "ratio": costs[-1] / costs[0],
    }  # fmt: skip


_COLD = """
import time
begin = time.perf_counter()
from nanomd.rollout.sampler import Sampler
imported = time.perf_counter()
sampler = Sampler.load({path!r}, backend="cpu")
loaded = time.perf_counter()
sampler.generate(1, 1, start="uniform", n_threads=1)
done = time.perf_counter()
print(imported - begin, loaded - imported, done - loaded)
"""


def cold_start(model: str, repeats: int = 5, seed: int = 0) -> dict[str, Any]:
    """Time a fresh process: import, loading a model folder, the first token. Medians in milliseconds."""
    from nanomd.model.files import save_model

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        save_model(path, random_model(bench_config(model), seed))
        rows = []
        for _ in range(repeats):
            command = [sys.executable, "-c", _COLD.format(path=str(path))]
            result = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
            rows.append([1000 * float(word) for word in result.stdout.split()])
    imported, loaded, first = (statistics.median(column) for column in zip(*rows, strict=True))
    return {
        "model": model, "import_ms": imported, "load_ms": loaded, "first_token_ms": first,
        "load_and_first_token_ms": statistics.median(row[1] + row[2] for row in rows),
    }  # fmt: skip
