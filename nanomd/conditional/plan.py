"""What a training at several conditions takes from its data: one stride and one window for all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd.data.counts import model_counts
from nanomd.data.dtrajs import stride_trajectories
from nanomd.kinetics.inputs import usable_length
from nanomd.kinetics.time_scales import slow_time_scales
from nanomd.training.plan import SLOWEST_STEPS, Plan, choose_stride, excess_current

_SLOWEST_STEPS = 10  # steps in the slowest timescale, at least, at the condition where it is shortest


def make_plan(groups: Sequence[Sequence[NDArray[Any]]], n_states: int, stride: int | None = None) -> Plan:
    """Decide as `nanomd.training.plan.make_plan` does, for the condition that asks for most.

    The stride spans the longest memory, yet not more than a tenth of the slowest timescale where that is shortest: half
    the steps that a training at that condition alone would have, since another one needs the reach. Trajectories are
    read both ways where currents are those of equilibrium at every condition.

    Parameters
    ----------
    groups : sequence of sequences of 1-D integer arrays
        The trajectories of each condition, tokens 0..n_states-1.
    n_states : int
    stride : int, optional
        Where it is decided already.
    """
    scales = [slow_time_scales(tokens, n_states) for tokens in groups]
    length = min(usable_length([np.asarray(t) for t in tokens]) for tokens in groups)
    longest = max(scales, key=lambda one: one.memory)
    finite = [one.slowest for one in scales if np.isfinite(one.slowest)]
    common = dataclasses.replace(
        longest, slowest=min(finite, default=float("nan")), rising=any(one.rising for one in scales)
    )
    if stride is None:
        stride = choose_stride(
            dataclasses.replace(common, slowest=SLOWEST_STEPS / _SLOWEST_STEPS * common.slowest), length
        )
    strided = [stride_trajectories(tokens, stride) for tokens in groups]
    current = max(excess_current(model_counts(part[::stride], n_states)) for part in strided)
    return Plan.of(stride, length, sum(len(t) for part in strided for t in part), common, current)
