"""provenance.json: which steps were finished, with what, from what, and what has gone stale since."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from nanomd.base.codec import read_json
from nanomd.base.errors import StoreError
from nanomd.base.files import sha256_of

# What a step is made from: earlier steps, whose repetition makes it stale.
_MADE_FROM = {
    "tokenize": ("simulate",),
    "condition": ("tokenize",),
    "train": ("tokenize",),
    "generate": ("train",),
    "interpret": ("tokenize", "train"),
    "validate": ("tokenize", "generate"),
    "report": ("validate", "interpret"),
}
# The name under which later steps record a result as their input, and where it lies.
_RECORDED_AS = {
    "tokenize": ("tokens", "tokens"),
    "train": ("model", "model"),
    "generate": ("generated", "generated/manifest.json"),
    "interpret": ("interpret", "interpret"),
    "validate": ("validation", "report/validation.json"),
}


class _Record(msgspec.Struct):
    """The types of what is read from a finished step; it may hold more."""

    settings: dict[str, Any]
    inputs: dict[str, str]
    finished: str
    seconds: float
    environment: dict[str, Any] = {}
    stale: str | None = None
    frames_per_second: float | None = None
    tokens_per_second: float | None = None
    last_metrics: dict[str, float | None] = {}


class _Unfinished(msgspec.Struct):
    settings: dict[str, Any]
    inputs: dict[str, str]


class Provenance(msgspec.Struct):
    """The content of provenance.json.

    Parameters
    ----------
    stages : dict
        Finished steps: settings, inputs (name and SHA-256), time, environment, and ``stale``, why a step should be
        repeated.
    unfinished : dict
        Settings and inputs of steps that were begun and not finished.
    replacing : tuple, optional
        The step whose new outputs (their names) are just taking the place of the old ones.
    """

    format: str = "nanomd-run"
    format_version: int = 1
    stages: dict[str, dict[str, Any]] = {}
    unfinished: dict[str, dict[str, Any]] = {}
    replacing: tuple[str, list[str]] | None = None

    def to_json(self) -> str:
        """Return the text of the file."""
        value = msgspec.to_builtins(self)
        kept = {k: v for k, v in value.items() if k not in ("unfinished", "replacing") or v}
        return json.dumps(kept, indent=1) + "\n"


def read_provenance(file: Path) -> Provenance:
    """Read provenance.json; that of a new run folder is empty.

    Raises
    ------
    StoreError
        If it is damaged.
    """
    try:
        value = read_json(file, Provenance, StoreError)
        for record in value.stages.values():
            msgspec.convert(record, _Record)
        for record in value.unfinished.values():
            msgspec.convert(record, _Unfinished)
        if value.replacing is not None and value.replacing[0] not in value.stages:
            raise StoreError("it replaces a step that it does not hold")
    except FileNotFoundError:
        return Provenance()
    except (StoreError, msgspec.ValidationError) as error:
        raise StoreError(
            f"{file} is damaged ({str(error).removeprefix(f'{file} is damaged: ')}); "
            "remove it and repeat the steps with --force"
        ) from None
    return value


def mark_stale(stages: dict[str, dict[str, Any]], stage: str, run: Path) -> None:
    """Mark the steps that were made from another result of `stage` than the one that is there now."""
    reason = f"`{stage}` was repeated on {stages[stage]['finished']}"
    marked = {stage}
    for later, sources in _MADE_FROM.items():  # in the order of the steps
        record = stages.get(later)
        if record is None or later == stage or not marked & set(sources):
            continue
        if stage in sources and not marked & (set(sources) - {stage}) and not _changed(record, stage, run):
            continue
        record["stale"] = reason
        marked.add(later)


def _changed(record: Mapping[str, Any], stage: str, run: Path) -> bool:
    """Whether a step records another digest than that of the result of `stage`."""
    if stage == "simulate":
        files = {file.name: file for file in (run / "simulation").iterdir()}
        return any(sha256_of(files[n]) != digest for n, digest in record["inputs"].items() if n in files)
    name, path = _RECORDED_AS[stage]
    digest = record["inputs"].get(name)
    return digest is not None and digest != sha256_of(run / path)


def stale_notes(stages: Mapping[str, Mapping[str, Any]], stage: str, *, itself: bool) -> list[str]:
    """Return a line for each stale result that a step builds on, and is (`itself`)."""
    seen, todo = set[str](), [stage]
    while todo:
        seen.add(name := todo.pop())
        todo += _MADE_FROM.get(name, ())
    if not itself:
        seen.remove(stage)
    return [
        f"note: the result of `{name}` is stale: {why}; repeat `nanomd {name}` with --force"
        for name in ("simulate", *_MADE_FROM)
        if name in seen and (why := stages.get(name, {}).get("stale"))
    ]


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Through JSON and back, so that recorded and fresh settings compare equal."""
    result: dict[str, Any] = json.loads(json.dumps(dict(values), default=str))
    return result


_NO_MATTER = {"n_threads"}  # a setting for speed: nobody's result depends on it


def differences(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> str:
    """Say in words which settings and inputs differ; empty if none does. What is None was not given."""
    old, texts = old or {}, []
    a, b = old.get("settings", {}), new["settings"]
    named = sorted({*a, *b} - _NO_MATTER)
    texts += [f"{k} ({a.get(k)} -> {b.get(k)})" for k in named if a.get(k) != b.get(k)]
    a, b = old.get("inputs"), new["inputs"]
    if a is not None:
        texts += [f"input {k}" for k in sorted({*a, *b}) if a.get(k) != b.get(k)]
    return f"{', '.join(texts[:4])} differ{'s' if len(texts) == 1 else ''}" if texts else ""
