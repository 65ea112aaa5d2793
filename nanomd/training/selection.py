r"""Weights chosen by kinetics: short rollouts during the training, scored against MD that the training has not seen.

The loss of the next frame hardly feels the rare transitions on which populations and timescales rest, so that its
lowest value is no sign of the best kinetics. The score is, over a few quantities q,

.. math:: S = \frac1n \sum_q \left( \frac{q_\text{model} - q_\text{MD}}{\sigma_q} \right)^2

with q the logits of the populations of the macrostates and the logarithms of the leading timescales, and \sigma_q the
standard error of the MD's own value, by bootstrap over blocks of several slowest timescales. A trap that was visited
once has a large \sigma, and so a small say. The errors are the MD's alone: those of the rollouts would favour models
that scatter. A right model has S near 1 + r, r = frames of the MD over frames of the rollouts: what is left is the
scatter of both. (The quantities are correlated, so that n S is no exact chi square.)

What is fixed before the first step, from the training MD: the lag \tau, the first of 1, 2, 4, ... frames at which the
slowest timescale is within a tenth of what it is at the longest of these lags, about half of it; the macrostates, by
PCCA+; and the processes, up to four slower than the lag, with right eigenvectors \psi_i of the Markov model at the
lag and its stationary vector \pi. A timescale is, of the MD and of rollouts alike, with T their matrix of transition
probabilities at the lag,

.. math:: t_i = - \tau / \ln \sum_{xy} \pi_x \psi_i(x) T_{xy} \psi_i(y)

No eigenvalues are sought, so nothing needs matching, and it costs one pass over the data. A state that was never left
keeps the row of the training MD. The MD that judges is the held-out part, or, where that is shorter than 20 slowest
timescales, the training MD itself.

All rounds draw the same random numbers, which takes some of the scatter out of their differences. Chosen are the latest
weights whose score is within r of the lowest.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nanomd import _native
from nanomd.base.config import ModelConfig
from nanomd.base.errors import BackendUnavailableError, InputError
from nanomd.base.nvtx import annotate
from nanomd.base.units import FrameInterval
from nanomd.data.counts import largest_connected_set, transition_counts
from nanomd.data.states import StateMap
from nanomd.kinetics.bootstrap import ratio
from nanomd.kinetics.estimates import Sample, populations
from nanomd.kinetics.interval import Interval
from nanomd.kinetics.lags import settled
from nanomd.kinetics.macrostates import choose_n_macrostates, macrostates
from nanomd.kinetics.markov import MarkovModel, eigenvalue_timescales, estimate_markov_model
from nanomd.model.files import ModelFiles, Starts
from nanomd.rollout.sampler import Sampler

FloatArray = NDArray[np.float64]

ROUNDS = 5  # evenly spaced in the last half of the training, the last step included
MAX_PROCESSES = 4
MAX_MACROSTATES = 6
SETTLED = 0.1  # relative change of the slowest timescale up to the longest lag
HELD_OUT_TIMESCALES = 20.0  # shorter held-out data cannot judge
CHAINS = 16  # as many as share a vector register
CHAIN_TIMESCALES = 20.0  # shorter chains do not forget their starts: fewer and longer ones then
RELAXATION_TIMESCALES = 3.0  # dropped at the start of every chain, at most a quarter of it
FRAMES_PER_REFERENCE_FRAME = 4.0  # rollouts need not be more precise than that
MAX_FRAMES = 20_000_000  # of one round, for the memory
UNDEFINED = math.log(10.0)  # difference in ln t that is taken where the model has no such time


def selection_steps(n_steps: int) -> tuple[int, ...]:
    """Return after which optimiser steps rollouts are scored."""
    return tuple(sorted({max(1, round(n_steps * (0.5 + 0.5 * k / ROUNDS))) for k in range(1, ROUNDS + 1)}))


@dataclass(frozen=True, slots=True)
class KineticsReference:
    """What rollouts are scored against; see the head of this module.

    Parameters
    ----------
    n_states : int
    lagtime : int
        Frames.
    macrostate : ndarray (n_states,) or None
        -1 for states outside; None where PCCA+ found none.
    right, left, values : ndarray (n_states, k), (n_states, k), (k,)
        Processes of the training MD's Markov model at the lag: psi, pi psi, and eigenvalues.
    timescale : float
        The slowest, in frames.
    value, error : ndarray (n,)
        Logits of populations, then logarithms of timescales, of the MD that judges, with standard errors; NaN where
        that MD does not determine them.
    n_frames : int
        Of the MD that judges.
    held_out : bool
        Whether it is the held-out part.
    populations : ndarray (n_states,)
        Of the training MD, where rollouts start.
    """

    n_states: int
    lagtime: int
    macrostate: NDArray[np.int64] | None
    right: FloatArray
    left: FloatArray
    values: FloatArray
    timescale: float
    value: FloatArray
    error: FloatArray
    n_frames: int
    held_out: bool
    populations: FloatArray

    @classmethod
    def make(
        cls, training: Sequence[NDArray[Any]], validation: Sequence[NDArray[Any]], n_states: int, seed: int = 0
    ) -> Self:
        """Take lag, processes and macrostates from the training MD, and values from the held-out MD where it is enough.

        Raises
        ------
        InputError
            Where the training MD shows no process slower than the lag, or its errors cannot be told.
        """
        md = [np.asarray(x) for x in training if len(x) >= 2]
        model, counts = settled_model(md, n_states)
        times = model.timescales(MAX_MACROSTATES)
        n_processes = min(MAX_PROCESSES, int((times >= model.lagtime).sum()))
        if n_processes == 0:
            raise InputError(
                f"select must be loss or last for these data: they show no process slower than the lag of "
                f"{model.lagtime} frames; give longer trajectories to select by kinetics"
            )
        visits = np.bincount(np.concatenate(md).astype(np.int64), minlength=n_states)
        values, right, left = model.eigen(n_processes)
        held_out = [np.asarray(x) for x in validation if len(x) >= 2]
        enough = sum(map(len, held_out)) >= HELD_OUT_TIMESCALES * times[0] and any(
            len(x) > model.lagtime for x in held_out
        )
        judge = held_out if enough else md
        draft = cls(
            n_states=n_states,
            lagtime=model.lagtime,
            macrostate=_macrostates(model, counts, visits, times),
            right=right,
            left=left,
            values=values,
            timescale=float(times[0]),
            value=np.zeros(0),
            error=np.zeros(0),
            n_frames=sum(map(len, judge)),
            held_out=enough,
            populations=visits / visits.sum(),
        )
        value, error = draft._quantities(judge, seed)
        if not np.isfinite(error).any():
            raise InputError(
                "select must be loss or last for these data: the sampling error of their kinetics cannot be told; "
                "give more data to select by kinetics"
            )
        fields = {name: getattr(draft, name) for name in cls.__slots__}
        return cls(**(fields | {"value": value, "error": error}))

    def score(self, dtrajs: Sequence[NDArray[Any]]) -> float:
        """Return S of trajectories of a model."""
        value, _ = self._quantities(list(dtrajs), 0, of_model=True)
        known = np.isfinite(self.error)
        difference = np.where(np.isfinite(value), value - self.value, UNDEFINED)
        return float(np.mean((difference[known] / self.error[known]) ** 2))

    def describe(self) -> dict[str, Any]:
        """Return what is fixed, in plain values, for the record."""
        judge = "held-out MD" if self.held_out else "training MD: the held-out part is too short to judge"
        return {
            "reference": judge,
            "reference_frames": self.n_frames,
            "lagtime": self.lagtime,
            "slowest_timescale": self.timescale,
            "n_macrostates": 0 if self.macrostate is None else int(self.macrostate.max()) + 1,
            "n_processes": self.right.shape[1],
            "n_quantities": int(np.isfinite(self.error).sum()),
        }

    def _quantities(
        self, dtrajs: list[NDArray[Any]], seed: int, of_model: bool = False
    ) -> tuple[FloatArray, FloatArray]:
        """Return values and standard errors; of a model, values alone matter, and no population is zero or one."""
        n_bootstrap = 20 if of_model else 200
        sample = Sample.make(dtrajs, self.n_states, timescale=self.timescale, n_bootstrap=n_bootstrap, seed=seed)
        slow = self._timescales(sample)
        parts = [(np.log(slow.value), slow.error)]
        if self.macrostate is not None:
            shares = populations(sample.coarse(self.macrostate, int(self.macrostate.max()) + 1))
            least = 0.5 / sample.n_frames if of_model else 0.0
            value = _logit(np.clip(shares.value, least, 1.0 - least))
            parts.insert(0, (value, shares.error))
        value, error = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        return value, np.where(np.isfinite(value) & (error > 0), error, np.nan)

    def _timescales(self, sample: Sample) -> Interval:
        product, rows = _native.project_transitions(
            sample.dtrajs, self.n_states, self.lagtime, self.right, blocks=sample.blocks
        )

        def times(product: FloatArray, rows: FloatArray) -> FloatArray:
            stepped = ratio(product, rows[..., None])  # T psi
            stepped = np.where(np.isfinite(stepped), stepped, self.right * self.values)
            return eigenvalue_timescales(np.einsum("nk,...nk->...k", self.left, stepped), self.lagtime)

        replicates = times(sample.bootstrap.sums(product), sample.bootstrap.sums(rows))
        return sample.bootstrap.interval(times(product.sum(axis=0), rows.sum(axis=0)), replicates, "log")


def settled_model(dtrajs: list[NDArray[Any]], n_states: int) -> tuple[MarkovModel, NDArray[np.int64]]:
    """Return the Markov model at the lag where the slowest timescale has settled, and its counts."""
    longest = max(len(x) for x in dtrajs)
    ladder = [(1, _slowest(transition_counts(dtrajs, n_states, 1), 1))]
    while 8 * ladder[-1][0] <= longest and 4 * ladder[-1][0] <= ladder[-1][1]:
        lagtime = 2 * ladder[-1][0]
        slowest = _slowest(transition_counts(dtrajs, n_states, lagtime), lagtime)
        if not np.isfinite(slowest):
            break
        ladder.append((lagtime, slowest))
    lags, slowest_ones = (np.array(column) for column in zip(*ladder, strict=True))
    lagtime = int(lags[settled(lags, slowest_ones[:, None], SETTLED) or 0])
    counts = transition_counts(dtrajs, n_states, lagtime)
    return estimate_markov_model(counts, lagtime), counts


def _slowest(counts: NDArray[np.int64], lagtime: int) -> float:
    """Return the slowest timescale of symmetrised counts: near that of the reversible model, without iterations."""
    from scipy.sparse.linalg import eigsh

    active = largest_connected_set(counts)
    if len(active) < 2:
        return math.nan
    inner = counts[np.ix_(active, active)].astype(np.float64)
    inner += inner.T
    root = np.sqrt(inner.sum(axis=1))
    inner /= root[:, None] * root[None, :]
    small = len(active) < 100
    values = np.linalg.eigvalsh(inner) if small else eigsh(inner, 2, which="LA", return_eigenvectors=False, v0=root)
    return float(eigenvalue_timescales(np.sort(values)[-2:-1], lagtime)[0])


class KineticsSelector:
    """Rolls a model out and scores it, at a few steps of a training.

    Parameters
    ----------
    model : ModelConfig
    training, validation : sequences of 1-D integer arrays
        Tokens.
    n_steps : int
        Optimiser steps of the training.
    frames : int
        Frames that the whole training reads: all rounds together generate no more than that. A frame costs the compiled
        sampler a fraction of what it costs the training, forward and backward.
    seed : int
    cuda : bool
        Roll out on the GPU where the compiled engine can.
    n_threads : int, optional
    """

    def __init__(
        self,
        model: ModelConfig,
        training: Sequence[NDArray[Any]],
        validation: Sequence[NDArray[Any]],
        *,
        n_steps: int,
        frames: int,
        seed: int = 0,
        cuda: bool = False,
        n_threads: int | None = None,
    ) -> None:
        self.reference = KineticsReference.make(training, validation, model.n_states)
        self.steps = selection_steps(n_steps)
        self.model, self.seed, self.cuda, self.n_threads = model, seed, cuda, n_threads
        wanted = min(FRAMES_PER_REFERENCE_FRAME * self.reference.n_frames, frames / len(self.steps), MAX_FRAMES)
        timescale = self.reference.timescale
        self.n_trajs = max(1, min(CHAINS, int(wanted / (CHAIN_TIMESCALES * timescale))))
        self.n_frames = max(int(wanted) // self.n_trajs, 8 * self.reference.lagtime, 64)
        self.dropped = min(math.ceil(RELAXATION_TIMESCALES * timescale), self.n_frames // 4)

    @property
    def tolerance(self) -> float:
        """What the scatter of the rollouts adds to the score of a right model."""
        return self.reference.n_frames / (self.n_trajs * (self.n_frames - self.dropped))

    def score(self, tensors: Mapping[str, NDArray[np.float32]]) -> float:
        """Return the score of a model's weights, a function of them alone."""
        files = ModelFiles(
            config=self.model,
            tensors=dict(tensors),
            state_map=StateMap(np.arange(self.model.n_states)),
            starts=Starts(
                stationary=self.reference.populations,
                windows=np.zeros((0, self.model.context_length), dtype=np.int32),
            ),
            frame_interval=FrameInterval(),
            provenance={},
        )
        rollout = self._sampler(files).generate(
            self.n_frames, self.n_trajs, start="stationary", seed=self.seed, n_threads=self.n_threads
        )
        return self.reference.score([np.asarray(row)[self.dropped :] for row in rollout.tokens])

    def record(self, tensors: Mapping[str, NDArray[np.float32]]) -> dict[str, float]:
        """Return the score, whether held-out MD gave it (1 or 0), and how long it took, as a training records them."""
        begin = time.perf_counter()
        with annotate("rollout"):
            score = self.score(tensors)
        held_out = float(self.reference.held_out)
        return {
            "kinetics_score": score,
            "kinetics_held_out": held_out,
            "kinetics_seconds": time.perf_counter() - begin,
        }

    def _sampler(self, files: ModelFiles) -> Sampler:
        if self.cuda:
            try:
                return Sampler(files, "cuda")
            except BackendUnavailableError:
                pass  # PyTorch may have a GPU where the compiled engine has none
        return Sampler(files, "cpu")

    def describe(self) -> dict[str, Any]:
        """Return the settings, for the record."""
        return self.reference.describe() | {
            "steps": list(self.steps),
            "n_trajs": self.n_trajs,
            "n_frames": self.n_frames,
            "frames_dropped": self.dropped,
        }


def _macrostates(
    model: MarkovModel, counts: NDArray[np.int64], visits: NDArray[np.int64], times: FloatArray
) -> NDArray[np.int64] | None:
    wanted = min(choose_n_macrostates(times, len(model.active)), MAX_MACROSTATES)
    for number in range(wanted, 1, -1):
        try:
            return macrostates(model, counts, visits, number)
        except InputError:  # PCCA+ left one empty
            continue
    return None


def _logit(p: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(p) - np.log1p(-p), np.float64)
