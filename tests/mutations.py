"""Seeded damage to files: flipped, cut and repeated bytes, and values of the wrong kind in JSON and headers."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

NASTY: list[Any] = [
    None, True, False, 0, -1, 1, 7, 2**31, 2**63, 2**70, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308, float("nan"),
    float("inf"), float("-inf"), "", "x", "²", "../../etc/passwd", "\x00", "é" * 300, [], [[]], [None], [1, "x"], {},
    {"a": {}}, {"": None}, [float("nan")],
]  # fmt: skip


def mutated(data: bytes, seed: int, number: int) -> Iterator[bytes]:
    """Yield damaged copies of a file; the same ones for the same seed."""
    rng = random.Random(seed)
    for _ in range(number):
        kind = rng.random()
        new = _json(data, rng) if kind < 0.6 else None
        if new is None:
            new = _header(data, rng) if kind < 0.75 and data[:6] == b"\x93NUMPY" else _bytes(data, rng)
        yield new


def _bytes(data: bytes, rng: random.Random) -> bytes:
    """Change some bytes, early ones (where headers are) more often."""
    new = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        place = int(len(new) * rng.random() ** rng.choice((1, 4)))
        match rng.randrange(5):
            case 0:
                new[place : place + 1] = bytes([rng.randrange(256)])
            case 1:
                del new[place:]
            case 2:
                del new[place : place + rng.randrange(1, 9)]
            case 3:
                new[place:place] = new[place : place + rng.randrange(1, 40)]
            case _:
                new[place : place + 1] = rng.choice((b"[" * 3000, b'{"a":' * 3000, b"\xff", b"9" * 400, b"NaN", b"-"))
    return bytes(new)


def _header(data: bytes, rng: random.Random) -> bytes:
    """Put another header before the data of a .npy file."""
    descr = rng.choice(("|S0", "|O", "<i8", "<f8", "<U3", "|V0", "<M8[s]", "<c16", "i", "x", "|b1", ">i8", "<f2"))
    shape = rng.choice(((), (-1,), (0,), (2**62,), (10**30,), (3,), (1, -1), (True,), "x", None, (1.5,), (2, 2, 2)))
    text = repr({"descr": descr, "fortran_order": rng.choice((False, True, 3)), "shape": shape}).encode() + b"\n"
    return (
        b"\x93NUMPY" + bytes([rng.choice((1, 1, 1, 2, 3, 9)), 0]) + len(text).to_bytes(2, "little") + text + data[128:]
    )


def _json(data: bytes, rng: random.Random) -> bytes | None:
    """Change a value somewhere in JSON, or in one of its lines; None for what is no JSON."""
    lines = data.splitlines()
    try:
        try:
            value = json.loads(data)
        except ValueError:
            which = rng.randrange(len(lines))
            value = json.loads(lines[which])
            if not isinstance(value, dict):
                return None
            return b"\n".join([*lines[:which], _dump(_change(value, rng), rng), *lines[which + 1 :]])
    except (ValueError, IndexError, UnicodeDecodeError):
        return None
    return _dump(_change(value, rng), rng)


def _dump(value: Any, rng: random.Random) -> bytes:
    text = json.dumps(value)
    if rng.random() < 0.03:
        text = text.replace("[]", "[" * 20_000 + "]" * 20_000, 1) if "[]" in text else "[" * 20_000 + "]" * 20_000
    return text.encode()


def _change(value: Any, rng: random.Random) -> Any:
    """Replace, remove or add something, at a random depth."""
    if rng.random() < 0.02 or not isinstance(value, dict | list) or not value:
        return rng.choice(NASTY)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = rng.choice(keys)
    match rng.randrange(8):
        case 0:
            del value[key]
        case 1 if isinstance(value, dict):
            value[rng.choice(("surprise", "", "0"))] = rng.choice(NASTY)
        case 1 if isinstance(value, list):
            value.insert(key, rng.choice(NASTY))
        case 2:
            value[key] = rng.choice(NASTY)
        case _:
            value[key] = _change(value[key], rng)
    return value
