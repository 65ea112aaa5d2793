"""Transfer tensors: the memory of a projected dynamics, learnt from short times and carried to long ones.

The matrices T(n) of the probability to go from state to state in n steps obey, whatever the memory,

    T(n) = sum_{m=1..n} K(m) T(n - m),        T(0) = 1,

which defines the transfer tensors K(1), K(2), ... one after the other: K(1) = T(1), and every later one is what the
sum of its predecessors misses. For a Markov chain K(1) is all there is. Where K(m) is negligible beyond m = N, the sum
up to N carries T to any later time: a Markov model with a memory of N steps.

Sources: J. Cerrillo and J. Cao, Phys. Rev. Lett. 112, 110401 (2014), for the tensors; S. Cao, A. Montoya-Castillo, W.
Wang, T. E. Markland and X. Huang, J. Chem. Phys. 153, 014105 (2020), for the same in continuous time (quasi-MSM).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError
from nanomd.data.counts import largest_connected_set, transition_counts
from nanomd.kinetics.inputs import Traj

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

MAX_MATRIX_BYTES = 4 * 2**30  # of all T(n) of one model


def transfer_tensors(matrices: FloatArray) -> FloatArray:
    """Return the tensors K(1..N), (N, n, n), of the matrices T(1..N) of the same shape."""
    out = np.array(matrices, np.float64)
    for n in range(1, len(out)):
        for m in range(n):
            out[n] -= out[m] @ matrices[n - m - 1]
    return out


def propagate(tensors: FloatArray, steps: Sequence[int] | IntArray) -> FloatArray:
    """Return T (len(steps), n, n) after each of the rising numbers of steps, from zero on.

    Only the last N matrices are kept on the way. Noise in the tensors may give entries slightly below zero.
    """
    memory, size = len(tensors), tensors.shape[1]
    wanted = np.asarray(steps, np.int64)
    if wanted.size and (wanted.min() < 0 or (np.diff(wanted) < 0).any()):
        raise InputError(f"steps must rise from zero or more, got {wanted.tolist()}")
    out = np.empty((len(wanted), size, size))
    side_by_side = np.concatenate(list(tensors), axis=1)  # (n, N n): one product a step
    history = np.zeros((memory, size, size))  # T of the last steps, latest first
    history[0] = np.eye(size)
    step = 0
    for k, number in enumerate(wanted):
        while step < number:
            latest = side_by_side @ history.reshape(memory * size, size)
            history[1:] = history[:-1].copy()
            history[0] = latest
            step += 1
        out[k] = history[0]
    return out


def propagate_vector(tensors: FloatArray, start: FloatArray, n_steps: int) -> FloatArray:
    """Return the distributions (n_steps + 1, n) that follow the distribution `start` (n,).

    Tensors and matrices may change places in the sum (both are power series of the same operator), so that
    p(n) = sum_m p(n - m) K(m).
    """
    memory, size = len(tensors), tensors.shape[1]
    stacked = tensors.reshape(memory * size, size)
    out = np.zeros((memory + n_steps, size))  # rows before the start are zero
    out[memory - 1] = start
    for row in range(memory, memory + n_steps):
        out[row] = out[row - memory : row][::-1].reshape(-1) @ stacked
    return out[memory - 1 :]


def propagate_columns(tensors: FloatArray, columns: FloatArray, steps: Sequence[int] | IntArray) -> FloatArray:
    """Return T(n) @ columns, (len(steps), n, c), for columns (n, c), after each of the rising numbers of steps."""
    memory, size = len(tensors), tensors.shape[1]
    side_by_side = np.concatenate(list(tensors), axis=1)
    history = np.zeros((memory, size, columns.shape[1]))
    history[0] = columns
    out = np.empty((len(steps), *columns.shape))
    step = 0
    for k, number in enumerate(steps):
        while step < number:
            latest = side_by_side @ history.reshape(memory * size, -1)
            history[1:] = history[:-1].copy()
            history[0] = latest
            step += 1
        out[k] = history[0]
    return out


def spectral_radius(tensors: FloatArray) -> float:
    """Return the largest growth of a perturbation per step; above 1, propagation explodes.

    It is the largest absolute eigenvalue of the companion matrix of the sum, the stationary one (1) included.
    """
    memory, size = len(tensors), tensors.shape[1]
    if memory * size <= 400:
        companion = np.eye(memory * size, k=-size)
        companion[:size] = np.concatenate(list(tensors), axis=1)
        return float(abs(np.linalg.eigvals(companion)).max())
    from scipy.sparse.linalg import LinearOperator, eigs

    side_by_side = np.concatenate(list(tensors), axis=1)

    def step(vector: FloatArray) -> FloatArray:
        flat = np.ravel(vector)
        return np.concatenate([side_by_side @ flat, flat[:-size]])

    operator = LinearOperator((memory * size, memory * size), matvec=step, dtype=np.float64)
    values = eigs(operator, k=3, which="LM", v0=np.ones(memory * size), return_eigenvectors=False, tol=1e-6)
    return float(abs(values).max())


# --- Matrices from counts --------------------------------------------------------------------------------------------


def count_matrices(dtrajs: Sequence[Traj], n_states: int, lagtime: int, n_steps: int) -> FloatArray:
    """Count transitions at the lags lagtime, 2 lagtime, ..., n_steps lagtime within trajectories: (n_steps, n, n)."""
    size = 8 * n_steps * n_states**2
    if size > MAX_MATRIX_BYTES:
        raise InputError(
            f"{n_steps} count matrices of {n_states} states take {size / 2**30:.3g} GiB, at most "
            f"{MAX_MATRIX_BYTES / 2**30:.3g} are allowed; use a shorter memory, or macrostates"
        )
    out = np.empty((n_steps, n_states, n_states))
    for n in range(n_steps):
        out[n] = transition_counts(dtrajs, n_states, (n + 1) * lagtime)
    return out


def normalised(counts: FloatArray, reversible: bool) -> FloatArray:
    """Return row-stochastic T(1..N) of the counts (N, n, n) of connected states.

    With `reversible`, counts are added to their transposes first, as if every trajectory had also been seen backwards.
    A state that the data leave too late for a long lag gets the row of T(1) T(n - 1), that is, of no further memory.
    """
    counts = counts + counts.transpose(0, 2, 1) if reversible else counts
    totals = counts.sum(axis=2, keepdims=True)
    if not (totals[0] > 0).all():
        raise InputError("every state needs a transition at the shortest lag; use connected states only")
    out = counts / np.where(totals > 0, totals, 1.0)
    for n in range(1, len(out)):
        empty = totals[n, :, 0] == 0
        out[n, empty] = out[0, empty] @ out[n - 1]
    return np.asarray(out, np.float64)


def connected(counts: FloatArray, reversible: bool) -> IntArray:
    """Return the largest connected set of the counts (N, n, n) at the shortest lag."""
    first = counts[0] + counts[0].T if reversible else counts[0]
    if not first.any():
        raise InputError("there are no transitions at the shortest lag; use a shorter lagtime or longer trajectories")
    return largest_connected_set(first)


# --- Passage times with memory ---------------------------------------------------------------------------------------


def excursion_counts(
    dtrajs: Sequence[Traj],
    source: IntArray,
    target: IntArray,
    n_states: int,
    stride: int,
    memory: int,
    spans: IntArray | None = None,
    group: IntArray | None = None,
    n_groups: int = 1,
) -> FloatArray:
    """Count excursions: the process killed when it is back at the source, or at the target.

    Parameters
    ----------
    dtrajs : list of arrays
        States 0..n_states-1 (negative: unassigned; nothing is known of an excursion from there on).
    source, target : ndarray
        States.
    stride, memory : int
        Frames per step, and steps.
    spans, group, n_groups : optional
        Blocks of the trajectories (`nanomd._native.Blocks`), the group of every block, and the number of groups.

    Returns
    -------
    counts : ndarray (n_groups, memory, n_states, n_states + 2)
        From the state in which an excursion may begin or go on, to where it is after 1..memory steps; the last two
        columns are arrival at the target and return to the source.
    """
    kind = np.zeros(n_states + 1, np.int64)  # 0 on the way, 1 source, 2 target; the last for unassigned frames
    kind[source], kind[target], kind[-1] = 1, 2, 3
    width = n_states + 2
    size = n_states * width
    counts = np.zeros((n_groups, memory, size))
    for i, raw in enumerate(dtrajs):
        x = np.where(np.asarray(raw, np.int64) < 0, n_states, np.asarray(raw, np.int64))
        begins = np.flatnonzero(kind[x] < 2)
        current = x[begins]
        cell = current * width
        if spans is not None and group is not None:  # the group comes first in the index of a cell
            first, number = (int(v) for v in spans[i])
            cell = cell + size * group[first + begins * number // len(x)]
        for n in range(memory):
            inside = begins + (n + 1) * stride < len(x)  # the absorbed leave the data with the others: no bias
            begins, current, cell = begins[inside], current[inside], cell[inside]
            if not len(begins):
                break
            new = x[begins + (n + 1) * stride]
            gone = (current >= n_states) & (n > 0)
            arrived = np.where(kind[new] == 2, n_states, np.where(kind[new] == 1, n_states + 1, new))
            current = np.where(gone, current, arrived)
            known = gone | (kind[new] != 3)
            if not known.all():
                begins, current, cell = begins[known], current[known], cell[known]
            counts[:, n] += np.bincount(cell + current, minlength=n_groups * size).reshape(n_groups, size)
    return counts.reshape(n_groups, memory, n_states, width)


def mfpt_of_excursions(counts: FloatArray, source: IntArray, target: IntArray, stride: int) -> float:
    """Return the mean first passage time in frames of excursion counts (memory, n, n + 2), NaN where there is none.

    For any stationary process, seen every `stride` frames, the mean time from the first visit to the source after the
    target to the next visit to the target is the share of time in which the source came last over the rate of
    passages,

        stride (1 + sum_n P(X_1..X_n on the way | X_0 in source)) / P(next visit to either set is to the target | ...).

    Both sums run over excursions; those longer than the memory are carried on by transfer tensors, summed in closed
    form: sum_n T(n) = (1 - sum_m K(m))^-1. The long waiting in the source is never propagated.
    """
    memory, n = counts.shape[:2]
    totals = counts.sum(axis=2)
    free = np.ones(n, bool)
    free[target] = False
    # A state entered at the very end of the data only has no row, and what reaches it is never counted as an arrival.
    states = np.flatnonzero((totals[0] > 0) & free)
    k = len(states)
    inner = counts[:, states][:, :, np.append(states, [n, n + 1])]
    rows = inner.sum(axis=2, keepdims=True)
    matrices = np.zeros((memory, k + 2, k + 2))
    matrices[:, [k, k + 1], [k, k + 1]] = 1.0
    matrices[:, :k] = inner / np.where(rows > 0, rows, 1.0)
    for step in range(1, memory):
        empty = np.flatnonzero(rows[step, :, 0] == 0)
        matrices[step, empty] = matrices[0, empty] @ matrices[step - 1]
    start = np.where(np.isin(states, source), totals[0, states], 0.0)
    if start.sum() == 0:
        return float("nan")
    total = transfer_tensors(matrices).sum(axis=0)
    try:
        occupation = np.linalg.solve((np.eye(k) - total[:k, :k]).T, start / start.sum())
    except np.linalg.LinAlgError:
        return float("nan")
    arrivals = float(occupation @ total[:k, k])
    return float(stride * occupation.sum() / arrivals) if arrivals > 0 else float("nan")


def excursion_mfpt(
    dtrajs: Sequence[Traj], source: IntArray, target: IntArray, n_states: int, stride: int, memory: int
) -> float:
    """Return the mean first passage time in frames with a memory of some strides; see `mfpt_of_excursions`."""
    counts = excursion_counts(dtrajs, source, target, n_states, stride, memory)[0]
    return mfpt_of_excursions(counts, source, target, stride)
