"""Free parameters of the output layer, each scaled by its curvature, and the optimiser that they are for.

Rare transitions have a hundred-thousandth of the curvature of common ones, and would be the last to move. In scaled
parameters the curvature is about one everywhere: a gradient is then the distance to the maximum in standard errors.

The transitions of a state that the data never show share one offset of the table, so that the number of parameters is
that of the transitions seen.
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
    r_ij (1 - r_ij) times the second moments of the features there. What the features tell beyond the state makes it
    smaller, and the scaled parameter only somewhat too stiff.

    Parameters
    ----------
    evidence : Evidence
    moments : Tensor, shape (V, d + 1, d + 1)
        Second moments of the features in each state, summed over its contexts; see `second_moments`.
    pseudocount, ridge : float
    """

    def __init__(self, evidence: Evidence, moments: Tensor, pseudocount: float, ridge: float) -> None:
        self.seen, self.pairs = evidence.seen, evidence.seen.flatten().nonzero()[:, 0]
        counts = evidence.target + pseudocount * evidence.prior
        rates = counts / counts.sum(dim=1, keepdim=True).clamp(min=1e-300)
        spread = rates * (1.0 - rates)
        n, width = moments.shape[:2]
        curvature = (spread.T.to(moments.dtype) @ moments.view(n, -1)).view(n, width, width).double()
        # The relative part keeps the factorisation from failing where features are (nearly) dependent.
        size = ridge + 1e-3 * curvature.diagonal(dim1=1, dim2=2).mean(dim=1)
        eye = torch.eye(width, dtype=torch.float64, device=moments.device)
        self.factors = torch.linalg.cholesky(curvature + size[:, None, None] * eye)  # (V, d + 1, d + 1), lower
        own = counts * (1.0 - rates)
        self.of_pair = own.clamp(min=1e-2).rsqrt().flatten()[self.pairs]
        self.of_row = torch.where(self.seen, 0.0, own).sum(dim=1).clamp(min=1e-2).rsqrt()  # others of a state
        self.sizes = [n * width, len(self.pairs), n]

    def change(self, x: Vector) -> OutputLayer:
        """Return the change of the layer that scaled parameters (size,) stand for."""
        values = torch.from_numpy(x).to(self.factors.device)
        head, pairs, rows = torch.split(values, self.sizes)
        head = torch.linalg.solve_triangular(
            self.factors.transpose(1, 2), head.view(*self.factors.shape[:2], 1), upper=True
        )
        table = torch.where(self.seen, 0.0, (rows * self.of_row)[:, None]).flatten()
        table[self.pairs] = pairs * self.of_pair
        return OutputLayer(head[..., 0], table.view(self.seen.shape))

    def gradient(self, by_layer: OutputLayer) -> Vector:
        """Return the gradient (size,) by scaled parameters: the transpose of the map."""
        head = torch.linalg.solve_triangular(self.factors, by_layer.head[..., None], upper=False)
        pairs = by_layer.table.flatten()[self.pairs] * self.of_pair
        rows = torch.where(self.seen, 0.0, by_layer.table).sum(dim=1) * self.of_row
        return torch.cat([head.flatten(), pairs, rows]).cpu().numpy()


def second_moments(chunks: Chunks, evidence: Evidence) -> Tensor:
    """Return the sums (V, d + 1, d + 1) over the contexts of each state of the products of features, float32."""
    n, width = evidence.centre.shape
    moments = torch.zeros((n, width, width), device=evidence.centre.device)
    for part in chunks():
        for state in np.unique(part.current.cpu().numpy()).tolist():
            x = part.features[part.current == state]
            moments[state].addmm_(x.T, x)
    return moments


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

    moments = second_moments(posterior.chunks, posterior.evidence)
    scaling = Scaling(posterior.evidence, moments, posterior.pseudocount, posterior.ridge)

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
