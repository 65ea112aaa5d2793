r"""The last fit of a model whose states stand in groups: three convex problems, one after the other.

**Groups.** Which group comes next is fitted as the state is in a model without groups (`nanomd.training.refit`): by the
features and a table of the current group. Few decisions, each seen often.

**Rows.** At the edge of a group its states leave it a thousand times as often as inside, and features of a small width
do not tell all of V states apart. Every state i gets a row of its own beside that of its group, by iterative scaling of

.. math:: p(g | x, i) \propto \exp(v_g \cdot x + T_{g(i) g} + R_{ig})

to the mean rates of the data from i to every group, with \kappa observations in every state that say what the first fit
makes of its contexts. Groups that the data never show from i share one offset.

**Members.** Of every group, which member is entered, by the features: a multinomial regression over the contexts that
lead there, with a ridge towards the trained weights, scaled by the features' second moments, by L-BFGS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the usual name

from nanomd.data.groups import to_groups
from nanomd.model.contexts import Contexts
from nanomd.model.grouped_head import group_of
from nanomd.model.network import NanoGPT
from nanomd.training.output_layer import OutputLayer
from nanomd.training.refit import DataRead, fit_layer, read_data

ROW_STEPS = 8  # of the iterative scaling of rows
MEMBER_ITERATIONS = 20  # of L-BFGS, in each group
_MEMORY = 1 << 28  # bytes of features
_CHUNK = 1 << 13  # contexts whose probabilities of all groups are held at once


def refit_groups(
    model: NanoGPT,
    trajectories: Sequence[NDArray[Any]],
    *,
    both_ways: bool = False,
    pseudocount: float = 10.0,
    ridge: float = 30.0,
    max_iterations: int = 60,
    burn_in: int | None = None,
    note: Callable[[str], None] | None = None,
) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
    """Fit the output layer of a model with groups; arguments as of `nanomd.training.refit.refit`.

    Returns
    -------
    tensors : dict
        ``group.weight``, ``group.bias``, ``head.weight``, ``head.bias`` and ``markov.weight`` (V, G), float32.
    record : dict
        What the model's provenance says.
    """
    config = model.config
    # Of more contexts a part is fitted, to the rates of all frames: tables of states by groups take memory, too.
    data = replace(read_data(model, trajectories, both_ways, burn_in, _MEMORY), share=1)
    group = group_of(config, model.embedding.weight.device)
    coarse = fit_layer(
        OutputLayer.of_model(model),
        in_groups(data, config.group_sizes, group),
        pseudocount,
        ridge,
        max_iterations,
        note,
    )
    layer = torch.from_numpy(np.column_stack([coarse.head, coarse.bias])).to(group.device)
    table = torch.from_numpy(coarse.table).to(group.device)[group]
    if note is not None:
        note("output layer, rows of the states")
    table += fit_rows(layer, table, data.contexts, data.labels, group, pseudocount)
    head = torch.cat([model.head.weight, model.head.bias[:, None]], dim=1).detach().clone()
    before, after = fit_members(head, data.contexts, config.group_starts, group, ridge, note)
    arrays = {name: value.float().cpu().numpy() for name, value in (("head", head), ("table", table))}
    tensors = {
        "group.weight": coarse.head,
        "group.bias": coarse.bias,
        "head.weight": arrays["head"][:, :-1].copy(),
        "head.bias": arrays["head"][:, -1].copy(),
        "markov.weight": arrays["table"],
    }
    return tensors, coarse.describe() | {"nll_members_before": before, "nll_members_after": after}


def in_groups(data: DataRead, sizes: Sequence[int], group: Tensor) -> DataRead:
    """Return the same contexts with the groups of states in place of the states."""

    def regroup(part: Contexts) -> Contexts:
        # Tokens are numbered group by group: contexts of a group stand together as those of a state did.
        return Contexts(part.features, group[part.current], group[part.following])

    def everything() -> Iterator[Contexts]:
        return map(regroup, data.everything())

    return replace(data, labels=to_groups(data.labels, sizes), contexts=regroup(data.contexts), everything=everything)


def fit_rows(
    layer: Tensor,
    table: Tensor,
    contexts: Contexts,
    labels: Sequence[NDArray[Any]],
    group: Tensor,
    pseudocount: float,
) -> Tensor:
    """Return R (V, G): what brings the mean rates from every state to every group to those of the data.

    Parameters
    ----------
    layer : Tensor, shape (G, d + 1)
        Of the groups, its last column the bias.
    table : Tensor, shape (V, G)
        The row of every state's group.
    contexts : Contexts
    labels : sequence of 1-D integer arrays
        Every frame.
    group : Tensor, shape (V,)
    pseudocount : float
    """
    visits = torch.bincount(contexts.current, minlength=len(table)).to(table.dtype)[:, None]
    # Transitions of the contexts, were they at the rates of all frames.
    wanted = _transitions(labels, group, table)
    wanted *= visits / wanted.sum(dim=1, keepdim=True).clamp(min=1.0)
    seen = wanted > 0
    rows = torch.zeros_like(table)
    prior = want = torch.empty(0)
    for step in range(ROW_STEPS):
        have = _expected(layer, table, rows, contexts)
        if step == 0:
            prior = have / visits.clamp(min=1.0)
            want = _together(wanted.add_(prior, alpha=pseudocount), seen)
        leaning = (prior.clamp(min=1e-30).log_().add_(rows)).softmax(dim=1)
        have = _together(have.add_(leaning, alpha=pseudocount), seen)
        possible = (visits > 0) & (want > 0) & (have > 0)
        rows += torch.where(possible, want / have, 1.0).log_()
    return rows


def _transitions(labels: Sequence[NDArray[Any]], group: Tensor, table: Tensor) -> Tensor:
    """Count transitions of all frames from states to groups, in the shape of `table` (V, G)."""
    counts = torch.zeros_like(table)
    one = torch.ones((), dtype=table.dtype, device=table.device)
    for trajectory in labels:
        steps = torch.from_numpy(np.asarray(trajectory).astype(np.int64)).to(table.device)
        counts.index_put_((steps[:-1], group[steps[1:]]), one, accumulate=True)
    return counts


def _together(transitions: Tensor, seen: Tensor) -> Tensor:
    """Give what the data never show the sum over it of its row: it shares one offset."""
    return torch.where(seen, transitions, torch.where(seen, 0.0, transitions).sum(dim=1, keepdim=True))


def _expected(layer: Tensor, table: Tensor, rows: Tensor, contexts: Contexts) -> Tensor:
    """Return the transitions (V, G) from states to groups that a model expects of its contexts."""
    expected = torch.zeros_like(table)
    for x, current in zip(torch.split(contexts.features, _CHUNK), torch.split(contexts.current, _CHUNK), strict=True):
        logits = (x @ layer.T).add_(table[current]).add_(rows[current])
        expected.index_add_(0, current, logits.softmax(dim=1))
    return expected


def fit_members(
    head: Tensor,
    contexts: Contexts,
    starts: Sequence[int],
    group: Tensor,
    ridge: float,
    note: Callable[[str], None] | None = None,
) -> tuple[float, float]:
    """Fit the rows (V, d + 1) of every group's members, in place; returns the loss before and after, nats a context."""
    entered = group[contexts.following]
    order = entered.argsort(stable=True)
    numbers = torch.bincount(entered, minlength=len(starts) - 1).tolist()
    before = after = 0.0
    for g, rows in enumerate(torch.split(order, numbers)):
        first, last = starts[g], starts[g + 1]
        if len(rows) and last - first > 1:
            if note is not None:
                note(f"output layer, members of group {g + 1} of {len(numbers)}")
            x, member = contexts.features[rows], contexts.following[rows] - first
            head[first:last], losses = _fit_members(head[first:last], x, member, ridge)
            before, after = before + losses[0], after + losses[1]
    return before / max(1, len(entered)), after / max(1, len(entered))


