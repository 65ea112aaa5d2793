r"""The posterior of an output layer that depends on conditions, its scaled parameters, and its maximum.

It is the sum over conditions c of the posteriors of `nanomd.training.output_layer`, each of its own layer

.. math:: W(c) = W_0 + \sum_k \phi_k(c) \, W_k, \qquad T(c) = T_0 + \sum_k \phi_k(c) \, T_k

so that the gradients of :math:`W_k` and :math:`T_k` are :math:`\sum_c \phi_k(c) \, g_c`. It is convex as each is.

**Scales.** What T_0 and all T_k of one pair of states share is its curvature: the block of K + 1 parameters

.. math:: \sum_c n_{ij}(c) (1 - p_{ij}(c)) \; (1, \phi(c)) (1, \phi(c))^\top

whose Cholesky factor maps scaled parameters to them. Each of the W_k is scaled as the weights are in
`nanomd.training.preconditioner`. Transitions that no condition shows share one offset of T_0 for each state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanomd.training.output_layer import OutputLayer, Posterior
from nanomd.training.preconditioner import scatter_of
from nanomd.training.refit import scale_table

Vector = NDArray[np.float64]

PRIOR_WIDTH = 3.0  # of T_k: a rate that changes by e^3 over one spread of a condition
STIFFER = 10.0  # ridge of the weights' dependence, over that of the weights
_SCALING_STEPS = 2  # of the table of each condition alone: most of the way at no price


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the layer, or a gradient: heads (K + 1, V, d + 1) and tables (K + 1, V, V), the shared ones first."""

    heads: Tensor
    tables: Tensor

    def at(self, design: Tensor) -> OutputLayer:
        """Return the change at a condition of features (1, phi), (K + 1,)."""
        return OutputLayer(torch.tensordot(design, self.heads, 1), torch.tensordot(design, self.tables, 1))


class JointPosterior:
    """The sum of the posteriors of all conditions, as a function of one `Change`.

    Parameters
    ----------
    posteriors : sequence of Posterior
        Of each condition, without a ridge.
    design : Tensor, shape (M, K + 1)
        (1, phi) of each.
    ridge : float
        On the shared weights.
    """

    def __init__(self, posteriors: Sequence[Posterior], design: Tensor, ridge: float) -> None:
        self.posteriors, self.design = posteriors, design
        self.ridges = torch.full((design.shape[1],), STIFFER * ridge, dtype=design.dtype, device=design.device)
        self.ridges[0] = ridge

    def zeros(self) -> Change:
        """Return no change."""
        trained, k = self.posteriors[0].trained, self.design.shape[1]
        return Change(*(torch.zeros_like(x).expand(k, *x.shape).clone() for x in (trained.head, trained.table)))

    def __call__(self, change: Change) -> tuple[float, Change]:
        """Return the negative log-posterior (nats, but for a constant) and its gradient."""
        tables = change.tables / PRIOR_WIDTH**2
        tables[0] = 0.0
        heads = self.ridges[:, None, None] * change.heads
        value = 0.5 * float((tables * change.tables).sum() + (heads * change.heads).sum())
        for posterior, design in zip(self.posteriors, self.design, strict=True):
            own, gradient = posterior(change.at(design))
            value += own
            heads += torch.tensordot(design[:, None], gradient.head[None], 1)
            tables += torch.tensordot(design[:, None], gradient.table[None], 1)
        return value, Change(heads, tables)

    def mean_loss(self, change: Change) -> tuple[float, float]:
        """Return the negative log-likelihood of the contexts without and with a change, weighted, nats per frame."""
        evidence = [posterior.evidence for posterior in self.posteriors]
        sizes = np.array([float(one.target.sum()) for one in evidence])
        before = sizes @ [one.loss for one in evidence]
        after = sizes @ [p.mean_loss(change.at(x)) for p, x in zip(self.posteriors, self.design, strict=True)]
        return float(before / sizes.sum()), float(after / sizes.sum())


