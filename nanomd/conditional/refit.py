r"""The last fit of the output layer (`nanomd.training.refit`) to the transitions of all conditions at once.

The layer at a condition c has the head and the table

.. math:: W(c) = W_0 + \sum_k \phi_k(c) \, W_k, \qquad T(c) = T_0 + \sum_k \phi_k(c) \, T_k

so that the posterior is the sum of those of the conditions (`nanomd.training.output_layer`), each of its own layer; the
gradients of :math:`W_k` and :math:`T_k` are :math:`\sum_c \phi_k(c) \, g_c`. It is convex as each of them is. With
phi = 1/T and rates that are small a step, this is Arrhenius' law for every step from every past. A transition that was
not seen at one condition has the rate that the others say.

Few data tell no dependence: the ridge on the weights holds W_k as W_0, and the tables have a Gaussian prior

.. math:: \tfrac{1}{2 s^2} \sum_k |T_k|^2

with s = 3 for a feature of spread one. The other priors are those of a refit, kappa shared by the conditions.

**Scales.** What T_0 and all T_k of one pair of states share is its curvature: the block of K + 1 parameters

.. math:: \sum_c n_{ij}(c) (1 - p_{ij}(c)) \; (1, \phi(c)) (1, \phi(c))^\top

whose Cholesky factor maps scaled parameters to them. Each of the W_k is scaled as the weights are in
`nanomd.training.preconditioner`. Transitions that no condition shows share one offset of T_0 for each state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanomd.base.checks import check_range
from nanomd.base.errors import InputError
from nanomd.data.counts import transition_counts
from nanomd.model.contexts import Contexts, collect_contexts, default_burn_in, find_pieces
from nanomd.model.network import NanoGPT
from nanomd.training.output_layer import Chunks, Evidence, OutputLayer, Posterior
from nanomd.training.preconditioner import scatter_of
from nanomd.training.refit import GRADIENT, MAX_STATES

Floats = NDArray[np.float32]
Vector = NDArray[np.float64]

PRIOR_WIDTH = 3.0  # of T_k: a rate that changes by e^3 over one spread of a condition
_NEAR, _COARSE = 1 << 18, 0.5  # contexts that are enough to come near the maximum, and how near
_MEMORY = 1 << 30  # bytes of features; beyond, evenly spread pieces are fitted


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the layer, or a gradient: heads (K + 1, V, d + 1) and tables (K + 1, V, V), the shared ones first."""

    heads: Tensor
    tables: Tensor

    def at(self, design: Tensor) -> OutputLayer:
        """Return the change at a condition of features (1, phi), (K + 1,)."""
        return OutputLayer(torch.tensordot(design, self.heads, 1), torch.tensordot(design, self.tables, 1))


@dataclass(frozen=True, slots=True)
class ConditionalRefit:
    """The change of head (K + 1, V, d), bias (K + 1, V) and table (K + 1, V, V), the shared ones first; and the fit.

    `loss` is the negative log-likelihood of the contexts before and after (weighted, nats per frame), `gradient` its
    largest component where the optimiser ended (standard errors).
    """

    head: Floats
    bias: Floats
    table: Floats
    n_contexts: int
    loss: tuple[float, float]
    gradient: float
    sweeps: int

    def describe(self) -> dict[str, float | int | bool]:
        """Return what a model's provenance says."""
        return {
            "n_contexts": self.n_contexts,
            "nll_before": self.loss[0],
            "nll_after": self.loss[1],
            "gradient": self.gradient,
            "converged": self.gradient <= GRADIENT,
            "sweeps": self.sweeps,
        }


class JointPosterior:
    """The sum of the posteriors of all conditions, as a function of one `Change`.

    Parameters
    ----------
    posteriors : sequence of Posterior
        Of each condition, without a ridge.
    design : Tensor, shape (M, K + 1)
        (1, phi) of each.
    ridge : float
        On the weights.
    """

    def __init__(self, posteriors: Sequence[Posterior], design: Tensor, ridge: float) -> None:
        self.posteriors, self.design, self.ridge = posteriors, design, ridge

    def zeros(self) -> Change:
        """Return no change."""
        trained, k = self.posteriors[0].trained, self.design.shape[1]
        return Change(*(torch.zeros_like(x).expand(k, *x.shape).clone() for x in (trained.head, trained.table)))

    def __call__(self, change: Change) -> tuple[float, Change]:
        """Return the negative log-posterior (nats, but for a constant) and its gradient."""
        tables = change.tables / PRIOR_WIDTH**2
        tables[0] = 0.0
        heads = self.ridge * change.heads
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
        rows = torch.zeros(n, dtype=torch.float64, device=seen.device)
        for posterior, one, design in zip(joint.posteriors, evidence, joint.design, strict=True):
            counts = one.target + kappa * one.prior
            rates = counts / counts.sum(dim=1, keepdim=True).clamp(min=1e-300)
            scatter = scatter_of(posterior.chunks, one)
            spread = (rates * (1.0 - rates)).T.to(scatter.dtype)
            own = (spread @ scatter.view(n, -1)).view(n, width, width).double()
            curvature += design[:, None, None, None] ** 2 * own
            steps = counts * (1.0 - rates)
            blocks += steps.flatten()[self.pairs][:, None, None] * torch.outer(design, design)
            rows += torch.where(seen, 0.0, steps).sum(dim=1)
        # The relative part keeps the factorisation from failing where features are (nearly) dependent.
        stiff = joint.ridge + 1e-3 * curvature.diagonal(dim1=2, dim2=3).mean(dim=2)
        curvature += stiff[..., None, None] * torch.eye(width).to(curvature)
        self.factors = torch.linalg.cholesky(curvature.flatten(0, 1))  # (K + 1) V of them
        prior = torch.full((size,), PRIOR_WIDTH**-2, dtype=torch.float64)
        prior[0] = 1e-2
        self.blocks = torch.linalg.cholesky(blocks + torch.diag(prior).to(blocks))
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


