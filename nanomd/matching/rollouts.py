"""Rollouts that are made to be measured: long enough for their slowest process, the same numbers drawn every time."""

from __future__ import annotations

import dataclasses
import math
from contextlib import suppress
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import BackendUnavailableError
from nanomd.model.files import ModelFiles
from nanomd.rollout.sampler import Sampler

LEAST_FRAMES, MOST_FRAMES = 1 << 20, 1 << 22  # of a round: seconds
FRAMES_PER_TIMESCALE = 2000.0  # an error of ln t near 3 %
CHAINS = 64
CHAIN_TIMESCALES = 20.0  # shorter chains do not forget their starts: fewer and longer ones then
RELAXATION_TIMESCALES = 3.0  # dropped at the start of every chain
UNDEFINED = math.log(10.0)  # difference in ln t that is taken where the model has no such time


def with_offsets(files: ModelFiles, offsets: NDArray[np.floating]) -> ModelFiles:
    """Return a model with offsets (n_states, n_states), rows the current state, added to the table of its markov head.

    A model without one gets one, which is nothing but the offsets. Where states stand in groups, offsets are (n_groups,
    n_groups), and all states of a group get its row.
    """
    config = files.config
    shape = (config.n_states, config.n_groups or config.n_states)
    table = files.tensors.get("markov.weight", np.zeros(shape, np.float32))
    if config.group_sizes:
        moved = np.empty_like(table)
        for g, (first, last) in enumerate(pairwise(config.group_starts)):
            moved[first:last] = table[first:last].astype(np.float64) + offsets[g]
    else:
        moved = (table.astype(np.float64) + offsets).astype(np.float32)
    tensors = {**files.tensors, "markov.weight": moved}
    return dataclasses.replace(files, config=files.config.replace(markov_head=True), tensors=tensors)


def roll_out_slow(
    files: ModelFiles, timescale: float, lagtime: int, *, seed: int, n_threads: int | None
) -> list[NDArray[np.integer]]:
    """Return rollouts long enough to measure a process of the given timescale (steps), and `lagtime` (steps) at least.

    On the CPU, also beside a GPU: it takes seconds, and the same data then give the same model everywhere.
    """
    frames = int(np.clip(FRAMES_PER_TIMESCALE * timescale, LEAST_FRAMES, MOST_FRAMES))
    chains = max(1, min(CHAINS, int(frames / (CHAIN_TIMESCALES * timescale))))
    length = max(frames // chains, 8 * lagtime)
    dropped = min(math.ceil(RELAXATION_TIMESCALES * timescale), length)
    return roll_out(files, length + dropped, chains, dropped, seed=seed, cuda=False, n_threads=n_threads)


def roll_out(
    files: ModelFiles, n_frames: int, n_trajs: int, dropped: int, *, seed: int, cuda: bool, n_threads: int | None
) -> list[NDArray[np.integer]]:
    """Return trajectories of a model from its stationary states, without their first `dropped` frames.

    With `cuda` on a GPU, where the compiled engine can.
    """
    sampler: Sampler | None = None
    if cuda:
        with suppress(BackendUnavailableError):  # PyTorch may have a GPU where the compiled engine has none
            sampler = Sampler(files, "cuda")
    sampler = sampler or Sampler(files, "cpu")
    rollout = sampler.generate(n_frames, n_trajs, start="stationary", seed=seed, n_threads=n_threads)
    return [np.asarray(row)[dropped:] for row in rollout.tokens]
