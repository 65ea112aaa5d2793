r"""What a training takes from its data: how far apart frames are read, how much past, and whether both ways in time.

**Stride.** A model that reads every frame spends its window on the quickest motions, and its errors a frame add up
over the thousands of frames between two rare events. Read every s-th frame, with all s offsets as data, a step of the
model is s frames, the same window reaches s times further back, and what is left for the context to explain shrinks,
until at strides beyond the memory nothing is left and the model is the Markov model at that lag. The stride is such
that the context holds the memory (`nanomd.kinetics.time_scales`) in some 24 steps, at least ten frames where the
memory is that long, at most a twentieth of the slowest timescale, and short enough for trajectories to hold sixteen
steps.

**Both directions in time.** Equilibrium dynamics looks alike forwards and backwards, so that trajectories read
backwards are twice the data. Under detailed balance the two directions of n transitions between a pair of states are
n fair coins: :math:`\sum (n_{ij} - n_{ji})^2 / n` over pairs is then about the number of pairs, with a variance of
:math:`\sum 2 (1 - 1/n)`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nanomd.base.config import TrainConfig
from nanomd.data.counts import model_counts
from nanomd.data.dtrajs import stride_trajectories
from nanomd.kinetics.inputs import usable_length
from nanomd.kinetics.time_scales import TimeScales, slow_time_scales

WHOLE_MEMORY = 10  # frames: a memory up to here is spanned by one step
MEMORY_STEPS = 24  # steps that span a longer one: it fits into the context
SLOWEST_STEPS = 20  # steps in the slowest timescale, at least
LEAST_STEPS = 16  # steps in a trajectory, at least
LONGEST_CONTEXT = 32  # steps of context: several memories
SHORTEST_CONTEXT = 4
EPOCHS = 150  # times that a frame is read, at most
LEAST_UPDATES, MOST_UPDATES = 100, 800
# Beside what depends on the data: one observation of the prior a state keeps slow rates of many states from drifting.
AUTO_TRAINING: dict[str, Any] = {"refit_pseudocount": 1.0, "calibrate": True}
# Without it some hundred states of 60,000 frames are learnt by heart; with many data it costs next to nothing.
AUTO_MODEL: dict[str, Any] = {"dropout": 0.2}
LEAST_BATCH, MOST_BATCH = 32, 512  # windows
UPDATE_STEPS = 4096  # of an update, where windows are short: 32 windows of twenty steps teach little
IRREVERSIBLE = 4.0  # standard deviations of the currents; equilibrium data exceed it once in 30,000 times


@dataclass(frozen=True, slots=True)
class Plan:
    """How data are to be read.

    Parameters
    ----------
    stride : int
        Frames a step of the model.
    context_length : int
        W, in steps.
    time_reversal : bool
        Whether trajectories are read backwards too.
    batch_size, n_steps : int
        Windows an update, and updates.
    scales : TimeScales
        What the stride rests on.
    current : float
        Standard deviations by which the data's currents exceed those of detailed balance.
    """

    stride: int
    context_length: int
    time_reversal: bool
    batch_size: int
    n_steps: int
    scales: TimeScales
    current: float

    @classmethod
    def of(cls, stride: int, length: int, n_frames: int, scales: TimeScales, current: float) -> Self:
        """Size the training; `length` is that of a usual trajectory in frames, `n_frames` those of the data."""
        context = int(np.clip(length // stride // 2, SHORTEST_CONTEXT, LONGEST_CONTEXT))
        window = max(1, min(4 * context, length // stride))
        batch_size = int(np.clip(UPDATE_STEPS // window, LEAST_BATCH, MOST_BATCH))
        updates = -(-EPOCHS * n_frames // (batch_size * window))
        n_steps = int(np.clip(updates, LEAST_UPDATES, MOST_UPDATES))
        return cls(stride, context, current < IRREVERSIBLE, batch_size, n_steps, scales, current)

    def follow(
        self, model: dict[str, Any], train: TrainConfig, given: Collection[str]
    ) -> tuple[dict[str, Any], TrainConfig]:
        """Return the options of model and training, decided where the user did not: `model` and fields `given`."""
        decided = {
            **AUTO_TRAINING,
            "frame_stride": self.stride,
            "time_reversal": self.time_reversal,
            "batch_size": self.batch_size,
            "n_steps": self.n_steps,
        }
        shape = {**AUTO_MODEL, "context_length": self.context_length} | model
        return shape, train.replace(**{name: x for name, x in decided.items() if name not in given})

    def describe(self) -> list[str]:
        """Say in a line each what was chosen and why."""
        scales = self.scales
        every = "every frame" if self.stride == 1 else f"one frame in {self.stride}, all offsets"
        lines = [
            f"reads {every}: the slow processes (slowest {scales.slowest:.4g} frames) remember {scales.memory} frames"
            if np.isfinite(scales.slowest)
            else f"reads {every}: no two states are connected, so there are no timescales to go by"
        ]
        if scales.rising:
            lines.append(
                "warning: the slowest timescale still rises with the lag where it could last be measured, so that the "
                "model may be too fast; finer states or longer trajectories would show"
            )
        lines.append(
            "reads both ways in time: currents are those of equilibrium"
            if self.time_reversal
            else f"reads forwards only: currents exceed those of equilibrium by {self.current:.1f} standard deviations"
        )
        return lines


def make_plan(tokens: Sequence[NDArray[np.integer]], n_states: int, stride: int | None = None) -> Plan:
    """Look at the data and decide.

    Parameters
    ----------
    tokens : sequence of 1-D integer arrays
        States 0..n_states-1.
    n_states : int
    stride : int, optional
        Where it is decided already.
    """
    scales = slow_time_scales(tokens, n_states)
    length = usable_length([np.asarray(t) for t in tokens])
    stride = choose_stride(scales, length) if stride is None else stride
    strided = stride_trajectories(tokens, stride)
    # One offset: transitions of the others are not independent of its own.
    current = excess_current(model_counts(strided[::stride], n_states))
    return Plan.of(stride, length, sum(map(len, strided)), scales, current)


def choose_stride(scales: TimeScales, length: int) -> int:
    """Return the frames a step: see the head of this module. `length` is that of a usual trajectory, in frames."""
    wanted = max(min(scales.memory, WHOLE_MEMORY), scales.memory // MEMORY_STEPS)
    most = length // LEAST_STEPS
    if np.isfinite(scales.slowest):
        most = min(most, int(scales.slowest / SLOWEST_STEPS))
    return max(1, min(wanted, most))


def excess_current(counts: Any) -> float:
    """Return by how many standard deviations currents between states exceed those of detailed balance.

    Parameters
    ----------
    counts : ndarray or sparse matrix (n, n)
        Transitions, one after the other; where trajectories remember, currents are smaller still.
    """
    if isinstance(counts, np.ndarray):
        upper = np.triu_indices(len(counts), 1)
        there, back = counts[upper].astype(np.float64), counts.T[upper].astype(np.float64)
    else:
        from scipy.sparse import triu

        row, column = triu(counts + counts.T, 1).coords
        there, back = counts[row, column].astype(np.float64), counts[column, row].astype(np.float64)
    both, net = there + back, there - back
    both, net = both[both > 0], net[both > 0]
    variance = float((2.0 * (1.0 - 1.0 / both)).sum())
    return float(((net**2 / both).sum() - len(both)) / np.sqrt(variance)) if variance > 0 else 0.0
