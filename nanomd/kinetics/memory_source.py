"""The kinetics of a Markov model with memory, learnt from trajectories by transfer tensors; nothing is generated."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nanomd import _native
from nanomd.base.errors import InputError
from nanomd.data.counts import stationary_vector
from nanomd.kinetics import markov, processes
from nanomd.kinetics import transfer_tensors as tt
from nanomd.kinetics.bootstrap import Bootstrap, Scale
from nanomd.kinetics.estimates import SPARE_PROCESSES, Sample, tracked_eigenvalues
from nanomd.kinetics.interval import Interval
from nanomd.kinetics.memory_choice import choose_memory
from nanomd.kinetics.sources import Measured, computed_source
from nanomd.kinetics.yardstick import Yardstick

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_GROUPS = 20  # blocks are put together, for matrices at many lags take memory
_REPLICATES = 50
_PIECE_STRIDES = 10  # memory of excursions, where nothing else says how long
_MAX_NUMBERS = 10**8  # in the counts of all groups
_MAX_WORK = 3e11  # operations behind the intervals of propagated quantities


def memory_source(name: str, sample: Sample, yardstick: Yardstick, memory: int | None = None) -> Measured:
    """Compute populations, timescales, passage and residence times and self-transitions of a memory-kernel model.

    Parameters
    ----------
    name : str
    sample : Sample
        The training data.
    yardstick : Yardstick
        What all sources share.
    memory : int, optional
        Frames that are remembered; by default chosen on held-out parts, see `choose_memory`.
    """
    trajs, n = sample.dtrajs, sample.n_states
    longest = max(len(x) for x in trajs)
    if memory is None:
        memory, _ = choose_memory(trajs[:: sample.views], n_states=n)
    if not 1 <= memory < longest:
        raise InputError(
            f"memory_kernel must be in [1, {longest - 1}] frames (longest dtraj has {longest}), got {memory}"
        )
    group, n_groups = _groups(sample)
    split = n_groups * memory * n * n <= _MAX_NUMBERS and sample.blocks.n_blocks * n * n <= _MAX_NUMBERS
    counts = _grouped_counts(sample, memory, group, n_groups) if split else tt.count_matrices(trajs, n, 1, memory)[None]
    total = counts.sum(axis=0)
    active = tt.connected(total, True)
    inner = counts[:, :, active[:, None], active[None, :]].astype(np.float64)
    whole = inner.sum(axis=0)
    point_model = tt.transfer_tensors(tt.normalised(whole, True))
    lags = np.unique(np.concatenate([yardstick.lagtimes, yardstick.ck_lagtimes, [yardstick.lagtime]]))
    slow = _slow_processes(tt.propagate(point_model, [min(memory, yardstick.lagtime)])[0], active, yardstick)
    point = _quantities(point_model, active, yardstick, lags, slow)
    boot = Bootstrap.draw(max(n_groups, 2), _REPLICATES, sample.bootstrap.confidence, 0)
    work = 2.0 * len(active) ** 2 * memory * (len(active) * memory + lags.max() * (yardstick.n_macrostates + 9))
    number = int(min(_REPLICATES, _MAX_WORK / work)) if split and n_groups > 1 else 0
    boot = Bootstrap(boot.weights[:number], boot.confidence)
    replicates: list[dict[str, FloatArray]] = []
    if number >= _REPLICATES // 2:
        for weights in boot.weights:
            drawn = np.tensordot(weights, inner, axes=1) + 1e-6 * whole  # a rare transition left out stays connected
            tensors = tt.transfer_tensors(tt.normalised(drawn, True))
            replicates.append(_quantities(tensors, active, yardstick, lags, slow))
    passages, spread = _passages(sample, yardstick, memory, group, n_groups, boot, bool(replicates))

    def interval(key: str, scale: Scale) -> Interval:
        if not replicates:
            return Interval.undefined(point[key])
        return boot.interval(point[key], np.stack([r[key] for r in replicates]), scale)

    m = yardstick.n_macrostates
    ck = interval("self", "logit")
    kinetics = computed_source(
        name,
        yardstick,
        populations=interval("populations", "logit"),
        macro_populations=interval("macro", "logit"),
        outside=interval("outside", "logit"),
        timescales=interval("timescales", "log"),
        mfpt=Interval.undefined(passages) if spread is None else boot.interval(passages, spread, "log"),
        residence=interval("residence", "log"),
        residence_survival=np.full((m, len(yardstick.residence_times)), np.nan),
        ck_estimated=ck,
        ck_predicted=ck.value,
        unseen_states=np.setdiff1d(np.arange(n), active).astype(np.int64),
        timescale_overlap=slow[2],
        path_mean=Interval.undefined(np.full((m, m), np.nan)),
        path_longer=np.full((m, m, len(yardstick.path_times)), np.nan),
    )
    return Measured(kinetics, spread)


def passages_of_pieces(sample: Sample, yardstick: Yardstick) -> tuple[FloatArray, FloatArray] | None:
    """Return passage times (m, m) of trajectories shorter than a passage, and replicates (w, m, m), in frames.

    Counting whole passages in short pieces is biased: most pieces hold none, and which state came last before a piece
    is not known. Excursions hardly suffer. None where no piece is longer than the stride.
    """
    longest = max(len(x) for x in sample.dtrajs)
    if longest <= yardstick.lagtime:
        return None
    group, n_groups = _groups(sample)
    boot = Bootstrap.draw(max(n_groups, 2), _REPLICATES, sample.bootstrap.confidence, 0)
    memory = min(longest - 1, _PIECE_STRIDES * yardstick.lagtime)
    times, spread = _passages(sample, yardstick, memory, group, n_groups, boot, n_groups > 1)
    return times, times[None] if spread is None else spread


def _groups(sample: Sample) -> tuple[IntArray, int]:
    """Deal blocks to groups in turn: the group of every block, and how many there are."""
    number = min(sample.blocks.n_blocks, _GROUPS)
    return np.arange(sample.blocks.n_blocks, dtype=np.int64) % number, number


def _grouped_counts(sample: Sample, memory: int, group: IntArray, n_groups: int) -> FloatArray:
    out = np.zeros((n_groups, memory, sample.n_states, sample.n_states), np.float32 if memory > 64 else np.float64)
    member = (group[None, :] == np.arange(n_groups)[:, None]).astype(np.float64)
    for lag in range(1, memory + 1):
        per_block = _native.count_transitions(sample.dtrajs, sample.n_states, lag, blocks=sample.blocks)
        out[:, lag - 1] = np.tensordot(member, per_block, axes=1)
    return np.asarray(out, np.float64)


def _slow_processes(
    matrix: FloatArray, active: IntArray, yardstick: Yardstick
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return right and left eigenvectors (a, k) of the processes paired with the reference's, and overlaps (k,)."""
    values, vectors = np.linalg.eig(matrix)
    order = np.argsort(-values.real)[1 : yardstick.n_timescales + SPARE_PROCESSES + 1]
    left = np.linalg.pinv(vectors)[order].T.real
    right = np.zeros((yardstick.n_states, len(order)))
    right[active] = vectors[:, order].real
    pairs = processes.match_processes(right, yardstick.right, yardstick.stationary)
    pairs = pairs[pairs >= 0]
    return (
        right[active][:, pairs],
        left[:, pairs],
        processes.paired_overlap(right, yardstick.right, yardstick.stationary),
    )


