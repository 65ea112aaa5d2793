"""Generate trajectories with the trained model.

Complete shards survive an interruption; --resume goes on, and the result is the same bit for bit.
"""

from __future__ import annotations

import argparse
import re
import shlex
from typing import TYPE_CHECKING

from nanomd.base.errors import InputError
from nanomd.cli.common import add_common, add_resume, duration, progress, real, say, whole, whole_or_word
from nanomd.cli.executors import add_executor, executor_of

if TYPE_CHECKING:
    from nanomd.rollout.executors import Executor
    from nanomd.rollout.request import RolloutRequest


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_common(parser)
    add_resume(parser)
    parser.add_argument(
        "--extend",
        action="store_true",
        help="make the trajectories that are there longer, to --n-steps; the other options as before",
    )
    parser.add_argument(
        "--n-steps", type=duration, default=1_000_000, help="steps per trajectory, or '1 ms' (default: %(default)s)"
    )
    parser.add_argument("--n-trajs", type=whole, default=16, help="trajectories (default: %(default)s)")
    parser.add_argument(
        "--start",
        default="stationary",
        help="stationary, uniform, data, or one state for all trajectories (a label) (default: %(default)s)",
    )
    parser.add_argument(
        "--mode", choices=["auto", "ring", "hop", "crop"], default="auto", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--hop-keep", type=whole, default=None, help="states kept when a hop refills its window (default: W/2)"
    )
    parser.add_argument("--stride", type=whole, default=1, help="keep every stride-th state (default: %(default)s)")
    parser.add_argument(
        "--sampling-temperature", type=real, default=1.0, help="divides the logits (default: %(default)s)"
    )
    parser.add_argument(
        "--backend", choices=["auto", "reference", "cpu", "cuda"], default="auto", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--precision",
        choices=["fp32", "fp16-cache", "fp16"],
        default="fp32",
        help="of weights and caches; sums are fp32 always (default: %(default)s)",
    )
    parser.add_argument(
        "--lookahead",
        type=whole_or_word,
        default="auto",
        help="states drafted ahead for few trajectories, 0 to 31: changes speed only (default: %(default)s)",
    )
    parser.add_argument("--n-threads", type=whole, default=None, help="CPU threads (default: all cores)")
    group = parser.add_argument_group("observables", "counted exactly over every step while it is drawn")
    group.add_argument(
        "--observe-lags",
        type=duration,
        nargs="+",
        default=[],
        metavar="LAG",
        help="count transitions at these lags (steps, or '1 ns')",
    )
    group.add_argument(
        "--set",
        dest="sets",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=STATES",
        help="named sets of states, such as folded=0,1,7-9: residence and first-passage times",
    )
    group.add_argument("--bins", type=whole, default=None, help="bins of one step each (default: logarithmic bins)")
    group.add_argument("--no-tokens", action="store_true", help="keep only the observables: generated/observables.npz")
    group = parser.add_argument_group("many processes", "docs/scaling.md has examples for SLURM and Ray")
    group.add_argument(
        "--shard",
        default=None,
        metavar="I/N",
        help="generate part I (from 0) of N of the trajectories; no coordination",
    )
    add_executor(group, "part", "parts")
    group.add_argument("--parts", type=whole, default=None, metavar="N", help="of --executor (default: one a worker)")
    group.add_argument("--merge", action="store_true", help="check that all shards are complete, and make them one")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from nanomd.rollout.observables import Observables, parse_set
    from nanomd.rollout.parts import Part
    from nanomd.rollout.request import RolloutRequest, parse_drafts
    from nanomd.study.generate import generate, merge

    if options.merge:
        if options.shard is not None:
            raise InputError("--merge takes all shards; leave --shard out")
        say(options, merge(options.run))
        return 0
    if options.status:
        from nanomd.study.generate_parts import status

        print(status(options.run), flush=True)
        return 0
    if options.extend and options.force:
        raise InputError("--extend keeps what is there and --force replaces it; use one of them")
    observables = None
    if options.observe_lags or options.sets or options.no_tokens:
        sets = dict(parse_set(text) for text in options.sets)
        if len(sets) != len(options.sets):
            raise InputError("every --set needs a name of its own")
        bins = "log" if options.bins is None else options.bins
        observables = Observables(options.observe_lags or (1,), sets, bins)
    request = RolloutRequest(
        n_steps=options.n_steps,
        n_trajs=options.n_trajs,
        start=_start(options.start),
        mode=options.mode,
        hop_keep=options.hop_keep,
        seed=options.seed,
        stride=options.stride,
        sampling_temperature=options.sampling_temperature,
        n_threads=options.n_threads,
        resume=options.resume or options.extend,
        part=None if options.shard is None else Part.parse(options.shard),
        observables=observables,
        store_tokens=not options.no_tokens,
        n_drafts=parse_drafts(options.lookahead),
    )
    executor = executor_of(options, n_parts=options.parts, gpu=options.backend == "cuda")
    if executor is not None:
        return _by_executor(options, request, executor)
    text = generate(
        options.run,
        request,
        backend=options.backend,
        precision=options.precision,
        force=options.force,
        extend=options.extend,
        progress=progress(options),
    )
    say(options, text)
    return 0


def _by_executor(options: argparse.Namespace, request: RolloutRequest, executor: Executor) -> int:
    from nanomd.rollout.executors import array_script
    from nanomd.study.generate_parts import generate_in_parts

    if options.force:
        raise InputError("--force replaces a whole result; with --executor remove generated/ instead")
    if options.dry_run:
        command = " ".join(["nanomd generate", *_flags(options), f"--n-threads {executor.n_threads} --resume"])
        print(array_script(command, executor.parts(request.n_trajs), executor), end="")
        return 0
    text = generate_in_parts(
        options.run,
        request,
        executor,
        backend=options.backend,
        precision=options.precision,
        progress=progress(options),
    )
    say(options, text)
    return 0


def _flags(options: argparse.Namespace) -> list[str]:
    """Return what makes the same trajectories, as words of a shell."""
    words = []
    for name in (
        "run", "n_steps", "n_trajs", "seed", "start", "mode", "hop_keep", "stride", "sampling_temperature", "backend",
        "precision", "lookahead", "bins",
    ):  # fmt: skip
        if (value := getattr(options, name)) is not None:
            words.append(f"--{name.replace('_', '-')} {shlex.quote(str(value))}")
    for flag, values in (("--observe-lags", options.observe_lags), ("--set", options.sets)):
        if values:
            words.append(" ".join([flag, *(shlex.quote(str(value)) for value in values)]))
    return [*words, *(["--no-tokens"] if options.no_tokens else [])]


def _start(text: str) -> str | int:
    """Return the kind of start, or the label of a state."""
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text
