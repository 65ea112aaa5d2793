"""Compare the GPT with Markov models, an LSTM and itself on one system, over seeds and data sets.

Every training is one record under --out, and what is recorded is not repeated: an interrupted experiment goes on
where it stopped, and more seeds or methods can be added later. Writes tables.md, and for the study of short
trajectories pieces.png.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanomd.base.errors import InputError
from nanomd.cli.common import add_common, arguments, given, progress, say, whole
from nanomd.cli.executors import add_executor, executor_of

if TYPE_CHECKING:
    from nanomd.rollout.executors import Executor

_WHO = ("executor", "workers", "address", "retries", "dry_run", "status")
_WHICH = ("study", "methods", "n_seeds", "n_datasets", "n_steps")  # the trainings of an experiment


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_common(parser, run=False, seed=False, force=False)
    parser.add_argument("name", help="the system; `nanomd experiment list` shows them")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("experiments"), help="(default: %(default)s)")
    parser.add_argument("--data", metavar="DIR", default=None, help="folder of trajectories (default: NANOMD_DATA)")
    parser.add_argument("--study", choices=["main", "pieces"], default="main", help="(default: %(default)s)")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", default=None, help="(default: those of the study)")
    parser.add_argument(
        "--seeds",
        dest="n_seeds",
        type=whole,
        default=3,
        metavar="N",
        help="seeds of each method (default: %(default)s)",
    )
    parser.add_argument(
        "--datasets", dest="n_datasets", type=whole, default=1, metavar="N", help="data sets (default: %(default)s)"
    )
    parser.add_argument("--n-steps", type=whole, default=None, help="optimiser steps in place of the system's")
    parser.add_argument(
        "--unfinished", action="store_true", help="judge the paper's training as far as it has come, without going on"
    )
    parser.add_argument("--report", metavar="METHOD", default=None, help="write report/index.html for this method")
    parser.add_argument("--cases", nargs="+", metavar="CASE", default=None, help="of the zoo (default: all)")
    parser.add_argument("--n-threads", type=whole, default=None, help="of the zoo's trainings and rollouts")
    parser.add_argument(
        "--n-processes", type=whole, default=1, help="trainings at a time, on this machine (default: %(default)s)"
    )
    group = parser.add_argument_group("many processes", "a training is a task; what is recorded is not repeated")
    add_executor(group, "training", "trainings")
    group.add_argument(
        "--shard", default=None, metavar="I/N", help="only every N-th training from the I-th (from 0); no coordination"
    )


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from nanomd import experiments

    if options.name == "list":
        for case in experiments.CASES.values():
            print(f"{case.name:20} {case.title}")
        print(f"{'zoo':20} the defaults alone, on {len(experiments.ZOO)} kinds of data; --cases takes some of them:")
        print("\n".join(f"  {case.name:20} {case.title}" for case in experiments.ZOO.values()))
        return 0
    if options.name == "zoo":
        say(options, _zoo(options))
        return 0
    if options.status:
        print(experiments.experiment_status(options.name, options.out, **given(options, _WHICH)), flush=True)
        return 0
    executor = executor_of(options)
    if options.dry_run and executor is not None:
        print(_script(options, executor), end="")
        return 0
    chosen = arguments(options, "cases", "n_threads", "shard", *_WHO)
    text = experiments.run(**chosen, shard=_shard(options), executor=executor, progress=progress(options))
    say(options, text)
    return 0


def _zoo(options: argparse.Namespace) -> str:
    from nanomd import experiments

    if options.status:
        return experiments.zoo_status(options.out, cases=options.cases)
    if options.dry_run or options.shard is not None:
        raise InputError("the zoo has no --dry-run and no --shard; --cases takes some of its cases")
    return experiments.run_zoo(
        options.out,
        data=options.data,
        cases=options.cases,
        n_threads=options.n_threads,
        executor=executor_of(options),
        progress=progress(options),
    )


def _shard(options: argparse.Namespace) -> Any:
    from nanomd.rollout.parts import Part

    return None if options.shard is None else Part.parse(options.shard)


def _script(options: argparse.Namespace, executor: Executor) -> str:
    """Return the job script of an array with a training a task; the same command without --shard then makes tables."""
    from nanomd import experiments
    from nanomd.rollout.executors import array_script

    words = [f"nanomd experiment {shlex.quote(options.name)}"]
    for name in ("out", "data", "study", "methods", "seeds", "datasets", "n_steps"):
        value = getattr(options, name if hasattr(options, name) else f"n_{name}")
        if value is not None:
            values = value if isinstance(value, list) else [value]
            words.append(f"--{name.replace('_', '-')} " + " ".join(shlex.quote(str(x)) for x in values))
    if options.unfinished:
        words.append("--unfinished")
    count = len(experiments.experiment_jobs(options.name, **given(options, _WHICH)))
    return array_script(" ".join(words), count, executor)