def _quantities(
    tensors: FloatArray,
    active: IntArray,
    yardstick: Yardstick,
    lags: IntArray,
    slow: tuple[FloatArray, FloatArray, FloatArray],
) -> dict[str, FloatArray]:
    """Compute all that follows from T(n) applied to a few vectors: macrostates and slow eigenvectors."""
    m = yardstick.n_macrostates
    right, left, _ = slow
    member = (yardstick.macrostate[active][:, None] == np.arange(m)).astype(np.float64)
    ahead = dict(zip(lags.tolist(), tt.propagate_columns(tensors, np.hstack([member, right]), lags), strict=True))
    pi = stationary_vector(tensors.sum(axis=0))
    populations = np.zeros(yardstick.n_states)
    populations[active] = pi
    start = member * pi[:, None]
    with np.errstate(all="ignore"):
        start /= start.sum(axis=0)
    small = np.stack([left.T @ ahead[int(lag)][:, m:] for lag in yardstick.lagtimes])
    scale = left.T @ right  # not quite 1 where eigenvalues are complex
    small = np.linalg.solve(scale[None], small)
    times = np.full((len(yardstick.lagtimes), yardstick.n_timescales), np.nan)
    for row, (lag, values) in enumerate(zip(yardstick.lagtimes, tracked_eigenvalues(small), strict=True)):
        times[row, : len(values)] = markov.eigenvalue_timescales(values, int(lag))
    stay = np.stack([(start * ahead[int(lag)][:, :m]).sum(axis=0) for lag in yardstick.ck_lagtimes])
    once = (start * ahead[yardstick.lagtime][:, :m]).sum(axis=0)
    with np.errstate(all="ignore"):
        residence = np.where(once < 1, yardstick.lagtime / (1 - once), np.nan)
    return {
        "populations": populations,
        "macro": yardstick.shares(populations),
        "outside": yardstick.shares_outside(populations),
        "timescales": times,
        "self": stay,
        "residence": residence,
    }


