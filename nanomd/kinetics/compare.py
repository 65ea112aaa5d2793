"""`validate`: the kinetics of rollouts and of Markov models beside those of the MD, with a verdict for every number.

The rule of the verdict is that of `nanomd.kinetics.verdict`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike

from nanomd.base.errors import InputError
from nanomd.base.units import FrameInterval
from nanomd.kinetics import estimates, macrostates, processes
from nanomd.kinetics.bootstrap import Bootstrap
from nanomd.kinetics.estimates import Sample
from nanomd.kinetics.inputs import Trajs, trajectories
from nanomd.kinetics.lags import Lags, choose_lags
from nanomd.kinetics.markov_source import markov_source
from nanomd.kinetics.memory_source import memory_source, passages_of_pieces
from nanomd.kinetics.passage_error import mfpt_error
from nanomd.kinetics.results import MfptError, ValidationResult
from nanomd.kinetics.sources import Measured, trajectory_source
from nanomd.kinetics.verdict import verdict_notes, verdict_rows
from nanomd.kinetics.yardstick import Yardstick, make_yardstick

TAKEN = ("MD", "GPT", "MSM", "MSM (lag 1)", "memory kernel")
PIECES = 20.0  # slowest timescales; trajectories shorter than this hold a biased sample of passages


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
        What the model generated; the source "GPT". With a Rollout of a model whose step is several frames, or that kept
        every stride-th state, everything is compared at that stride.
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

    Examples
    --------
    A two-state process, and a model of it that leaves its states twice as often:

    >>> import numpy as np
    >>> def walk(rate, seed):
    ...     return np.cumsum(np.random.default_rng(seed).random((4, 5000)) < rate, axis=1) % 2
    >>> result = validate(walk(0.02, 1), list(walk(0.04, 2)), lagtime=1, lagtimes=[1, 5, 10], n_bootstrap=50)
    >>> list(result.sources)
    ['MD', 'GPT', 'MSM']
    >>> print(f"passage times are off by a factor of {result.mfpt_errors['GPT'].factor:.0f}")
    passage times are off by a factor of 2
    """
    Bootstrap.draw(2, n_bootstrap, confidence, seed)  # checks the settings before the work
    inputs = _prepare(dtrajs, rollout, training, others or {}, frame_interval)
    lags = choose_lags(inputs.sources["MD"], inputs.n_states, lagtimes, lagtime)
    yardstick = make_yardstick(
        inputs.sources["MD"],
        inputs.training,
        inputs.n_states,
        lags.lagtimes,
        lags.lagtime,
        n_macrostates=n_macrostates,
        macrostate_of_state=macrostate_of_state,
    )
    draw = _Draw(inputs.n_states, lags.slowest, confidence, n_bootstrap, seed)
    measured = _measure(inputs, yardstick, draw, memory_kernel)
    return _judge(inputs, lags, yardstick, measured, draw)


# --- Prepare ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Inputs:
    """What was handed in, checked: trajectories by source, the reference first; states are 0..n_states-1."""

    sources: dict[str, Trajs]
    training: Trajs
    is_reference: bool  # the training data are the reference
    n_states: int
    interval: FrameInterval
    notes: list[str]


def _prepare(
    dtrajs: Any, rollout: Any, training: Any, others: Mapping[str, Any], frame_interval: FrameInterval | str | None
) -> _Inputs:
    """Check all trajectories, at the stride of the rollout."""
    interval = FrameInterval.parse(frame_interval)
    kept, step = int(getattr(rollout, "stride", 1) or 1), int(getattr(rollout, "frame_stride", 1))
    stride = kept * step  # frames of the MD between two states of the rollout
    if frame_interval is None and getattr(rollout, "frame_interval", None) is not None:
        interval = rollout.frame_interval
        interval = FrameInterval(interval.value / step, interval.unit)
    notes: list[str] = []
    sources = {"MD": trajectories("dtrajs", dtrajs, stride)}
    if rollout is not None:
        sources["GPT"] = trajectories("rollout", getattr(rollout, "dtrajs", rollout), 1)
    for name, trajs in others.items():
        if name in TAKEN:
            raise InputError(f"others must not be named {name!r}, which is taken")
        sources[name] = trajectories(f"others[{name!r}]", trajs, stride)
    seen = sources["MD"] if training is None else trajectories("training", training, stride)
    if stride > 1:
        interval = FrameInterval(interval.value * stride, interval.unit)
        notes.append(
            f"the states of the rollout are {stride} frames of the MD apart: all sources are compared at this stride, "
            f"a frame is {interval}"
        )
    n_states = 1 + max(int(x.max()) for trajs in [*sources.values(), seen] for x in trajs)
    return _Inputs(sources, seen, training is None, n_states, interval, notes)


