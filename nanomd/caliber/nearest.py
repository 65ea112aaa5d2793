r"""The chain nearest to a given one among those with wanted averages, passage times and timescales: maximum caliber.

Of two chains p' and p the relative entropy per step is

.. math:: h = \sum_i \pi'_i \sum_j p'_{ij} \ln \frac{p'_{ij}}{p_{ij}}

Wanted is the p' with the least

.. math:: N h + \sum_w \frac{(F_w - f_w)^2}{2 \sigma_w^2}

for numbers F_w that follow from p', wanted as f_w with errors \sigma_w (zero: exactly); N says against how many steps'
worth of evidence for p the errors stand. With influences G_w (`nanomd.caliber.chain`), multipliers \lambda_w, and v
the surplus of the relative entropy itself, it has

.. math:: \ln \frac{p'_{ij}}{p_{ij}} = \sum_w \lambda_w G_{w,ij} - v_j + c_i, \qquad F_w = f_w - N \sigma_w^2 \lambda_w

For averages of functions of the state this is the tilted chain in Doob's form,
p'_{ij} = p_{ij} e^{\lambda f_j} r_j / (\rho r_i), with \rho and r the largest eigenvalue and its vector of
p_{ij} e^{\lambda f_j}; it is reversible if p is. The equations are solved by Newton steps with the Fisher information
as curvature, which for averages are policy iterations on that eigenproblem.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanomd.caliber.chain import Chain, Functional

FloatArray = NDArray[np.float64]

_MOST_STEPS = 300
_LARGEST_STEP = 1.0  # root mean square change of log-probabilities in the state that changes most
_LEAST_FRACTION = 0.05  # of a step, where whole ones lead back and forth
_CLOSE = 1e-8
_FAR = 30.0  # beyond a factor of e^30 in a probability nothing is believed


@dataclass(frozen=True, slots=True)
class Nearest:
    """What was found.

    Parameters
    ----------
    offsets : ndarray (n, n)
        ln p'/p.
    chain : Chain
        p'.
    values, multipliers : ndarray (w,)
        F_w and lambda_w.
    relative_entropy : float
        h, nats per step.
    converged : bool
    """

    offsets: FloatArray
    chain: Chain
    values: FloatArray
    multipliers: FloatArray
    relative_entropy: float
    converged: bool


def nearest_chain(
    p: FloatArray, functionals: Sequence[Functional], wanted: FloatArray, errors: FloatArray, weight: float = 1.0
) -> Nearest:
    """Return the nearest chain with the wanted numbers.

    Parameters
    ----------
    p : ndarray (n, n)
        Of the given chain.
    functionals : sequence
        F_w.
    wanted, errors : ndarray (w,)
        f_w and sigma_w.
    weight : float
        N, in steps.
    """
    base = Chain(p)
    offsets, fraction, before = np.zeros_like(p), 1.0, np.inf
    for _ in range(_MOST_STEPS):
        chain = base.tilted(offsets)
        here = _Here(base, chain, offsets, functionals)
        multipliers, step = here.step(wanted, weight * errors**2)
        size = float(np.sqrt((chain.p * step**2).sum(axis=1).max()))
        result = Nearest(here.ratio, chain, here.values, multipliers, here.entropy, size <= _CLOSE)
        if result.converged or not np.isfinite(size):
            return result
        if size > before:
            fraction = max(0.5 * fraction, _LEAST_FRACTION)
        before = size
        offsets = here.ratio + min(fraction, _LARGEST_STEP / size) * step
        if (chain.p * abs(offsets)).sum(axis=1).max() > _FAR:
            return result
    return result


class _Here:
    """A chain on the way, with all influences centred."""

    def __init__(self, base: Chain, chain: Chain, offsets: FloatArray, functionals: Sequence[Functional]) -> None:
        self.chain = chain
        top = offsets.max(axis=1, keepdims=True)
        total = np.log((base.p * np.exp(offsets - top)).sum(axis=1, keepdims=True)) + top
        self.ratio = offsets - total  # ln p'/p
        spent = (chain.p * self.ratio).sum(axis=1)
        self.entropy = float(chain.pi @ spent)
        self.surplus = chain.surplus(spent)
        found = [functional.at(chain) for functional in functionals]
        self.values = np.array([value for value, _ in found])
        self.influences = [chain.centred(influence) for _, influence in found]

    def step(self, wanted: FloatArray, softness: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the multipliers (w,), and the step (n, n) of ln p' that solves the linearised equations."""
        flow = self.chain.pi[:, None] * self.chain.p
        paid = self.chain.centred(self.ratio + self.surplus)
        weighted = [flow * influence for influence in self.influences]
        information = np.array([[float((a * b).sum()) for b in self.influences] for a in weighted])
        missing = wanted - self.values + np.array([float((a * paid).sum()) for a in weighted])
        scale = 1e-13 * information.diagonal() + 1e-300  # of wishes that say the same
        multipliers = np.linalg.solve(information + np.diag(softness + scale), missing)
        step = -paid
        for multiplier, influence in zip(multipliers, self.influences, strict=True):
            step = step + multiplier * influence
        return multipliers, step
