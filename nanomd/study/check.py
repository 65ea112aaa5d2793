"""Whether the results in a run folder are whole: every file read, every digest computed anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from nanomd.base.errors import NanomdError
from nanomd.base.files import explain_os_error, sha256_of
from nanomd.study.folder import STAGES, RunFolder
from nanomd.study.results import load_generated, load_interpretation, load_tokens, load_validation

T = TypeVar("T")


def check_run(run: str | Path) -> dict[str, list[str]]:
    """Check the results of a run folder; nothing is written.

    Returns
    -------
    dict of str to list of str
        For each finished step, and for the parts of an unmerged rollout, what is wrong; an empty list where nothing is.
    """
    folder = RunFolder(run, create=False)
    checks: dict[str, Callable[[RunFolder], object]] = {
        "tokenize": _tokens,
        "condition": _conditional,
        "train": _model,
        "generate": lambda folder: load_generated(folder, verify=True),
        "rare": _rare,
        "interpret": load_interpretation,
        "validate": load_validation,
    }
    found: dict[str, list[str]] = {}
    records = folder.provenance().stages
    for stage in STAGES:
        if stage in records:
            found[stage] = _problems(checks[stage], folder) if stage in checks else []
            if not folder.outputs(stage):
                found[stage].append("its files are gone")
            if stale := records[stage].get("stale"):
                found[stage].append(f"stale: {stale}")
    for name, part in _parts(folder).items():
        found[f"generate, {name}"] = _problems(_store, part)
    for stage in folder.provenance().unfinished:
        found.setdefault(f"unfinished {stage}", [])
    return found


def _problems(check: Callable[[T], object], what: T) -> list[str]:
    try:
        check(what)
    except NanomdError as error:
        return [" ".join(str(error).split())]
    except OSError as error:
        return [explain_os_error(error)]
    return []


def _rare(folder: RunFolder) -> None:
    from nanomd.rare.result import RareEvents

    RareEvents.load(folder.rare / "result.npz")


def _tokens(folder: RunFolder) -> None:
    load_tokens(folder)
    if (folder.tokens / "tokenizer").exists():
        from nanomd.tokenize import Tokenizer

        Tokenizer.load(folder.tokens / "tokenizer")
    _made_from(folder, "train", "tokens", folder.tokens)


def _model(folder: RunFolder) -> None:
    from nanomd.model.files import load_model_files

    load_model_files(folder.model)


def _conditional(folder: RunFolder) -> None:
    from nanomd.conditional.files import load_conditional_files

    load_conditional_files(folder.conditional / "model")


def _made_from(folder: RunFolder, stage: str, name: str, path: Path) -> None:
    """Raise if a later step recorded another digest of a result that was not repeated since."""
    record = folder.record(stage)
    digest = record.get("inputs", {}).get(name)
    if digest is not None and not record.get("stale") and digest != sha256_of(path):
        raise NanomdError(f"{path} has changed since `{stage}` read it")


def _parts(folder: RunFolder) -> dict[str, Path]:
    from nanomd.rollout.parts import find_parts

    return {f"shard {part}": path for part, path in find_parts(folder.generated).items()}


def _store(path: Path) -> None:
    from nanomd.rollout.store import TokenStore

    TokenStore.open(path).verify()
