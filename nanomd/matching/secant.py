"""A search for parameters that bring measured numbers to given ones, where every measurement is a long rollout.

Damped Gauss-Newton steps (Levenberg, Marquardt) against a Gaussian prior on the parameters, with derivatives that every
further round corrects (C. G. Broyden, *Math. Comput.* 19, 577 (1965)). The round that comes nearest is kept, and that
may be the first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
T = TypeVar("T")

_DAMPING, _HARDER = 0.05, 6.0  # of a step, and how much more after one that made it worse


@dataclass(frozen=True, slots=True)
class Tried(Generic[T]):
    """A round.

    Parameters
    ----------
    made : object
        What was measured, such as the model.
    theta : ndarray (p,)
    value, difference : ndarray (q,)
        What was measured, and how far that is from what is wanted, in tolerances.
    """

    made: T
    theta: FloatArray
    value: FloatArray
    difference: FloatArray

    def score(self) -> float:
        """Return the mean square of the differences."""
        return float(np.mean(self.difference**2))


@dataclass(slots=True)
class Search(Generic[T]):
    """The rounds so far, and the next parameters.

    Parameters
    ----------
    jacobian : ndarray (q, p)
        Derivatives of the values by the parameters, at the first round.
    width : float
        Of the prior on the parameters.
    largest : float
        No parameter moves further in a round.
    """

    jacobian: FloatArray
    width: float = math.inf
    largest: float = 1.0
    tried: list[Tried[T]] = field(default_factory=list)
    _damping: float = _DAMPING

    @property
    def best(self) -> Tried[T]:
        """The round that came nearest."""
        return min(self.tried, key=Tried.score)

    def learn(self, one: Tried[T]) -> None:
        """Take a round in: derivatives then hold exactly for the step to it from the best before."""
        if self.tried:
            origin = self.best
            step, change = one.theta - origin.theta, one.value - origin.value
            missed = np.where(np.isfinite(change), change - self.jacobian @ step, 0.0)
            self.jacobian = self.jacobian + np.outer(missed, step) / max(float(step @ step), 1e-300)
        self.tried.append(one)
        self._damping = _DAMPING if self.best is one else _HARDER * self._damping

    def propose(self, tolerance: FloatArray) -> FloatArray:
        """Return the next parameters (p,).

        Two parameters to which the values answer nearly alike would be played against each other by undamped steps.
        """
        best = self.best
        jacobian = self.jacobian / tolerance[:, None]
        normal, precision = jacobian.T @ jacobian, 1.0 / self.width**2
        difference = np.where(np.isfinite(best.value), best.difference, 0.0)
        damped = normal + np.diag(self._damping * normal.diagonal() + precision)
        step = np.linalg.solve(damped, jacobian.T @ difference - precision * best.theta)
        return np.asarray(best.theta + step * min(1.0, self.largest / max(float(abs(step).max()), 1e-12)))
