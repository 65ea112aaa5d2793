"""`validate`: the kinetics of rollouts and of Markov models beside those of the MD, with a verdict for every number.

The rule of the verdict is that of `nanomd.kinetics.verdict`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd import _native
from nanomd.base.errors import InputError
from nanomd.base.units import FrameInterval
from nanomd.data.counts import largest_connected_set, transition_counts
from nanomd.kinetics import estimates, macrostates, markov, paths, processes
from nanomd.kinetics.bootstrap import Bootstrap
from nanomd.kinetics.estimates import Sample
from nanomd.kinetics.inputs import Trajs, check_lagtime, trajectories, usable_length
from nanomd.kinetics.memory_source import memory_source, passages_of_pieces
from nanomd.kinetics.passage_error import mfpt_error
from nanomd.kinetics.results import Interval, MfptError, SourceKinetics, ValidationResult
from nanomd.kinetics.sources import Frame, markov_source, trajectory_source
from nanomd.kinetics.verdict import verdict_notes, verdict_rows

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_SURVIVAL_POINTS = 60
TAKEN = ("MD", "GPT", "MSM", "MSM (lag 1)", "memory kernel")
PIECES = 20.0  # slowest timescales; trajectories shorter than this hold a biased sample of passages
_CK_STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


def validate(
    dtrajs: Any,
    rollout: Any = None,
    *,
    lagtimes: Sequence[int] | None = None,
    lagtime: int | None = None,
    n_macrostates: int | None = None,
    macrostate_of_state: ArrayLike | None = None,
    frame_interval: FrameInterval | str | None = None,
    training: Any = None,
    others: Mapping[str, Any] | None = None,
    memory_kernel: bool | int = False,
    confidence: float = 0.95,
    n_bootstrap: int = 200,
    seed: int = 0,
) -> ValidationResult:
    """Compare kinetics with a reference.

    Parameters
    ----------
    dtrajs : list of arrays of int
        The reference MD, states 0..n-1 (negative: unassigned).
    rollout : Rollout or list of arrays, optional
        What the model generated; the source "GPT". With a Rollout that kept every stride-th state, everything is
        compared at that stride.
    lagtimes : sequence of int, optional
        Lags of the implied timescales, in frames; by default spaced logarithmically up to a tenth of the length of the
        reference's trajectories, and two slowest timescales.
    lagtime : int, optional
        Lag of the macrostates and of the "MSM" source, and the stride at which first passages and stays are seen in
        every source, so that quick recrossings count for none. By default the shortest of `lagtimes` at which the three
        slowest timescales have settled: within 5 % (10 % the others) of their value at the longest reliable lag.
    n_macrostates : int, optional
        By default the largest gap among the timescales; all states where there are at most five.
    macrostate_of_state : array (n_states,), optional
        Macrostates of your own, 0..m-1 (negative: none), such as folded and unfolded. Timescales are then those of the
        processes between them (`nanomd.kinetics.processes.processes_between`). By default PCCA+ finds the macrostates.
    frame_interval : FrameInterval or str, optional
        Time of a frame, such as ``"0.2 ns"``.
    training : list of arrays, optional
        The MD that the model has seen, `dtrajs` when None: for the Markov models and for unseen transitions.
    others : dict of lists of arrays
        More sources, such as ``{"LSTM": ..., "MD held out": ...}``.
    memory_kernel : bool or int
        Add the source "memory kernel": a Markov model of `training` with a memory of so many frames, chosen on held-out
        parts where True (`nanomd.kinetics.memory_source`). Takes time: minutes with hundreds of states.
    confidence, n_bootstrap, seed :
        Of the intervals; see `nanomd.kinetics.bootstrap`.

    Returns
    -------
    ValidationResult
        Sources "MD", "GPT", "MSM" (at `lagtime`), "MSM (lag 1)", and the others.

    Raises
    ------
    InputError
        For lags that the data are too short for, states without transitions, and arguments out of range.
    """
    Bootstrap.draw(2, n_bootstrap, confidence, seed)  # checks the settings before the work
    interval = FrameInterval.parse(frame_interval)
    stride = int(getattr(rollout, "stride", 1) or 1)
    if frame_interval is None and getattr(rollout, "frame_interval", None) is not None:
        interval = rollout.frame_interval
    notes: list[str] = []
    inputs = {"MD": trajectories("dtrajs", dtrajs, stride)}
    if rollout is not None:
        inputs["GPT"] = trajectories("rollout", getattr(rollout, "dtrajs", rollout), 1)
    for name, trajs in (others or {}).items():
        if name in TAKEN:
            raise InputError(f"others must not be named {name!r}, which is taken")
        inputs[name] = trajectories(f"others[{name!r}]", trajs, stride)
    seen = inputs["MD"] if training is None else trajectories("training", training, stride)
    if stride > 1:
        interval = FrameInterval(interval.value * stride, interval.unit)
        notes.append(
            f"the rollout kept every {stride}-th state: all sources are compared at this stride, a frame is {interval}"
        )
    n_states = 1 + max(int(x.max()) for trajs in [*inputs.values(), seen] for x in trajs)

    reference = inputs["MD"]
    lags, chosen, slowest = _lags(reference, n_states, lagtimes, lagtime, notes)
    if lagtimes is None:  # later ones show only noise
        lags = lags[lags <= max(2 * slowest, chosen)]
    settings: dict[str, Any] = {"timescale": slowest, "confidence": confidence, "n_bootstrap": n_bootstrap}

    def sample(trajs: Trajs, number: int) -> Sample:
        return Sample.make(trajs, n_states, seed=seed + number, **settings)

    frame = _frame(reference, n_states, lags, chosen, n_macrostates, seen, macrostate_of_state)
    assert frame.ends is not None
    sources: dict[str, SourceKinetics] = {}
    for number, (name, trajs) in enumerate(inputs.items()):
        sources[name] = trajectory_source(name, sample(trajs, number), frame)
    if max(len(x) for x in seen) > chosen:
        trained = sample(seen, len(inputs))
        sources["MSM"] = markov_source("MSM", trained, frame, chosen)
        if chosen > 1:
            sources["MSM (lag 1)"] = markov_source("MSM (lag 1)", trained, frame, 1)
    if memory_kernel is not False:
        wanted = None if memory_kernel is True else int(memory_kernel)
        sources["memory kernel"] = memory_source("memory kernel", sample(seen, len(inputs)), frame, wanted)
    names = macrostates.macrostate_names(frame.n_macrostates, sources["MD"].macro_populations.value)
    ratios = {
        name: source.n_frames / source.n_trajs / slowest for name, source in sources.items() if source.n_trajs > 0
    }
    described = [processes.describe_process(ends, frame.match[1]) for ends in frame.ends]
    floor = (
        None if training is None else _noise_floor(sample(seen, len(inputs) + 1), frame, sources["MD"].mfpt, slowest)
    )
    errors = {
        name: _passage_error(frame, sources["MD"].mfpt, source.mfpt, name, confidence)
        for name, source in sources.items()
        if name != "MD"
    }
    notes += verdict_notes(sources, ratios, slowest, chosen, names, described)
    return ValidationResult(
        reference="MD",
        frame_interval=interval,
        lagtime=chosen,
        macrostate_of_state=frame.macrostate,
        macrostate_names=names,
        sources=sources,
        rows=verdict_rows(sources, frame, names, interval, errors, floor),
        chain_length_over_slowest=ratios,
        confidence=confidence,
        warnings=notes,
        core_of_state=frame.cores,
        processes=described,
        mfpt_errors=errors,
        noise_floor=floor,
    )


def _noise_floor(trained: Sample, frame: Frame, reference: Interval, slowest: float) -> MfptError | None:
    """Compare the passage times of the training data with the reference's; None where they are too short to have any.

    Pieces of few slowest timescales are counted by excursions, for whole passages in them are a biased sample.
    """
    if trained.n_frames / len(trained.dtrajs) < PIECES * slowest:
        found = passages_of_pieces(trained, frame)
        if found is None:
            return None
        times, replicates = found
    else:
        interval, _, replicates = estimates.passage_samples(
            trained.coarse(frame.macrostate, frame.n_macrostates), frame.lagtime
        )
        times = interval.value
    return mfpt_error(
        reference,
        times,
        reference_replicates=frame.passages["MD"],
        other_replicates=replicates,
        confidence=trained.bootstrap.confidence,
    )


def _passage_error(frame: Frame, reference: Interval, times: Interval, name: str, confidence: float) -> MfptError:
    """Compare the passage times of a source, whose replicates the frame has, with the reference's."""
    nothing = times.value[None]  # a Markov model too large for replicates counts as exact
    return mfpt_error(
        reference,
        times.value,
        reference_replicates=frame.passages["MD"],
        other_replicates=frame.passages.get(name, np.repeat(nothing, len(frame.passages["MD"]), axis=0)),
        confidence=confidence,
    )