class JointScaling:
    """The linear map from a vector of scaled parameters to a `Change`; see the head of this module."""

    def __init__(self, joint: JointPosterior) -> None:
        evidence = [posterior.evidence for posterior in joint.posteriors]
        kappa = joint.posteriors[0].pseudocount
        seen = torch.stack([one.seen for one in evidence]).any(dim=0)
        self.seen, self.pairs = seen, seen.flatten().nonzero()[:, 0]
        visits = torch.stack([one.target.sum(dim=1, keepdim=True) for one in evidence])
        share = visits / visits.sum(dim=0).clamp(min=1e-300)
        self.centre = (share * torch.stack([one.centre for one in evidence])).sum(dim=0)
        n, width = self.centre.shape
        size = joint.design.shape[1]
        curvature = torch.zeros((size, n, width, width), dtype=torch.float64, device=seen.device)
        blocks = torch.zeros((len(self.pairs), size, size), dtype=torch.float64, device=seen.device)
        rows, weights = torch.zeros(n, dtype=torch.float64, device=seen.device), list[Tensor]()
        for posterior, one, design in zip(joint.posteriors, evidence, joint.design, strict=True):
            counts = one.target + kappa * one.prior
            rates = counts / counts.sum(dim=1, keepdim=True).clamp(min=1e-300)
            scatter = scatter_of(posterior.chunks, one)
            spread = (rates * (1.0 - rates)).T.to(scatter.dtype)
            own = (spread @ scatter.view(n, -1)).view(n, width, width).double()
            curvature += design[:, None, None, None] ** 2 * own
            steps = counts * (1.0 - rates)
            weights.append(steps)
            blocks += steps.flatten()[self.pairs][:, None, None] * torch.outer(design, design)
            rows += torch.where(seen, 0.0, steps).sum(dim=1)
        # The relative part keeps the factorisation from failing where features are (nearly) dependent.
        stiff = joint.ridges[:, None] + 1e-3 * curvature.diagonal(dim1=2, dim2=3).mean(dim=2)
        curvature += stiff[..., None, None] * torch.eye(width).to(curvature)
        self.factors = torch.linalg.cholesky(curvature.flatten(0, 1))  # (K + 1) V of them
        prior = torch.full((size,), PRIOR_WIDTH**-2, dtype=torch.float64)
        prior[0] = 1e-2
        self.blocks = torch.linalg.cholesky(blocks + torch.diag(prior).to(blocks))
        self.weights = torch.stack(weights)  # (M, V, V)
        self.of_row = rows.clamp(min=1e-2).rsqrt()
        self.sizes = [size * n * width, len(self.pairs) * size, n]

    def change(self, x: Vector) -> Change:
        """Return the change that scaled parameters (size,) stand for."""
        heads, pairs, rows = torch.split(torch.from_numpy(x).to(self.factors.device), self.sizes)
        heads = _solve(self.factors, heads, transposed=True).view(-1, *self.centre.shape)
        pairs = _solve(self.blocks, pairs, transposed=True)  # (pairs, K + 1)
        tables = torch.where(self.seen, -self.centre @ heads.transpose(1, 2), 0.0)
        tables[0] = torch.where(self.seen, tables[0], (rows * self.of_row)[:, None])
        tables.flatten(1)[:, self.pairs] += pairs.T
        return Change(heads, tables)

    def gradient(self, by: Change) -> Vector:
        """Return the gradient (size,) by scaled parameters: the transpose of the map."""
        by_seen = torch.where(self.seen, by.tables, 0.0)
        heads = _solve(self.factors, (by.heads - by_seen.transpose(1, 2) @ self.centre).flatten(0, 1))
        pairs = _solve(self.blocks, by.tables.flatten(1)[:, self.pairs].T)
        rows = (by.tables[0] - by_seen[0]).sum(dim=1) * self.of_row
        gradient: Vector = torch.cat([heads.flatten(), pairs.flatten(), rows]).cpu().numpy()
        return gradient


def _solve(factors: Tensor, values: Tensor, transposed: bool = False) -> Tensor:
    """Solve with lower triangular factors (n, w, w), or their transposes, for values of n w numbers; (n, w)."""
    matrix = factors.transpose(1, 2) if transposed else factors
    solved: Tensor = torch.linalg.solve_triangular(matrix, values.reshape(*factors.shape[:2], 1), upper=transposed)
    return solved[..., 0]


def start_of(joint: JointPosterior, scaling: JointScaling) -> Change:
    """Return a change that is near the maximum: the table of each condition alone, fitted by the features."""
    change = joint.zeros()
    tables = torch.stack([scale_table(p, p.trained.zeros(), _SCALING_STEPS).table for p in joint.posteriors])
    weights = scaling.weights.flatten(1)[:, scaling.pairs]  # (M, pairs)
    wanted = torch.einsum("mk,mp,mp->pk", joint.design, weights, tables.flatten(1)[:, scaling.pairs])
    change.tables.flatten(1)[:, scaling.pairs] = torch.cholesky_solve(wanted[..., None], scaling.blocks)[..., 0].T
    visits = scaling.weights.sum(dim=2, keepdim=True)
    mean = (visits * tables).sum(dim=0) / visits.sum(dim=0).clamp(min=1e-300)
    change.tables[0] = torch.where(scaling.seen, change.tables[0], mean)
    return change


def minimise(
    joint: JointPosterior, start: Change | None, max_iterations: int, tolerance: float
) -> tuple[Change, float, int]:
    """Return the maximum of the posterior, by L-BFGS, its largest gradient (std. errors), and how often it looked."""
    from scipy.optimize import minimize

    scaling = JointScaling(joint)
    origin = start_of(joint, scaling) if start is None else start

    def moved(x: Vector) -> Change:
        step = scaling.change(x)
        return Change(origin.heads + step.heads, origin.tables + step.tables)

    def objective(x: Vector) -> tuple[float, Vector]:
        value, gradient = joint(moved(x))
        return value, scaling.gradient(gradient)

    found = minimize(
        objective,
        np.zeros(sum(scaling.sizes)),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": max_iterations, "maxfun": 2 * max_iterations, "maxcor": 20, "gtol": tolerance, "ftol": 0},
    )
    return moved(found.x), float(np.abs(found.jac).max()), int(found.nfev)
