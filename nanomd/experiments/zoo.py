"""`nanomd experiment zoo`: the defaults alone, on data that no setting was chosen for, beside Markov models.

For every case ``GPTEstimator().fit(training)`` learns and rolls out, and `nanomd.validate` compares with held-out data
and with the training data, at the stride that the model chose. A case that is recorded is not repeated.
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError, NanomdError, StoreError
from nanomd.base.files import write_atomic
from nanomd.base.progress import progress_bar
from nanomd.experiments.zoo_cases import ZOO, ZooCase
from nanomd.rollout.executors import Executor

_CHAINS, _FEWEST_CHAINS = 64, 4  # fewer where more is dropped than kept
_STEPS = 6_000_000  # of all chains that are judged: a state of 2 % is then left some hundred times
_BURN_IN = 10.0  # slowest timescales
_BOOTSTRAPS = 50
_RIVALS = {"MSM": "markov", "MSM (lag 1)": "markov_lag_1", "memory kernel": "memory_kernel"}
_REFUSED = 2  # exit code of a process that says in one line what is wrong
_KERNEL_STATES = 128  # of more the memory kernel takes minutes


def run_zoo(
    out: str | Path,
    *,
    data: str | Path | None = None,
    cases: Sequence[str] | None = None,
    seed: int = 0,
    n_threads: int | None = None,
    executor: Executor | None = None,
    progress: bool | None = None,
) -> str:
    """Learn and judge, and return the table in Markdown.

    Parameters
    ----------
    out : path
        Gets a folder ``zoo`` with a record for every case, and ``tables.md``.
    data : path, optional
        Folder of the molecular dynamics; default NANOMD_DATA.
    cases : sequence of str, optional
        Keys of `ZOO`; all when None.
    seed : int
        Of training and rollout.
    n_threads : int, optional
        CPU threads of training and rollout.
    executor : Executor, optional
        Who measures the cases; one after the other on this machine when None. All workers must see `out` and `data`.
    progress : bool, optional
        Show a bar; where a person watches by default.

    Raises
    ------
    InputError
        For an unknown case, or molecular dynamics that are not there.
    """
    chosen = _chosen(cases)
    folder = (Path(out) / "zoo").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{name}_seed{seed}.json" for name in chosen}
    wanted = [name for name in chosen if not files[name].exists()]
    place = None if data is None else str(Path(data).resolve())
    bar = progress_bar(len(wanted), "zoo", "case", progress)

    def done(number: int) -> None:
        bar.note(wanted[number])
        bar.update(1)

    tasks = [(name, place, seed, n_threads, str(files[name])) for name in wanted]
    try:
        if executor is None:
            for number, task in enumerate(tasks):
                _in_own_process(*task)
                done(number)
        else:
            executor.run(_in_own_process, tasks, folder / "logs", done, wanted)
    finally:
        bar.close()
    records = [json.loads(files[name].read_text(encoding="utf-8")) for name in chosen]
    text = f"# Defaults on data of many kinds\n\n{zoo_table(records)}\n"
    write_atomic(folder / "tables.md", text)
    return text


def zoo_status(out: str | Path, *, cases: Sequence[str] | None = None, seed: int = 0) -> str:
    """Say in a line a case whether it is recorded."""
    there = {name: (Path(out) / "zoo" / f"{name}_seed{seed}.json").exists() for name in _chosen(cases)}
    lines = [f"{name}: {'recorded' if found else 'missing'}" for name, found in there.items()]
    return "\n".join([*lines, f"{sum(there.values())} of {len(there)} cases recorded"])


def _chosen(cases: Sequence[str] | None) -> list[str]:
    unknown = sorted(set(cases or ()) - set(ZOO))
    if unknown:
        raise InputError(f"the zoo has no {', '.join(unknown)}; it has {', '.join(ZOO)}")
    return list(cases or ZOO)


def _in_own_process(name: str, data: str | None, seed: int, n_threads: int | None, file: str) -> None:
    """Record a case in a process where nothing has asked for memory before; workers of clusters may not fork theirs."""
    arguments = json.dumps([name, data, seed, n_threads, file])
    code = "import sys; from nanomd.experiments.zoo import _main; _main(sys.argv[1])"
    made = subprocess.run([sys.executable, "-c", code, arguments], stderr=subprocess.PIPE, text=True, check=False)  # noqa: S603
    if made.returncode:
        why = (made.stderr.strip().splitlines() or [f"it ended with code {made.returncode}"])[-1]
        raise (InputError if made.returncode == _REFUSED else StoreError)(f"{name}: {why}")


def _main(arguments: str) -> None:
    try:
        _record(*json.loads(arguments))
    except NanomdError as error:
        print(error, file=sys.stderr)
        sys.exit(_REFUSED)


def _record(name: str, data: str | None, seed: int, n_threads: int | None, file: str) -> None:
    record = measure(ZOO[name], data, seed, n_threads)
    write_atomic(Path(file), json.dumps(record, indent=1, allow_nan=False) + "\n")


@dataclass(frozen=True)
class _Kept:
    """What is left of a rollout without its beginning, as `nanomd.validate` takes it."""

    dtrajs: list[NDArray[np.int64]]
    frame_stride: int
    stride: int = 1


def measure(case: ZooCase, data: str | Path | None, seed: int, n_threads: int | None = None) -> dict[str, Any]:
    """Return the record of a case.

    Choices, seconds, peak memory, factors of passage times, ratios of the timescales of the (at most three) slowest
    processes to those of the training data, and the share of macrostates whose population the training data's interval
    holds.
    """
    from nanomd.estimator import GPTEstimator
    from nanomd.kinetics import validate
    from nanomd.kinetics.time_scales import slow_time_scales

    training, held_out = case.load(data)
    begun = time.perf_counter()
    model = GPTEstimator(seed=seed, n_threads=n_threads).fit(training).fetch_model()
    trained = time.perf_counter() - begun
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    slowest = slow_time_scales(training, 1 + max(int(x.max()) for x in training)).slowest
    dropped = int(_BURN_IN * max(np.nan_to_num(slowest), 1.0) / model.frame_stride)
    begun = time.perf_counter()
    chains = int(np.clip(_STEPS // max(dropped, 1), _FEWEST_CHAINS, _CHAINS))
    rollout = model.generate(_STEPS // chains + dropped, chains, seed=seed + 1, n_threads=n_threads)
    generated = time.perf_counter() - begun
    kept = _Kept([x[dropped:] for x in rollout.dtrajs], model.frame_stride)
    kernel = model.config.n_states <= _KERNEL_STATES
    total = validate(held_out, kept, training=training, n_bootstrap=_BOOTSTRAPS, memory_kernel=kernel)
    own = validate(training, kept, n_bootstrap=_BOOTSTRAPS)
    at = int(np.argmin(abs(own.sources["MD"].lagtimes - own.lagtime)))
    times = own.sources["GPT"].timescales.value[at, :3] / own.sources["MD"].timescales.value[at, :3]
    md, shares = own.sources["MD"].macro_populations, own.sources["GPT"].macro_populations
    inside = (shares.high >= md.low) & (shares.low <= md.high)
    record = {
        "gpt": total.mfpt_errors["GPT"].factor,
        "gpt_model": own.mfpt_errors["GPT"].factor,
        "noise_floor": math.nan if total.noise_floor is None else total.noise_floor.factor,
        "timescale": float(times[0]),
        "populations_inside": float(inside.mean()),
        **{key: total.mfpt_errors[name].factor for name, key in _RIVALS.items() if name in total.mfpt_errors},
        **{f"{key}_model": own.mfpt_errors[name].factor for name, key in _RIVALS.items() if name in own.mfpt_errors},
    }
    return {
        "case": case.name,
        "title": case.title,
        "seed": seed,
        "n_states": model.config.n_states,
        "n_frames": sum(len(x) for x in training),
        "frame_stride": model.frame_stride,
        "choices": model.provenance["choices"],
        "train_seconds": trained,
        "generate_seconds": generated,
        "train_megabytes": memory,
        "lagtime": own.lagtime * model.frame_stride,
        "timescales": [float(x) if math.isfinite(x) else None for x in times],
        **{key: value if math.isfinite(value) else None for key, value in record.items()},
    }


def zoo_table(records: Sequence[dict[str, Any]]) -> str:
    """Return the records as a table in Markdown; a factor that is not there is infinite, or could not be told."""
    head = [
        "data", "states", "frames", "stride", "GPT, total", "noise floor", "MSM", "MSM (lag 1)", "memory kernel",
        "GPT, model", "MSM, model", "timescales", "populations", "training",
    ]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for r in records:
        factors = [
            "-" if r.get(key) is None else f"{r[key]:.3f}"
            for key in (
                "gpt", "noise_floor", "markov", "markov_lag_1", "memory_kernel", "gpt_model", "markov_model",
            )
        ]  # fmt: skip
        row = [
            r["title"],
            r["n_states"],
            f"{r['n_frames']:,}",
            r["frame_stride"],
            *factors,
            ", ".join("-" if x is None else f"{x:.2f}" for x in r["timescales"]),
            f"{100 * r['populations_inside']:.0f} %",
            f"{r['train_seconds']:.0f} s, {r['train_megabytes']:.0f} MB",
        ]
        lines.append("| " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines)