def default_lagtimes(length: int, n_lags: int = 12) -> IntArray:
    """Return lags spaced logarithmically from 1 to a tenth of `length`, at most 1000."""
    longest = max(1, min(length // 10, 1000))
    return np.unique(np.round(np.geomspace(1, longest, n_lags)).astype(np.int64))


def _lags(
    reference: Trajs, n_states: int, lagtimes: Sequence[int] | None, lagtime: int | None, notes: list[str]
) -> tuple[IntArray, int, float]:
    """Return the lags, the one of the Markov models, and the slowest timescale there."""
    length = usable_length(reference)

    def check(lag: int) -> None:
        check_lagtime(lag, length)

    for lag in [*(lagtimes if lagtimes is not None else ()), *([] if lagtime is None else [lagtime])]:
        check(int(lag))
    lags = default_lagtimes(length) if lagtimes is None else np.unique(np.asarray(lagtimes, np.int64))
    if len(lags) == 0:
        raise InputError("lagtimes must not be empty")
    table = np.full((len(lags), min(3, n_states - 1)), np.nan)
    for i, lag in enumerate(lags):
        counts = transition_counts(reference, n_states, int(lag))
        if len(largest_connected_set(counts)) > 1:
            table[i] = markov.estimate_markov_model(counts, int(lag)).timescales(table.shape[1])
    slowest = table[:, 0] if table.shape[1] else np.full(len(lags), np.nan)
    if not np.isfinite(slowest).any():
        raise InputError(
            "the reference has no two states with transitions to and fro at any lagtime: its kinetics cannot be "
            "judged; use longer trajectories or other states"
        )
    if lagtime is not None:
        near = int(np.nanargmin(np.where(np.isfinite(slowest), abs(lags - lagtime), np.nan)))
        return lags, int(lagtime), float(slowest[near])
    best = _settled(lags, table)
    if best is None:
        notes.append("every lagtime exceeds half the slowest timescale: timescales are unreliable")
        best = int(np.flatnonzero(np.isfinite(slowest))[0])
    return lags, int(lags[best]), float(slowest[best])


def _settled(lags: IntArray, table: FloatArray) -> int | None:
    """Return the index of the first lag at which timescales (l, k) have settled; None where no lag is reliable.

    A lag is reliable for a process while it is at most half the process's longest timescale (at lags up to half of it).
    Settled is a timescale within 5 % (the slowest) or 10 % of its value at the last reliable lag.
    """
    last = np.full(table.shape[1], -1)
    for k, column in enumerate(table.T):
        known = np.where(np.isfinite(column) & (lags <= column / 2), column, -np.inf)
        reliable = np.flatnonzero(np.isfinite(column) & (lags <= known.max() / 2))
        last[k] = reliable[-1] if len(reliable) else -1
    for i in range(last[0] + 1):
        near = [abs(table[i, k] / table[last[k], k] - 1) for k in range(len(last)) if i <= last[k]]
        if near[0] <= 0.05 and all(x <= 0.1 for x in near[1:]):
            return i
    return None


def _frame(
    reference: Trajs,
    n_states: int,
    lags: IntArray,
    lagtime: int,
    n_macrostates: int | None,
    seen: Trajs,
    given: ArrayLike | None = None,
) -> Frame:
    counts = transition_counts(reference, n_states, lagtime)
    model = markov.estimate_markov_model(counts, lagtime)
    n_active = len(model.active)
    if n_active < 2:
        raise InputError(f"at lagtime {lagtime} the reference has no two connected states; use a shorter lagtime")
    if given is None:
        m = n_macrostates
        if m is None:
            m = macrostates.choose_n_macrostates(model.timescales(min(6, n_active - 1)), n_active)
        visits = _native.count_visits(reference, n_states)[0]
        macrostate = macrostates.macrostates(model, counts, visits, m)
        _, right, _ = model.eigen(min(max(m - 1, 3), n_active - 1))
    else:
        macrostate = macrostates.check_macrostates(given, n_states, n_macrostates)
        m = int(macrostate.max()) + 1
        _, right, _ = model.eigen(min(4 * m, n_active - 1))
        right = right[:, processes.processes_between(right, model.stationary, macrostate, m)]
    k = right.shape[1]
    stays = markov.mean_residence(model.transition, model.stationary, macrostate, m)[0]
    longest = int(np.ceil(5 * np.nanmax(stays))) if np.isfinite(stays).any() else 10
    length = max(len(x) for x in reference)
    steps = np.unique(np.linspace(0, max(min(longest, length // lagtime), 1), _SURVIVAL_POINTS).astype(np.int64))
    ck = np.array([s for s in _CK_STEPS if s * lagtime < usable_length(reference) / 2] or [1], np.int64)
    core = macrostates.cores(model, macrostate, m)
    whole = Sample.make(reference, n_states)  # only to see how long paths are
    return Frame(
        n_states=n_states,
        macrostate=macrostate,
        n_macrostates=m,
        lagtimes=lags,
        lagtime=lagtime,
        n_timescales=k,
        match=(right, model.stationary),
        residence_times=steps * lagtime,
        ck_lagtimes=ck * lagtime,
        seen=transition_counts(seen, n_states, 1),
        core=core,
        path_times=paths.measure(whole.coarse(core, m)).times,
        ends=processes.process_ends(right, model.stationary),
    )
