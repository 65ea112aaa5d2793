"""The main job: trajectories -> states -> two-pass nano-GPT -> million-step rollouts -> validation -> report.

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


_OVERRIDES: dict[str, Any] = {
    "markov_head": True,  # starts as the MSM: what is left to learn is memory
    "context_length": 32,
    "train_length": 128,
    "batch_size": 16,
    "learning_rate": 4e-3,
    "mix_max": 0.05,
    "n_threads": 1,  # a second one gains such a small model little, and loses much on a busy machine
}


def plan(
    system: str, *, data: str | Path | None = None, quick: bool = False, objective: str = "two_pass_token"
) -> _Plan:
    """Return what the demo does for a system; `quick` keeps the path and drops the statistics."""
    steps = 20 if quick else 2000
    if system == "four-state":
        lags = (1, 2, 5, 10, 20) if quick else (1, 2, 5, 10, 20, 40, 80, 200, 400)
        return _Plan(
            "Four-state potential seen through one coordinate",
            simulate={"preset": "demo", "n_trajs": 16, "n_frames": 5_000 if quick else 200_000},
            tokenize={"scheme": "x-bins", "n_states": 20},
            train={
                "preset": "tiny",
                "hold_out": 12,
                "overrides": {**_OVERRIDES, "objective": objective, "n_steps": steps},
            },
            generate={"n_trajs": 2 if quick else 16, "n_steps": 5_000 if quick else 1_000_000},
            # Within half the slowest timescale, and long enough for the bins of x to tell the four minima apart.
            validate={"lagtimes": lags, "lagtime": 20 if quick else 40, "n_bootstrap": 20 if quick else 200},
        )
    return _Plan(
        "Alanine dipeptide: the second trajectory judges a model of the first",
        tokenize={"system": system, "data": data},
        train={
            "preset": "tiny",
            "hold_out": 1,
            # Equilibrium dynamics is reversible: reading windows both ways doubles the few slow transitions. A head
            # that starts as the MSM would keep the MSM's errors about the rare states (docs/results.md).
            "overrides": {
                **_OVERRIDES,
                "objective": objective,
                "n_steps": steps,
                "time_reversal": True,
                "markov_head": False,
            },
        },
        generate={"n_trajs": 2 if quick else 16, "n_steps": 5_000 if quick else 1_000_000},
        # 20 ps: below all three slow processes, near 1.4 ns, 69 ps and 40 ps; four macrostates hold them.
        validate={
            "lagtimes": (1, 2, 5, 10, 20, 50, 100, 200, 500),
            "lagtime": 20,
            "n_macrostates": 4,
            "n_bootstrap": 20 if quick else 200,
        },
    )


def run(
    run: str | Path,
    *,
    system: str = "four-state",
    data: str | Path | None = None,
    quick: bool = False,
    objective: str = "two_pass_token",
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