# --- Measure ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Draw:
    """How bootstrap samples are drawn."""

    n_states: int
    timescale: float  # the slowest, in frames
    confidence: float
    n_bootstrap: int
    seed: int

    def sample(self, trajs: Trajs, number: int) -> Sample:
        """Cut trajectories into blocks; every source, by number, has draws of its own."""
        return Sample.make(
            trajs,
            self.n_states,
            timescale=self.timescale,
            confidence=self.confidence,
            n_bootstrap=self.n_bootstrap,
            seed=self.seed + number,
        )


def _measure(inputs: _Inputs, yardstick: Yardstick, draw: _Draw, memory_kernel: bool | int) -> dict[str, Measured]:
    """Measure all sources, and the Markov models of the training data."""
    measured = {
        name: trajectory_source(name, draw.sample(trajs, number), yardstick)
        for number, (name, trajs) in enumerate(inputs.sources.items())
    }
    trained = draw.sample(inputs.training, len(inputs.sources))
    if max(len(x) for x in inputs.training) > yardstick.lagtime:
        measured["MSM"] = markov_source("MSM", trained, yardstick, yardstick.lagtime)
        if yardstick.lagtime > 1:
            measured["MSM (lag 1)"] = markov_source("MSM (lag 1)", trained, yardstick, 1)
    if memory_kernel is not False:
        wanted = None if memory_kernel is True else int(memory_kernel)
        measured["memory kernel"] = memory_source("memory kernel", trained, yardstick, wanted)
    return measured


# --- Judge -----------------------------------------------------------------------------------------------------------
def _judge(
    inputs: _Inputs, lags: Lags, yardstick: Yardstick, measured: dict[str, Measured], draw: _Draw
) -> ValidationResult:
    """Compare every source with the reference."""
    sources = {name: found.kinetics for name, found in measured.items()}
    names = macrostates.macrostate_names(yardstick.n_macrostates, sources["MD"].macro_populations.value)
    ratios = {name: s.n_frames / s.n_trajs / lags.slowest for name, s in sources.items() if s.n_trajs > 0}
    assert yardstick.ends is not None
    described = [processes.describe_process(ends, yardstick.stationary) for ends in yardstick.ends]
    floor = None
    if not inputs.is_reference:
        floor = _noise_floor(draw.sample(inputs.training, len(inputs.sources) + 1), yardstick, measured["MD"], lags)
    errors = {
        name: _passage_error(measured["MD"], found, draw.confidence) for name, found in measured.items() if name != "MD"
    }
    notes = list(inputs.notes)
    if not lags.settled:
        notes.append("every lagtime exceeds half the slowest timescale: timescales are unreliable")
    notes += verdict_notes(sources, ratios, lags.slowest, lags.lagtime, names, described)
    return ValidationResult(
        reference="MD",
        frame_interval=inputs.interval,
        lagtime=lags.lagtime,
        macrostate_of_state=yardstick.macrostate,
        macrostate_names=names,
        sources=sources,
        rows=verdict_rows(sources, yardstick, names, inputs.interval, errors, floor),
        chain_length_over_slowest=ratios,
        confidence=draw.confidence,
        warnings=notes,
        core_of_state=yardstick.cores,
        processes=described,
        mfpt_errors=errors,
        noise_floor=floor,
    )


def _noise_floor(trained: Sample, yardstick: Yardstick, reference: Measured, lags: Lags) -> MfptError | None:
    """Compare the passage times of the training data with the reference's; None where they are too short to have any.

    Pieces of few slowest timescales are counted by excursions, for whole passages in them are a biased sample.
    """
    if trained.n_frames / len(trained.dtrajs) < PIECES * lags.slowest:
        found = passages_of_pieces(trained, yardstick)
        if found is None:
            return None
        times, replicates = found
    else:
        macro = trained.coarse(yardstick.macrostate, yardstick.n_macrostates)
        interval, _, replicates = estimates.passage_samples(macro, yardstick.lagtime)
        times = interval.value
    return mfpt_error(
        reference.kinetics.mfpt,
        times,
        reference_replicates=reference.passages,
        other_replicates=replicates,
        confidence=trained.bootstrap.confidence,
    )


def _passage_error(reference: Measured, source: Measured, confidence: float) -> MfptError:
    """Compare the passage times of a source with the reference's; a table without replicates counts as exact."""
    return mfpt_error(
        reference.kinetics.mfpt,
        source.kinetics.mfpt.value,
        reference_replicates=reference.passages,
        other_replicates=source.passages,
        confidence=confidence,
    )
