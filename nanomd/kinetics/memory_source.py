"""The kinetics of a Markov model with memory, learnt from trajectories by transfer tensors; nothing is generated."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd import _native
from nanomd.base.errors import InputError
from nanomd.data.counts import stationary_vector
from nanomd.kinetics import markov, processes
from nanomd.kinetics import transfer_tensors as tt
from nanomd.kinetics.bootstrap import Bootstrap
from nanomd.kinetics.estimates import SPARE_PROCESSES, Sample, tracked_eigenvalues
from nanomd.kinetics.memory_choice import choose_memory
from nanomd.kinetics.results import Interval, SourceKinetics
from nanomd.kinetics.sources import Frame, macro_shares

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_GROUPS = 20  # blocks are put together, for matrices at many lags take memory
_REPLICATES = 50
_PIECE_STRIDES = 10  # memory of excursions, where nothing else says how long
_MAX_NUMBERS = 10**8  # in the counts of all groups
_MAX_WORK = 3e11  # operations behind the intervals of propagated quantities


def memory_source(name: str, sample: Sample, frame: Frame, memory: int | None = None) -> SourceKinetics:
    """Compute populations, timescales, passage and residence times and self-transitions of a memory-kernel model.

    Parameters
    ----------
    name : str
    sample : Sample
        The training data.
    frame : Frame
        What all sources share.
    memory : int, optional
        Frames that are remembered; by default chosen on held-out parts, see `choose_memory`.
    """
    trajs, n = sample.dtrajs, sample.n_states
    longest = max(len(x) for x in trajs)
    if memory is None:
        memory, _ = choose_memory(trajs, n_states=n)
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
    lags = np.unique(np.concatenate([frame.lagtimes, frame.ck_lagtimes, [frame.lagtime]]))
    slow = _slow_processes(tt.propagate(point_model, [min(memory, frame.lagtime)])[0], active, frame)
    point = _quantities(point_model, active, frame, lags, slow)
    boot = Bootstrap.draw(max(n_groups, 2), _REPLICATES, sample.bootstrap.confidence, 0)
    work = 2.0 * len(active) ** 2 * memory * (len(active) * memory + lags.max() * (frame.n_macrostates + 9))
    number = int(min(_REPLICATES, _MAX_WORK / work)) if split and n_groups > 1 else 0
    boot = Bootstrap(boot.weights[:number], boot.confidence)
    replicates: list[dict[str, FloatArray]] = []
    if number >= _REPLICATES // 2:
        for weights in boot.weights:
            drawn = np.tensordot(weights, inner, axes=1) + 1e-6 * whole  # a rare transition left out stays connected
            tensors = tt.transfer_tensors(tt.normalised(drawn, True))
            replicates.append(_quantities(tensors, active, frame, lags, slow))
    passages, spread = _passages(sample, frame, memory, group, n_groups, boot, bool(replicates))
    if spread is not None:
        frame.passages[name] = spread

    def interval(key: str, scale: Any) -> Interval:
        if not replicates:
            return _bare(point[key])
        return boot.interval(point[key], np.stack([r[key] for r in replicates]), scale)

    m = frame.n_macrostates
    ck = interval("self", "logit")
    return SourceKinetics(
        name=name,
        n_trajs=0,
        n_frames=0,
        populations=interval("populations", "logit"),
        macro_populations=interval("macro", "logit"),
        lagtimes=frame.lagtimes,
        timescales=interval("timescales", "log"),
        mfpt=_bare(passages) if spread is None else boot.interval(passages, spread, "log"),
        mfpt_events=np.zeros((m, m), np.int64),
        residence=interval("residence", "log"),
        residence_events=np.zeros(m, np.int64),
        residence_times=frame.residence_times,
        residence_survival=np.full((m, len(frame.residence_times)), np.nan),
        ck_lagtimes=frame.ck_lagtimes,
        ck_estimated=ck,
        ck_predicted=ck.value,
        unseen_states=np.setdiff1d(np.arange(n), active).astype(np.int64),
        timescale_overlap=slow[2],
        path_mean=_bare(np.full((m, m), np.nan)),
        path_events=np.zeros((m, m), np.int64),
        path_times=frame.path_times,
        path_longer=np.full((m, m, len(frame.path_times)), np.nan),
    )


def passages_of_pieces(sample: Sample, frame: Frame) -> tuple[FloatArray, FloatArray] | None:
    """Return passage times (m, m) of trajectories shorter than a passage, and replicates (w, m, m), in frames.

    Counting whole passages in short pieces is biased: most pieces hold none, and which state came last before a piece
    is not known. Excursions hardly suffer. None where no piece is longer than the stride.
    """
    longest = max(len(x) for x in sample.dtrajs)
    if longest <= frame.lagtime:
        return None
    group, n_groups = _groups(sample)
    boot = Bootstrap.draw(max(n_groups, 2), _REPLICATES, sample.bootstrap.confidence, 0)
    memory = min(longest - 1, _PIECE_STRIDES * frame.lagtime)
    times, spread = _passages(sample, frame, memory, group, n_groups, boot, n_groups > 1)
    return times, times[None] if spread is None else spread


def _bare(value: FloatArray) -> Interval:
    nothing = np.full(value.shape, np.nan)
    return Interval(value, nothing, nothing.copy())


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


def _slow_processes(matrix: FloatArray, active: IntArray, frame: Frame) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return right and left eigenvectors (a, k) of the processes paired with the reference's, and overlaps (k,)."""
    values, vectors = np.linalg.eig(matrix)
    order = np.argsort(-values.real)[1 : frame.n_timescales + SPARE_PROCESSES + 1]
    left = np.linalg.pinv(vectors)[order].T.real
    right = np.zeros((frame.n_states, len(order)))
    right[active] = vectors[:, order].real
    pairs = processes.match_processes(right, *frame.match)
    pairs = pairs[pairs >= 0]
    return right[active][:, pairs], left[:, pairs], processes.paired_overlap(right, *frame.match)


