"""Put the numbers of records into the pages, so that they cannot go stale: python docs/fill_numbers.py [--check].

A page writes ``<!-- n NAME.PATH:FORMAT -->0.794<!-- / -->``: the value at PATH of ``docs/records/NAME.json``, such as
``interpretation.two.attention.0.1:.2f``, stands between the two comments. With --check nothing is written, and the exit
code is 1 where a page differs from its record.
"""

from __future__ import annotations

import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_SPAN = re.compile(r"<!-- n ([\w.-]+):([^ >]*) -->(.*?)<!-- / -->", re.DOTALL)


@cache
def _record(name: str) -> Any:
    return json.loads((HERE / "records" / f"{name}.json").read_text())


def number(path: str, spec: str) -> str:
    """Return the value at a path, formatted; KeyError or IndexError where there is none."""
    name, *keys = path.split(".")
    value = _record(name)
    for key in keys:
        value = value[int(key)] if isinstance(value, list) else value[key]
    if isinstance(value, float) and not spec:
        raise ValueError(f"{path} needs a format")
    text = format(value, spec)
    return text.replace("-0.000", "0.000") if re.fullmatch(r"-0\.0+", text) else text


def filled(text: str) -> str:
    """Return a page with the numbers of the records."""
    return _SPAN.sub(lambda m: f"<!-- n {m[1]}:{m[2]} -->{number(m[1], m[2])}<!-- / -->", text)


def main(arguments: list[str]) -> int:
    """Fill all pages, or check them."""
    stale = []
    for page in sorted(HERE.rglob("*.md")):
        text = page.read_text()
        new = filled(text)
        if new != text:
            stale.append(page)
            if "--check" not in arguments:
                page.write_text(new)
    for page in stale:
        print(f"{page}: {'differs from its record' if '--check' in arguments else 'numbers replaced'}")
    return int("--check" in arguments and bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
