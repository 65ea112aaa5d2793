"""The report of one experiment: one model beside the MD that it never saw, the Markov models, the LSTM."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from nanomd.base.errors import InputError
from nanomd.experiments.case import Case
from nanomd.experiments.fitted import known_states
from nanomd.experiments.runner import ROLLOUT_SEED, Job, prepare, scored_frames

N_BOOTSTRAP = 200


def report(
    case: Case, folder: Path, method: str, *, data: str | Path | None = None, n_threads: int | None = None
) -> Path:
    """Generate from the recorded model of data set 0 and seed 0, judge it against held-out MD, and write the page.

    Parameters
    ----------
    case : Case
    folder : path
        The experiment's; the page is ``report/index.html`` there.
    method : str
        A GPT.
    data : path, optional
        Folder of the molecular dynamics.
    n_threads : int, optional
        Of the rollout.

    Raises
    ------
    InputError
        If the experiment has no such model.
    """
    import json

    from nanomd.estimator import load_model
    from nanomd.interpret import interpret_model
    from nanomd.kinetics import validate
    from nanomd.report import write_report
    from nanomd.rollout.sampler import Sampler

    job = Job(case.name, method, 0, 0)
    path = folder / "models" / job.path(folder).stem
    if not path.exists():
        raise InputError(
            f"{folder} has no model of {method!r}: run `nanomd experiment {case.name} --methods {method!r}` first"
        )
    material = prepare(case, 0, data, folder)
    training, held_out = material.data.training, material.data.held_out
    n_trajs, n_steps = case.rollout
    model = load_model(path)
    rollout = Sampler(model.to_files()).generate(
        n_steps + case.burn_in, n_trajs, start="uniform", seed=ROLLOUT_SEED, n_threads=n_threads
    )
    others: dict[str, Any] = {"training MD": training}
    lstm = folder / "rollouts" / f"{Job(case.name, 'LSTM', 0, 0).path(folder).stem}.npy"
    if lstm.exists():
        others["LSTM"] = list(np.load(lstm, allow_pickle=False).astype(np.int64))
    result = validate(
        held_out,
        [d[case.burn_in :] for d in rollout.dtrajs],
        lagtimes=case.lagtimes,
        lagtime=case.lagtime,
        macrostate_of_state=material.judge.yardstick.macrostate,
        frame_interval=case.frame_interval,
        training=training,
        others=others,
        n_bootstrap=N_BOOTSTRAP,
    )
    record = json.loads(job.path(folder).read_text(encoding="utf-8"))
    names = material.data.names
    summary = (
        f"{method}: trained on {sum(map(len, training)):,} frames, judged against {sum(map(len, held_out)):,} that no "
        f"model has seen. {n_trajs} chains of {n_steps:,} frames from uniformly drawn states, after "
        f"{case.burn_in:,} that are left out."
    )
    if names:
        summary += " Macrostates: " + ", ".join(f"{chr(65 + k)} {name}" for k, name in enumerate(names)) + "."
    return write_report(
        folder / "report",
        result,
        title=case.title,
        summary=summary,
        metrics=[{**row, "train_loss": row["loss"]} for row in record["history"]],
        speeds={"generation (states per second)": rollout.tokens_per_second, **_seconds(record)},
        provenance={"settings": record["settings"], "job": asdict(job)},
        interpretation=interpret_model(
            model, known_states(scored_frames(held_out), model.state_map.symbols), training=training
        ),
    )


def _seconds(record: dict[str, Any]) -> dict[str, float]:
    return {f"{name} (seconds)": float(value) for name, value in record["seconds"].items()}
