"""How long a memory-kernel model should remember: what held-out data say."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd.base.checks import check_range
from nanomd.kinetics import markov
from nanomd.kinetics import transfer_tensors as tt
from nanomd.kinetics.inputs import check_lagtime, trajectories, usable_length

FloatArray = NDArray[np.float64]

MAX_DEFAULT_MEMORY = 100  # steps, where the memory is chosen
_FOLDS = 4
_SLOW_PROCESSES = 5
_GROWTH = 1e-4  # per step: rounding, not an explosion


def choose_memory(
    dtrajs: Any,
    lagtime: int = 1,
    *,
    longest: int | None = None,
    reversible: bool = True,
    n_states: int | None = None,
) -> tuple[int, dict[int, float]]:
    """Choose the memory by cross-validation: what carries the slow processes best to times that were held out.

    The data are cut into four folds. For each, tensors of the other three are propagated to all times up to `longest`
    and compared with the matrices counted in the fold, in the subspace of the slowest processes (at most five) of
    the Markov model of all data: noise of the many fast ones would hide what matters. The longest memory whose mean
    squared error is within one standard error of the least, and with which propagation is stable, is taken: times
    beyond the trajectories cannot be held out, there a memory that is too short errs most, and one that is too long
    costs little.

    Parameters
    ----------
    dtrajs : list of arrays
    lagtime : int
        Frames per step.
    longest : int, optional
        Greatest memory that is tried, in steps; by default half of the usual length of a trajectory, at most 100.
    reversible : bool
    n_states : int, optional

    Returns
    -------
    memory : int
        In steps.
    scores : dict of int to float
        Root mean squared error, by memory.
    """
    trajs = trajectories("dtrajs", dtrajs)
    n = 1 + max(int(x.max()) for x in trajs) if n_states is None else n_states
    length = usable_length(trajs)
    check_lagtime(lagtime, length)
    limit = min(max((length - 1) // (2 * lagtime), 1), MAX_DEFAULT_MEMORY) if longest is None else longest
    check_range("longest", limit, 1, (length - 1) // lagtime)
    folds = _folds(trajs, limit * lagtime)
    if limit == 1 or len(folds) < 2:
        return 1, {}
    parts = [tt.count_matrices(fold, n, lagtime, limit) for fold in folds]
    total = np.sum(parts, axis=0)
    active = tt.connected(total, reversible)
    square = (slice(None), active[:, None], active[None, :])
    model = markov.estimate_markov_model(total[0] + total[0].T, lagtime)  # symmetric: any set connected is so both ways
    _, right, left = model.eigen(min(_SLOW_PROCESSES, len(model.active) - 1))
    right, left = right[active], left[active]
    candidates = [int(x) for x in np.unique(np.round(np.geomspace(1, limit, 14)).astype(int))]
    steps = np.arange(1, limit + 1)
    errors = np.full((len(folds), len(candidates)), np.nan)
    for f, part in enumerate(parts):
        rest = tt.normalised(_with_rows(total[square] - part[square], total[square]), reversible)
        held = tt.normalised(_with_rows(part[square], total[square]), reversible)
        wanted = np.einsum("ik,nij,jl->nkl", left, held, right)
        tensors = tt.transfer_tensors(rest)
        for c, memory in enumerate(candidates):
            carried = tt.propagate(tensors[:memory], steps)
            errors[f, c] = np.mean((np.einsum("ik,nij,jl->nkl", left, carried, right) - wanted) ** 2)
    mean = errors.mean(axis=0)
    best = int(np.argmin(mean))
    # Folds differ much, and alike for all candidates: the error of the difference is what counts.
    spread = (errors - errors[:, best : best + 1]).std(axis=0, ddof=1) / np.sqrt(len(folds))
    good = [candidates[i] for i in np.flatnonzero(mean <= mean[best] + spread)]
    tensors = tt.transfer_tensors(tt.normalised(total[square], reversible))
    stable = [memory for memory in good if tt.spectral_radius(tensors[:memory]) < 1 + _GROWTH]
    return max(stable, default=candidates[best]), {
        memory: float(np.sqrt(e)) for memory, e in zip(candidates, mean, strict=True)
    }


def _folds(trajs: list[NDArray[np.integer]], longest: int) -> list[list[NDArray[np.integer]]]:
    """Deal trajectories to four folds, long ones cut into as many pieces as stay longer than twice `longest`."""
    pieces: list[NDArray[np.integer]] = []
    for x in trajs:
        n = max(1, min(_FOLDS, len(x) // (2 * longest + 1)))
        pieces += [np.asarray(part) for part in np.array_split(x, n)] if len(trajs) < 2 * _FOLDS else [x]
    return [pieces[k::_FOLDS] for k in range(min(_FOLDS, len(pieces)))]


def _with_rows(counts: FloatArray, total: FloatArray) -> FloatArray:
    """Mix in one part in a thousand of all data, so that no state of a fold is without a row."""
    return counts + 1e-3 * total
