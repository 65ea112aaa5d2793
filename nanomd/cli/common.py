"""Arguments that the subcommands share, and settings from a TOML file."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from nanomd.base import config as _config
from nanomd.base.codec import load_toml
from nanomd.base.errors import InputError


def add_common(parser: argparse.ArgumentParser, *, run: bool = True, seed: bool = True, force: bool = True) -> None:
    """Add --run, --seed, --config, --quiet and --force."""
    if run:
        parser.add_argument("--run", default="run", metavar="DIR", help="the run folder (default: %(default)s)")
    if seed:
        parser.add_argument("--seed", type=int, default=0, help="seed of everything random here (default: %(default)s)")
    parser.add_argument("--config", metavar="FILE", help="TOML file with a section per command; flags win over it")
    parser.add_argument("--quiet", action="store_true", help="no progress bars, no summary")
    if force:
        parser.add_argument("--force", action="store_true", help="replace the result of an earlier run of this command")


def add_resume(parser: argparse.ArgumentParser) -> None:
    """Add --resume."""
    parser.add_argument("--resume", action="store_true", help="go on where an interrupted run of this command stopped")


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
            group.add_argument(flag, type=int, nargs="*", default=None, metavar="N", help="default: none")
        elif kind.startswith(("int", "float")):
            number: type = int if kind.startswith("int") else float
            group.add_argument(flag, type=number, default=None, metavar="N" if number is int else "X", help=shown)
        else:
            choices = get_args(getattr(_config, kind)) if hasattr(_config, kind) else _literal(kind)
            group.add_argument(flag, choices=choices, default=None, help=shown)
    return names


def _literal(annotation: str) -> tuple[str, ...]:
    inside = annotation.partition("[")[2].rpartition("]")[0]
    return tuple(part.strip().strip("\"'") for part in inside.split(","))


def given(options: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Return the options that the user gave, by name."""
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def progress(options: argparse.Namespace) -> bool | None:
    """Return what `nanomd.base.progress.progress_bar` takes: off when quiet, else shown on a terminal."""
    return False if options.quiet else None


def say(options: argparse.Namespace, text: str) -> None:
    """Print a line unless --quiet."""
    if not options.quiet:
        print(text, flush=True)


def apply_config(arguments: Sequence[str], commands: Mapping[str, argparse.ArgumentParser]) -> None:
    """Let ``--config FILE`` set the defaults of the command in `arguments`.

    Raises
    ------
    InputError
        For a file that cannot be read, an unknown section, an unknown option, or a value of the wrong type.
    """
    name = next((word for word in arguments if not word.startswith("-")), "")
    path = None
    for index, word in enumerate(arguments):
        if word == "--config" and index + 1 < len(arguments):
            path = arguments[index + 1]
        elif word.startswith("--config="):
            path = word.partition("=")[2]
    if path is None or name not in commands:
        return
    sections = load_toml(path)
    for section, values in sections.items():
        if section not in commands:
            raise InputError(f"{path} has the unknown section [{section}]; it may have {', '.join(commands)}")
        if not isinstance(values, dict):
            raise InputError(f"{path}: {section} must be a section, [{section}], got {values!r}")
        checked = {k.replace("-", "_"): _checked(path, section, k, v, commands[section]) for k, v in values.items()}
        if section == name:
            commands[name].set_defaults(**checked)
            for action in commands[name]._actions:
                if action.dest in checked:
                    action.required = False


def _checked(path: str, section: str, key: str, value: Any, parser: argparse.ArgumentParser) -> Any:
    actions = {a.dest: a for a in parser._actions if a.dest not in {"help", "config"}}
    action = actions.get(key.replace("-", "_"))
    if action is None:
        raise InputError(f"{path}: [{section}] has the unknown option {key!r}; it knows {', '.join(actions)}")
    items = value if isinstance(value, list) else [value]
    if isinstance(value, list) != (action.nargs in {"*", "+"}):
        raise InputError(
            f"{path}: [{section}] {key} must {'not ' if isinstance(value, list) else ''}be a list, got {value!r}"
        )
    for item in items:
        wanted: Any = (bool,) if action.nargs == 0 else {int: (int,), float: (int, float)}.get(action.type, (str,))  # type: ignore[call-overload]
        if not isinstance(item, wanted) or (isinstance(item, bool) and bool not in wanted):
            raise InputError(f"{path}: [{section}] {key} must be of type {wanted[-1].__name__}, got {item!r}")
        if action.choices is not None and item not in action.choices:
            raise InputError(
                f"{path}: [{section}] {key} must be one of {', '.join(map(str, action.choices))}, got {item!r}"
            )
    return value
