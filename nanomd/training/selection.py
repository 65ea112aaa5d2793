r"""Weights chosen by kinetics: short rollouts during the training, scored against MD that the training has not seen.

The loss of the next frame hardly feels the rare transitions on which populations and timescales rest, so that its
lowest value is no sign of the best kinetics. The score is, over a few quantities q,

.. math:: S = \frac1n \sum_q \left( \frac{q_\text{model} - q_\text{MD}}{\sigma_q} \right)^2

with q the logits of the populations of the macrostates and the logarithms of the leading timescales, and \sigma_q the
standard error of the MD's own value, by bootstrap over blocks of several slowest timescales. A trap that was visited
once has a large \sigma, and so a small say. The errors are the MD's alone: those of the rollouts would favour models
that scatter. A right model has S near 1 + r, r = frames of the MD over frames of the rollouts: what is left is the
scatter of both. (The quantities are correlated, so that n S is no exact chi square.)

What is measured, and how, is `nanomd.matching.slow_kinetics`. The MD that judges is the held-out part, or, where that
is shorter than 20 slowest timescales, the training MD itself.

All rounds draw the same random numbers, which takes some of the scatter out of their differences. Chosen are the latest
weights whose score is within r of the lowest.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nanomd.base.config import ModelConfig
from nanomd.base.errors import InputError
from nanomd.base.nvtx import annotate
from nanomd.base.units import FrameInterval
from nanomd.data.states import StateMap
from nanomd.matching.rollouts import CHAIN_TIMESCALES, RELAXATION_TIMESCALES, UNDEFINED, roll_out
from nanomd.matching.slow_kinetics import Measured, NothingSlowError, SlowKinetics
from nanomd.model.files import ModelFiles, Starts

ROUNDS = 5  # evenly spaced in the last half of the training, the last step included
HELD_OUT_TIMESCALES = 20.0  # shorter held-out data cannot judge
CHAINS = 16  # as many as share a vector register
FRAMES_PER_REFERENCE_FRAME = 4.0  # rollouts need not be more precise than that
MAX_FRAMES = 20_000_000  # of one round, for the memory


def selection_steps(n_steps: int) -> tuple[int, ...]:
    """Return after which optimiser steps rollouts are scored."""
    return tuple(sorted({max(1, round(n_steps * (0.5 + 0.5 * k / ROUNDS))) for k in range(1, ROUNDS + 1)}))


@dataclass(frozen=True, slots=True)
class KineticsReference:
    """What rollouts are scored against.

    Parameters
    ----------
    slow : SlowKinetics
        What is measured.
    md : Measured
        Of the MD that judges.
    n_frames : int
        Of that MD.
    held_out : bool
        Whether it is the held-out part.
    """

    slow: SlowKinetics
    md: Measured
    n_frames: int
    held_out: bool

    @classmethod
    def make(
        cls, training: Sequence[NDArray[Any]], validation: Sequence[NDArray[Any]], n_states: int, seed: int = 0
    ) -> Self:
        """Take from the training MD what is measured, and its values from the held-out MD where that is enough.

        Raises
        ------
        InputError
            Where the training MD shows no process slower than the lag, or its errors cannot be told.
        """
        try:
            slow = SlowKinetics.of_data(training, n_states)
        except NothingSlowError as error:
            raise InputError(
                f"select must be loss or last for these data: {error}; give longer trajectories to select by kinetics"
            ) from None
        held_out = [np.asarray(x) for x in validation if len(x) >= 2]
        frames, longest = sum(map(len, held_out)), max(map(len, held_out), default=0)
        enough = frames >= HELD_OUT_TIMESCALES * slow.timescale and longest > slow.lagtime
        judge = held_out if enough else [np.asarray(x) for x in training if len(x) >= 2]
        md = slow.of_md(judge, seed)
        if not np.isfinite(md.error).any():
            raise InputError(
                "select must be loss or last for these data: the sampling error of their kinetics cannot be told; "
                "give more data to select by kinetics"
            )
        return cls(slow, md, n_frames=sum(map(len, judge)), held_out=enough)

    def score(self, dtrajs: Sequence[NDArray[Any]]) -> float:
        """Return S of trajectories of a model."""
        value, known = self.slow.of_model(dtrajs).value, np.isfinite(self.md.error)
        difference = np.where(np.isfinite(value), value - self.md.value, UNDEFINED)
        return float(np.mean((difference[known] / self.md.error[known]) ** 2))

    def describe(self) -> dict[str, Any]:
        """Return what is fixed, in plain values, for the record."""
        judge = "held-out MD" if self.held_out else "training MD: the held-out part is too short to judge"
        macrostate = self.slow.macrostate
        return {
            "reference": judge,
            "reference_frames": self.n_frames,
            "lagtime": self.slow.lagtime,
            "slowest_timescale": self.slow.timescale,
            "n_macrostates": 0 if macrostate is None else int(macrostate.max()) + 1,
            "n_processes": self.slow.right.shape[1],
            "n_quantities": int(np.isfinite(self.md.error).sum()),
        }


class KineticsSelector:
    """Rolls a model out and scores it, at a few steps of a training.

    Parameters
    ----------
    model : ModelConfig
    training, validation : sequences of 1-D integer arrays
        Tokens.
    n_steps : int
        Optimiser steps of the training.
    frames : int
        Frames that the whole training reads: all rounds together generate no more than that. A frame costs the compiled
        sampler a fraction of what it costs the training, forward and backward.
    seed : int
    cuda : bool
        Roll out on the GPU where the compiled engine can.
    n_threads : int, optional
    """

    def __init__(
        self,
        model: ModelConfig,
        training: Sequence[NDArray[Any]],
        validation: Sequence[NDArray[Any]],
        *,
        n_steps: int,
        frames: int,
        seed: int = 0,
        cuda: bool = False,
        n_threads: int | None = None,
    ) -> None:
        self.reference = KineticsReference.make(training, validation, model.n_states)
        self.steps = selection_steps(n_steps)
        self.model, self.seed, self.cuda, self.n_threads = model, seed, cuda, n_threads
        wanted = min(FRAMES_PER_REFERENCE_FRAME * self.reference.n_frames, frames / len(self.steps), MAX_FRAMES)
        slow = self.reference.slow
        self.n_trajs = max(1, min(CHAINS, int(wanted / (CHAIN_TIMESCALES * slow.timescale))))
        self.n_frames = max(int(wanted) // self.n_trajs, 8 * slow.lagtime, 64)
        self.dropped = min(math.ceil(RELAXATION_TIMESCALES * slow.timescale), self.n_frames // 4)

    @property
    def tolerance(self) -> float:
        """What the scatter of the rollouts adds to the score of a right model."""
        return self.reference.n_frames / (self.n_trajs * (self.n_frames - self.dropped))

    def score(self, tensors: Mapping[str, NDArray[np.float32]]) -> float:
        """Return the score of a model's weights, a function of them alone."""
        files = ModelFiles(
            config=self.model,
            tensors=dict(tensors),
            state_map=StateMap(np.arange(self.model.n_states)),
            starts=Starts(
                stationary=self.reference.slow.populations,
                windows=np.zeros((0, self.model.context_length), dtype=np.int32),
            ),
            frame_interval=FrameInterval(),
            provenance={},
        )
        dtrajs = roll_out(
            files, self.n_frames, self.n_trajs, self.dropped, seed=self.seed, cuda=self.cuda, n_threads=self.n_threads
        )
        return self.reference.score(dtrajs)

    def record(self, tensors: Mapping[str, NDArray[np.float32]]) -> dict[str, float]:
        """Return the score, whether held-out MD gave it (1 or 0), and how long it took, as a training records them."""
        begin = time.perf_counter()
        with annotate("rollout"):
            score = self.score(tensors)
        held_out = float(self.reference.held_out)
        return {
            "kinetics_score": score,
            "kinetics_held_out": held_out,
            "kinetics_seconds": time.perf_counter() - begin,
        }

    def describe(self) -> dict[str, Any]:
        """Return the settings, for the record."""
        return self.reference.describe() | {
            "steps": list(self.steps),
            "n_trajs": self.n_trajs,
            "n_frames": self.n_frames,
            "frames_dropped": self.dropped,
        }
