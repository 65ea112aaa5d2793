"""Two records side by side: ratios, and what differs between the machines that they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nanomd.bench.timing import read_record

_MATTERS = ("cpu", "instruction_set", "cores", "platform", "machine", "python", "commit", "variables")
_BUSY = 0.5  # of a core, load average before the start above which a record is doubtful


def speeds(record: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return every speed of a record by a name that says what was measured."""
    found: dict[str, dict[str, float]] = {}
    results = record["results"]
    for case in results.get("rollout", {}).get("cases", []):
        where = (
            f"{case['model']} {case['mode']} W={case['config']['context_length']} n={case['n_trajs']} "
            f"t={case['n_threads']} {case['isa']}"
        )
        for engine, speed in case["engines"].items():
            found[f"{where} | {engine}"] = speed
    for part in ("train", "tokenizer", "kinetics"):
        part_cases = results.get(part, [])
        for case in part_cases if isinstance(part_cases, list) else [part_cases]:
            for name, speed in case["frames_per_second"].items():
                found[f"{part} {case.get('model', '')} | {name}".replace("  ", " ")] = speed
    return found


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Return warnings: what differs between two environments, and loads that make figures doubtful."""
    first, second = a["environment"], b["environment"]
    warnings = []
    for key in sorted(set(_MATTERS) & (set(first) | set(second))):
        if first.get(key) != second.get(key):
            warnings.append(f"{key} differs: {first.get(key)} and {second.get(key)}")
    versions = first.get("versions", {}), second.get("versions", {})
    for name in sorted(set(versions[0]) | set(versions[1])):
        if versions[0].get(name) != versions[1].get(name):
            warnings.append(f"version of {name} differs: {versions[0].get(name)} and {versions[1].get(name)}")
    for label, facts in (("A", first), ("B", second)):
        load = (facts.get("load_average_before") or facts.get("load_average") or [0.0])[0]
        if load > _BUSY:
            warnings.append(f"{label} was measured on a busy machine: load average {load:.1f} before the start")
    for label, record in (("A", a), ("B", b)):
        if record["results"].get("quick"):
            warnings.append(f"{label} is a quick run: its times mean little")
    return warnings


def compare(path_a: str | Path, path_b: str | Path) -> str:
    """Return a table of the speeds of two records with their ratio, after warnings about what differs.

    A ratio is followed by ``~`` where the ranges of the repeats overlap: such a difference may be chance.

    Raises
    ------
    InputError
        If a record cannot be read.
    """
    a, b = read_record(path_a), read_record(path_b)
    first, second = speeds(a), speeds(b)
    lines = [f"A: {path_a}  {a['environment'].get('date', '')}", f"B: {path_b}  {b['environment'].get('date', '')}"]
    lines += [f"warning: {text}" for text in differences(a, b)]
    names = [name for name in first if name in second]
    width = max((len(name) for name in names), default=0)
    if names:
        lines.append(f"{'':<{width}}{'A /s':>14}{'B /s':>14}{'B/A':>8}")
    for name in names:
        x, y = first[name], second[name]
        overlap = x["low"] <= y["high"] and y["low"] <= x["high"]
        ratio = y["median"] / x["median"]
        lines.append(f"{name:<{width}}{x['median']:>14,.0f}{y['median']:>14,.0f}{ratio:>8.2f}{'~' if overlap else ''}")
    for label, own, other in (("A", first, second), ("B", second, first)):
        only = [name for name in own if name not in other]
        if only:
            lines.append(f"only in {label}: {len(only)} ({only[0]}{', ...' if len(only) > 1 else ''})")
    if not names:
        lines.append("the records have nothing in common")
    return "\n".join(lines)
