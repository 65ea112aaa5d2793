"""`constrain`: the model of a run folder, changed to meet what an experiment says, into a run folder of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from nanomd.base.errors import InputError
from nanomd.base.files import sha256_of
from nanomd.base.plain import to_plain
from nanomd.base.progress import progress_bar
from nanomd.study.folder import RunFolder
from nanomd.study.results import load_validation
from nanomd.study.step import begin_step
from nanomd.study.wishes_file import read_wishes


def constrain(
    run: str | Path,
    *,
    wishes: str | Path,
    out: str | Path,
    weight: float = 1.0,
    driven: bool = False,
    static: bool = False,
    seed: int = 0,
    n_threads: int | None = None,
    force: bool = False,
    progress: bool | None = None,
) -> str:
    """Constrain the model of `run` into the run folder `out`, and return the table as text.

    The new folder has the tokens of the old one, so that all further steps work in it.

    Parameters
    ----------
    wishes : path
        `nanomd.study.wishes_file`.
    weight, driven, static, seed, n_threads :
        See `nanomd.constrain`; `driven` gives up detailed balance.
    """
    from nanomd.caliber.reweight import ROUNDS
    from nanomd.caliber.reweight import constrain as reweighted
    from nanomd.caliber.wishes import check_wishes
    from nanomd.model.files import load_model_files, save_model

    folder = RunFolder(run, create=False)
    folder.require("train", folder.model / "model.safetensors", f"nanomd train --run {run}")
    asked = read_wishes(wishes, macrostates_of(folder))
    if Path(out).resolve() == folder.path.resolve():
        raise InputError(f"out must be another folder than the run, {folder.path}, whose model stays as it is")
    files = load_model_files(folder.model)
    wanted = (asked.averages, asked.populations, asked.rates, asked.relaxation)
    check_wishes(files.state_map, files.frame_interval, *wanted)  # before anything is made
    new = RunFolder(out)
    inputs = {"model": sha256_of(folder.model), "wishes": sha256_of(Path(wishes))}
    inputs |= {file.name: sha256_of(file) for file in asked.files}
    settings = {
        "constrained": str(folder.path.resolve()),
        "weight": weight,
        "driven": driven,
        "static": static,
        "seed": seed,
    }
    _copy_tokens(folder, new, force)
    with begin_step(new, "train", settings, lambda: inputs, force=force) as step:
        if step.done:
            return step.nothing_to_do(new.model)
        bar = progress_bar(ROUNDS + 4, "constrain", "rollout", progress)
        try:
            result = reweighted(
                files,
                averages=asked.averages,
                populations=asked.populations,
                rates=asked.rates,
                relaxation=asked.relaxation,
                weight=weight,
                reversible=not driven,
                static=static,
                seed=seed,
                n_threads=n_threads,
                progress=bar,
            )
        finally:
            bar.close()
        save_model(new.work / "model", result.to_files())
        (new.work / "logs").mkdir(exist_ok=True)
        record = json.dumps(to_plain(result.describe(), 6), indent=1) + "\n"
        (new.work / "logs" / "constrained.json").write_text(record)
        trained = folder.record("train")
        if "held_out" in trained:
            step.record["held_out"] = trained["held_out"]
    return f"{result.table()}\nmodel in {new.model}; go on with `nanomd generate --run {new.path}`{step.notes}"


def macrostates_of(folder: RunFolder) -> dict[str, list[int]]:
    """Return the labels of the macrostates that `nanomd validate` found, by name; none where it was not run."""
    if not folder.record("validate"):
        return {}
    from nanomd.kinetics.macrostates import short_names

    found = load_validation(folder)
    symbols = found.state_symbols if len(found.state_symbols) else np.arange(len(found.macrostate_of_state))
    return {
        name: [int(x) for x in symbols[found.macrostate_of_state == k]]
        for k, name in enumerate(short_names(found.macrostate_names))
    }


def _copy_tokens(folder: RunFolder, new: RunFolder, force: bool) -> None:
    record = folder.record("tokenize")
    if not record:
        return
    with begin_step(new, "tokenize", record["settings"], lambda: record["inputs"], force=force) as step:
        if not step.done:
            shutil.copytree(folder.tokens, new.work / "tokens", dirs_exist_ok=True)
