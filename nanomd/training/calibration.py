r"""Calibration of a model against its own rollouts: the cure of errors that no single step shows.

A training sees one step at a time. What decides populations and slow timescales is the sum of thousands of steps, in
which small errors of rare steps, and memory that the context did not catch, add up; and only a rollout shows the sum.
So the finished model is rolled out, its slow kinetics (`nanomd.matching.slow_kinetics`) are measured as the data's are,
at the lag from which on the data look Markovian, and the table of the markov head gets a few offsets:

.. math:: \Delta T_{ij} = \sum_k \beta_k \, (u_{jk} - u_{ik})
          - \alpha_k \, \frac{(u_{jk} - u_{ik})^2}{(u_{jk} - u_{ik})^2 + \delta_k^2}

u_k is the k-th slowest process of the data as a function of the states, bounded for states that are hardly ever
visited; \beta_k leans the equilibrium along the process, and \alpha_k slows all steps along it, \delta_k being the size
of the steps that carry it. Offsets along slow processes, and not between macrostates, know no boundary at which the
kinetics of frames that only graze it could be mistaken for passages.

The offsets are found by damped Gauss-Newton steps on

.. math:: \sum_q \left( \frac{q_\text{model} - q_\text{MD}}{\epsilon_q} \right)^2
          + \frac19 \sum_k (\alpha_k^2 + \beta_k^2)

with \epsilon_q a sixth of the data's standard error (between 2 and 5 %) and the error of the rollout. The response of
the timescales is at first that of the Markov chain of the rollout's own transitions, that of populations follows from
\pi_i \propto e^{2 \beta u_i}, and both are corrected by every further round. All rounds draw the same random numbers.
The round that comes nearest is kept, and that may be the first, without offsets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError
from nanomd.data.counts import transition_counts
from nanomd.data.groups import to_groups
from nanomd.kinetics.markov import eigenvalue_timescales
from nanomd.matching.rollouts import UNDEFINED, roll_out_slow, with_offsets
from nanomd.matching.secant import Search, Tried
from nanomd.matching.slow_kinetics import Measured, SlowKinetics
from nanomd.model.files import ModelFiles

FloatArray = NDArray[np.float64]

ROUNDS = 5  # after the first; most data need one or two
NEAR, NEAREST, FARTHEST = 1 / 6, 0.02, 0.05  # a match: a sixth of the data's standard error, within these bounds
_WIDTH = 3.0  # of the prior on the parameters: beyond e^3 nothing is believed
_BOUND = 3.0  # of u: a process as large as that belongs to a state with a tenth of the population
_MATCH = 1.5  # tolerances: what one of a few quantities is off by chance
_DIFFERENCE = 0.02  # of a parameter, for derivatives


@dataclass(frozen=True, slots=True)
class Calibration:
    """A calibrated model, and how near it came.

    Parameters
    ----------
    files : ModelFiles
    target : Measured
        Logits of the macrostates' populations and logarithms of timescales (frames) of the data.
    before, after : ndarray (n,)
        The same of the model.
    n_processes : int
        How many of them, the last ones, are timescales.
    rounds : int
        Rollouts that were made.
    lagtime : int
        Frames.
    """

    files: ModelFiles
    target: Measured
    before: FloatArray
    after: FloatArray
    n_processes: int
    rounds: int
    lagtime: int

    def describe(self) -> dict[str, Any]:
        """Return what a model's provenance says."""
        k = self.n_processes
        times = (self.target.value[-k:], self.before[-k:], self.after[-k:])
        shares = (self.target.value[:-k], self.before[:-k], self.after[:-k])
        keys = ("training_data", "before", "after")
        return {
            "lagtime": self.lagtime,
            "rollouts": self.rounds,
            "timescales": {key: _plain(np.exp(x)) for key, x in zip(keys, times, strict=True)},
            "populations": {key: _plain(1 / (1 + np.exp(-x))) for key, x in zip(keys, shares, strict=True)},
        }

    def in_words(self) -> str:
        """Say in a line what was done."""
        target, before, after = (math.exp(x[-self.n_processes]) for x in (self.target.value, self.before, self.after))
        error = 100 * self.target.error[-self.n_processes]
        known = f"{target:.4g} +- {error:.0f} %" if math.isfinite(error) else f"{target:.4g}"
        return (
            f"rolled out and compared at lag {self.lagtime}: slowest timescale {before:.4g} frames before and "
            f"{after:.4g} after calibration, training data {known}"
        )


