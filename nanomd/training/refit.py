r"""A last fit of the output layer to all the data: the rates of rare transitions without the noise of the training.

Rare transitions decide the slow kinetics, and a batch holds few of them. The rates that a training ends with carry the
noise of its last batches, and a transition that the data never show keeps the probability that the softmax has not yet
pushed down. With the layers below held as they are, the rest is a convex problem: a multinomial logistic regression of
the next state on what the head reads, x, and on the current state i, whose row of the table T (the markov head; a model
without one gets it) is added,

.. math:: p(j | x, i) \propto \exp(w_j \cdot x + T_{ij})

over every transition of the data. Its maximum says that the model makes, on the contexts of the data, as many steps
from i to j as the data do, for every i and j, and that the same holds with every feature as a weight: mean rates are
those of the data, as in a Markov model, while the layers below say how they depend on the past.

Frames too near the start of a trajectory to have a rollout's context (`burn_in`) are no contexts here, and of short
trajectories they are many. Their transitions count nevertheless: every context is weighted by N'_ij / N_ij, N' being
what N would be at the rates of *all* frames, and a transition that is not among the contexts is added at the mean
features of its state.

Few data are guarded by priors that say "as trained", q being the trained model's mean over the data:

.. math:: \kappa \sum_{ij} q_{ij} \ln q'_{ij} - \tfrac{\lambda}{2} \sum_j |w_j - w_j^{0}|^2

kappa observations in every state, q' their probabilities under the new table, and a ridge. Of transitions that the data
never show, kappa q of the leak is kept, in a row with n observations about kappa / n of what was there.

The table alone is brought near its maximum by generalised iterative scaling (Darroch and Ratcliff, 1972), whose steps
are closed expressions; then all parameters together by L-BFGS, each scaled by its curvature
(`nanomd.training.preconditioner`). The posterior itself is `nanomd.training.output_layer`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
from nanomd.model.contexts import Contexts, collect_contexts, default_burn_in, find_pieces, iterate_contexts
from nanomd.model.network import NanoGPT
from nanomd.model.scoring import Piece
from nanomd.training.output_layer import Chunks, Evidence, OutputLayer, Posterior
from nanomd.training.preconditioner import minimise

MAX_STATES = 4096  # the table has their square
SCALING_STEPS = 2  # of the table alone at first: most of the way at no price
MAX_SCALING_STEPS = 10  # at the end, where the data are too many to be kept
GRADIENT = 0.1  # in units of the parameters' standard errors: nearer the maximum the data cannot tell
# Contexts that are enough to come near the maximum: of more, a part is fitted first, to a coarser gradient.
_NEAR, _COARSE = 1 << 18, 0.5
# Bytes of features kept; beyond, evenly spread pieces of the data fit the weights, and the table is brought to the mean
# rates of all of them.
_MEMORY = 1 << 30


@dataclass(frozen=True, slots=True)
class Refit:
    """The result of a fit of the output layer.

    Parameters
    ----------
    head : ndarray, shape (V, d)
    bias : ndarray, shape (V,)
    table : ndarray, shape (V, V)
        Of the markov head. All float32.
    n_contexts : int
        Transitions of the data that were used.
    before, after : float
        Negative log-likelihood of the contexts, weighted, nats per frame.
    gradient : float
        The largest component of the posterior's gradient where the optimiser ended, in standard errors of the
        parameters; NaN where the table alone was fitted.
    converged : bool
        Whether that is small enough for the data not to tell the result from the maximum.
    sweeps : int
        Times that the data were gone through.
    """

    head: NDArray[np.float32]
    bias: NDArray[np.float32]
    table: NDArray[np.float32]
    n_contexts: int
    before: float
    after: float
    gradient: float
    converged: bool
    sweeps: int

    def describe(self) -> dict[str, float | int | bool | None]:
        """Return what a model's provenance says."""
        return {
            "n_contexts": self.n_contexts,
            "nll_before": self.before,
            "nll_after": self.after,
            "gradient": None if np.isnan(self.gradient) else self.gradient,
            "converged": self.converged,
            "sweeps": self.sweeps,
        }


def refit(
    model: NanoGPT,
    trajectories: Sequence[NDArray[Any]],
    *,
    both_ways: bool = False,
    pseudocount: float = 10.0,
    ridge: float = 30.0,
    max_iterations: int = 60,
    burn_in: int | None = None,
    note: Callable[[str], None] | None = None,
) -> Refit:
    r"""Fit the output layer of a model to all transitions of trajectories.

    Parameters
    ----------
    model : NanoGPT
        Not changed. The work is done on its device.
    trajectories : sequence of 1-D integer arrays
        Tokens.
    both_ways : bool
        Read trajectories backwards too, as a training with `time_reversal`.
    pseudocount : float
        kappa: observations in every state that say "as trained"; at least 1e-3.
    ridge : float
        lambda, at least 1e-3.
    max_iterations : int
        Of L-BFGS; 0 fits the mean rates alone, by the table.
    burn_in : int, optional
        Frames at the start of each trajectory that are context only; W - 1 with rotary positions (at most half of the
        longest trajectory), 0 with learned ones when None.
    note : callable, optional
        Told how far the work is.

    Raises
    ------
    InputError
        For more than 4096 states, or no transition after the burn-in.
    """
    check_range("pseudocount", pseudocount, 1e-3)
    check_range("ridge", ridge, 1e-3)
    check_range("max_iterations", max_iterations, 0)
    n = model.config.n_states
    if n > MAX_STATES:
        raise InputError(f"refit needs at most {MAX_STATES} states, got {n}: set refit to off")
    data = read_data(model, trajectories, both_ways, burn_in)
    return fit_layer(OutputLayer.of_model(model), data, pseudocount, ridge, max_iterations, note)


