"""The whole suite: chooses what to measure, runs it, writes the record, and says what was found."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nanomd.base.errors import InputError
from nanomd.bench import steps
from nanomd.bench.engines import offered_precisions
from nanomd.bench.peers import PEERS
from nanomd.bench.rollouts import MODES, Plan, cases, cold_start, flatness
from nanomd.bench.timing import stamp, write_record

PARTS = ("rollout", "flatness", "start", "train", "tokenizer", "kinetics")


def run(
    *,
    presets: Sequence[str] | None = None,
    quick: bool = False,
    n_threads: int | Sequence[int] | None = None,
    repeats: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    folder: str | Path | None = None,
    parts: Sequence[str] = ("rollout",),
    modes: Sequence[str] | None = None,
    batches: Sequence[int] | None = None,
    windows: Sequence[int] | None = None,
    isa: str = "",
    precisions: Sequence[str] | None = None,
    peers: Sequence[str] | None = None,
    seconds: float | None = None,
    last_step: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> str:
    """Verify, measure, write one record, and return what was found as text.

    Parameters
    ----------
    presets : sequence of str
        Names of `nanomd.bench.MODELS`, or presets; default S, S-learned, XS (quick: tiny, tiny-learned).
    quick : bool
        Seconds rather than minutes: everything is verified, and the times mean little.
    n_threads : int or sequence
        Numbers of threads to time with; default 1, 2 and all (quick: 1).
    repeats, seconds : int, float
        Timings of each contender, taken in turns, and the length of one.
    seed : int
        Of the weights.
    out, folder : path
        The record, or where to put it under a name made of the date.
    parts : sequence of str
        From ``PARTS``; ``"all"`` is all of them.
    modes, batches, windows, isa, precisions, peers
        See `nanomd.bench.rollouts.Plan`; ``peers=()`` leaves them out.
    last_step : int
        Length of the long rollout of part flatness.
    say : callable
        Told each finding as it comes.

    Raises
    ------
    InputError
        For an unknown name.
    VerificationError
        If anything computes something else than its reference; nothing is written then.
    """
    chosen = PARTS if "all" in parts else tuple(parts)
    for part in chosen:
        if part not in PARTS:
            raise InputError(f"part must be one of {', '.join(PARTS)}, all, got {part!r}")
    cores = len(os.sched_getaffinity(0))
    threads = (n_threads,) if isinstance(n_threads, int) else n_threads
    plan = Plan(
        models=tuple(presets or (("tiny", "tiny-learned") if quick else ("S", "S-learned", "XS"))),
        modes=tuple(modes or MODES),
        batches=tuple(batches or ((1, 8) if quick else (1, 16, 64))),
        threads=tuple(threads or ((1,) if quick else sorted({1, min(2, cores), cores}))),
        isa=isa,
        precisions=tuple(precisions or (("fp32",) if quick else offered_precisions())),
        peers=tuple(PEERS) if peers is None else tuple(peers),
        seconds=seconds or (0.02 if quick else 1.0),
        repeats=repeats or (2 if quick else 5),
        seed=seed,
        windows=tuple(windows or ()),
    )
    before = stamp()
    model, size = plan.models[0], 20_000 if quick else 1_000_000
    work: dict[str, Callable[[], Any]] = {
        "rollout": lambda: {"cases": list(cases(plan, tell))},
        "flatness": lambda: flatness(model, 16, last_step or (10_000 if quick else 1_000_000), isa=isa, seed=seed),
        "start": lambda: cold_start(model, repeats=plan.repeats, seed=seed),
        "train": lambda: _train_cases(presets, plan, quick),
        "tokenizer": lambda: steps.tokenizer_cases(2_000 if quick else 100_000, plan.seconds, plan.repeats),
        "kinetics": lambda: steps.kinetics_cases(size, plan.seconds, plan.repeats),
    }
    lines: list[str] = []

    def tell(text: str) -> None:
        lines.append(text)
        say(text)

    results: dict[str, Any] = {"quick": quick}
    for part in chosen:
        results[part] = work[part]()
        if part != "rollout":
            tell(f"{part}: {summary(part, results[part])}")
    name = chosen[0] if len(chosen) == 1 else "suite"
    path = write_record(name, results, out, folder, before)
    load = before["load_average"][0]
    if load > 0.5:
        tell(f"note: the load average was {load:.1f} before the start; speeds are of a shared machine, compare ratios")
    tell(f"record: {path}")
    return "\n".join(lines)


def _train_cases(models: Sequence[str] | None, plan: Plan, quick: bool) -> list[dict[str, Any]]:
    from nanomd.bench.training import train_cases  # torch takes seconds to import

    return train_cases(
        models or (("demo",) if quick else ("demo", "small:200")),
        4 if quick else None,
        plan.seconds,
        plan.repeats,
        # Compiling takes half a minute for each objective.
        contenders=("nanomd", "PyTorch eager") + (() if quick else ("PyTorch compiled",)),
        n_threads=plan.threads[0],
    )


def summary(part: str, result: Any) -> str:
    """Return the result of a part other than rollout in a line or a few."""
    if part == "flatness":
        costs = zip(result["steps"], result["seconds_per_step"], strict=True)
        text = ", ".join(f"{1e6 * cost / result['n_trajs']:.1f} us at step {step:.0e}" for step, cost in costs)
        return f"{result['model']} {result['mode']}, a token costs {text}; last over first {result['ratio']:.2f}"
    if part == "start":
        return (
            f"{result['model']}: import {result['import_ms']:.0f} ms, load {result['load_ms']:.1f} ms, "
            f"first token {result['first_token_ms']:.1f} ms; "
            f"load and first token {result['load_and_first_token_ms']:.1f} ms"
        )
    if part == "train":
        from nanomd.bench.training import in_words

        return "; ".join(line for case in result for line in in_words(case))
    lines = []
    for case in result if isinstance(result, list) else [result]:
        for name, speed in case["frames_per_second"].items():
            lines.append(f"{case.get('model', '')} {name} {speed['median']:,.0f} frames/s".strip())
    return "; ".join(lines)
