"""Settings as TOML: flat sections of strings, numbers and booleans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nanomd.base.errors import InputError


def load_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file into a dictionary."""
    import tomllib

    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid TOML: {error}") from None


def dump_toml(sections: dict[str, dict[str, Any]]) -> str:
    """Write flat sections of strings, numbers and booleans as TOML; None is left out."""
    import json

    lines: list[str] = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        for key, value in values.items():
            if value is None:
                continue
            # JSON's strings are TOML's, but for DEL, which TOML wants escaped.
            lines.append(f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f"))
        lines.append("")
    return "\n".join(lines)
