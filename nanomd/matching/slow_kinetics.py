r"""Slow kinetics in a few numbers that trajectories of MD and of a model share: populations and timescales.

What is measured is fixed from the training MD: the lag \tau, from which on it looks Markovian
(`nanomd.kinetics.time_scales`); the macrostates, by PCCA+; and the processes, up to four slower than the lag, with
right eigenvectors \psi_i of the Markov model at the lag and its stationary vector \pi. A timescale is, of the MD and of
rollouts alike, with T their matrix of transition probabilities at the lag,

.. math:: t_i = - \tau / \ln \sum_{xy} \pi_x \psi_i(x) T_{xy} \psi_i(y)

No eigenvalues are sought, so nothing needs matching, and it costs one pass over the data. A state that was never left
keeps the row of the training MD.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nanomd import _native
from nanomd.base.errors import InputError
from nanomd.data.counts import largest_connected_set, stationary_vector, transition_counts
from nanomd.kinetics.bootstrap import ratio
from nanomd.kinetics.estimates import Sample, populations, timescales
from nanomd.kinetics.interval import Interval
from nanomd.kinetics.macrostates import choose_n_macrostates, macrostates
from nanomd.kinetics.markov import MarkovModel, eigenvalue_timescales, estimate_markov_model
from nanomd.kinetics.time_scales import slow_time_scales

FloatArray = NDArray[np.float64]

MAX_PROCESSES = 4
MAX_MACROSTATES = 6


class NothingSlowError(InputError):
    """Data without any slow process to be measured."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Logits of populations, then logarithms of timescales in frames: values (n,), and standard errors (n,).

    NaN where the trajectories do not determine them.
    """

    value: FloatArray
    error: FloatArray


@dataclass(frozen=True, slots=True)
class SlowKinetics:
    """What is measured; see the head of this module.

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
    populations : ndarray (n_states,)
        Of the training MD.
    stationary : ndarray (n_states,)
        pi.
    """

    n_states: int
    lagtime: int
    macrostate: NDArray[np.int64] | None
    right: FloatArray
    left: FloatArray
    values: FloatArray
    timescale: float
    populations: FloatArray
    stationary: FloatArray

    @classmethod
    def of_data(cls, training: Sequence[NDArray[Any]], n_states: int, stride: int = 1) -> Self:
        """Take lag (a multiple of `stride`), processes and macrostates from the training MD.

        Raises
        ------
        NothingSlowError
            Where it shows no process slower than the lag.
        """
        md = [np.asarray(x) for x in training if len(x) >= 2]
        lagtime = stride * -(-slow_time_scales(md, n_states).memory // stride)
        counts = transition_counts(md, n_states, lagtime)
        model = estimate_markov_model(counts, lagtime)
        times = model.timescales(MAX_MACROSTATES)
        n_processes = min(MAX_PROCESSES, int((times >= model.lagtime).sum()))
        if n_processes == 0:
            raise NothingSlowError(f"these data show no process slower than the lag of {model.lagtime} frames")
        visits = np.bincount(np.concatenate(md).astype(np.int64), minlength=n_states)
        values, right, left = model.eigen(n_processes)
        return cls(
            n_states=n_states,
            lagtime=model.lagtime,
            macrostate=_macrostates(model, counts, visits, times),
            right=right,
            left=left,
            values=values,
            timescale=float(times[0]),
            populations=visits / visits.sum(),
            stationary=model.stationary,
        )

    def every(self, stride: int) -> Self:
        """Return what is measured of trajectories of every `stride`-th frame; timescales are then in these steps."""
        return dataclasses.replace(self, lagtime=self.lagtime // stride, timescale=self.timescale / stride)

    def of_md(self, dtrajs: Sequence[NDArray[Any]], seed: int = 0) -> Measured:
        """Measure MD, with standard errors by bootstrap over blocks."""
        return self._measure(list(dtrajs), 200, seed, least=0.0)

    def settled_populations(self, dtrajs: Sequence[NDArray[Any]]) -> FloatArray:
        """Return logits (m,) of the populations that trajectories come to when they have forgotten where they began.

        They are those of the chain of all transitions at the lag, whose matrix need not be reversible: of frames of
        short trajectories that were started out of equilibrium the shares tell the starts.
        """
        if self.macrostate is None:
            return np.zeros(0)
        counts = transition_counts(list(dtrajs), self.n_states, self.lagtime)
        active = largest_connected_set(counts)
        inner = counts[np.ix_(active, active)].astype(np.float64)
        total = inner.sum(axis=1, keepdims=True)
        pi = stationary_vector(inner / np.maximum(total, 1.0)) if len(active) > 1 else np.ones(1)
        inside = self.macrostate[active] >= 0
        m = int(self.macrostate.max()) + 1
        share = np.bincount(self.macrostate[active][inside], pi[inside], m)
        return _logit(np.clip(share, 0.0, 1.0))

    def of_model(self, dtrajs: Sequence[NDArray[Any]]) -> Measured:
        """Measure rollouts, in which no population is zero or one."""
        return self._measure(list(dtrajs), 20, 0, least=0.5)

    def reversible(self, dtrajs: Sequence[NDArray[Any]]) -> FloatArray:
        """Return ln t (k,) of the reversible Markov model of trajectories, processes matched; NaN for one it lacks.

        Their own processes are slower than those of the training MD make them look.
        """
        sample = Sample.make(list(dtrajs), self.n_states, timescale=self.timescale, n_bootstrap=20)
        match = (self.right, self.stationary)
        return np.log(timescales(sample, self.lagtime, self.right.shape[1], match)[0].value)

    def _measure(self, dtrajs: list[NDArray[Any]], n_bootstrap: int, seed: int, least: float) -> Measured:
        sample = Sample.make(dtrajs, self.n_states, timescale=self.timescale, n_bootstrap=n_bootstrap, seed=seed)
        slow = self._timescales(sample)
        value, error = [np.log(slow.value)], [slow.error]
        if self.macrostate is not None:
            shares = populations(sample.coarse(self.macrostate, int(self.macrostate.max()) + 1))
            edge = least / sample.n_frames
            value.insert(0, _logit(np.clip(shares.value, edge, 1.0 - edge)))
            error.insert(0, shares.error)
        values, errors = np.concatenate(value), np.concatenate(error)
        return Measured(values, np.where(np.isfinite(values) & (errors > 0), errors, np.nan))

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
