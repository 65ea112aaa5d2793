"""Arguments that the subcommands share: their types, and how they become the arguments of a function.

An option whose name differs from that of the argument it stands for says so by ``dest``.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any, get_args

from nanomd.base import config as _config

_PLUMBING = ("command", "config", "quiet", "run_command")


def whole(text: str) -> int:
    """Read a whole number in plain digits."""
    if not re.fullmatch(r"[+-]?[0-9][0-9_]*", text.strip()):
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}")
    return int(text)


def real(text: str) -> float:
    """Read a finite number."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a finite number, got {text!r}")
    return value


def whole_or_word(text: str) -> int | str:
    """Read a whole number; any other text stays as it is, for the command to judge."""
    return whole(text) if re.fullmatch(r"[+-]?[0-9][0-9_]*", text) else text


def duration(text: str) -> int | str:
    """Read a number of frames; a time such as ``"1 ns"`` stays text, for `FrameInterval.frames` to judge."""
    if re.fullmatch(r"[+-]?[0-9][0-9_]*", text.strip()):
        return int(text)
    if not re.fullmatch(r"\s*[0-9.eE+-]+\s*[a-zA-Z\u00b5\u03bc]+\s*", text):
        raise argparse.ArgumentTypeError(f"must be a whole number of frames or a time such as '1 ns', got {text!r}")
    return text


def add_common(parser: argparse.ArgumentParser, *, run: bool = True, seed: bool = True, force: bool = True) -> None:
    """Add --run, --seed, --config, --quiet and --force."""
    if run:
        parser.add_argument("--run", default="run", metavar="DIR", help="the run folder (default: %(default)s)")
    if seed:
        parser.add_argument(
            "--seed", type=whole, default=0, help="seed of everything random here (default: %(default)s)"
        )
    parser.add_argument("--config", metavar="FILE", help="TOML file with a section per command; flags win over it")
    parser.add_argument("--quiet", action="store_true", help="no progress bars, no summary")
    if force:
        parser.add_argument("--force", action="store_true", help="replace the result of an earlier run of this command")


def add_resume(parser: argparse.ArgumentParser) -> None:
    """Add --resume."""
    parser.add_argument("--resume", action="store_true", help="go on where an interrupted run of this command stopped")


def add_training(parser: argparse.ArgumentParser, held_out: str) -> None:
    """Add what every training takes: its preset, and what is held out, `held_out` in words."""
    parser.add_argument(
        "--preset",
        choices=list(_config.PRESETS),
        default="auto",
        help="auto, or the shape of the model (default: %(default)s)",
    )
    parser.add_argument(
        "--hold-out",
        type=whole_or_word,
        default="auto",
        metavar="N",
        help=f"{held_out}: the last N trajectories; the last part of each (20%%); or auto, a fifth of the "
        "trajectories, and nothing of a single one (default: %(default)s)",
    )


def add_fields(parser: argparse.ArgumentParser, title: str, fields: type, skip: Sequence[str] = ()) -> list[str]:
    """Add a flag per field of a configuration; absent flags are None, so that a preset can decide.

    Returns
    -------
    list of str
        Names of the fields that have a flag.
    """
    group = parser.add_argument_group(title, "see `ModelConfig` and `TrainConfig` in nanomd/base/config.py")
    names = []
    for field in dataclasses.fields(fields):
        if field.name in skip:
            continue
        names.append(field.name)
        flag = "--" + field.name.replace("_", "-")
        kind = str(field.type)
        shown = "" if field.default is None else f"default: {field.default}"
        if kind == "bool":
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=shown)
        elif kind.startswith("tuple[int"):
            group.add_argument(flag, type=whole, nargs="*", default=None, metavar="N", help="default: none")
        elif kind.startswith("int"):
            group.add_argument(flag, type=whole, default=None, metavar="N", help=shown)
        elif kind.startswith("float"):
            group.add_argument(flag, type=real, default=None, metavar="X", help=shown)
        else:
            choices = get_args(getattr(_config, kind)) if hasattr(_config, kind) else _literal(kind)
            group.add_argument(flag, choices=choices, default=None, help=shown)
    return names


def _literal(annotation: str) -> tuple[str, ...]:
    inside = annotation.partition("[")[2].rpartition("]")[0]
    return tuple(part.strip().strip("\"'") for part in inside.split(","))


def arguments(options: argparse.Namespace, *leave_out: str) -> dict[str, Any]:
    """Return the options as arguments of the function that the subcommand stands for, by name.

    Parameters
    ----------
    options : Namespace
        What was parsed.
    *leave_out : str
        Options that the function does not take as they are.
    """
    return {name: value for name, value in vars(options).items() if name not in {*_PLUMBING, *leave_out}}


def given(options: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Return the options that the user gave, by name."""
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def progress(options: argparse.Namespace) -> bool | None:
    """Return what `nanomd.base.progress.progress_bar` takes: off when quiet, else as suits where it is shown."""
    return False if options.quiet else None


def say(options: argparse.Namespace, text: str) -> None:
    """Print a line unless --quiet."""
    if not options.quiet:
        print(text, flush=True)
