r"""Populations by maximum entropy, and the nearest chain that has them.

Maximum caliber counts what a change costs a step, so that a shift between basins that exchange slowly is cheap. Where
what is known is about populations alone, and nothing says that slow shifts are likelier, maximum entropy without
dynamics is the other choice: \pi'_i \propto \pi_i \exp(\sum_w \lambda_w f_{w,i}), the populations of reweighted frames
and of augmented Markov models. Of the chains with these populations, the one of least relative entropy a step is

.. math:: p'_{ij} = p_{ij} \, b_j \Big/ \sum_k p_{ik} b_k, \qquad \sum_i \pi'_i p'_{ij} = \pi'_j

with \ln b from a convex problem, solved by Newton steps. It is reversible if p is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError
from nanomd.caliber.chain import Chain, Functional, SetShare, StateAverage
from nanomd.caliber.nearest import Nearest

FloatArray = NDArray[np.float64]

_MOST_STEPS = 200
_LARGEST_STEP = 1.0
_CLOSE = 1e-10


def nearest_populations(
    p: FloatArray, functionals: Sequence[Functional], wanted: FloatArray, errors: FloatArray, weight: float = 1.0
) -> Nearest:
    """Return the chain; arguments as of `nearest_chain`, but `weight` is a number of independent configurations.

    Raises
    ------
    InputError
        For anything but averages and populations.
    """
    base = Chain(p)
    values, multipliers, pi, found = _populations(base.pi, functionals, wanted, weight * errors**2)
    tilt, balanced = _balanced(base, pi, 0.5 * np.log(np.maximum(pi, 1e-300) / np.maximum(base.pi, 1e-300)))
    chain = base.tilted(np.broadcast_to(tilt, p.shape))
    offsets = tilt - np.log(p @ np.exp(tilt))[:, None]
    spent = (chain.p * offsets).sum(axis=1)
    return Nearest(offsets, chain, values, multipliers, float(chain.pi @ spent), found and balanced)


def _populations(
    base: FloatArray, functionals: Sequence[Functional], wanted: FloatArray, softness: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, bool]:
    """Return the values, the multipliers (w,), the populations (n,), and whether they were found."""
    tilt = np.zeros(len(base))
    values, multipliers, pi = np.zeros(len(wanted)), np.zeros(len(wanted)), base
    for _ in range(_MOST_STEPS):
        weights = base * np.exp(tilt - tilt.max())
        pi = weights / weights.sum()
        found = [_at(functional, pi) for functional in functionals]
        values = np.array([value for value, _ in found])
        slopes = np.array([slope - pi @ slope for _, slope in found])
        centred = tilt - pi @ tilt
        information = (slopes * pi) @ slopes.T
        scale = 1e-13 * information.diagonal() + 1e-300
        missing = wanted - values + (slopes * pi) @ centred
        multipliers = np.linalg.solve(information + np.diag(softness + scale), missing)
        step = multipliers @ slopes - centred
        size = float(abs(step).max())
        if size <= _CLOSE:
            return values, multipliers, pi, True
        tilt = centred + min(1.0, _LARGEST_STEP / size) * step
    return values, multipliers, pi, False


def _at(functional: Functional, pi: FloatArray) -> tuple[float, FloatArray]:
    """Return a number that follows from populations, and its derivatives (n,)."""
    if isinstance(functional, StateAverage):
        return float(pi @ functional.f), functional.f
    if isinstance(functional, SetShare):
        share = float(np.clip(pi @ functional.inside, 1e-300, 1 - 1e-16))
        return float(np.log(share) - np.log1p(-share)), functional.inside / (share * (1 - share))
    raise InputError("static needs averages and populations alone: rates and relaxation times are dynamics")


def _balanced(base: Chain, pi: FloatArray, tilt: FloatArray) -> tuple[FloatArray, bool]:
    """Return ln b (n,) with which the chain has the populations, and whether it was found."""
    for _ in range(_MOST_STEPS):
        p = base.tilted(np.broadcast_to(tilt, base.p.shape)).p
        arriving = pi @ p
        curvature = np.diag(arriving) - (p.T * pi) @ p + np.outer(pi, pi) + 1e-14 * np.eye(len(pi))
        step = np.linalg.solve(curvature, pi - arriving)
        size = float(abs(step).max())
        tilt = tilt + min(1.0, _LARGEST_STEP / max(size, 1e-300)) * step
        if size <= 1e-8:
            return tilt, True
    return tilt, False
