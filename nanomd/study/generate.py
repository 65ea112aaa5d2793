"""The step `generate` of a run folder: whole, in parts by independent processes, and putting the parts together."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nanomd.base.codec import read_json
from nanomd.base.errors import InputError, StoreError
from nanomd.base.files import sha256_of, write_atomic
from nanomd.base.progress import progress_bar
from nanomd.study.folder import RunFolder
from nanomd.study.results import load_generated
from nanomd.study.staging import make_link_targets

if TYPE_CHECKING:
    from nanomd.rollout.request import RolloutRequest
    from nanomd.rollout.result import Rollout

_SETTINGS = "settings.json"  # in the folder of a part: what `generate` was asked for, and the digest of its model


def generate(
    run: str | Path,
    request: RolloutRequest,
    *,
    backend: str = "auto",
    precision: str = "fp32",
    force: bool = False,
    extend: bool = False,
    progress: bool | None = None,
) -> str:
    """Roll the model of a run folder out into generated/, or a part of the trajectories into a folder in there.

    Parameters
    ----------
    request : RolloutRequest
        Its `out` and `progress` are set here.
    backend, precision : str
        See `nanomd.Sampler`.
    force : bool
        Replace another result.
    extend : bool
        Make the trajectories that are there longer, to `n_steps`; the request must be one to resume.
    progress : bool, optional
        Whether to show a progress bar; on a terminal only when None.
    """
    from nanomd.rollout.sampler import Sampler
    from nanomd.rollout.store import TokenStore

    folder = RunFolder(run, create=False)
    folder.require("train", folder.model, f"nanomd train --run {run}")
    part, resume = request.part, request.resume
    # Parts lie in folders of their own, each with its own lock: any number may be made at once.
    with folder.lock(shared=part is not None):
        inputs = {"model": sha256_of(folder.model)}
        sampler = Sampler.load(folder.model, backend=backend, precision=precision)
        request = request.in_steps(sampler.files.frame_interval)
        settings = _settings(request, precision)
        if part is None:
            if extend and request.keeps_every_state:
                folder.lengthen("generate", settings, inputs, "n_steps")
            if not folder.begin("generate", settings, inputs, force=force, resume=resume):
                load_generated(folder)
                notes = folder.stale_notes("generate", itself=True)
                return "\n".join([f"generate: {folder.path} already holds this result; nothing to do", *notes])
        else:
            if force:
                raise InputError("--force replaces a whole result; for a shard, remove its folder instead")
            if TokenStore.exists(folder.generated):
                raise StoreError(f"{folder.generated} holds a whole rollout already; use another --run for the shards")
            make_link_targets([folder.generated])
            _begin_part(part.folder(folder.generated), settings, inputs, request, extend)
        bar = progress_bar(request.length * len(request.trajectories), "generate", "step", progress)
        try:
            rollout = sampler.run(replace(request, out=folder.work / "generated", progress=bar))
        finally:
            bar.close()
        notes = folder.stale_notes("generate", itself=False)
        if part is None:
            _finish(folder, settings, inputs, rollout, n_threads=request.n_threads)
    done = "" if part is None else f"shard {part}: "
    return "\n".join([done + _describe(rollout), *notes])


def _settings(request: RolloutRequest, precision: str) -> dict[str, Any]:
    """Return what decides the result, as it is recorded."""
    names = ("n_steps", "n_trajs", "mode", "hop_keep", "stride", "sampling_temperature", "seed")
    settings = {name: getattr(request, name) for name in names}
    settings |= {"start": str(request.start), "precision": precision}
    if request.observables is not None:
        observables = json.dumps(request.observables.to_dict())
        settings |= {"observables": observables, "store_tokens": request.store_tokens}
    return settings


def merge(run: str | Path) -> str:
    """Check that all shards of a rollout are complete, and make them the result of `generate`."""
    from nanomd.rollout.parts import find_parts, merge_parts
    from nanomd.rollout.store import TokenStore

    folder = RunFolder(run, create=False)
    with folder.lock():
        kept, joined = folder.generated / _SETTINGS, TokenStore.exists(folder.generated)
        if joined and not kept.exists() and folder.record("generate"):
            load_generated(folder)
            return f"generate: {folder.path} already holds the whole rollout; nothing to do"
        # A merge that was killed late may have removed parts, but never the record of what they were made with.
        sources = [folder.generated] if joined else list(find_parts(folder.generated).values())
        records = {path: _read_settings(path / _SETTINGS) for path in sources}
        if not records:
            raise StoreError(f"{folder.generated} holds no shards; make them with `nanomd generate --shard i/n`")
        (path, record), *others = records.items()
        for other, values in others:
            changed = sorted(
                f"{name} ({group[name]} and {values[key].get(name)})"
                for key, group in record.items()
                for name in group
                if group[name] != values[key].get(name)
            )
            if changed:
                raise StoreError(f"{path} and {other} are no parts of one rollout: {', '.join(changed[:4])} differ")
        if record["inputs"].get("model") != sha256_of(folder.model):
            raise StoreError(f"the model of {folder.path} has changed since the shards were made; generate them again")
        rollout = merge_parts(folder.generated, keep={_SETTINGS: json.dumps(record)})
        folder.record_config("generate", record["settings"])
        _finish(folder, record["settings"], record["inputs"], rollout)
        kept.unlink(missing_ok=True)
    return f"merged: {_describe(rollout)}"


def _begin_part(
    path: Path, settings: dict[str, Any], inputs: dict[str, str], request: RolloutRequest, extend: bool
) -> None:
    file = path / _SETTINGS
    record = json.loads(json.dumps({"settings": settings, "inputs": inputs}))
    longer = False
    if file.exists():
        old = _read_settings(file)
        done = old["settings"].get("n_steps")
        if extend and request.keeps_every_state and isinstance(done, int) and done < request.length:
            longer = {**old, "settings": {**old["settings"], "n_steps": request.n_steps}} == record
        if old != record and not longer:
            raise StoreError(f"{path} was begun with other options or another model; use the same, or remove it")
        if not request.resume:
            raise StoreError(f"{path} is there already; go on with --resume, or remove it")
    if longer or not file.exists():
        path.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps(record) + "\n")


def _read_settings(file: Path) -> dict[str, dict[str, Any]]:
    try:
        record = read_json(file, _PartSettings, StoreError)
    except FileNotFoundError:
        raise StoreError(f"{file} is missing; was this shard made with `nanomd generate --shard`?") from None
    return {"settings": record.settings, "inputs": dict(record.inputs)}


@dataclass
class _PartSettings:
    settings: dict[str, Any]
    inputs: dict[str, str]


def _finish(
    folder: RunFolder, settings: dict[str, Any], inputs: dict[str, str], rollout: Rollout, **extra: Any
) -> None:
    folder.finish(
        "generate",
        settings,
        inputs,
        rollout.seconds,
        tokens_per_second=rollout.tokens_per_second,
        backend=rollout.backend,
        **extra,
    )


def _describe(rollout: Rollout) -> str:
    physical = rollout.frame_interval.unit != "frame"
    each = f" ({rollout.frame_interval.describe(rollout.n_steps)} each)" if physical else ""
    text = (
        f"generated {rollout.n_trajs} x {rollout.n_steps:,} steps{each} in {rollout.seconds:.1f} s, "
        f"{rollout.tokens_per_second:,.0f} steps/s on {rollout.backend}"
    )
    if rollout.observables is None or not rollout.observables.set_names:
        return text
    names, passage = rollout.observables.set_names, rollout.observables.first_passage
    for i, j in np.argwhere(~np.eye(len(names), dtype=bool)):
        if passage.events[i, j]:
            time = rollout.frame_interval.describe(float(passage.mean[i, j]))
            text += f"\n  {names[i]} -> {names[j]}: mean first passage {time} ({passage.events[i, j]:,} events)"
        else:
            text += f"\n  {names[i]} -> {names[j]}: never seen"
    return text
