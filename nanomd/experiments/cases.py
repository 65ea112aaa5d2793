"""The systems of the experiments: which molecular dynamics trains, which judges, and how both are looked at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError
from nanomd.base.units import FrameInterval
from nanomd.experiments.case import Case, Data, IntArray, Loader


def _four_state(scheme: str, n_states: int | None) -> Loader:
    """One trajectory of 500,000 frames trains; twenty independent ones of the same length judge."""

    def load(dataset: int, data: str | Path | None) -> Data:  # noqa: ARG001
        from nanomd.systems import four_state

        def states(first: int, number: int) -> list[IntArray]:
            xy = four_state.simulate(_FRAMES, number, seed=2025, preset="paper", first_trajectory=first)
            options: dict[str, Any] = {} if scheme != "kmeans" else {"centers": _centers(n_states)}
            dtrajs = four_state.tokenize(xy, scheme, n_states=n_states, **options)  # type: ignore[arg-type]
            return [d[d >= 0] for d in dtrajs]  # milestoning knows no state before the first core

        return Data(states(dataset, 1), states(1000, 20))

    return load


_FRAMES = 500_000


def _centers(n_states: int | None) -> NDArray[np.float64]:
    from nanomd.systems import four_state

    # Hotter, so that the centres cover the saddles too.
    xy = four_state.simulate(50_000, 2, seed=1, beta=4.0, spacing=100)
    return four_state.kmeans_centers(list(xy), 100 if n_states is None else n_states)


def _four_state_published(dataset: int, data: str | Path | None) -> Data:  # noqa: ARG001
    """Give every frame the nearest of four values of x, averaged over 50 frames; halve visits of up to 100 frames.

    A trajectory of 1.5 million frames trains, of which the paper's training holds out a fifth; six of 500,000 judge.
    """
    from nanomd.data.smoothing import halve_short_visits
    from nanomd.systems import four_state

    def states(first: int, number: int, n_frames: int) -> list[IntArray]:
        xy = four_state.simulate(n_frames, number, seed=2025, preset="paper", first_trajectory=first)
        smooth = [np.convolve(x, np.full(50, 1 / 50), mode="valid") for x in xy[:, :, 0]]
        nearest = [abs(x[:, None] - four_state.MINIMA[:, 0]).argmin(axis=1) for x in smooth]
        return halve_short_visits(nearest, 100)

    return Data(states(dataset, 1, 3 * _FRAMES), states(1000, 6, _FRAMES), np.arange(4), ("A", "B", "C", "D"))


def _alanine(dataset: int, data: str | Path | None) -> Data:
    from nanomd.systems import alanine_dipeptide

    dtrajs, _ = alanine_dipeptide.tokenize(alanine_dipeptide.load(data), 100, 0)
    return Data([dtrajs[dataset]], [dtrajs[1 - dataset]])


def _ww(n_states: int) -> Loader:
    """Two of the four runs train, the others judge; folding is seen through the two hairpins."""

    def load(dataset: int, data: str | Path | None) -> Data:
        from nanomd.systems import ww_domain

        _, dtrajs = ww_domain.tokenize(n_states, data_dir=data, progress=False)
        frames = np.concatenate(dtrajs)
        _, compact = np.unique(frames, return_inverse=True)  # k-means may leave a centre empty
        parts = np.split(compact.astype(np.int64), np.cumsum([len(d) for d in dtrajs])[:-1])
        hairpins = ww_domain.hairpin_contacts(data_dir=data)
        formed = [
            np.bincount(compact, np.concatenate([run[:, k] for run in hairpins])) / np.bincount(compact) >= 0.5
            for k in range(2)
        ]
        macrostates = np.select([formed[0] & formed[1], formed[0], formed[1]], [0, 1, 2], 3).astype(np.int64)
        chosen = (parts[:2], parts[2:]) if dataset == 0 else (parts[2:], parts[:2])
        return Data(*chosen, macrostates, ("folded", "hairpin 1", "hairpin 2", "unfolded"))

    return load


_SMALL: dict[str, Any] = {
    "preset": "tiny",
    "context_length": 32,
    "train_length": 128,
    "batch_size": 16,
    "average": "tail",
    "average_span": 0.2,
    "learning_rate": 4e-3,
}
_PAPER_LSTM: dict[str, Any] = {"embedding_dim": 128, "hidden_dim": 512, "n_steps": 400, "batch_size": 32}
_PIECES = (50, 100, 200, 400)

_FOUR_STATE = Case(
    "four-state",
    "Four-state potential, four milestoned states",
    _four_state("cores", None),
    n_datasets=4,
    n_macrostates=4,
    lagtime=20,
    lagtimes=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
    frame_interval=FrameInterval(),
    gpt={**_SMALL, "n_steps": 800},
    lstm={"embedding_dim": 8, "hidden_dim": 64, "n_steps": 800},
    paper="paper-four-state",
    rollout=(64, 200_000),
    lstm_steps=150_000,
    burn_in=25_000,
    pieces=_PIECES,
)
_ALANINE_DIPEPTIDE = Case(
    "alanine-dipeptide",
    "Alanine dipeptide, (phi, psi) in 100 states",
    _alanine,
    n_datasets=2,
    n_macrostates=4,
    lagtime=20,
    lagtimes=(1, 2, 5, 10, 20, 50, 100, 200, 500),
    frame_interval=FrameInterval(1.0, "ps"),
    gpt={**_SMALL, "n_steps": 1500},
    lstm=_PAPER_LSTM,
    paper="paper-alanine-dipeptide",
    rollout=(64, 150_000),
    lstm_steps=30_000,
    burn_in=8_000,
    pieces=_PIECES,
)
_WW_DOMAIN = Case(
    "ww-domain",
    "WW domain (structure-based), 100 states",
    _ww(100),
    n_datasets=2,
    n_macrostates=4,
    lagtime=40,
    lagtimes=(1, 2, 5, 10, 20, 40, 80, 160, 320),
    frame_interval=FrameInterval(),
    gpt={**_SMALL, "n_steps": 1600},
    lstm=_PAPER_LSTM,
    paper="paper-ww-domain",
    rollout=(64, 100_000),
    lstm_steps=15_000,
    burn_in=3_000,
    pieces=_PIECES,
)
# The systems of the paper, with its numbers of rollouts. Its four states are those of x alone, smoothed. Our alanine
# dipeptide has a frame every picosecond, where the paper reads one every 0.2.
_PUBLISHED = (
    replace(
        _FOUR_STATE,
        name="paper-four-state",
        title="Four-state potential, prepared as in the paper",
        load=_four_state_published,
        rollout=(50, 100_000),
        burn_in=20_000,
        lstm_steps=80_000,
        pieces=(),
        published=True,
        training={"keep_epochs": (1, 3, 6, 11, 21, 31)},
        pooled=(11, 21, 31),
    ),
    replace(
        _ALANINE_DIPEPTIDE,
        name="paper-alanine-dipeptide",
        rollout=(20, 100_000),
        pieces=(),
        published=True,
        training={"frame_stride": 1, "keep_epochs": (1, 2, 5, 10, 20, 40, 81)},
    ),
    replace(
        _WW_DOMAIN,
        name="paper-ww-domain",
        rollout=(20, 100_000),
        pieces=(),
        published=True,
        training={"keep_epochs": (1, 2, 3, 5, 8, 11, 14, 17, 21)},
    ),
)
_ALL = (
    *_PUBLISHED,
    _FOUR_STATE,
    replace(
        _FOUR_STATE,
        name="four-state-bins",
        title="Four-state potential seen through x, 32 bins",
        load=_four_state("x-bins", 32),
        lagtime=200,
        lagtimes=(*_FOUR_STATE.lagtimes, 2000),
        gpt={**_SMALL, "n_steps": 2000},
        lstm={**_FOUR_STATE.lstm, "n_steps": 1500},
        pieces=(),
    ),
    replace(
        _FOUR_STATE,
        name="four-state-kmeans",
        title="Four-state potential, 100 k-means states",
        load=_four_state("kmeans", 100),
        gpt={**_SMALL, "n_steps": 1200},
        lstm={**_FOUR_STATE.lstm, "n_steps": 1200},
        pieces=(),
    ),
    _ALANINE_DIPEPTIDE,
    _WW_DOMAIN,
    replace(
        _WW_DOMAIN,
        name="ww-domain-1000",
        title="WW domain (structure-based), 1000 states",
        load=_ww(1000),
        lagtimes=(1, 5, 20, 40, 80, 160),
        rollout=(64, 60_000),
        pieces=(),
    ),
)
CASES: dict[str, Case] = {case.name: case for case in _ALL}


def get_case(name: str) -> Case:
    """Return a case by name."""
    if name not in CASES:
        raise InputError(f"experiment must be one of {', '.join(CASES)}, got {name!r}")
    return CASES[name]
