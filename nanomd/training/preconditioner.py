"""Free parameters of the output layer, each scaled by its curvature, and the optimiser that they are for.

Rare transitions have a hundred-thousandth of the curvature of common ones, and would be the last to move. In scaled
parameters the curvature is about one everywhere: a gradient is then the distance to the maximum in standard errors.

The transitions of a state that the data never show share one offset of the table, so that the number of parameters is
that of the transitions seen. Those of the transitions seen are taken at the mean features of the state: a change of the
head then leaves mean rates as they are, nearly, and the two kinds of parameters hardly feel each other, which halves
the iterations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanomd.training.output_layer import Chunks, Evidence, OutputLayer, Posterior

Vector = NDArray[np.float64]


class Scaling:
    """The linear map from a vector of scaled parameters to a change of the layer.

    The curvature of row j of the head is that of a Markov model of the data's rates r: the sum over states i of
    r_ij (1 - r_ij) times the scatter of the features there. What the features tell beyond the state makes it smaller,
    and the scaled parameter only somewhat too stiff.

    Parameters
    ----------
    evidence : Evidence
    scatter : Tensor, shape (V, d + 1, d + 1)
        Of the features in each state about their mean, summed over its contexts; see `scatter_of`.
    pseudocount, ridge : float
    """

    def __init__(self, evidence: Evidence, scatter: Tensor, pseudocount: float, ridge: float) -> None:
        self.seen, self.pairs = evidence.seen, evidence.seen.flatten().nonzero()[:, 0]
        self.centre = evidence.centre
        counts = evidence.target + pseudocount * evidence.prior
        rates = counts / counts.sum(dim=1, keepdim=True).clamp(min=1e-300)
        spread = rates * (1.0 - rates)
        n, width = scatter.shape[:2]
        curvature = (spread.T.to(scatter.dtype) @ scatter.view(n, -1)).view(n, width, width).double()
        # The relative part keeps the factorisation from failing where features are (nearly) dependent.
        size = ridge + 1e-3 * curvature.diagonal(dim1=1, dim2=2).mean(dim=1)
        eye = torch.eye(width, dtype=torch.float64, device=scatter.device)
        self.factors = torch.linalg.cholesky(curvature + size[:, None, None] * eye)  # (V, d + 1, d + 1), lower
        own = counts * (1.0 - rates)
        self.of_pair = own.clamp(min=1e-2).rsqrt().flatten()[self.pairs]
        self.of_row = torch.where(self.seen, 0.0, own).sum(dim=1).clamp(min=1e-2).rsqrt()  # others of a state
        self.sizes = [n * width, len(self.pairs), n]

    def change(self, x: Vector) -> OutputLayer:
        """Return the change of the layer that scaled parameters (size,) stand for."""
        values = torch.from_numpy(x).to(self.factors.device)
        head, pairs, rows = torch.split(values, self.sizes)
        upper = self.factors.transpose(1, 2)
        head = torch.linalg.solve_triangular(upper, head.view(*upper.shape[:2], 1), upper=True)[..., 0]
        table = torch.where(self.seen, -self.centre @ head.T, (rows * self.of_row)[:, None]).flatten()
        table[self.pairs] += pairs * self.of_pair
        return OutputLayer(head, table.view(self.seen.shape))

    def gradient(self, by_layer: OutputLayer) -> Vector:
        """Return the gradient (size,) by scaled parameters: the transpose of the map."""
        by_seen = torch.where(self.seen, by_layer.table, 0.0)
        by_head = by_layer.head - by_seen.T @ self.centre
        head = torch.linalg.solve_triangular(self.factors, by_head[..., None], upper=False)
        pairs = by_seen.flatten()[self.pairs] * self.of_pair
        rows = (by_layer.table - by_seen).sum(dim=1) * self.of_row
        gradient: Vector = torch.cat([head.flatten(), pairs, rows]).cpu().numpy()
        return gradient


def scatter_of(chunks: Chunks, evidence: Evidence) -> Tensor:
    """Return the scatter (V, d + 1, d + 1) of the features of each state about their mean, float32.

    Contexts that stand for several (`Evidence.gather`) count as many times.
    """
    n, width = evidence.centre.shape
    scatter = torch.zeros((n, width, width), device=evidence.centre.device)
    number = torch.zeros(n, dtype=torch.float64, device=scatter.device)
    for part in chunks():
        for one in part.by_state():
            x = one.features - evidence.centre[one.state].float()
            scatter[one.state].addmm_(x.T, x)
            number[one.state] += len(x)
    stands_for = evidence.target.sum(dim=1) / number.clamp(min=1.0)
    return scatter * stands_for[:, None, None].float()


@dataclass(frozen=True, slots=True)
class Minimum:
    """Where the optimiser ended: the change of the layer, and the largest component of the gradient (std. errors)."""

    change: OutputLayer
    gradient: float


def minimise(posterior: Posterior, start: OutputLayer, max_iterations: int, tolerance: float) -> Minimum:
    """Bring all parameters together to the maximum of the posterior, by L-BFGS.

    Parameters
    ----------
    posterior : Posterior
    start : OutputLayer
        A change of the trained layer.
    max_iterations : int
    tolerance : float
        Largest component of the gradient, in standard errors, at which to end.
    """
    from scipy.optimize import minimize

    scatter = scatter_of(posterior.chunks, posterior.evidence)
    scaling = Scaling(posterior.evidence, scatter, posterior.pseudocount, posterior.ridge)

    def objective(x: Vector) -> tuple[float, Vector]:
        value, gradient = posterior(start + scaling.change(x))
        return value, scaling.gradient(gradient)

    found = minimize(
        objective,
        np.zeros(sum(scaling.sizes)),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": max_iterations, "maxfun": 2 * max_iterations, "maxcor": 20, "gtol": tolerance, "ftol": 0},
    )
    return Minimum(start + scaling.change(found.x), float(np.abs(found.jac).max()))
