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
are closed expressions; then all parameters together by L-BFGS, each scaled by its curvature. Transitions of a state
that the data never show share one parameter, so that the number of parameters is that of the transitions seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanomd.base.config import check_range
from nanomd.base.errors import InputError
from nanomd.data.counts import transition_counts
from nanomd.model.contexts import Contexts, default_burn_in, find_pieces, iterate_contexts
from nanomd.model.network import NanoGPT

MAX_STATES = 4096  # the table has their square
SCALING_STEPS = 2  # of the table alone at first: most of the way at no price
MAX_SCALING_STEPS = 10  # at the end, where the data are too many to be kept
GRADIENT = 0.1  # in units of the parameters' standard errors: nearer the maximum the data cannot tell
_CURVATURE_CONTEXTS = 65536
_LARGEST_LOG = 80.0  # of a ratio of probabilities: finite in float32
# Bytes of features kept, and logits of a sweep; beyond, evenly spread pieces of the data fit the weights, and the table
# is brought to the mean rates of all of them.
_MEMORY, _LOGITS = 1 << 30, 1 << 30


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
        Negative log-likelihood of those that the head was fitted to, weighted, nats per frame.
    sweeps : int
        Times that the data were gone through.
    """

    head: NDArray[np.float32]
    bias: NDArray[np.float32]
    table: NDArray[np.float32]
    n_contexts: int
    before: float
    after: float
    sweeps: int

    def describe(self) -> dict[str, float | int]:
        """Return what a model's provenance says."""
        return {
            "n_contexts": self.n_contexts,
            "nll_before": self.before,
            "nll_after": self.after,
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
    if model.config.n_states > MAX_STATES:
        raise InputError(f"refit needs at most {MAX_STATES} states, got {model.config.n_states}: set refit to off")
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
    limit = min(_MEMORY // (4 * (model.config.d_model + 1)), _LOGITS // model.config.n_states)
    share = -(-number // max(1, limit))
    kept = pieces[share // 2 :: share] or pieces[:1]
    parts = list(iterate_contexts(model, read, kept))
    contexts = Contexts(
        torch.cat([part.features for part in parts]),
        torch.cat([part.current for part in parts]),
        torch.cat([part.following for part in parts]),
    )
    del parts
    counts = transition_counts(trajectories, model.config.n_states).astype(np.float64)
    counts = counts + counts.T if both_ways else counts
    problem = _Problem(model, contexts, counts, pseudocount, ridge, note)
    problem.scale_table(contexts.chunks, SCALING_STEPS)
    if max_iterations:
        problem.minimise(max_iterations)
    after = problem.mean_loss()
    if share > 1:  # the mean rates at least see everything
        scored = [read[p.trajectory][p.start + p.scored_from : p.start + p.n_targets + 1] for p in pieces]
        problem.weigh(transition_counts(scored, model.config.n_states).astype(np.float64))
        problem.scale_table(lambda: iterate_contexts(model, read, pieces), MAX_SCALING_STEPS)
    return problem.result(number, after)


@dataclass(frozen=True, slots=True)
class _Sweep:
    """Sums over weighted contexts: loss; of transitions (V, V) and features (V, d + 1) expected minus observed."""

    loss: float
    surplus: Tensor
    features: Tensor


class _Problem:
    """The parameters of the output layer, W (V, d + 1) and T (V, V), and their posterior given the contexts.

    Free are the change of W, and an offset of T for every transition that was seen and for the others of each state
    together. Sums are float64, products float32 as in training.
    """

    def __init__(
        self,
        model: NanoGPT,
        contexts: Contexts,
        counts: NDArray[np.float64],
        pseudocount: float,
        ridge: float,
        note: Callable[[str], None] | None,
    ) -> None:
        n = model.config.n_states
        self.n_states, self.contexts, self.note = n, contexts, note
        self.pseudocount, self.ridge = pseudocount, ridge
        self.head0 = torch.cat([model.head.weight, model.head.bias[:, None]], dim=1).detach().clone()
        own, device = model.table, self.head0.device
        self.table0 = torch.zeros((n, n), device=device) if own is None else own.detach().clone()
        self.change = torch.zeros(self.head0.shape, dtype=torch.float64, device=device)
        self.offset = torch.zeros((n, n), dtype=torch.float64, device=device)
        self.sweeps = 0
        self.rates = torch.from_numpy(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)).to(device)
        pairs = torch.bincount(contexts.current * n + contexts.following, minlength=n * n)
        self.weigh(pairs.view(n, n).double().cpu().numpy())
        self.seen = self.target > 0
        visits = self.target.sum(dim=1, keepdim=True)
        self.visited = visits > 0  # of other states nothing is known: their rows stay
        sums = torch.zeros(self.head0.shape, dtype=torch.float64, device=device)
        for part in contexts.chunks():
            sums += torch.zeros_like(self.head0).index_add_(0, part.current, part.features)
        self.centre = sums / visits.clamp(min=1.0)
        first = self._sweep(contexts.chunks())
        self._first: _Sweep | None = first
        self.before = first.loss / len(contexts)
        self.prior = (self.target - self.extra + first.surplus).clamp(min=0.0) / visits.clamp(min=1.0)

    def weigh(self, observed: NDArray[np.float64]) -> None:
        """Set the weights of contexts with these transitions (V, V), and the transitions that none of them shows."""
        seen = torch.from_numpy(observed).to(self.rates)
        self.target = seen.sum(dim=1, keepdim=True) * self.rates
        self.extra = torch.where(seen > 0, 0.0, self.target)
        self.weights = (self.target / seen.clamp(min=1.0)).float()

    @torch.no_grad()
    def _sweep(self, chunks: Iterable[Contexts], features: bool = False) -> _Sweep:
        """Go through contexts with the present parameters.

        Where a state hardly changes, p is nearly 1 in all contexts but a few: 1 - p is summed from the other states,
        never as a difference, so that rates of 1e-6 keep their digits in float32.
        """
        self.sweeps += 1
        if self.note is not None:
            self.note(f"output layer, sweep {self.sweeps}")
        n, device = self.n_states, self.head0.device
        head, table = (self.head0 + self.change).float(), (self.table0 + self.offset).float()
        loss = torch.zeros((), dtype=torch.float64, device=device)
        surplus = torch.zeros((n, n), dtype=torch.float64, device=device)
        moments = torch.zeros(head.shape, dtype=torch.float64, device=device)
        for part in chunks:
            target = part.following[:, None]
            weights = self.weights[part.current, part.following][:, None]
            odds = (part.features @ head.T).add_(table[part.current])
            odds.sub_(odds.gather(1, target)).clamp_(max=_LARGEST_LOG).exp_().scatter_(1, target, 0.0)
            others = odds.sum(dim=1, keepdim=True)
            loss += (weights * others.log1p()).double().sum()
            # p of the other states, and p - 1 of the one that came
            residual = odds.div_(1.0 + others).scatter_(1, target, -others / (1.0 + others)).mul_(weights)
            surplus += torch.zeros((n, n), device=device).index_add_(0, part.current, residual)
            if features:
                moments += residual.T @ part.features
        return _Sweep(float(loss), surplus, moments)

    def _extra_logs(self) -> Tensor:
        """Return ln p (V, V) at the mean features of each state, where transitions that no context shows are added."""
        return (self.centre @ (self.head0 + self.change).T + self.table0 + self.offset).log_softmax(dim=1)

    def _prior_logs(self) -> Tensor:
        """Return ln q' (V, V): the prior's observations under the present table."""
        return (self.prior.clamp(min=1e-300).log() + self.offset).log_softmax(dim=1)

    def scale_table(self, chunks: Callable[[], Iterable[Contexts]], steps: int) -> None:
        """Meet the mean rates of the contexts by the table alone: generalised iterative scaling."""
        for _ in range(steps):
            sweep = self._first if self._first is not None else self._sweep(chunks())
            self._first = None
            want = self.target + self.pseudocount * self.prior
            more = self.extra.sum(dim=1, keepdim=True) * self._extra_logs().exp() - self.extra
            have = self.target + sweep.surplus + more + self.pseudocount * self._prior_logs().exp()
            possible = self.visited & (want > 0) & (have > 0)
            self.offset += torch.where(possible, want / have, 1.0).log()
            if float(((have - want).abs() * possible / want.clamp(min=1.0).sqrt()).max()) <= GRADIENT:
                return

    @torch.no_grad()
    def _scales(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return what makes the curvature of each parameter about one.

        Lower Cholesky factors (V, d + 1, d + 1) for the features, and standard errors of the offsets: (V, V) of the
        transitions seen, (V, 1) of the others of a state together.
        """
        contexts = self.contexts
        every = max(1, -(-len(contexts) // _CURVATURE_CONTEXTS))
        x, current = contexts.features[::every], contexts.current[::every]
        logits = x @ (self.head0 + self.change).float().T + (self.table0 + self.offset).float()[current]
        p = logits.softmax(dim=1)
        spread = p * (1.0 - p)
        width = x.shape[1]
        factors = torch.empty((self.n_states, width, width), dtype=torch.float64, device=x.device)
        eye = torch.eye(width, dtype=torch.float64, device=x.device)
        for state in range(self.n_states):
            weighted = (x * spread[:, state, None]).T @ x
            curvature = weighted.double() * (len(contexts) / len(x))
            # The relative part keeps the factorisation from failing where features are (nearly) dependent.
            curvature += (self.ridge + 1e-3 * curvature.diagonal().mean()) * eye
            factors[state] = torch.linalg.cholesky(curvature)
        counts = self.target + self.pseudocount * self.prior
        counts *= 1.0 - counts / counts.sum(dim=1, keepdim=True).clamp(min=1.0)
        others = torch.where(self.seen, 0.0, counts).sum(dim=1, keepdim=True)
        return factors, counts.clamp(min=1e-2).rsqrt(), others.clamp(min=1e-2).rsqrt()

    def minimise(self, max_iterations: int) -> None:
        """Bring all parameters together to the maximum of the posterior, by L-BFGS."""
        from scipy.optimize import minimize

        factors, seen_scale, others_scale = self._scales()
        pairs = self.seen.flatten().nonzero()[:, 0]
        n_head, n_pairs = self.head0.numel(), len(pairs)
        start = self.change.clone(), self.offset.clone()
        upper = factors.transpose(1, 2)

        def place(x: NDArray[np.float64]) -> None:
            """Set the parameters from scaled ones."""
            values = torch.from_numpy(x).to(self.head0.device)
            step = values[:n_head].view(self.head0.shape)[..., None]
            self.change = start[0] + torch.linalg.solve_triangular(upper, step, upper=True)[..., 0]
            rows = values[n_head + n_pairs :, None] * others_scale
            move = torch.where(self.seen, 0.0, rows.expand(self.seen.shape)).flatten()
            move[pairs] = values[n_head : n_head + n_pairs] * seen_scale.flatten()[pairs]
            self.offset = start[1] + move.view(self.seen.shape)

        def value(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            """Return the negative log-posterior and its gradient in scaled parameters."""
            place(x)
            sweep = self._sweep(self.contexts.chunks(), features=True)
            logs = self._prior_logs()
            prior = self.pseudocount * float((self.prior * logs).sum())
            ridge = 0.5 * self.ridge * float((self.change**2).sum())
            at_centre = self._extra_logs()
            extra = float((self.extra * at_centre).sum())
            more = self.extra.sum(dim=1, keepdim=True) * at_centre.exp() - self.extra
            by_head = sweep.features + more.T @ self.centre + self.ridge * self.change
            scaled = torch.linalg.solve_triangular(factors, by_head[..., None], upper=False)
            by_table = sweep.surplus + more + self.pseudocount * (logs.exp() - self.prior)
            by_table = torch.where(self.visited, by_table, 0.0)
            by_pair = (by_table * seen_scale).flatten()[pairs]
            by_row = (torch.where(self.seen, 0.0, by_table).sum(dim=1, keepdim=True) * others_scale)[:, 0]
            gradient = torch.cat([scaled.flatten(), by_pair, by_row])
            return sweep.loss - extra + ridge - prior, gradient.cpu().numpy()

        found = minimize(
            value,
            np.zeros(n_head + n_pairs + self.n_states),
            jac=True,
            method="L-BFGS-B",
            options={
                "maxiter": max_iterations,
                "maxfun": 2 * max_iterations,
                "maxcor": 20,
                "gtol": GRADIENT,
                "ftol": 0,
            },
        )
        place(found.x)

    def mean_loss(self) -> float:
        """Return nats per context at the present parameters."""
        return self._sweep(self.contexts.chunks()).loss / len(self.contexts)

    def result(self, n_contexts: int, after: float) -> Refit:
        """Return the parameters that were found."""
        head = (self.head0 + self.change).float().cpu().numpy()
        table = (self.table0 + self.offset).float().cpu().numpy()
        return Refit(head[:, :-1].copy(), head[:, -1].copy(), table, n_contexts, self.before, after, self.sweeps)
