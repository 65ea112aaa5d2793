"""The main job: trajectories -> states -> nano-GPT -> million-step rollouts -> validation -> report, by defaults alone.

Four-state potential: it is seen through its coordinate x alone, in 20 bins. Two of the four minima overlap there, so
the present bin does not say where the walker is, and a Markov model of the bins forgets what a model with memory can
use. Twelve long trajectories that the training never sees judge the result.

Alanine dipeptide: real molecular dynamics; the first trajectory trains, the second judges.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanomd.rollout.request import RolloutRequest
from nanomd.study.folder import RunFolder
from nanomd.study.generate import generate
from nanomd.study.report import report
from nanomd.study.simulate import simulate_potential
from nanomd.study.tokenize import tokenize
from nanomd.study.train import train
from nanomd.study.validate import validate


@dataclass(frozen=True)
class _Plan:
    """Settings of the steps for one system."""

    title: str
    simulate: dict[str, Any] = field(default_factory=dict)
    tokenize: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    generate: dict[str, Any] = field(default_factory=dict)
    validate: dict[str, Any] = field(default_factory=dict)


def plan(system: str, *, data: str | Path | None = None, quick: bool = False, objective: str | None = None) -> _Plan:
    """Return what the demo does for a system; `quick` keeps the path and drops the statistics."""
    # One thread: a second gains such a small model little, and loses much on a busy machine.
    wanted = {"n_threads": 1, "objective": objective, "n_steps": 20 if quick else None}
    overrides = {name: value for name, value in wanted.items() if value is not None}
    generate = {"n_trajs": 2 if quick else 16, "n_steps": 5_000 if quick else 1_000_000}
    judge = {"n_bootstrap": 20 if quick else 200}
    if system == "four-state":
        return _Plan(
            "Four-state potential seen through one coordinate",
            simulate={"preset": "demo", "n_trajs": 16, "n_frames": 5_000 if quick else 200_000},
            tokenize={"scheme": "x-bins", "n_states": 20},
            train={"hold_out": 12, "overrides": overrides},
            generate=generate,
            validate=judge,
        )
    return _Plan(
        "Alanine dipeptide: the second trajectory judges a model of the first",
        tokenize={"system": system, "data": data},
        train={"hold_out": 1, "overrides": overrides},
        generate=generate,
        validate=judge | {"n_macrostates": 4},  # its three slow processes, near 1.4 ns, 69 ps and 40 ps
    )


def run(
    run: str | Path,
    *,
    system: str = "four-state",
    data: str | Path | None = None,
    quick: bool = False,
    objective: str | None = None,
    n_threads: int | None = None,
    seed: int = 0,
    force: bool = False,
    quiet: bool = False,
    progress: bool | None = None,
) -> Path:
    """Run the main job and return the path of the report.

    Parameters
    ----------
    run : path
        The run folder. Finished steps with the same settings are not repeated.
    system : str
        ``"four-state"`` or ``"alanine-dipeptide"`` (with `data`).
    quick : bool
        A few seconds, for testing only.
    objective : str, optional
        Of the training, where it is not to be the default.
    """
    start = time.perf_counter()
    steps = plan(system, data=data, quick=quick, objective=objective)
    common: dict[str, Any] = {"seed": seed, "force": force, "progress": progress}

    def say(text: str) -> None:
        if not quiet:
            print(text, flush=True)

    if steps.simulate:
        say(simulate_potential(run, **steps.simulate, n_threads=n_threads, **common))
    say(tokenize(run, **steps.tokenize, **common))
    resume = not force  # an interrupted demo goes on where it stopped
    threads = {} if n_threads is None else {"n_threads": n_threads}
    training = {**steps.train, "overrides": {**steps.train["overrides"], **threads}}
    say(train(run, **training, resume=resume, **common))
    request = RolloutRequest(**steps.generate, seed=seed, n_threads=n_threads, resume=resume)
    say(generate(run, request, force=force, progress=progress))
    verdict = validate(run, **steps.validate, seed=seed, force=force)
    say(report(run, title=steps.title, force=force).splitlines()[0])
    path = RunFolder(run).report / "index.html"
    say(f"\n{verdict}\n\n{time.perf_counter() - start:.0f} s in all. The report: {path.resolve()}")
    return path
