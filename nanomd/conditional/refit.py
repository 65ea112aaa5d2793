r"""The last fit of the output layer (`nanomd.training.refit`) to the transitions of all conditions at once.

The layer at a condition c has the head and the table

.. math:: W(c) = W_0 + \sum_k \phi_k(c) \, W_k, \qquad T(c) = T_0 + \sum_k \phi_k(c) \, T_k

so that the posterior is the sum of those of the conditions (`nanomd.training.output_layer`), each of its own layer; the
gradients of :math:`W_k` and :math:`T_k` are :math:`\sum_c \phi_k(c) \, g_c`. It is convex as each of them is. With
phi = 1/T and rates that are small a step, this is Arrhenius' law for every step from every past. A transition that was
not seen at one condition has the rate that the others say.

Few data tell no dependence: the ridge on the weights is ten times as strong for W_k as for W_0, and tables have a prior

.. math:: \tfrac{1}{2 s^2} \sum_k |T_k|^2

with s = 3 for a feature of spread one. The other priors are those of a refit; the kappa observations of a state are
dealt to the conditions as its visits are, so that where there are hardly any data the others decide.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nanomd.base.checks import check_memory, check_range
from nanomd.base.errors import InputError
from nanomd.conditional.joint_layer import JointPosterior, minimise
from nanomd.data.counts import transition_counts
from nanomd.model.contexts import Contexts, collect_contexts, default_burn_in, find_pieces
from nanomd.model.network import NanoGPT
from nanomd.training.output_layer import Chunks, Evidence, OutputLayer, Posterior
from nanomd.training.refit import MAX_STATES

Floats = NDArray[np.float32]

FINE = 0.02  # of the gradient, in standard errors: what hardly any data tell is to stay where the others put it
_NEAR, _COARSE = 1 << 18, 0.5  # contexts that are enough to come near the maximum, and how near
_TABLES = 8  # of float64 for each feature, on the way
_MEMORY = 1 << 30  # bytes of features; beyond, evenly spread pieces are fitted


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
            "converged": self.gradient <= FINE,
            "sweeps": self.sweeps,
        }


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
    check_memory(
        _TABLES * 8 * (1 + features.shape[1]) * n**2,
        f"the last fit of {n} states and {features.shape[1]} features of conditions",
        "use fewer states, or set refit to off",
    )
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

    visits = torch.stack([torch.bincount(one.current, minlength=n) for one in contexts]).double()
    shares = visits / visits.sum(dim=0).clamp(min=1.0)

    def joint_of(stride: int) -> JointPosterior:
        posteriors = []
        for layer, all_of_them, rate, share in zip(layers, contexts, rates, shares, strict=True):
            some = all_of_them.every(stride)
            chunks: Chunks = partial(list, [some])
            shown = torch.bincount(some.current * n + some.following, minlength=n * n).view(n, n).double()
            evidence = Evidence.gather(layer, chunks, shown, rate.to(device), stride)
            evidence = dataclasses.replace(evidence, prior=share[:, None] * evidence.prior)
            posteriors.append(Posterior(layer, chunks, evidence, pseudocount, 0.0))
        return JointPosterior(posteriors, design, ridge)

    change, gradient, sweeps = None, np.nan, 0
    for stride in sorted({-(-sum(map(len, contexts)) // _NEAR), 1}, reverse=True):
        if note is not None:
            note(f"output layer of {len(models)} conditions")
        joint = joint_of(stride)
        change, gradient, looks = minimise(joint, change, max_iterations, FINE if stride == 1 else _COARSE)
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
