"""Settings from a TOML file: a section per command, a key per option."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from typing import Any

from nanomd.base.codec import load_toml
from nanomd.base.errors import InputError
from nanomd.cli.common import duration, real, whole, whole_or_word

_TYPES: dict[Any, tuple[type, ...]] = {
    whole: (int,),
    real: (int, float),
    whole_or_word: (int, str),
    duration: (int, str),
}


def apply_config(words: Sequence[str], commands: Mapping[str, argparse.ArgumentParser]) -> None:
    """Let ``--config FILE`` set the defaults of the command in `words`.

    Raises
    ------
    InputError
        For a file that cannot be read, an unknown section, an unknown option, or a value of the wrong type.
    """
    name = next((word for word in words if not word.startswith("-")), "")
    path = None
    for index, word in enumerate(words):
        if word == "--config" and index + 1 < len(words):
            path = words[index + 1]
        elif word.startswith("--config="):
            path = word.partition("=")[2]
    if path is None or name not in commands:
        return
    for section, values in load_toml(path).items():
        if section not in commands:
            raise InputError(f"{path} has the unknown section [{section}]; it may have {', '.join(commands)}")
        if not isinstance(values, dict):
            raise InputError(f"{path}: {section} must be a section, [{section}], got {values!r}")
        options = _options(commands[section])
        for key, value in values.items():
            action = options.get(key.replace("-", "_"))
            if action is None:
                known = ", ".join(dict.fromkeys(_key(action) for action in options.values()))
                raise InputError(f"{path}: [{section}] has the unknown option {key!r}; it knows {known}")
            _check(f"{path}: [{section}] {key}", action, value)
            if section == name:
                commands[name].set_defaults(**{action.dest: value})
                action.required = False


def _options(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Return the options by the names that a key may have: that of the flag, and that of the argument."""
    actions = [action for action in parser._actions if action.dest not in {"help", "config"}]
    return {_key(action): action for action in actions} | {action.dest: action for action in actions}


def _key(action: argparse.Action) -> str:
    return (action.option_strings or [action.dest])[0].lstrip("-").replace("-", "_")


def _check(where: str, action: argparse.Action, value: Any) -> None:
    if isinstance(value, list) != (action.nargs in {"*", "+"}):
        raise InputError(f"{where} must {'not ' if isinstance(value, list) else ''}be a list, got {value!r}")
    for item in value if isinstance(value, list) else [value]:
        wanted = (bool,) if action.nargs == 0 else _TYPES.get(action.type, (str,))
        if not isinstance(item, wanted) or (isinstance(item, bool) and bool not in wanted):
            raise InputError(f"{where} must be of type {wanted[-1].__name__}, got {item!r}")
        if isinstance(item, float) and not math.isfinite(item):
            raise InputError(f"{where} must be finite, got {item!r}")
        if action.choices is not None and item not in action.choices:
            raise InputError(f"{where} must be one of {', '.join(map(str, action.choices))}, got {item!r}")
