"""The memory-kernel Markov model: a Markov state model with a memory of several steps, the strongest classical rival.

It is learnt with the transfer-tensor method (`nanomd.kinetics.transfer_tensors`), from nothing but counts at short
lags; so, like a GPT, it can use trajectories that are much shorter than the slow processes, if longer than the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd.base.checks import check_choice, check_range
from nanomd.base.errors import InputError
from nanomd.base.units import Duration, GivenInterval, in_frames
from nanomd.data.counts import stationary_vector
from nanomd.kinetics import markov
from nanomd.kinetics import transfer_tensors as tt
from nanomd.kinetics.inputs import check_lagtime, trajectories
from nanomd.kinetics.memory_choice import choose_memory

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
MfptMethod = Literal["excursions", "markov"]


@dataclass(frozen=True)
class MemoryKernelModel:
    """Transfer tensors, and all that follows from them. Arrays have the length of the state space.

    Parameters
    ----------
    tensors : ndarray (memory, k, k)
        K(1), K(2), ... of the k connected states; one step is `lagtime` frames.
    active : ndarray of int64 (k,)
        Which states these are, sorted.
    n_states : int
        Size of the state space. A state that is not active stays where it is, and has no stationary share.
    lagtime : int
        Frames per step.
    dtrajs : list of arrays
        The trajectories behind it, for `mfpt`; may be empty.
    scores : dict of int to float
        Where the memory was chosen: held-out error by memory, see `choose_memory`.
    """

    tensors: FloatArray
    active: IntArray
    n_states: int
    lagtime: int = 1
    dtrajs: list[NDArray[np.integer]] = field(default_factory=list, repr=False)
    scores: dict[int, float] = field(default_factory=dict)

    @classmethod
    def from_matrices(cls, matrices: ArrayLike, lagtime: int = 1) -> Self:
        """Build the model of known matrices T(1..memory), (memory, n, n), of connected states."""
        known = np.asarray(matrices, np.float64)
        if known.ndim != 3 or known.shape[1] != known.shape[2] or 0 in known.shape:
            raise InputError(f"matrices must have the shape (memory, n, n), got {known.shape}")
        if not np.allclose(known.sum(axis=2), 1, atol=1e-6):
            raise InputError("every row of every matrix must sum to 1")
        n = known.shape[1]
        return cls(tt.transfer_tensors(known), np.arange(n, dtype=np.int64), n, lagtime)

    @property
    def memory(self) -> int:
        """Number of tensors: the memory in steps of `lagtime`."""
        return len(self.tensors)

    @property
    def stationary_distribution(self) -> FloatArray:
        """(n_states,), unchanged by propagation; zero outside the active states."""
        out = np.zeros(self.n_states)
        out[self.active] = stationary_vector(self.tensors.sum(axis=0))
        return out

    @property
    def populations(self) -> FloatArray:
        """(n_states,), the same as `stationary_distribution`."""
        return self.stationary_distribution

    @property
    def kernel_norms(self) -> FloatArray:
        """(memory,): Frobenius norm of every tensor; how fast the memory fades."""
        return np.asarray(np.sqrt((self.tensors**2).sum(axis=(1, 2))), np.float64)

    @property
    def growth(self) -> float:
        """Largest growth per step of a perturbation: 1 for a sound model; above it, noise makes propagation explode."""
        return tt.spectral_radius(self.tensors)

    def transition_matrices(self, n_steps: Sequence[int] | IntArray) -> FloatArray:
        """Return T (len(n_steps), n_states, n_states) after rising numbers of steps of `lagtime` frames."""
        inner = tt.propagate(self.tensors, n_steps)
        out = np.tile(np.eye(self.n_states), (len(inner), 1, 1))
        out[:, self.active[:, None], self.active[None, :]] = inner
        return out

    def transition_matrix(self, n_steps: int = 1) -> FloatArray:
        """Return T (n_states, n_states) after `n_steps` steps; rows sum to 1, noise may make entries negative."""
        check_range("n_steps", n_steps, 0)
        return np.asarray(self.transition_matrices([n_steps])[0], np.float64)

    def propagate(self, start: ArrayLike, n_steps: int) -> FloatArray:
        """Return the populations (n_steps + 1, n_states) that follow the distribution `start` (n_states,).

        The start is taken to be drawn from equilibrium within each state, as the tensors are.
        """
        check_range("n_steps", n_steps, 0)
        p = np.asarray(start, np.float64)
        if p.shape != (self.n_states,) or not (p >= 0).all() or not np.isclose(p.sum(), 1):
            raise InputError(f"start must hold {self.n_states} populations that sum to 1, got {p.shape}")
        out = np.tile(p, (n_steps + 1, 1))
        out[:, self.active] = tt.propagate_vector(self.tensors, p[self.active], n_steps)
        return out

    def timescales(self, lagtime: int | None = None, n_timescales: int = 5) -> FloatArray:
        """Return implied timescales in frames, slowest first, NaN where there are no more.

        They are -lagtime / ln of the eigenvalues of T propagated to `lagtime` frames, rounded up to whole steps; by
        default four times the memory, where hardly anything but the slow processes is left.
        """
        steps = 4 * self.memory if lagtime is None else -(-lagtime // self.lagtime)
        check_range("lagtime", steps, 1)
        values = np.linalg.eigvals(tt.propagate(self.tensors, [steps])[0])
        values = np.sort(values.real)[::-1][1 : n_timescales + 1]
        out = np.full(n_timescales, np.nan)
        out[: len(values)] = markov.eigenvalue_timescales(values, steps * self.lagtime)
        return out

    def chapman_kolmogorov(self, macrostate: ArrayLike, n_steps: Sequence[int]) -> FloatArray:
        """Return the probabilities (len(n_steps), m) to be in a macrostate so many steps after equilibrium in it."""
        labels = self._labels(macrostate)
        m = int(labels.max()) + 1
        member = (labels[:, None] == np.arange(m)).astype(np.float64)
        start = member * self.stationary_distribution[:, None]
        with np.errstate(all="ignore"):
            start /= start.sum(axis=0)
        matrices = self.transition_matrices(n_steps)
        return np.asarray(np.einsum("im,cij,jm->cm", start, matrices, member), np.float64)

    def mfpt(
        self,
        source: Sequence[int] | IntArray,
        target: Sequence[int] | IntArray,
        *,
        stride: int | None = None,
        method: MfptMethod | None = None,
    ) -> float:
        """Return the mean first passage time in frames, from the first visit of `source` after `target` to the next.

        Parameters
        ----------
        source, target : sequences of int
            Sets of states.
        stride : int, optional
            Passages are those of someone who looks every stride-th frame; a multiple of `lagtime`, by default equal.
        method : "excursions" or "markov", optional
            "excursions": transfer tensors of the process that is killed at its return to the source or its arrival at
            the target, counted in the trajectories; exact where the memory suffices, at every stride, also where the
            states are far from Markovian (`nanomd.kinetics.transfer_tensors.excursion_mfpt`). "markov": the passage
            time of a Markov chain of the propagated T(stride), as is usual with quasi-MSMs; right where the stride
            exceeds the memory by much, the only way where trajectories are no longer than the stride. By default
            "excursions" wherever the trajectories allow.

        Raises
        ------
        InputError
            For sets that overlap or are empty, a stride that is no multiple, and "excursions" without trajectories.
        """
        sets = []
        for name, states in (("source", source), ("target", target)):
            index = np.unique(np.asarray(states, np.int64))
            if index.size == 0 or index[0] < 0 or index[-1] >= self.n_states:
                raise InputError(f"{name} must name states in [0, {self.n_states - 1}], got {index.tolist()}")
            sets.append(index)
        if np.isin(sets[0], sets[1]).any():
            raise InputError("source and target must not share states")
        step = self.lagtime if stride is None else stride
        if step < 1 or step % self.lagtime:
            raise InputError(f"stride must be a multiple of lagtime {self.lagtime}, got {step}")
        longest = max((len(x) for x in self.dtrajs), default=0)
        if method is None:
            method = "excursions" if longest > step else "markov"
        check_choice("method", method, MfptMethod)
        if method == "excursions":
            if longest <= step:
                raise InputError(f"method excursions needs trajectories longer than stride {step}; use method markov")
            # A stride beyond the memory still sees some: excursions are remembered two strides longer.
            usable = min(-(-self.memory * self.lagtime // step) + 2, (longest - 1) // step)
            return tt.excursion_mfpt(self.dtrajs, sets[0], sets[1], self.n_states, step, usable)
        labels = np.full(self.n_states, -1, np.int64)
        labels[sets[0]], labels[sets[1]] = 0, 1
        matrix = self.transition_matrix(step // self.lagtime)
        # The chain of T(stride) must come with its own stationary vector, for passages to and fro to be as frequent.
        pi = np.zeros(self.n_states)
        pi[self.active] = stationary_vector(matrix[np.ix_(self.active, self.active)])
        return float(step * markov.passage_times(matrix, pi, labels, 2)[0, 1])

    def mfpts(self, macrostate: ArrayLike, **options: Any) -> FloatArray:
        """Return `mfpt` between all macrostates, (m, m), NaN on the diagonal; `macrostate` (n_states,), -1 for none."""
        labels = self._labels(macrostate)
        m = int(labels.max()) + 1
        out = np.full((m, m), np.nan)
        for a in range(m):
            for b in range(m):
                if a != b and (labels == a).any() and (labels == b).any():
                    out[a, b] = self.mfpt(np.flatnonzero(labels == a), np.flatnonzero(labels == b), **options)
        return out

    def _labels(self, macrostate: ArrayLike) -> IntArray:
        labels = np.asarray(macrostate, np.int64)
        if labels.shape != (self.n_states,) or labels.max() < 0:
            raise InputError(
                f"macrostate must give a label for each of {self.n_states} states, got shape {labels.shape}"
            )
        return labels


class MemoryKernelEstimator:
    """Learns transfer tensors from counts.

    Parameters
    ----------
    lagtime : int or str
        Frames per step of the memory, or a time such as ``"1 ns"``.
    memory : int, optional
        Number of steps that are remembered; shorter than the trajectories. By default chosen by `choose_memory`.
    reversible : bool
        Count every trajectory backwards too, which halves the noise of equilibrium data and makes the populations those
        of the data. Wrong for driven systems, and for trajectories that start far from equilibrium.
    frame_interval : str or FrameInterval, optional
        Time of a frame, such as ``"0.2 ns"``; needed for a lag that is a time.
    """

    def __init__(
        self,
        lagtime: Duration = 1,
        memory: int | None = None,
        *,
        reversible: bool = True,
        frame_interval: GivenInterval = None,
    ) -> None:
        if memory is not None:
            check_range("memory", memory, 1)
        self.lagtime = in_frames(lagtime, frame_interval, "lagtime", 1)
        self.memory = memory
        self.reversible = reversible
        self._model: MemoryKernelModel | None = None

    def fit(self, dtrajs: Any, *, n_states: int | None = None) -> Self:
        """Count in trajectories of states 0..n_states-1 (negative: unassigned), and take the counts apart.

        Raises
        ------
        InputError
            For empty data, and a memory that no trajectory is longer than.
        """
        trajs = trajectories("dtrajs", dtrajs)
        highest = 1 + max(int(x.max()) for x in trajs)
        if n_states is not None and n_states < highest:
            raise InputError(f"n_states must be at least {highest}, the highest state plus one, got {n_states}")
        n = highest if n_states is None else n_states
        scores: dict[int, float] = {}
        memory = self.memory
        if memory is None:
            memory, scores = choose_memory(trajs, self.lagtime, reversible=self.reversible, n_states=n)
        check_lagtime(self.lagtime * memory, max(len(x) for x in trajs))
        counts = tt.count_matrices(trajs, n, self.lagtime, memory)
        active = tt.connected(counts, self.reversible)
        inner = counts[:, active[:, None], active[None, :]]
        tensors = tt.transfer_tensors(tt.normalised(inner, self.reversible))
        self._model = MemoryKernelModel(tensors, active, n, self.lagtime, trajs, scores)
        return self

    def fetch_model(self) -> MemoryKernelModel:
        """Return the model of the last fit."""
        if self._model is None:
            raise InputError("MemoryKernelEstimator has no model yet: call fit first")
        return self._model
