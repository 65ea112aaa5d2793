"""What rollouts of a model show: the numbers wanted, mean probabilities, and what a change of the model costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd.kinetics.estimates import Sample
from nanomd.kinetics.interval import Interval
from nanomd.matching.slow_kinetics import NothingSlowError, SlowKinetics
from nanomd.model.files import ModelFiles
from nanomd.rollout.engine import check_threads
from nanomd.rollout.modes import resolve_hop_keep, resolve_mode
from nanomd.rollout.sampler import Sampler

FloatArray = NDArray[np.float64]
Dtrajs = Sequence[NDArray[np.integer]]

_CONTEXTS = 1 << 18  # whose probabilities are looked at
_NUMBERS = 1 << 28  # at most, of probabilities: seconds
_AT_ONCE = 1 << 22
_LEAST_SCORED = 256  # contexts of a piece


@dataclass(frozen=True, slots=True)
class Slow:
    """How slow a model is, as its own rollouts say.

    Parameters
    ----------
    timescale : float
        Of its slowest process, in steps; 1 where it has none slower than a step.
    kinetics : SlowKinetics or None
    """

    timescale: float
    kinetics: SlowKinetics | None

    @classmethod
    def of(cls, dtrajs: Dtrajs, n_states: int) -> Slow:
        """Look at rollouts."""
        try:
            kinetics = SlowKinetics.of_data(dtrajs, n_states)
        except NothingSlowError:
            return cls(1.0, None)
        return cls(max(kinetics.timescale, 1.0), kinetics)

    @property
    def lagtime(self) -> int:
        """Steps, from which on it looks Markovian."""
        return 1 if self.kinetics is None else self.kinetics.lagtime

    def relaxation(self, dtrajs: Dtrajs) -> Interval:
        """Measure the slowest timescale, in steps, at that lag."""
        if self.kinetics is None:
            return Interval.undefined(np.nan)
        value = float(np.exp(self.kinetics.reversible(dtrajs)[0]))
        error = float(self.kinetics.of_model(dtrajs).error[-self.kinetics.right.shape[1]])
        ends = [value * math.exp(sign * 1.96 * error) for sign in (-1, 1)]
        return Interval(*(np.asarray(x) for x in (value, *ends, error)))


def sample_of(dtrajs: Dtrajs, n_states: int, slow: Slow) -> Sample:
    """Return rollouts cut into blocks several slowest timescales long."""
    return Sample.make(list(dtrajs), n_states, timescale=slow.timescale)


def mean_probabilities(files: ModelFiles, dtrajs: Dtrajs, n_threads: int | None) -> FloatArray:
    """Return the mean probabilities (n, n) of the next state, after contexts that end in the row's state.

    Over evenly spread pieces of rollouts. They are means of probabilities and not of draws: exact where the model
    knows its present state alone. A state that the pieces lack has the row of a rollout that begins there.
    """
    n = files.config.n_states
    total, visits = np.zeros((n, n)), np.zeros(n)
    for current, log_p, _ in _scored(files, dtrajs, n_threads):
        _add_rows(total, current, np.exp(log_p))
        visits += np.bincount(current, minlength=n)
    new = np.flatnonzero(visits == 0)
    if len(new):
        found = _engine_log_probs(files, new[:, None].astype(np.uint16), n_threads)
        total[new] = np.exp(found[:, 0].astype(np.float64))
    return np.asarray(total / total.sum(axis=1, keepdims=True))


def relative_entropy(
    files: ModelFiles, offsets: FloatArray, dtrajs: Dtrajs, n_threads: int | None
) -> tuple[float, float]:
    """Return the relative entropy a step of the model with offsets to that without, and its standard error, in nats.

    Parameters
    ----------
    files : ModelFiles
        Without.
    offsets : ndarray (n, n)
    dtrajs : sequence of arrays
        Rollouts with them.
    """
    sums, sizes = np.zeros(0), np.zeros(0)
    for current, log_p, piece in _scored(files, dtrajs, n_threads):
        change = offsets[current]
        top = change.max(axis=1, keepdims=True)
        weights = np.exp(log_p + (change - top))
        total = weights.sum(axis=1)
        spent = (weights * change).sum(axis=1) / total - np.log(total) - top[:, 0]
        own = np.bincount(piece)
        sums, sizes = np.append(sums, np.bincount(piece, spent)), np.append(sizes, own)
    mean = sums.sum() / sizes.sum()
    scatter = float(np.sqrt(((sums - mean * sizes) ** 2).sum())) / sizes.sum()
    return max(float(mean), 0.0), float(scatter)


def _add_rows(total: FloatArray, current: NDArray[Any], rows: FloatArray) -> None:
    """Add rows (m, n) to those of the states (m,)."""
    order = np.argsort(current, kind="stable")
    states, first = np.unique(current[order], return_index=True)
    total[states] += np.add.reduceat(rows[order], first, axis=0)


def _scored(
    files: ModelFiles, dtrajs: Dtrajs, n_threads: int | None
) -> Iterator[tuple[NDArray[Any], FloatArray, NDArray[Any]]]:
    """Yield present states (m,), ln p of the next (m, n), and the piece they lie in (m,), all with a full context.

    Pieces are numbered anew each time. ln p is normalised to rounding in double precision.
    """
    config = files.config
    shortest = min(len(x) for x in dtrajs)
    burn = config.context_length if config.position == "learned" else config.receptive_field - 1
    burn = min(burn, shortest // 2)
    length = min(burn + max(_LEAST_SCORED, burn), shortest)
    scored = length - burn
    number = max(1, min(_CONTEXTS, _NUMBERS // config.n_states) // scored)
    starts = [(k, start) for k, x in enumerate(dtrajs) for start in range(0, len(x) - length + 1, scored)]
    number = min(number, len(starts))
    chosen = [starts[(2 * k + 1) * len(starts) // (2 * number)] for k in range(number)]
    batch = max(1, _AT_ONCE // (length * config.n_states))
    sampler = Sampler(files, "cpu")
    for begin in range(0, number, batch):
        group = chosen[begin : begin + batch]
        tokens = np.stack([dtrajs[k][start : start + length] for k, start in group]).astype(np.uint16)
        log_p = _log_probs(sampler, tokens, n_threads)[:, burn:].astype(np.float64)
        log_p -= np.log(np.exp(log_p).sum(axis=-1, keepdims=True))
        piece = np.repeat(np.arange(len(group)), scored)
        yield tokens[:, burn:].reshape(-1).astype(np.int64), log_p.reshape(-1, config.n_states), piece


def _engine_log_probs(files: ModelFiles, tokens: NDArray[np.uint16], n_threads: int | None) -> NDArray[np.float32]:
    return _log_probs(Sampler(files, "cpu"), tokens, n_threads)


def _log_probs(sampler: Sampler, tokens: NDArray[np.uint16], n_threads: int | None) -> NDArray[np.float32]:
    mode = resolve_mode(sampler.config, "auto")
    keep = resolve_hop_keep(sampler.config, mode, None)
    return sampler.engine.log_probs(tokens, mode=mode, hop_keep=keep, n_threads=check_threads(n_threads))