def minimise(joint: JointPosterior, start: Change, max_iterations: int, tolerance: float) -> tuple[Change, float, int]:
    """Return the maximum of the posterior, by L-BFGS, its largest gradient (std. errors), and how often it looked."""
    from scipy.optimize import minimize

    scaling = JointScaling(joint)

    def moved(x: Vector) -> Change:
        step = scaling.change(x)
        return Change(start.heads + step.heads, start.tables + step.tables)

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


def refit(
    models: Sequence[NanoGPT],
    features: NDArray[np.floating],
    groups: Sequence[Sequence[NDArray[Any]]],
    *,
    both_ways: bool = False,
    pseudocount: float = 10.0,
    ridge: float = 30.0,
    max_iterations: int = 100,
    burn_in: int | None = None,
    note: Callable[[str], None] | None = None,
) -> ConditionalRefit:
    """Fit the output layer of the models of some conditions to all their transitions.

    Parameters
    ----------
    models : sequence of NanoGPT
        The model at each condition; not changed.
    features : ndarray (M, K)
        phi.
    groups : sequence of sequences of 1-D integer arrays
        The tokens of each condition.
    both_ways, pseudocount, ridge, burn_in, note :
        As of `nanomd.training.refit.refit`.
    max_iterations : int
        Of L-BFGS.

    Raises
    ------
    InputError
        For more than 4096 states, or a condition without a transition after the burn-in.
    """
    check_range("pseudocount", pseudocount, 1e-3)
    check_range("ridge", ridge, 1e-3)
    n = models[0].config.n_states
    if n > MAX_STATES:
        raise InputError(f"refit needs at most {MAX_STATES} states, got {n}: set refit to off")
    numbers, contexts, rates = [], [], []
    for place, (model, tokens) in enumerate(zip(models, groups, strict=True)):
        if note is not None:
            note(f"output layer, contexts of condition {place + 1} of {len(models)}")
        read = [np.asarray(t) for t in tokens]
        read += [t[::-1] for t in read] if both_ways else []
        number, found = _contexts(model, read, burn_in, _MEMORY // len(models))
        numbers.append(number)
        contexts.append(found)
        counts = transition_counts(read, n)
        rates.append(torch.from_numpy(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)))
    layers = [OutputLayer.of_model(model) for model in models]
    device = layers[0].head.device
    ones = np.ones((len(models), 1))
    design = torch.from_numpy(np.concatenate([ones, features], axis=1)).to(device)

    def joint_of(stride: int) -> JointPosterior:
        posteriors = []
        for layer, all_of_them, rate in zip(layers, contexts, rates, strict=True):
            some = all_of_them.every(stride)
            chunks: Chunks = partial(list, [some])
            shown = torch.bincount(some.current * n + some.following, minlength=n * n).view(n, n).double()
            evidence = Evidence.gather(layer, chunks, shown, rate.to(device), stride)
            posteriors.append(Posterior(layer, chunks, evidence, pseudocount / len(models), 0.0))
        return JointPosterior(posteriors, design, ridge)

    change, gradient, sweeps = None, np.nan, 0
    for stride in sorted({-(-sum(map(len, contexts)) // _NEAR), 1}, reverse=True):
        if note is not None:
            note(f"output layer of {len(models)} conditions")
        joint = joint_of(stride)
        start = joint.zeros() if change is None else change
        change, gradient, looks = minimise(joint, start, max_iterations, GRADIENT if stride == 1 else _COARSE)
        sweeps += looks
    assert change is not None
    loss = joint.mean_loss(change)
    heads, tables = change.heads.float().cpu().numpy(), change.tables.float().cpu().numpy()
    return ConditionalRefit(heads[..., :-1], heads[..., -1], tables, sum(numbers), loss, gradient, sweeps)


def _contexts(model: NanoGPT, read: Sequence[NDArray[Any]], burn_in: int | None, memory: int) -> tuple[int, Contexts]:
    """Return the number of transitions with a context, and their contexts, or evenly spread ones of too many."""
    longest = max((len(t) for t in read), default=0)
    burn_in = default_burn_in(model.config, longest) if burn_in is None else burn_in
    pieces = find_pieces(model.config, [len(t) for t in read], burn_in)
    number = sum(piece.n_targets - piece.scored_from for piece in pieces)
    if not number:
        raise InputError(
            f"no trajectory of a condition has more than {burn_in + 1} frames, so there is nothing to fit; use longer "
            "ones"
        )
    share = -(-number // max(1, memory // (4 * (model.config.d_model + 1))))
    return number, collect_contexts(model, read, pieces[share // 2 :: share] or pieces[:1])