@dataclass(frozen=True, slots=True)
class DataRead:
    """What a fit reads of its data.

    Parameters
    ----------
    labels : sequence of 1-D integer arrays
        Every frame, forwards and where asked for backwards.
    pieces : sequence of Piece
        What has a rollout's context.
    number : int
        Contexts in all of them.
    share : int
        Of how many contexts one is kept.
    contexts : Contexts
        Those that are.
    everything : callable
        Goes through all of them.
    """

    labels: Sequence[NDArray[Any]]
    pieces: Sequence[Piece]
    number: int
    share: int
    contexts: Contexts
    everything: Chunks


def read_data(
    model: NanoGPT,
    trajectories: Sequence[NDArray[Any]],
    both_ways: bool,
    burn_in: int | None = None,
    memory: int | None = None,
) -> DataRead:
    """Collect the contexts of trajectories, up to `memory` bytes of features; see `refit`."""
    longest = max((len(trajectory) for trajectory in trajectories), default=0)
    burn_in = default_burn_in(model.config, longest) if burn_in is None else burn_in
    read = [np.asarray(t) for t in trajectories]
    if both_ways:
        read += [t[::-1] for t in read]
    pieces = find_pieces(model.config, [len(t) for t in read], burn_in)
    number = sum(piece.n_targets - piece.scored_from for piece in pieces)
    if not number:
        raise InputError(
            f"no trajectory has more than {burn_in + 1} frames, so there is nothing to fit; use longer ones"
        )
    share = -(-number // max(1, (_MEMORY if memory is None else memory) // (4 * (model.config.d_model + 1))))
    contexts = collect_contexts(model, read, pieces[share // 2 :: share] or pieces[:1])
    return DataRead(read, pieces, number, share, contexts, partial(iterate_contexts, model, read, pieces))


def fit_layer(
    trained: OutputLayer,
    data: DataRead,
    pseudocount: float,
    ridge: float,
    max_iterations: int,
    note: Callable[[str], None] | None = None,
) -> Refit:
    """Fit an output layer to what was read; see `refit` for the arguments."""
    n = len(trained.table)
    sweeps = _Sweeps(note)
    rates = _rates(transition_counts(data.labels, n), trained.table)

    def posterior_of(chunks: Chunks, shown: Tensor, stride: int = 1) -> Posterior:
        evidence = Evidence.gather(trained, sweeps.counting(chunks), shown, rates, stride)
        return Posterior(trained, sweeps.counting(chunks), evidence, pseudocount, ridge)

    contexts = data.contexts
    change, gradient = trained.zeros(), np.nan
    for stride in sorted({-(-len(contexts) // _NEAR), 1}, reverse=True):
        some = contexts.every(stride)
        pairs = torch.bincount(some.current * n + some.following, minlength=n * n)
        posterior = posterior_of(partial(list, [some]), pairs.view(n, n).double(), stride)
        change = scale_table(posterior, change, SCALING_STEPS)
        if max_iterations:
            found = minimise(posterior, change, max_iterations, GRADIENT if stride == 1 else _COARSE)
            change, gradient = found.change, found.gradient
    before = posterior.evidence.loss
    if data.share > 1:  # the mean rates at least see everything
        scored = [data.labels[p.trajectory][p.start + p.scored_from : p.start + p.n_targets + 1] for p in data.pieces]
        shown = torch.from_numpy(transition_counts(scored, n)).to(trained.table)
        posterior = posterior_of(data.everything, shown)
        before = posterior.evidence.loss
        change = scale_table(posterior, change, MAX_SCALING_STEPS)
    after = posterior.mean_loss(change)
    converged = not max_iterations or gradient <= GRADIENT
    layer = trained + change
    head, table = layer.head.float().cpu().numpy(), layer.table.float().cpu().numpy()
    return Refit(
        head=head[:, :-1].copy(),
        bias=head[:, -1].copy(),
        table=table,
        n_contexts=data.number,
        before=before,
        after=after,
        gradient=gradient,
        converged=converged,
        sweeps=sweeps.number,
    )


def scale_table(posterior: Posterior, change: OutputLayer, max_steps: int) -> OutputLayer:
    """Meet the mean rates of the contexts by the table alone: generalised iterative scaling.

    Ends after `max_steps`, or where every rate is met within `GRADIENT` standard errors.
    """
    seen, visited = posterior.evidence.seen, posterior.evidence.visited
    for _ in range(max_steps):
        have, want = (_together(x, seen) for x in posterior.transitions(change))
        possible = visited & (want > 0) & (have > 0)
        change = OutputLayer(change.head, change.table + torch.where(possible, want / have, 1.0).log())
        if float(((have - want).abs() * possible / want.clamp(min=1.0).sqrt()).max()) <= GRADIENT:
            break
    return change


def _together(transitions: Tensor, seen: Tensor) -> Tensor:
    """Give transitions (V, V) that the data never show the sum over those of their state: they share one offset."""
    return torch.where(seen, transitions, torch.where(seen, 0.0, transitions).sum(dim=1, keepdim=True))


def _rates(counts: NDArray[np.int64], like: Tensor) -> Tensor:
    return torch.from_numpy(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)).to(like)


class _Sweeps:
    """Counts how often the data are gone through, and says so."""

    def __init__(self, note: Callable[[str], None] | None) -> None:
        self.number, self.note = 0, note

    def counting(self, chunks: Chunks) -> Chunks:
        def counted() -> Iterable[Contexts]:
            self.number += 1
            if self.note is not None:
                self.note(f"output layer, sweep {self.number}")
            return chunks()

        return counted