def _passages(
    sample: Sample, yardstick: Yardstick, memory: int, group: IntArray, n_groups: int, boot: Bootstrap, replicate: bool
) -> tuple[FloatArray, FloatArray | None]:
    """Return passage times (m, m) with memory in frames, and replicates (w, m, m).

    Where no trajectory is longer than the stride, those of a Markov chain of T(stride), without replicates.
    """
    m, stride = yardstick.n_macrostates, yardstick.lagtime
    longest = max(len(x) for x in sample.dtrajs)
    out = np.full((m, m), np.nan)
    if longest <= stride:
        counts = tt.count_matrices(sample.dtrajs, sample.n_states, 1, memory)
        active = tt.connected(counts, True)
        inner = counts[:, active[:, None], active[None, :]]
        matrix = tt.propagate(tt.transfer_tensors(tt.normalised(inner, True)), [stride])[0]
        pi = stationary_vector(matrix)
        return stride * markov.passage_times(matrix, pi, yardstick.macrostate[active], m), None
    steps = min(-(-memory // stride) + 2, (longest - 1) // stride)
    spread = np.full((len(boot.weights), m, m), np.nan)
    # Excursions are counted by the macrostates on their way where microstates and groups would not fit into memory.
    fits = n_groups * steps * sample.n_states**2 <= _MAX_NUMBERS
    labels = np.arange(sample.n_states) if fits else yardstick.macrostate
    coarse = sample if fits else sample.coarse(yardstick.macrostate, m)
    for a in range(m):
        for b in range(m):
            source, target = (np.unique(labels[yardstick.macrostate == c]) for c in (a, b))
            if a == b or not (len(source) and len(target)):
                continue
            counts = tt.excursion_counts(
                coarse.dtrajs, source, target, coarse.n_states, stride, steps, sample.blocks.spans, group, n_groups
            )
            out[a, b] = tt.mfpt_of_excursions(counts.sum(axis=0), source, target, stride)
            if replicate:
                for w, weights in enumerate(boot.weights):
                    spread[w, a, b] = tt.mfpt_of_excursions(
                        np.tensordot(weights, counts, axes=1), source, target, stride
                    )
    return out, spread if replicate else None
