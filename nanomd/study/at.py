"""`at`: the conditional model of a run folder at one condition, as an ordinary model in a run folder of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nanomd.base.arrays import map_npy
from nanomd.base.errors import InputError, StoreError
from nanomd.base.files import replacing, sha256_of
from nanomd.conditional.conditions import Conditions, Numeric, Value, in_words
from nanomd.study.folder import RunFolder
from nanomd.study.held_out import HeldOut
from nanomd.study.provenance import differences
from nanomd.study.results import load_tokens
from nanomd.study.step import begin_step
from nanomd.study.token_sources import Tokens
from nanomd.study.tokenize import STATE_COORDINATES, write_tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray


def at(run: str | Path, *, condition: Sequence[str], out: str | Path, force: bool = False) -> str:
    """Write the model of a condition into the run folder `out`, and return where to go on as text.

    At a condition that was trained, `out` gets its tokens. At another one it may have tokens already, of molecular
    dynamics at that condition with the same states: they judge.

    Parameters
    ----------
    condition : sequence of str
        ``["temperature=310", "ligand=atp"]``.
    out : path
    """
    from nanomd.conditional.files import load_conditional_files
    from nanomd.model.files import save_model

    folder = RunFolder(run, create=False)
    model = folder.conditional / "model"
    folder.require("condition", model / "conditions.json", f"nanomd condition --run {run} --conditions FILE")
    if Path(out).resolve() == folder.path.resolve():
        raise InputError(f"out must be another folder than the run, {folder.path}, whose model is of all conditions")
    files = load_conditional_files(model)
    value = parse_condition(condition, files.conditions)
    one, place = files.at(value), files.conditions.place(value)
    new = RunFolder(out)
    settings = {"conditional": str(folder.path.resolve()), "condition": in_words(value)}
    if not force:
        _refuse_another(new, settings)
    record = folder.record("condition")
    judge = _judge(folder, new, record, place, settings, force)
    inputs = {"conditional": sha256_of(model)}
    if new.record("tokenize"):
        inputs["tokens"] = sha256_of(new.tokens)
    with begin_step(new, "train", settings, lambda: inputs, force=force) as step:
        if step.done:
            return step.nothing_to_do(new.model)
        save_model(new.work / "model", one)
        if judge is not None:
            step.record["held_out"] = judge.to_dict()
    lines = [str(one.provenance["choices"][-1]), f"model in {new.model}; go on with `nanomd generate --run {new.path}`"]
    if judge is None:
        lines.append(
            f"no molecular dynamics judge it: for that, `nanomd tokenize --run {new.path}` those of this condition "
            "into the same states, then repeat this with --force"
        )
    return "\n".join(lines) + step.notes


def parse_condition(texts: Sequence[str], conditions: Conditions) -> dict[str, Value]:
    """Return a condition from texts such as ``"temperature=310"``.

    Raises
    ------
    InputError
        For a text that is none, a name twice, and what `Conditions.check` refuses.
    """
    numbers = {axis.name for axis in conditions.axes if isinstance(axis, Numeric)}
    found: dict[str, Value] = {}
    for text in texts:
        name, sign, value = (part.strip() for part in text.partition("="))
        if not sign or not name or not value or name in found:
            raise InputError(f"condition must be NAME=VALUE, each name once, got {text!r}")
        try:
            found[name] = float(value) if name in numbers else value
        except ValueError:
            raise InputError(f"condition {name} must be a number, got {value!r}") from None
    return conditions.check(found)


def _refuse_another(new: RunFolder, settings: Mapping[str, Any]) -> None:
    """Refuse a folder whose model is of another condition, before its tokens are made that would judge that model."""
    done = new.record("train")
    if done and new.outputs("train") and done["settings"] != settings:
        changed = differences(done, {"settings": settings, "inputs": done["inputs"]})
        raise StoreError(
            f"{new.path} holds the result of another `train`: {changed}; use --force to replace it, or another --out"
        )


def _judge(
    folder: RunFolder,
    new: RunFolder,
    record: Mapping[str, Any],
    place: int | None,
    settings: Mapping[str, Any],
    force: bool,
) -> HeldOut | None:
    """Return which frames of the new folder's tokens trained and which judge; give it tokens where it can have them."""
    own = new.record("tokenize")
    if own and "conditional" not in own["settings"]:  # of molecular dynamics that nothing was trained on
        dtrajs, _ = load_tokens(new)
        return HeldOut([], [(k, 0, len(x)) for k, x in enumerate(dtrajs)], len(dtrajs))
    if place is None:
        if own:
            raise InputError(f"{new.path} holds tokens of another condition; choose another folder")
        return None
    dtrajs, interval = load_tokens(folder)
    try:
        chosen = [int(k) for k in record["trajectories"][place]]
        held_out = HeldOut.from_dict(record["held_out"])
        picked = [dtrajs[k] for k in chosen]
    except (KeyError, IndexError, TypeError, ValueError):
        raise StoreError(
            f"{folder.path / 'provenance.json'} is damaged; repeat `nanomd condition` with --force"
        ) from None
    training, judging = (
        [(chosen.index(k), first, last) for k, first, last in part if k in chosen]
        for part in (held_out.training, held_out.judging)
    )
    where = folder.tokens / STATE_COORDINATES
    coordinates: NDArray[np.float64] | None = np.array(map_npy(where)) if where.is_file() else None
    inputs = {"tokens": sha256_of(folder.tokens)}
    with begin_step(new, "tokenize", settings, lambda: inputs, force=force) as step:
        if not step.done:
            with replacing(new.work / "tokens") as part:
                part.mkdir()
                write_tokens(part, Tokens(picked, interval, coordinates))
    return HeldOut(training, judging, len(chosen))
