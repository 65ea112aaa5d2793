"""What an experiment is: the data that train and judge, and how both are looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd.base.checks import check_range
from nanomd.base.errors import InputError
from nanomd.base.units import FrameInterval

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Data:
    """Trajectories of states 0..n-1 that train and that judge, and macrostates where the system names them itself.

    Parameters
    ----------
    training, held_out : list of arrays
    macrostates : ndarray (n,), optional
        PCCA+ finds them when None.
    names : tuple of str
        Of the macrostates.
    """

    training: list[IntArray]
    held_out: list[IntArray]
    macrostates: IntArray | None = None
    names: tuple[str, ...] = ()


Loader = Callable[[int, "str | Path | None"], Data]


@dataclass(frozen=True)
class Case:
    """One discretisation of one system.

    Parameters
    ----------
    name, title : str
    load : callable
        Maps (data set, folder) to training and held-out trajectories of states 0..n-1. Data set 0 is the one that the
        tables show; others have independent training data.
    n_datasets : int
        How many data sets there are.
    n_macrostates : int
        Where the system does not name them: of PCCA+ on all MD together. They are a way to look, shared by all sources.
    lagtime : int
        Frames; of the macrostates, and the stride at which passages and stays are seen.
    lagtimes : tuple of int
        Lags of implied timescales. Those that divide `lagtime` are also the lags of the Markov models.
    frame_interval : FrameInterval
    gpt : dict
        Options of `GPTEstimator` that all variants share.
    lstm : dict
        Options of `LSTMEstimator`.
    paper : str
        The preset with the published shape.
    rollout : tuple of int
        Trajectories and steps of a rollout that is judged, without the steps that are dropped at its start.
    lstm_steps : int
        Steps of the LSTM's rollouts, without those dropped: it is slow, and so its chains are shorter.
    burn_in : int
        Frames dropped at the start of each generated trajectory: several slowest timescales.
    pieces : tuple of int
        Lengths in frames of the study of short trajectories; empty for none.
    published : bool
        Whether it is a system of the paper: its methods are those of `nanomd.experiments.methods.PUBLISHED`, and its
        analyses are made.
    training : dict
        What differs from `TrainConfig.paper` of the system.
    pooled : tuple of int
        Epochs of the paper's training whose rollouts are judged together; the last one alone when empty.
    """

    name: str
    title: str
    load: Loader
    n_datasets: int
    n_macrostates: int
    lagtime: int
    lagtimes: tuple[int, ...]
    frame_interval: FrameInterval
    gpt: dict[str, Any]
    lstm: dict[str, Any]
    paper: str
    rollout: tuple[int, int]
    lstm_steps: int
    burn_in: int
    pieces: tuple[int, ...] = ()
    published: bool = False
    training: dict[str, Any] = field(default_factory=dict)
    pooled: tuple[int, ...] = ()

    @property
    def markov_lags(self) -> tuple[int, ...]:
        """Lags of the Markov models."""
        return tuple(lag for lag in self.lagtimes if self.lagtime % lag == 0)


def cut_into_pieces(dtrajs: list[IntArray], length: int, seed: int = 0) -> list[IntArray]:
    """Cut trajectories into pieces of `length` frames, in shuffled order; what is left over at their ends is dropped.

    Parameters
    ----------
    dtrajs : list of arrays
    length : int
        At least 2 frames.
    seed : int
        Of the order.
    """
    check_range("length", length, 2)
    pieces = [d[i : i + length] for d in dtrajs for i in range(0, len(d) - length + 1, length)]
    if not pieces:
        raise InputError(f"no trajectory has {length} frames; use shorter pieces")
    order = np.random.default_rng(seed).permutation(len(pieces))
    return [pieces[i] for i in order]