def _fit_members(start: Tensor, x: Tensor, member: Tensor, ridge: float) -> tuple[Tensor, tuple[float, float]]:
    """Fit the rows (size, d + 1) of one group's members; returns them and the loss before and after (nats)."""
    from scipy.optimize import minimize

    size, width = start.shape
    share = torch.bincount(member, minlength=size).double() / len(x)
    # The curvature of row j is nearly n_j times the second moments of the features where it is entered, plus the ridge.
    moments = (x.T @ x).double() / len(x)
    eye = torch.eye(width, dtype=torch.float64, device=x.device)
    values, vectors = torch.linalg.eigh(moments + 1e-6 * moments.diagonal().mean() * eye)
    scale = (len(x) * (share * (1 - share))[:, None] * values[None, :] + ridge).rsqrt()  # (size, d + 1)

    def change(theta: NDArray[np.float64]) -> Tensor:
        scaled = torch.from_numpy(theta).to(x.device).view(size, width) * scale
        return torch.matmul(scaled, vectors.T)

    def objective(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        moved = change(theta)
        log_p = F.log_softmax(x @ (start + moved.to(start.dtype)).T, dim=1)
        loss = -float(log_p.gather(1, member[:, None]).sum(dtype=torch.float64))
        residual = log_p.exp_()
        residual[torch.arange(len(x), device=x.device), member] -= 1.0
        gradient = (residual.T @ x).double() + ridge * moved
        losses.append(loss)
        return loss + 0.5 * ridge * float((moved**2).sum()), ((gradient @ vectors) * scale).flatten().cpu().numpy()

    losses: list[float] = []
    found = minimize(
        objective, np.zeros(size * width), jac=True, method="L-BFGS-B",
        options={"maxiter": MEMBER_ITERATIONS, "maxfun": 2 * MEMBER_ITERATIONS, "gtol": 0.1, "ftol": 0},
    )  # fmt: skip
    objective(found.x)
    return (start + change(found.x).to(start.dtype)), (losses[0], losses[-1])
