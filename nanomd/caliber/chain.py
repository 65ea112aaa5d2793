r"""A Markov chain, and how numbers that are read from it answer to a change of its transitions.

Of a chain with transition probabilities p and stationary vector \pi, let F be any number that follows from p: an
average, the logarithm of a passage time or of a timescale. Its *influence* is the table G with

.. math:: dF = \sum_{ij} \pi_i \, p_{ij} \, G_{ij} \; d \ln p_{ij}

for every change that keeps the rows normalised; what is constant in a row of G does not count. Of the average of a
function f of the state it is the expected surplus of f from the next state on, G_{ij} = v_j, where v solves Poisson's
equation v = f - \bar f + p v. Of the eigenvalue \mu with left and right eigenvectors \phi, \psi it is
\phi_i \psi_j / \pi_i. A passage time rests on what was visited last, A or B, which the state alone does not say where
there are states between: there G is the surplus of the chain of (state, last visited), averaged over what was visited
last, given the state.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_DENSE_EIGEN_STATES = 400


class Chain:
    """A Markov chain with one recurrent class.

    Parameters
    ----------
    p : ndarray (n, n)
        Probability of the column's state after the row's.
    """

    def __init__(self, p: FloatArray) -> None:
        self.p = p

    @cached_property
    def pi(self) -> FloatArray:
        """Stationary probabilities (n,)."""
        n = len(self.p)
        equations = np.eye(n) - self.p.T
        equations[-1] = 1.0
        try:
            pi = np.linalg.solve(equations, np.eye(n)[-1])
        except np.linalg.LinAlgError:
            pi = np.full(n, np.nan)
        if not np.isfinite(pi).all() or pi.min() < -1e-9:
            raise InputError("the model's states fall into sets that never meet: it has no one equilibrium to change")
        pi = np.maximum(pi, 0.0)
        return np.asarray(pi / pi.sum())

    @cached_property
    def _factors(self) -> Any:
        from scipy.linalg import lu_factor

        return lu_factor(np.eye(len(self.p)) - self.p + self.pi)

    def surplus(self, reward: FloatArray) -> FloatArray:
        """Return v (n,), the expected sum of rewards (n,) above their average, from a state on."""
        from scipy.linalg import lu_solve

        return np.asarray(lu_solve(self._factors, reward - self.pi @ reward))

    def centred(self, influence: FloatArray) -> FloatArray:
        """Return an influence (n, n) without what is constant in a row: its mean over the next state is zero."""
        return np.asarray(influence - (self.p * influence).sum(axis=1, keepdims=True))

    def in_equilibrium(self, influence: FloatArray) -> FloatArray:
        """Return the influence of the mean of a number of this chain and of the chain backwards in time.

        Of a reversible chain both are equal, and along this influence it stays reversible: it is symmetric but for a
        function of the next state.
        """
        forwards = self.centred(influence)
        backwards = forwards.T
        return np.asarray(0.5 * (forwards + backwards + self.surplus((self.p * backwards).sum(axis=1))))

    def tilted(self, offsets: FloatArray) -> Chain:
        """Return the chain with offsets (n, n) added to the logarithms of its probabilities, rows normalised."""
        weights = self.p * np.exp(offsets - offsets.max(axis=1, keepdims=True))
        return Chain(weights / weights.sum(axis=1, keepdims=True))


class Functional(Protocol):
    """A number that follows from a chain."""

    def at(self, chain: Chain) -> tuple[float, FloatArray]:
        """Return its value, and its influence: (n, n), or (1, n) where it is a function of the next state."""


class StateAverage:
    """The average of f (n,) over the states."""

    def __init__(self, f: FloatArray) -> None:
        self.f = f

    def at(self, chain: Chain) -> tuple[float, FloatArray]:
        """Return value and influence; see `Functional`."""
        return float(chain.pi @ self.f), chain.surplus(self.f)[None, :]


class SetShare:
    """The logit of the population of a set (n,) of states."""

    def __init__(self, inside: BoolArray) -> None:
        self.inside = inside

    def at(self, chain: Chain) -> tuple[float, FloatArray]:
        """Return value and influence; see `Functional`."""
        share = float(np.clip(chain.pi @ self.inside, 1e-300, 1 - 1e-16))
        influence = chain.surplus(self.inside.astype(np.float64)) / (share * (1 - share))
        return float(np.log(share) - np.log1p(-share)), influence[None, :]


class PassageTime:
    """The logarithm of the mean first passage time, in steps, from one set (n,) of states to another.

    Parameters
    ----------
    source, target : ndarray (n,)
        Which states; no state is in both.
    reversible : bool
        See `Chain.in_equilibrium`.
    """

    def __init__(self, source: BoolArray, target: BoolArray, reversible: bool = True) -> None:
        self.source, self.target, self.reversible = source, target, reversible
        free = ~(source | target)
        from_source, from_target = np.flatnonzero(source | free), np.flatnonzero(target | free)
        n, m = len(source), len(from_source)
        self._state = np.concatenate([from_source, from_target])  # of the pairs (state, last visited)
        self._last_source = np.arange(len(self._state)) < m
        place = np.full((2, n), -1)
        place[0, from_source], place[1, from_target] = np.arange(m), m + np.arange(len(from_target))
        # Where a step to a state leads, when the source was visited last, and when the target was.
        self._after_source = np.where(target, place[1], place[0])
        self._after_target = np.where(source, place[0], place[1])

    def at(self, chain: Chain) -> tuple[float, FloatArray]:
        """Return value and influence; see `Functional`."""
        last = self._last_source
        rows = chain.p[self._state]
        paired = np.zeros((len(rows), len(rows)))
        paired[np.ix_(last, self._after_source)] = rows[last]
        paired[np.ix_(~last, self._after_target)] = rows[~last]
        pairs = Chain(paired)
        arriving = np.where(last, rows[:, self.target].sum(axis=1), 0.0)
        share, flux = float(pairs.pi @ last), float(pairs.pi @ arriving)
        v = pairs.surplus(last / share - arriving / flux)
        change = np.where(last[:, None], v[self._after_source] - self.target / flux, v[self._after_target])
        influence = np.zeros_like(chain.p)
        np.add.at(influence, self._state, pairs.pi[:, None] * change)
        influence /= np.maximum(np.bincount(self._state, pairs.pi, len(chain.p)), 1e-300)[:, None]
        value = float(np.log(share) - np.log(flux))
        return value, chain.in_equilibrium(influence) if self.reversible else influence


class SlowestTimescale:
    """The logarithm of the implied timescale, in steps, of the slowest process."""

    def __init__(self, reversible: bool = True) -> None:
        self.reversible = reversible

    def at(self, chain: Chain) -> tuple[float, FloatArray]:
        """Return value and influence; see `Functional`."""
        value, left, right = _slowest(chain)
        time = -1.0 / np.log(np.clip(value, 1e-12, 1 - 1e-15))
        influence = time / value * np.outer(left / np.maximum(chain.pi, 1e-300), right)
        return float(np.log(time)), chain.in_equilibrium(influence) if self.reversible else influence


def _slowest(chain: Chain) -> tuple[float, FloatArray, FloatArray]:
    """Return the largest real eigenvalue below one, with left and right eigenvectors (n,), left @ right = 1."""
    n = len(chain.p)
    if n <= _DENSE_EIGEN_STATES:
        from scipy.linalg import eig

        values, left, right = eig(chain.p, left=True)
    else:
        from scipy.sparse.linalg import eigs

        deflated = chain.p - chain.pi
        start = np.linspace(-1.0, 1.0, n)
        values, right = eigs(deflated, k=4, which="LR", v0=start)
        _, left = eigs(deflated.T, k=4, which="LR", v0=start)
    real = np.where(abs(values.imag) < 1e-9, values.real, -np.inf)
    order = np.argsort(-real)
    at = int(order[1]) if n <= _DENSE_EIGEN_STATES else int(order[0])
    if not np.isfinite(real[at]):
        raise InputError("the model has no relaxation: its slowest process turns in a circle")
    if n > _DENSE_EIGEN_STATES:  # both calls find the same eigenvalues, perhaps in another order
        candidates = [abs(left[:, k] @ right[:, at]) for k in range(left.shape[1])]
        phi = left[:, int(np.argmax(candidates))].real
    else:
        phi = left[:, at].real
    psi = right[:, at].real
    return float(real[at]), np.asarray(phi / (phi @ psi)), np.asarray(psi)