def calibrate(
    files: ModelFiles,
    tokens: Sequence[NDArray[Any]],
    *,
    equilibrium: bool = True,
    seed: int = 0,
    n_threads: int | None = None,
    note: Callable[[str], None] | None = None,
) -> Calibration:
    """Calibrate a model with a markov head against the data that it has learnt.

    Parameters
    ----------
    files : ModelFiles
        Its `frame_stride` says how many frames of the tokens a step is.
    tokens : sequence of 1-D integer arrays
        Every frame of the data.
    equilibrium : bool
        Whether frames of the data are drawn from equilibrium, so that their shares are its populations; otherwise those
        of the chain of their transitions are aimed at.
    seed : int
        Of the rollouts.
    n_threads : int, optional
    note : callable, optional
        Told how far the work is.

    Raises
    ------
    InputError
        For a model without a table, and data that show no slow process.
    """
    if "markov.weight" not in files.tensors:
        raise InputError("calibration needs a model with a markov head: set refit to on, or markov_head to True")
    stride, sizes = files.frame_stride, files.config.group_sizes
    # Groups are cut along the slow processes: of many states it is their kinetics that is compared and moved.
    seen = partial(to_groups, sizes=sizes) if sizes else list
    tokens = seen(tokens)
    slow = SlowKinetics.of_data(tokens, len(sizes) or files.config.n_states, stride)
    steps = slow.every(stride)
    k = slow.right.shape[1]
    md = slow.of_md(tokens)
    m = len(md.value) - k
    # Timescales of reversible models, as they are judged: with few events the rows of the counts say something else.
    shares = md.value[:m] if equilibrium else slow.settled_populations(tokens)
    md = Measured(np.append(shares, np.log(eigenvalue_timescales(slow.values, slow.lagtime))), md.error)
    near = np.clip(NEAR * np.where(np.isfinite(md.error), md.error, UNDEFINED), NEAREST, FARTHEST)
    unit = np.concatenate([np.zeros(m), np.full(k, math.log(stride))])  # of timescales, steps to frames
    theta = np.zeros(2 * k)
    response: _Response | None = None
    search: Search[ModelFiles] | None = None
    for number in range(ROUNDS + 1):
        model = files if response is None else with_offsets(files, response.offsets(theta))
        if note is not None:
            note(f"calibration, rollout {number + 1}")
        dtrajs = seen(roll_out_slow(model, steps.timescale, steps.lagtime, seed=seed, n_threads=n_threads))
        found = steps.of_model(dtrajs)
        times = steps.reversible(dtrajs)
        value = np.append(found.value[:m], np.where(np.isfinite(times), times, found.value[m:])) + unit
        tolerance = np.hypot(near, np.where(np.isfinite(found.error), found.error, 0.0))
        one = Tried(model, theta, value, np.where(np.isfinite(value), md.value - value, UNDEFINED) / tolerance)
        if response is None or search is None:
            response = _Response(steps, dtrajs)
            search = Search(response.jacobian(dtrajs, theta), _WIDTH)
        search.learn(one)
        if abs(one.difference).max() <= _MATCH:
            break
        theta = search.propose(tolerance)
    assert search is not None
    best = search.best
    return Calibration(best.made, md, search.tried[0].value, best.value, k, len(search.tried), slow.lagtime)


