"""`validate`: the kinetics of rollouts and of Markov models beside those of the MD, with a verdict.

Three steps: prepare what was handed in, measure every source with one yardstick, judge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from numpy.typing import ArrayLike

from nanomd.base.checks import check_whole
from nanomd.base.progress import Progress, expect, reporting
from nanomd.base.units import Duration, FrameInterval
from nanomd.data.counts import SPARSE_STATES
from nanomd.kinetics.bootstrap import Bootstrap
from nanomd.kinetics.counted_source import Counted, counted_source
from nanomd.kinetics.estimates import Sample
from nanomd.kinetics.inputs import Trajs
from nanomd.kinetics.judgement import judge
from nanomd.kinetics.lags import choose_lags
from nanomd.kinetics.markov import kept_models
from nanomd.kinetics.markov_source import markov_source
from nanomd.kinetics.memory_source import memory_source
from nanomd.kinetics.prepare import REFERENCE, ROLLOUT, prepare
from nanomd.kinetics.results import ValidationResult
from nanomd.kinetics.sources import Measured, trajectory_source
from nanomd.kinetics.yardstick import Yardstick, make_yardstick


@kept_models()
def validate(
    dtrajs: Any,
    rollout: Any = None,
    *,
    lagtimes: Sequence[Duration] | None = None,
    lagtime: Duration | None = None,
    n_macrostates: int | None = None,
    macrostate_of_state: ArrayLike | Mapping[int, int | str] | None = None,
    frame_interval: FrameInterval | str | None = None,
    training: Any = None,
    others: Mapping[str, Any] | None = None,
    memory_kernel: bool | int = False,
    confidence: float = 0.95,
    n_bootstrap: int = 200,
    seed: int = 0,
    progress: Progress | bool | None = None,
) -> ValidationResult:
    """Compare kinetics with a reference.

    Parameters
    ----------
    dtrajs : list of arrays of int, path, pattern, Rollout, or deeptime's TrajectoriesDataset
        The reference MD: labels of states, whole numbers from 0; negative: unassigned. Where labels are few and far
        between, states are numbered in their order (`ValidationResult.state_symbols`). Every source may be any of
        these; tokens of a stored rollout are read where they lie, a batch at a time. Sources that are compared may also
        be a rollout without tokens or its observables (`nanomd.kinetics.counted_source`).
    rollout : Rollout or list of arrays, optional
        What the model generated; the source "GPT". With a Rollout of a model whose step is several frames, or that kept
        every stride-th state, everything is compared at that stride, the MD counted from every offset.
    lagtimes : sequence of int or str, optional
        Lags of the implied timescales, in frames or times such as ``"1 ns"``; by default spaced
        logarithmically up to a quarter of the length of the reference's trajectories, and two slowest timescales.
    lagtime : int or str, optional
        Lag of the macrostates and of the "MSM" source, and the stride at which first passages and stays are seen in
        every source, so that quick recrossings count for none. By default the first of `lagtimes` from which on the
        three slowest timescales rise no more, by a tenth and half the error of the rise
        (`nanomd.kinetics.time_scales`).
    n_macrostates : int, optional
        By default the largest gap among the timescales; all states where there are at most five.
    macrostate_of_state : array (n_labels,) or mapping from labels, optional
        Macrostates of your own, 0..m-1 (negative: none), or names such as "folded" and "unfolded". A label without one
        is in none, and named in the warnings. Timescales are then those of the processes between them
        (`nanomd.kinetics.processes.processes_between`). By default PCCA+ finds the macrostates.
    frame_interval : FrameInterval or str, optional
        Time of a frame, such as ``"0.2 ns"``.
    training : list of arrays, optional
        The MD that the model has seen, `dtrajs` when None. The Markov models are made of it, transitions that it never
        shows are counted, and all sources are compared with it too: it is the source "training MD".
    others : dict of sources
        More sources, such as ``{"LSTM": ..., "MD held out": ...}``.
    memory_kernel : bool or int
        Add the source "memory kernel": a Markov model of `training` with a memory of so many frames, chosen on held-out
        parts where True (`nanomd.kinetics.memory_source`). Takes time: minutes with hundreds of states.
    confidence, n_bootstrap, seed :
        Of the intervals; see `nanomd.kinetics.bootstrap`.
    progress : bool or Progress, optional
        True shows a bar, a step a source; None says in a line a minute how far it is.

    Returns
    -------
    ValidationResult
        Sources "MD", "GPT", the others, "training MD", "MSM" (at `lagtime`) and "MSM (lag 1)"; each but the first with
        a verdict: "pass", "fail" or "undecided". What makes it so is in docs/kinetics.md. Above 2048 states counts are
        sparse, six lags are looked at by default, and there is no "MSM (lag 1)" (docs/many-states.md).

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
    >>> result.verdict
    'fail'
    >>> print(f"passage times are off by a factor of {result.mfpt_errors['GPT'].factor:.0f}")
    passage times are off by a factor of 2
    """
    Bootstrap.draw(2, n_bootstrap, confidence, seed)  # checks the settings before the work
    if n_macrostates is not None:
        n_macrostates = check_whole("n_macrostates", n_macrostates)
    if memory_kernel is not True and memory_kernel is not False:
        memory_kernel = check_whole("memory_kernel", memory_kernel)
    inputs = prepare(dtrajs, rollout, training, others or {}, frame_interval, macrostate_of_state)
    reference = inputs.sources[REFERENCE]
    lags = choose_lags(reference, inputs.n_states, lagtimes, lagtime, inputs.interval, inputs.views(REFERENCE))
    yardstick = make_yardstick(
        inputs.sources[REFERENCE],
        inputs.training,
        inputs.n_states,
        lags.lagtimes,
        lags.lagtime,
        n_macrostates=n_macrostates,
        macrostate_of_state=inputs.macrostate,
    )

    def sample(trajs: Trajs, number: int, views: int) -> Sample:
        return Sample.make(
            trajs,
            inputs.n_states,
            timescale=lags.slowest,
            confidence=confidence,
            n_bootstrap=n_bootstrap,
            seed=seed + number,  # every source has draws of its own
            views=views,
        )

    samples = {
        name: sample(trajs, number, inputs.views(name)) for number, (name, trajs) in enumerate(inputs.sources.items())
    }
    trained = sample(inputs.training, len(samples), inputs.views(inputs.learnt_from))
    number = len(samples) + len(inputs.counted) + 2 + (memory_kernel is not False)
    with reporting(progress, number, "validate", "source") as bar:
        measured = _measure(samples, inputs.counted, trained, yardstick, memory_kernel, confidence, bar)
    return judge(inputs, lags, yardstick, samples, measured, confidence)


def _measure(
    samples: dict[str, Sample],
    counted: dict[str, Counted],
    trained: Sample,
    yardstick: Yardstick,
    memory_kernel: bool | int,
    confidence: float,
    progress: Progress,
) -> dict[str, Measured]:
    """Measure all trajectories, and the Markov models of the training data."""
    steps: dict[str, Callable[[], Measured]] = {
        name: partial(trajectory_source, name, sample, yardstick) for name, sample in samples.items()
    }
    steps |= {name: partial(counted_source, name, found, yardstick, confidence) for name, found in counted.items()}
    steps = {name: steps[name] for name in sorted(steps, key=lambda name: name not in (REFERENCE, ROLLOUT))}
    if max(len(x) for x in trained.dtrajs) > yardstick.lagtime:
        steps["MSM"] = partial(markov_source, "MSM", trained, yardstick, yardstick.lagtime)
        if yardstick.lagtime > 1 and trained.n_states <= SPARSE_STATES:  # its powers would be dense
            steps["MSM (lag 1)"] = partial(markov_source, "MSM (lag 1)", trained, yardstick, 1)
    if memory_kernel is not False:
        wanted = None if memory_kernel is True else memory_kernel
        steps["memory kernel"] = partial(memory_source, "memory kernel", trained, yardstick, wanted)
    expect(progress, len(steps))
    measured = {}
    for name, step in steps.items():
        progress.note(name)
        measured[name] = step()
        progress.update()
    return measured
