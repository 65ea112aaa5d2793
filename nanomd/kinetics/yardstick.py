"""The yardstick: what all sources of one validation are measured with, so that their numbers can be compared."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd import _native
from nanomd.base.errors import InputError
from nanomd.data.counts import model_counts
from nanomd.kinetics import macrostates, markov, paths, processes
from nanomd.kinetics.estimates import Sample
from nanomd.kinetics.inputs import Trajs, usable_length

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_SURVIVAL_POINTS = 60
_CK_STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


@dataclass(frozen=True)
class Yardstick:
    """Macrostates, processes, and the times at which sources are looked at. All times are in frames.

    Parameters
    ----------
    macrostate : ndarray (n,)
        Macrostate 0..m-1 of every state, -1 for none.
    right, stationary : ndarray (n, k), (n,)
        Slow eigenvectors and stationary vector of the reference's Markov model, with which processes are paired.
    lagtimes : ndarray (l,)
        Of the implied timescales.
    lagtime : int
        Of the Markov models, and the stride at which passages and stays are seen.
    residence_times : ndarray (t,)
        Multiples of `lagtime` at which survival in a macrostate is given.
    ck_lagtimes : ndarray (c,)
        Multiples of `lagtime` at which self-transitions are given.
    training_counts : ndarray or csr_array (n, n)
        Transitions of the training data from frame to frame, for those that they never show; (0, 0): not looked at.
    core : ndarray (n,), optional
        Core of a macrostate, between which transition paths run, -1 for none; the macrostates without.
    path_times : ndarray (p,)
        Durations at which the distributions of path times are given.
    ends : ndarray (k, n), optional
        The two ends of every process (`nanomd.kinetics.processes.process_ends`), for its events.
    outside : ndarray of bool (2, n), optional
        States outside the reference's largest connected set, and states that it never visits.
    """

    macrostate: IntArray
    right: FloatArray
    stationary: FloatArray
    lagtimes: IntArray
    lagtime: int
    residence_times: IntArray
    ck_lagtimes: IntArray
    training_counts: Any = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    core: IntArray | None = None
    path_times: IntArray = field(default_factory=lambda: np.ones(1, np.int64))
    ends: IntArray | None = None
    outside: NDArray[np.bool_] | None = None

    @property
    def n_states(self) -> int:
        """Number of microstates, n."""
        return len(self.macrostate)

    @property
    def n_macrostates(self) -> int:
        """Number of macrostates, m."""
        return int(self.macrostate.max()) + 1

    @property
    def n_timescales(self) -> int:
        """Number of processes, k."""
        return int(self.right.shape[1])

    @property
    def cores(self) -> IntArray:
        """(n,): the cores, or the macrostates where there are none."""
        return self.macrostate if self.core is None else self.core

    def shares(self, stationary: FloatArray) -> FloatArray:
        """Return the populations (m,) of the macrostates, of those (n,) of the states."""
        inside = self.macrostate >= 0
        return np.bincount(self.macrostate[inside], stationary[inside], self.n_macrostates).astype(np.float64)

    def shares_outside(self, stationary: FloatArray) -> FloatArray:
        """Return the populations (2,) outside the connected set, and of states that are never visited."""
        return np.full(2, np.nan) if self.outside is None else np.asarray(self.outside @ stationary, np.float64)


def make_yardstick(
    reference: Trajs,
    training: Trajs,
    n_states: int,
    lagtimes: IntArray,
    lagtime: int,
    *,
    n_macrostates: int | None = None,
    macrostate_of_state: IntArray | None = None,
) -> Yardstick:
    """Take macrostates and processes from the reference's Markov model at a lag.

    Parameters
    ----------
    reference, training : list of arrays
        Trajectories of states 0..n_states-1, negative: unassigned.
    n_states : int
    lagtimes, lagtime : see `Yardstick`
    n_macrostates, macrostate_of_state : see `nanomd.kinetics.validate`

    Raises
    ------
    InputError
        Where the reference has no two connected states at the lag, and for macrostates that it does not allow.
    """
    counts = model_counts(reference, n_states, lagtime)
    model = markov.estimate_markov_model(counts, lagtime)
    n_active = len(model.active)
    if n_active < 2:
        raise InputError(f"at lagtime {lagtime} the reference has no two connected states; use a shorter lagtime")
    visits = _native.count_visits(reference, n_states)[0]
    if macrostate_of_state is None:
        m = n_macrostates
        if m is None:
            m = macrostates.choose_n_macrostates(model.timescales(min(6, n_active - 1)), n_active)
        macrostate = None
        while macrostate is None:
            try:
                macrostate = macrostates.macrostates(model, counts, visits, m)
            except InputError:  # PCCA+ leaves some empty: where their number was left open, fewer will do
                if n_macrostates is not None or m <= 2:
                    raise
                m -= 1
        core = macrostates.pcca_cores(model, macrostate, m)
        _, right, _ = model.eigen(min(max(m - 1, 3), n_active - 1))
    else:
        macrostate = macrostates.check_macrostates(macrostate_of_state, n_states, n_macrostates)
        m = int(macrostate.max()) + 1
        _, right, _ = model.eigen(min(4 * m, n_active - 1))
        right = right[:, processes.processes_between(right, model.stationary, macrostate, m)]
        own_cores = (macrostate[model.active] < 0).any()  # what leaves states between is drawn as cores already
        core = macrostate if own_cores else macrostates.given_cores(right, model.stationary, macrostate, m)
    stays = markov.mean_residence(model.transition, model.stationary, macrostate, m)[0]
    longest = int(np.ceil(5 * np.nanmax(stays))) if np.isfinite(stays).any() else 10
    length = max(len(x) for x in reference)
    steps = np.unique(np.linspace(0, max(min(longest, length // lagtime), 1), _SURVIVAL_POINTS).astype(np.int64))
    ck = np.array([s for s in _CK_STEPS if s * lagtime < usable_length(reference) / 2] or [1], np.int64)
    return Yardstick(
        macrostate=macrostate,
        right=right,
        stationary=model.stationary,
        lagtimes=lagtimes,
        lagtime=lagtime,
        residence_times=steps * lagtime,
        ck_lagtimes=ck * lagtime,
        training_counts=model_counts(training, n_states, 1),
        core=core,
        path_times=paths.measure(Sample.make(reference, n_states), core, m).times,
        ends=processes.process_ends(right, model.stationary),
        outside=np.stack([model.stationary == 0, visits == 0]),
    )