class _Response:
    """How the slow kinetics answer to the offsets; see the head of this module."""

    def __init__(self, slow: SlowKinetics, dtrajs: Sequence[NDArray[np.integer]]) -> None:
        self.slow = slow
        self.u = slow.right / np.sqrt(1.0 + (slow.right / _BOUND) ** 2)  # (n, k)
        counts = transition_counts(dtrajs, slow.n_states)
        rows, columns = np.nonzero(counts)
        squared = (self.u[columns] - self.u[rows]) ** 2  # (pairs, k)
        weighted = counts[rows, columns].astype(np.float64)[:, None] * squared
        self.size = (weighted * squared).sum(axis=0) / np.maximum(weighted.sum(axis=0), 1e-300)  # delta squared

    def offsets(self, theta: FloatArray, pairs: tuple[NDArray[Any], NDArray[Any]] | None = None) -> FloatArray:
        """Return the offsets of parameters (beta, alpha): of pairs of states, or of all, (n, n)."""
        k = self.u.shape[1]
        total: FloatArray = np.zeros(1)
        for u, beta, alpha, size in zip(self.u.T, theta[:k], theta[k:], self.size, strict=True):
            change = u[None, :] - u[:, None] if pairs is None else u[pairs[1]] - u[pairs[0]]
            total = total + beta * change - alpha * change**2 / (change**2 + max(float(size), 1e-300))
        return total

    def jacobian(self, dtrajs: Sequence[NDArray[np.integer]], theta: FloatArray) -> FloatArray:
        """Return derivatives (quantities, 2 k) at a rollout that was made with the parameters `theta`."""
        counts = transition_counts(dtrajs, self.slow.n_states)
        np.fill_diagonal(counts, np.maximum(counts.diagonal(), 1))
        rows, columns = np.nonzero(counts)
        weights = counts[rows, columns].astype(np.float64)
        k = self.u.shape[1]
        changed = [theta + _DIFFERENCE * one for one in np.eye(2 * k)]
        at = self.offsets(theta, (rows, columns))
        ln_t = [
            self._timescales(rows, columns, weights * np.exp(self.offsets(x, (rows, columns)) - at))
            for x in (theta, *changed)
        ]
        times = np.stack([(x - ln_t[0]) / _DIFFERENCE for x in ln_t[1:]], axis=1)
        leaning = np.concatenate([self._leaning(counts.sum(axis=1)), np.zeros((self._n_macrostates(), k))], axis=1)
        return np.concatenate([leaning, times])

    def _timescales(self, rows: NDArray[Any], columns: NDArray[Any], weights: FloatArray) -> FloatArray:
        """Return ln t (k,) of the Markov chain with these weights between states."""
        from scipy.sparse import csr_array

        slow = self.slow
        total = np.bincount(rows, weights, slow.n_states)
        transition = csr_array((weights / total[rows], (rows, columns)), shape=(slow.n_states, slow.n_states))
        later = slow.right
        for _ in range(slow.lagtime):
            later = transition @ later
        values = np.einsum("nk,nk->k", slow.left, later)
        return np.asarray(np.log(-slow.lagtime / np.log(np.clip(values, 1e-9, 1 - 1e-9))))

    def _n_macrostates(self) -> int:
        return 0 if self.slow.macrostate is None else int(self.slow.macrostate.max()) + 1

    def _leaning(self, visits: NDArray[np.integer]) -> FloatArray:
        """Return derivatives (m, k) of the logits of populations: twice the difference of u inside and outside."""
        macrostate = self.slow.macrostate
        out = np.zeros((self._n_macrostates(), self.u.shape[1]))
        for a in range(len(out)):
            assert macrostate is not None
            inside, outside = (np.where(x, visits, 0.0) for x in (macrostate == a, macrostate != a))
            mean = [w @ self.u / max(w.sum(), 1.0) for w in (inside, outside)]
            out[a] = 2.0 * (mean[0] - mean[1])
        return out


def _plain(values: FloatArray) -> list[float | None]:
    return [float(x) if math.isfinite(x) else None for x in values]
