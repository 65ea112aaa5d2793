r"""Maximum caliber: the smallest change of a learnt path distribution that meets what an experiment says.

The change is a table of offsets in the markov head, and the smallest is that of least relative entropy a step between
the model with and without them, weighed against the errors of the experiment (`nanomd.caliber.nearest`).

**Where it is found.** On the chain of the model's mean transition probabilities T, taken from its own rollouts, the
nearest chain with given numbers follows from equations. Where the model knows its present state alone, T *is* the
model, and the result is the exact chain of maximum caliber. Where it has memory, two things differ. Its numbers are not
those of T: so every candidate is rolled out, and T is asked for other numbers, until the rollouts show what is wanted
(`nanomd.matching.secant`; all rounds draw the same random numbers). And the best offsets would depend on the context,
as the surplus v of `nanomd.caliber.chain` does, where the table has its mean given the state: the wishes are met all
the same, at somewhat more relative entropy than the least.

**Errors.** N of `nanomd.caliber.nearest` is `weight` times two slowest timescales: in that time a trajectory forgets
where it was, so that the simulation counts for as many independent configurations as `weight` says. With one, it is the
usual balance of maximum entropy with Gaussian errors (A. Cesari, S. Reisser, G. Bussi, *Computation* 6, 15 (2018)).
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nanomd import _native
from nanomd.base.checks import check_range, check_whole
from nanomd.base.errors import InputError, NanomdWarning
from nanomd.base.extras import needs
from nanomd.base.progress import Progress, expect, reporting
from nanomd.caliber.chain import Chain, SlowestTimescale
from nanomd.caliber.nearest import Nearest, nearest_chain
from nanomd.caliber.reach import within_reach
from nanomd.caliber.result import Constrained, Row, judge
from nanomd.caliber.rolled import Slow, mean_probabilities, relative_entropy, sample_of
from nanomd.caliber.static import nearest_populations
from nanomd.caliber.wishes import Average, Population, Rate, Relaxation, Wish, check_wishes
from nanomd.kinetics.bootstrap import to_scale
from nanomd.kinetics.interval import Interval
from nanomd.matching.rollouts import UNDEFINED, roll_out_slow, with_offsets
from nanomd.matching.secant import Search, Tried
from nanomd.model.files import ModelFiles, Starts, load_model_files

FloatArray = NDArray[np.float64]
Dtrajs = list[NDArray[np.integer]]

MAX_STATES = 4096  # of dense tables
ROUNDS = 6  # after the first
_SURE = 2.0  # standard errors of a rollout: what is nearer is not told apart
_SHARP = 0.25  # of that, for candidates that follow a rollout: with the same random numbers they can be that near
_DOUBT = 0.1  # stands in for an unknown error of a logarithm
_SLOWER = 8.0  # rollouts are at most so many times longer for a model that gets slower


class Model(Protocol):
    """What `nanomd.GPTModel` is here: a thing that has files."""

    def to_files(self) -> ModelFiles:
        """Return what a model folder holds."""


def constrain(
    model: str | Path | Model | ModelFiles,
    *,
    averages: Sequence[Average] = (),
    populations: Sequence[Population] = (),
    rates: Sequence[Rate] = (),
    relaxation: Relaxation | None = None,
    weight: float = 1.0,
    reversible: bool = True,
    static: bool = False,
    out: str | Path | None = None,
    seed: int = 0,
    n_threads: int | None = None,
    progress: Progress | bool | None = None,
) -> Constrained:
    """Change a model as little as possible so that its trajectories show what an experiment says.

    Parameters
    ----------
    model : path, GPTModel or ModelFiles
        A model, its folder, or a run folder. It is left as it is.
    averages : sequence of Average
    populations : sequence of Population
    rates : sequence of Rate
    relaxation : Relaxation, optional
    weight : float
        How many independent configurations the simulation counts for against the errors of the experiment. Without
        errors it means nothing.
    reversible : bool
        Keep detailed balance, where the model has it; False for driven systems.
    static : bool
        Populations by maximum entropy without dynamics (`nanomd.caliber.static`), for averages and populations alone.
    out : path, optional
        Save the new model in this folder.
    seed : int
        Of the rollouts.
    n_threads : int, optional
        CPU threads; the result does not depend on it.
    progress : bool or Progress, optional
        As in `nanomd.Sampler.generate`, told of rollouts.

    Returns
    -------
    Constrained
        The new model, and a table of what was wanted, before and after.

    Raises
    ------
    InputError
        For a wish that makes no sense, or a model of more than 4096 states.

    Warns
    -----
    NanomdWarning
        Where a wish is out of reach, is not met, or the new model rests on what the old one hardly shows.
    """
    needs("constraining a model", "scipy", "deeptime")
    files = _files_of(model)
    if files.config.n_states > MAX_STATES:
        raise InputError(
            f"a model to be constrained must have at most {MAX_STATES} states, got {files.config.n_states}; "
            "use coarser states"
        )
    if files.config.group_sizes:
        raise InputError("a model to be constrained must be trained with n_groups=0: its table is of all states by all")
    check_range("weight", weight, 1e-6)
    wishes = check_wishes(
        files.state_map, files.frame_interval, averages, populations, rates, relaxation, reversible=reversible
    )
    if static and (rates or relaxation is not None):
        raise InputError("static needs averages and populations alone: rates and relaxation times are dynamics")
    with reporting(progress, ROUNDS + 4, "constrain", "rollout") as bar:
        work = _Work(files, wishes, check_whole("seed", seed, 0), n_threads, bar)
        result = work.run(weight, static)
        expect(bar, work.rollouts)
    for text in result.warnings:
        warnings.warn(text, NanomdWarning, stacklevel=2)
    if out is not None:
        result.save(out)
    return result


@dataclass(frozen=True, slots=True)
class _Made:
    """A candidate: the chain that was asked for, and the model with its offsets."""

    nearest: Nearest
    files: ModelFiles


class _Work:
    """A model that is being constrained."""

    def __init__(
        self, files: ModelFiles, wishes: list[Wish], seed: int, n_threads: int | None, progress: Progress
    ) -> None:
        self.files, self.seed, self.n_threads, self.progress = files, seed, n_threads, progress
        self.rollouts = 0
        pilot = self._roll_out(files, Slow(1.0, None), seed)  # tells how long others must be
        self.slow = Slow.of(pilot, files.config.n_states)
        self.dtrajs = self._roll_out(files, self.slow, seed)
        self.visits = _native.count_visits(self.dtrajs, files.config.n_states)[0]
        self.base = Chain(mean_probabilities(files, self.dtrajs, n_threads))
        self.asked = wishes
        self.wishes, self.notes = within_reach(wishes, self.visits, files.state_map)
        self._time = SlowestTimescale().at(self.base)[0]

    def run(self, weight: float, static: bool) -> Constrained:
        """Find the offsets, and judge them by rollouts of their own."""
        wanted, errors = (np.array([getattr(w, name) for w in self.wishes]) for name in ("wanted", "error"))
        functionals = [wish.functional for wish in self.wishes]
        before, values, doubts = self._measure(self.dtrajs)
        lacking = values - np.array([functional.at(self.base)[0] for functional in functionals])
        # What sampling explains is no lack of the chain, and what it explains in part is so in part.
        known = np.where(np.isfinite(lacking), lacking, 0.0)
        theta = -known * np.maximum(0.0, 1.0 - (_SURE * doubts / np.maximum(abs(known), 1e-300)) ** 2)
        nearest_of = nearest_populations if static else nearest_chain
        evidence = weight if static else weight * 2.0 * self.slow.timescale
        search: Search[_Made] = Search(np.eye(len(wanted)))
        for _ in range(ROUNDS):
            nearest = nearest_of(self.base.p, functionals, wanted + theta, errors, evidence)
            made = _Made(nearest, with_offsets(self.files, nearest.offsets))
            _, values, doubts = self._measure(self._roll_out(made.files, self._slower(nearest.chain), self.seed))
            value = theta + values - nearest.values
            tolerance = _SURE * doubts
            off = np.where(np.isfinite(value), -value, UNDEFINED) / tolerance
            search.learn(Tried(made, theta, value, off))
            if abs(off).max() <= (1.0 if len(search.tried) == 1 else _SHARP):
                break
            theta = search.propose(tolerance)
        best = search.best
        return self._judged(best.made, before, abs(best.difference) <= 1.0)

    def _measure(self, dtrajs: Dtrajs) -> tuple[list[Interval], FloatArray, FloatArray]:
        """Return intervals of what is wished for, the values on their natural scales, and their errors there."""
        sample = sample_of(dtrajs, self.files.config.n_states, self.slow)
        found = [wish.measure(sample, self.slow) for wish in self.wishes]
        with np.errstate(all="ignore"):
            values = np.array([float(to_scale(x.value, w.scale)) for x, w in zip(found, self.wishes, strict=True)])
        doubts = np.array([float(x.error) for x in found])
        return found, values, np.where(np.isfinite(doubts) & (doubts > 0), doubts, _DOUBT)

    def _roll_out(self, files: ModelFiles, slow: Slow, seed: int) -> Dtrajs:
        self.rollouts += 1
        self.progress.note(f"rollout {self.rollouts}")
        found = roll_out_slow(files, slow.timescale, slow.lagtime, seed=seed, n_threads=self.n_threads)
        self.progress.update(1)
        return found

    def _slower(self, chain: Chain) -> Slow:
        """Return how slow a candidate is: as many times slower than the model as the chains of both are."""
        factor = float(np.exp(np.clip(SlowestTimescale().at(chain)[0] - self._time, 0.0, np.log(_SLOWER))))
        return dataclasses.replace(self.slow, timescale=self.slow.timescale * factor)

    def _judged(self, made: _Made, before: list[Interval], met: NDArray[np.bool_]) -> Constrained:
        dtrajs = self._roll_out(made.files, self._slower(made.nearest.chain), self.seed + 1)
        after, _, _ = self._measure(dtrajs)
        visits = _native.count_visits(dtrajs, self.files.config.n_states)[0]
        paid, doubt = relative_entropy(self.files, made.nearest.offsets, dtrajs, self.n_threads)
        rows = [
            Row(wish.name, wish.scale, wish.wanted, wish.error, old, new, bool(ok) and wish.wanted == aim.wanted)
            for wish, aim, old, new, ok in zip(self.asked, self.wishes, before, after, met, strict=True)
        ]
        stationary = visits / visits.sum()
        starts = Starts(stationary, self.files.starts.windows)
        result = Constrained(
            files=dataclasses.replace(made.files, starts=starts),
            rows=rows,
            offsets=made.nearest.offsets,
            multipliers=made.nearest.multipliers,
            relative_entropy=paid,
            relative_entropy_error=doubt,
            timescale=self.slow.timescale,
            effective=effective_share(self.visits / self.visits.sum(), stationary),
            rollouts=self.rollouts,
            warnings=self.notes,
        )
        return judge(result, converged=made.nearest.converged)


def effective_share(before: FloatArray, after: FloatArray) -> float:
    """Return the share of the old frames that are left when their states are reweighted to the new populations (Kish).

    Parameters
    ----------
    before, after : ndarray (n,)
        Populations.
    """
    seen = before > 0
    return float(after[seen].sum() ** 2 / (after[seen] ** 2 / before[seen]).sum())


def _files_of(model: Any) -> ModelFiles:
    if isinstance(model, ModelFiles):
        return model
    if isinstance(model, (str, Path)):
        path = Path(model)
        inner = path / "model"
        return load_model_files(inner if (inner / "config.json").is_file() else path)
    if hasattr(model, "to_files"):
        found: ModelFiles = model.to_files()
        return found
    raise InputError(f"model must be a model, its folder or a run folder, got {model!r}")
