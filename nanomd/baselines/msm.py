"""The Markov state model, as estimator and model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nanomd.base.checks import check_range
from nanomd.base.errors import InputError
from nanomd.base.extras import needs
from nanomd.base.units import Duration, FrameInterval, GivenInterval, in_frames
from nanomd.data.counts import transition_counts
from nanomd.kinetics.inputs import check_lagtime, trajectories
from nanomd.kinetics.markov import MarkovModel, estimate_markov_model

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class MSM:
    """A Markov state model that generates trajectories and rates them.

    Parameters
    ----------
    markov : MarkovModel
        Transition matrix, stationary vector and lag.
    frame_interval : FrameInterval
        Time of a frame: `frame_interval.describe(model.timescales()[0])` writes a timescale as a time.
    """

    markov: MarkovModel
    frame_interval: FrameInterval = field(default_factory=FrameInterval)

    @property
    def transition_matrix(self) -> FloatArray:
        """(n_states, n_states), row-stochastic, one step per lag time."""
        matrix: FloatArray = self.markov.transition
        return matrix

    @property
    def stationary_distribution(self) -> FloatArray:
        """(n_states,), zero outside the largest connected set."""
        return self.markov.stationary

    @property
    def lagtime(self) -> int:
        """Frames per step."""
        return self.markov.lagtime

    def timescales(self, n_timescales: int = 5) -> FloatArray:
        """Return implied timescales in frames, slowest first."""
        return self.markov.timescales(n_timescales)

    def generate(self, n_steps: int, n_trajs: int = 1, *, seed: int = 0) -> list[IntArray]:
        """Draw trajectories of n_steps states, one every lag time, that start in the stationary distribution."""
        check_range("n_steps", n_steps, 1)
        check_range("n_trajs", n_trajs, 1)
        check_range("seed", seed, 0)
        rng = np.random.default_rng(seed)
        cumulative = np.cumsum(self.markov.transition, axis=1)
        cumulative /= cumulative[:, -1:]
        start = np.cumsum(self.markov.stationary)
        out = np.empty((n_trajs, n_steps), np.int64)
        # side="right": the first state whose cumulative probability exceeds the number, never one of probability zero.
        present = np.searchsorted(start / start[-1], rng.random(n_trajs), side="right")
        for step in range(n_steps):
            out[:, step] = present
            present = (rng.random(n_trajs)[:, None] >= cumulative[present]).sum(axis=1)
        return list(out)

    def to_deeptime(self) -> Any:
        """Return deeptime's MarkovStateModel of the states in the largest connected set.

        deeptime numbers those states 0, 1, ...; which of ours they are is in `MSM.markov.active`.
        """
        needs("deeptime's Markov model", "deeptime")
        from deeptime.markov.msm import MarkovStateModel

        active = self.markov.active
        transition = self.markov.transition[np.ix_(active, active)]
        return MarkovStateModel(transition, self.markov.stationary[active], reversible=True, lagtime=self.lagtime)

    def log_likelihood(self, dtrajs: Sequence[NDArray[np.integer]]) -> float:
        """Return the mean ln p of the next state over all frames but the first of each trajectory, nats per frame.

        Only a model of lag 1 gives the probability of the next frame. Minus infinity where the data show a transition
        that the model does not have.

        Raises
        ------
        InputError
            For a model of a longer lag, and for data without transitions.
        """
        if self.lagtime != 1:
            raise InputError(
                f"log_likelihood needs a model of lagtime 1, got {self.lagtime}: likelihoods are per frame"
            )
        counts = transition_counts([np.asarray(x) for x in dtrajs], self.markov.n_states, 1)
        if counts.sum() == 0:
            raise InputError("dtrajs hold no transition")
        seen = counts > 0
        with np.errstate(divide="ignore"):
            logs = np.log(self.markov.transition[seen])
        return float((counts[seen] * logs).sum() / counts.sum())


class MSMEstimator:
    """Estimates a reversible Markov state model by maximum likelihood.

    Parameters
    ----------
    lagtime : int or str
        Frames, or a time such as ``"10 ns"``.
    pseudocount : float
        Added to every transition within a visited state's row, so that held-out data keep a finite likelihood.
    frame_interval : str or FrameInterval, optional
        Time of a frame, such as ``"0.2 ns"``; needed for a lag that is a time.
    """

    def __init__(
        self, lagtime: Duration = 1, *, pseudocount: float = 0.0, frame_interval: GivenInterval = None
    ) -> None:
        self.frame_interval = FrameInterval.parse(frame_interval)
        self.lagtime = in_frames(lagtime, self.frame_interval, "lagtime", 1)
        check_range("pseudocount", pseudocount, 0)
        self.pseudocount = pseudocount
        self._model: MSM | None = None

    def fit(
        self, dtrajs: Sequence[NDArray[np.integer]], lagtime: Duration | None = None, *, n_states: int | None = None
    ) -> Self:
        """Count sliding transitions in trajectories of states 0..n_states-1, and estimate the model."""
        lag = self.lagtime if lagtime is None else self.frame_interval.frames(lagtime, "lagtime")
        arrays = trajectories("dtrajs", dtrajs)
        check_lagtime(lag, max(len(x) for x in arrays))
        highest = 1 + max(int(x.max()) for x in arrays)
        counts = transition_counts(arrays, highest if n_states is None else n_states, lag)
        smooth = counts + self.pseudocount * (counts.sum(axis=1, keepdims=True) > 0) * (counts.sum(axis=0) > 0)
        self._model = MSM(estimate_markov_model(smooth, lag), self.frame_interval)
        return self

    def fit_fetch(
        self, dtrajs: Sequence[NDArray[np.integer]], lagtime: Duration | None = None, *, n_states: int | None = None
    ) -> MSM:
        """Fit, and return the model."""
        return self.fit(dtrajs, lagtime, n_states=n_states).fetch_model()

    def fetch_model(self) -> MSM:
        """Return the model of the last fit."""
        if self._model is None:
            raise InputError("MSMEstimator has no model yet: call fit first")
        return self._model