def _quantities(
    tensors: FloatArray, active: IntArray, frame: Frame, lags: IntArray, slow: tuple[FloatArray, FloatArray, FloatArray]
) -> dict[str, FloatArray]:
    """Compute all that follows from T(n) applied to a few vectors: macrostates and slow eigenvectors."""
    m = frame.n_macrostates
    right, left, _ = slow
    member = (frame.macrostate[active][:, None] == np.arange(m)).astype(np.float64)
    ahead = dict(zip(lags.tolist(), tt.propagate_columns(tensors, np.hstack([member, right]), lags), strict=True))
    pi = stationary_vector(tensors.sum(axis=0))
    populations = np.zeros(frame.n_states)
    populations[active] = pi
    start = member * pi[:, None]
    with np.errstate(all="ignore"):
        start /= start.sum(axis=0)
    small = np.stack([left.T @ ahead[int(lag)][:, m:] for lag in frame.lagtimes])
    scale = left.T @ right  # not quite 1 where eigenvalues are complex
    small = np.linalg.solve(scale[None], small)
    times = np.full((len(frame.lagtimes), frame.n_timescales), np.nan)
    for row, (lag, values) in enumerate(zip(frame.lagtimes, tracked_eigenvalues(small), strict=True)):
        times[row, : len(values)] = markov.eigenvalue_timescales(values, int(lag))
    stay = np.stack([(start * ahead[int(lag)][:, :m]).sum(axis=0) for lag in frame.ck_lagtimes])
    once = (start * ahead[frame.lagtime][:, :m]).sum(axis=0)
    with np.errstate(all="ignore"):
        residence = np.where(once < 1, frame.lagtime / (1 - once), np.nan)
    return {
        "populations": populations,
        "macro": macro_shares(populations, frame),
        "timescales": times,
        "self": stay,
        "residence": residence,
    }


def _passages(
    sample: Sample, frame: Frame, memory: int, group: IntArray, n_groups: int, boot: Bootstrap, replicate: bool
) -> tuple[FloatArray, FloatArray | None]:
    """Return passage times (m, m) with memory in frames, and replicates (w, m, m).

    Where no trajectory is longer than the stride, those of a Markov chain of T(stride), without replicates.
    """
    m, stride = frame.n_macrostates, frame.lagtime
    longest = max(len(x) for x in sample.dtrajs)
    out = np.full((m, m), np.nan)
    if longest <= stride:
        counts = tt.count_matrices(sample.dtrajs, sample.n_states, 1, memory)
        active = tt.connected(counts, True)
        inner = counts[:, active[:, None], active[None, :]]
        matrix = tt.propagate(tt.transfer_tensors(tt.normalised(inner, True)), [stride])[0]
        pi = stationary_vector(matrix)
        return stride * markov.passage_times(matrix, pi, frame.macrostate[active], m), None
    steps = min(-(-memory // stride) + 2, (longest - 1) // stride)
    spread = np.full((len(boot.weights), m, m), np.nan)
    # Excursions are counted by the macrostates on their way where microstates and groups would not fit into memory.
    fits = n_groups * steps * sample.n_states**2 <= _MAX_NUMBERS
    labels = np.arange(sample.n_states) if fits else frame.macrostate
    coarse = sample if fits else sample.coarse(frame.macrostate, m)
    for a in range(m):
        for b in range(m):
            source, target = (np.unique(labels[frame.macrostate == c]) for c in (a, b))
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
