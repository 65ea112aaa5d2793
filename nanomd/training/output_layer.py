r"""The output layer of a model and its posterior, given data: a value and a gradient, pure functions of the layer.

With features x (d of them, and a one for the bias), current state i and next state j,

.. math:: p(j | x, i) \propto \exp(w_j \cdot x + T_{ij})

and of a change (W', T') of the trained layer the negative logarithm of the posterior is

.. math:: - \sum_n c_n \ln p(j_n | x_n, i_n) - \sum_{ij} e_{ij} \ln p(j | \bar x_i, i)
          - \kappa \sum_{ij} q_{ij} \ln q'_{ij} + \tfrac{\lambda}{2} \sum_j |w'_j|^2,
          \quad q'_{ij} = \frac{q_{ij} e^{T'_{ij}}}{\sum_k q_{ik} e^{T'_{ik}}}

over contexts n with weights c, and transitions e that no context shows, added at the mean features \bar x of their
state; `Evidence` says where c, e, \bar x and q come from. It is convex. Adding a constant to a row of T' changes
nothing, so that the gradient of a row sums to zero: q must be normalised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from nanomd._native import sweep_output
from nanomd.model.contexts import Contexts
from nanomd.model.network import NanoGPT

_LARGEST_LOG = 80.0  # of a ratio of probabilities: finite in float32
_TILE = 1 << 17  # logits at once: they stay in a core's cache
_FLUSH = 1 << 16  # contexts that are summed in the products' own type
Chunks = Callable[[], Iterable[Contexts]]  # goes through the contexts


@dataclass(frozen=True, slots=True)
class OutputLayer:
    """The layer, a change of it, or a gradient; float64.

    Parameters
    ----------
    head : Tensor, shape (V, d + 1)
        W, its last column the bias.
    table : Tensor, shape (V, V)
        T, rows = current state.
    """

    head: Tensor
    table: Tensor

    @classmethod
    def of_model(cls, model: NanoGPT) -> Self:
        """Return the layer of a model; a table of zeros where it has no markov head.

        Where states stand in groups, that of the next group, without what the markov head says of single states.
        """
        grouped = bool(model.config.group_sizes)
        last = model.group if grouped else model.head
        head = torch.cat([last.weight, last.bias[:, None]], dim=1).detach().double()
        table = None if grouped else model.table
        n = len(head)
        own = torch.zeros((n, n), dtype=head.dtype, device=head.device) if table is None else table.detach().double()
        return cls(head, own)

    def __add__(self, change: OutputLayer) -> OutputLayer:
        return OutputLayer(self.head + change.head, self.table + change.table)

    def zeros(self) -> OutputLayer:
        """Return no change of this layer."""
        return OutputLayer(torch.zeros_like(self.head), torch.zeros_like(self.table))


@dataclass(frozen=True, slots=True)
class Sums:
    """Over weighted contexts: loss (nats), and expected minus observed transitions (V, V) and features (V, d + 1)."""

    loss: float
    transitions: Tensor
    features: Tensor


@torch.no_grad()
def sweep(
    layer: OutputLayer,
    contexts: Iterable[Contexts],
    weights: Tensor,
    *,
    features: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Sums:
    """Go through contexts with weights (V, V) by transition; products are of a dtype, sums of many float64.

    Where a state hardly changes, p is nearly 1 in all contexts but a few: 1 - p is summed from the other states,
    never as a difference, so that rates of 1e-6 keep their digits in float32.
    """
    if dtype == torch.float32 and layer.head.device.type == "cpu":
        return _compiled_sweep(layer, contexts, weights, features)
    head, table, weights = layer.head.T.to(dtype).contiguous(), layer.table.to(dtype), weights.to(dtype)
    loss = torch.zeros((), dtype=torch.float64, device=head.device)
    transitions, moments = torch.zeros_like(layer.table), torch.zeros_like(layer.head)
    recent, n_recent = torch.zeros_like(layer.head, dtype=dtype), 0
    tile = max(64, _TILE // len(table))
    for part in contexts:
        for one in part.by_state(tile):
            x, target = one.features.to(dtype), one.following[:, None]
            weight = weights[one.state][target]
            odds = torch.addmm(table[one.state], x, head)
            odds.sub_(odds.gather(1, target)).clamp_(max=_LARGEST_LOG).exp_().scatter_(1, target, 0.0)
            others = odds.sum(dim=1, keepdim=True)
            loss += (weight * others.log1p()).sum(dtype=torch.float64)
            # p of the other states, and p - 1 of the one that came
            share = weight / (1.0 + others)
            residual = odds.mul_(share).scatter_(1, target, -others * share)
            transitions[one.state] += residual.sum(dim=0)
            if features:
                recent.addmm_(residual.T, x)
                n_recent += len(x)
                if n_recent > _FLUSH:
                    moments += recent
                    recent.zero_()
                    n_recent = 0
    return Sums(float(loss), transitions, moments + recent)


def _compiled_sweep(layer: OutputLayer, contexts: Iterable[Contexts], weights: Tensor, features: bool) -> Sums:
    """Do the same in tiles that stay in a core's cache, from the products to the sums (`csrc/train/sweep.h`)."""
    head, table, weighted = (x.to(torch.float32).contiguous().numpy() for x in (layer.head, layer.table, weights))
    loss, transitions, moments = 0.0, torch.zeros_like(layer.table), torch.zeros_like(layer.head)
    for part in contexts:
        loss += sweep_output(
            head,
            table,
            weighted,
            part.features.to(torch.float32).contiguous().numpy(),
            part.current.contiguous().numpy(),
            part.following.contiguous().numpy(),
            transitions=transitions.numpy(),
            moments=moments.numpy() if features else None,
            n_threads=torch.get_num_threads(),
        )
    return Sums(loss, transitions, moments)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What data say about the layer, beside their contexts.

    Frames too near the start of a trajectory to have a rollout's context are no contexts, and of short trajectories
    they are many. Their transitions count nevertheless, so that mean rates are those of all frames.

    Parameters
    ----------
    weights : Tensor, shape (V, V)
        c: N'_ij / N_ij of a context that goes from i to j, N being the transitions of the contexts, and N' what N would
        be at the rates of all frames.
    target : Tensor, shape (V, V)
        N'.
    extra : Tensor, shape (V, V)
        e: N' of transitions that no context shows.
    prior : Tensor, shape (V, V)
        q: mean probabilities of the trained layer over the contexts of each state; zero in rows without contexts.
    centre : Tensor, shape (V, d + 1)
        Mean features of each state.
    seen : Tensor, shape (V, V)
        Whether the data show the transition.
    visited : Tensor, shape (V, 1)
        Whether the state has contexts. Of other states nothing is known: their rows of T stay.
    loss : float
        Of the trained layer, nats per context.
    """

    weights: Tensor
    target: Tensor
    extra: Tensor
    prior: Tensor
    centre: Tensor
    seen: Tensor
    visited: Tensor
    loss: float

    @classmethod
    def gather(cls, trained: OutputLayer, chunks: Chunks, shown: Tensor, rates: Tensor, stride: int = 1) -> Self:
        """Go through the contexts once.

        Parameters
        ----------
        trained : OutputLayer
        chunks : callable
        shown : Tensor, shape (V, V)
            Transitions of the contexts.
        rates : Tensor, shape (V, V)
            Transition probabilities of all frames; rows of zeros where there are none.
        stride : int
            How many contexts of the data each of these stands for.
        """
        visits = shown.sum(dim=1, keepdim=True)
        target = stride * visits * rates
        extra = torch.where(shown > 0, 0.0, target)
        weights = target / shown.clamp(min=1.0)
        total = torch.zeros_like(trained.head)  # of the features of each state

        def adding_up() -> Iterator[Contexts]:
            for part in chunks():
                for one in part.by_state():
                    total[one.state] += one.features.sum(dim=0)
                yield part

        sums = sweep(trained, adding_up(), weights, features=False)
        expected = (target - extra + sums.transitions).clamp(min=0.0)
        return cls(
            weights=weights,
            target=target,
            extra=extra,
            # The weights of a state's contexts do not add up to its visits where transitions have no context.
            prior=expected / expected.sum(dim=1, keepdim=True).clamp(min=1e-300),
            centre=total / visits.clamp(min=1.0),
            seen=target > 0,
            visited=visits > 0,
            loss=sums.loss / max(1.0, float(target.sum())),
        )


class Posterior:
    """The posterior of a change of the trained layer.

    Parameters
    ----------
    trained : OutputLayer
    chunks : callable
        Goes through the contexts.
    evidence : Evidence
    pseudocount, ridge : float
        kappa and lambda.
    dtype : torch.dtype
        Of the products over contexts.
    """

    def __init__(
        self,
        trained: OutputLayer,
        chunks: Chunks,
        evidence: Evidence,
        pseudocount: float,
        ridge: float,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.trained, self.chunks, self.evidence, self.dtype = trained, chunks, evidence, dtype
        self.pseudocount, self.ridge = pseudocount, ridge

    def __call__(self, change: OutputLayer) -> tuple[float, OutputLayer]:
        """Return the negative log-posterior (nats, but for a constant) and its gradient."""
        evidence, layer = self.evidence, self.trained + change
        sums = sweep(layer, self.chunks(), evidence.weights, dtype=self.dtype)
        logs, prior_logs = self._extra_logs(layer), self._prior_logs(change)
        value = (
            sums.loss
            - float((evidence.extra * logs).sum())
            - self.pseudocount * float((evidence.prior * prior_logs).sum())
            + 0.5 * self.ridge * float((change.head**2).sum())
        )
        surplus = evidence.extra.sum(dim=1, keepdim=True) * logs.exp() - evidence.extra
        pull = evidence.prior.sum(dim=1, keepdim=True) * prior_logs.exp() - evidence.prior
        head = sums.features + surplus.T @ evidence.centre + self.ridge * change.head
        return value, OutputLayer(head, sums.transitions + surplus + self.pseudocount * pull)

    def mean_loss(self, change: OutputLayer) -> float:
        """Return the negative log-likelihood of the contexts, weighted, nats per context."""
        sums = sweep(self.trained + change, self.chunks(), self.evidence.weights, features=False)
        return sums.loss / max(1.0, float(self.evidence.target.sum()))

    def transitions(self, change: OutputLayer) -> tuple[Tensor, Tensor]:
        """Return transitions (V, V) that are expected and wanted, those of the prior included: equal at the maximum."""
        evidence, layer = self.evidence, self.trained + change
        sums = sweep(layer, self.chunks(), evidence.weights, features=False)
        surplus = evidence.extra.sum(dim=1, keepdim=True) * self._extra_logs(layer).exp() - evidence.extra
        wanted = evidence.target + self.pseudocount * evidence.prior
        expected = evidence.target + sums.transitions + surplus
        return expected + self.pseudocount * self._prior_logs(change).exp() * evidence.visited, wanted

    def _extra_logs(self, layer: OutputLayer) -> Tensor:
        """Return ln p (V, V) at the mean features of each state."""
        return (self.evidence.centre @ layer.head.T + layer.table).log_softmax(dim=1)

    def _prior_logs(self, change: OutputLayer) -> Tensor:
        """Return ln q' (V, V)."""
        return (self.evidence.prior.clamp(min=1e-300).log() + change.table).log_softmax(dim=1)
