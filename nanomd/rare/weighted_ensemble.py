"""Weighted ensemble: walkers with weights, as many in every bin of progress, and the flux into the target.

G. A. Huber, S. Kim, Biophys. J. 70, 97 (1996); the rate by the flux in the steady state: D. Bhatt, B. W. Zhang,
D. M. Zuckerman, J. Chem. Phys. 133, 014110 (2010).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd._native import Histories, resample_walkers
from nanomd.base.checks import check_whole
from nanomd.base.errors import InputError, StoreError
from nanomd.rare.files import Checkpoint, pack, unpack
from nanomd.rare.propagator import Propagator
from nanomd.rare.segments import Recorder, Segments
from nanomd.rare.source import Source

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedEnsemble:
    """How a weighted ensemble is run.

    Parameters
    ----------
    n_iterations : int
        Resamplings.
    tau : int
        Steps between two of them.
    n_bins : int
        Bins between source and target; fewer where there are fewer values of progress.
    walkers_per_bin : int
        In every bin that holds any.
    burn_in : int, optional
        Iterations until the flux is taken for steady; a third of them by default.
    """

    n_iterations: int = 600
    tau: int = 1
    n_bins: int = 20
    walkers_per_bin: int = 16
    burn_in: int | None = None

    def __post_init__(self) -> None:
        """Check everything."""
        for name, low in (("n_iterations", 2), ("tau", 1), ("n_bins", 1), ("walkers_per_bin", 1)):
            object.__setattr__(self, name, check_whole(name, getattr(self, name), low, 1 << 30))
        burn_in = self.n_iterations // 3 if self.burn_in is None else check_whole("burn_in", self.burn_in, 0)
        if burn_in >= self.n_iterations:
            raise InputError(f"burn_in must be less than n_iterations = {self.n_iterations}, got {burn_in}")
        object.__setattr__(self, "burn_in", burn_in)

    @property
    def burnt(self) -> int:
        """`burn_in` as a number."""
        assert self.burn_in is not None
        return self.burn_in


@dataclass
class Ensemble:
    """The walkers of all repetitions, and what was seen of them.

    Parameters
    ----------
    iteration : int
        Those done.
    weight, repeat : (n,) float64, int64
        Of each walker; weights of a repetition sum to one.
    parent : (n,) int64
        The walker of the iteration before that each goes on from; at first the history of the source.
    merged : (k, 2) int64
        A walker, and one of the iteration before other than its parent that gave it weight; empty without a record.
    present : (n,) uint16
        The token where it is.
    flux : (n_iterations, n_repeats) float64
        Weight that reached the target, a step.
    arrivals : (n_repeats,) int64
        Walkers that did so after the burn-in.
    visits : (n_repeats, V) float64
        Weight times steps in each state after the burn-in.
    record : Recorder, optional
        Where everything that walkers do is kept.
    """

    iteration: int
    weight: FloatArray
    repeat: NDArray[np.int64]
    parent: NDArray[np.int64]
    merged: NDArray[np.int64]
    present: NDArray[np.uint16]
    flux: FloatArray
    arrivals: NDArray[np.int64]
    visits: FloatArray
    record: Recorder | None = None


def run(
    propagator: Propagator,
    options: WeightedEnsemble,
    source: Source,
    bins: NDArray[np.int64],
    checkpoint: Checkpoint,
    *,
    record: bool = False,
) -> Ensemble:
    """Run all iterations, from the start or from where the checkpoint stands.

    Parameters
    ----------
    propagator : Propagator
    options : WeightedEnsemble
    source : Source
        Where walkers begin and are put back to.
    bins : (V,) int64
        Of every state.
    checkpoint : Checkpoint
    record : bool
        Keep what every walker did.
    """
    task = propagator.task
    n_bins = int(bins.max()) + 1
    if record:
        most = task.n_repeats * n_bins * options.walkers_per_bin
        Recorder.check_size(most, options.n_iterations, options.tau)
    found = checkpoint.load("iterations")
    ensemble = (
        _begin(propagator, options, source, record)
        if found is None
        else _restore(propagator, options, found, source, record)
    )
    task.report.update(ensemble.iteration)
    while ensemble.iteration < options.n_iterations:
        if ensemble.record is not None:
            ensemble.record.begin(ensemble.parent, ensemble.merged, ensemble.weight, ensemble.present, options.tau)
        _advance(propagator, options, source, ensemble)
        ensemble.iteration += 1
        if ensemble.iteration < options.n_iterations:
            group = ensemble.repeat * n_bins + bins[ensemble.present]
            parents, ensemble.weight, ensemble.merged = resample_walkers(
                ensemble.weight, group, options.walkers_per_bin, task.seed, ensemble.iteration, trace=record
            )
            propagator.walkers.select(parents)
            ensemble.parent, ensemble.repeat = parents, ensemble.repeat[parents]
            ensemble.present = ensemble.present[parents]
        task.report.update(1)
        if checkpoint.due:
            checkpoint.save("iterations", _state(propagator, ensemble))
            mean = ensemble.flux[ensemble.iteration // 3 : ensemble.iteration].mean()
            task.report.note(f"{len(ensemble.weight)} walkers, flux {mean:.3g} a step")
    return ensemble


def _begin(propagator: Propagator, options: WeightedEnsemble, source: Source, record: bool) -> Ensemble:
    task = propagator.task
    n = task.n_repeats * options.walkers_per_bin
    begins = task.random(3).integers(len(source.histories.tokens), size=n)
    chosen = source.histories.take(begins)
    propagator.restart(chosen)
    return Ensemble(
        iteration=0,
        weight=np.full(n, 1 / options.walkers_per_bin),
        repeat=np.repeat(np.arange(task.n_repeats), options.walkers_per_bin),
        parent=begins,
        merged=np.zeros((0, 2), np.int64),
        present=chosen.last,
        flux=np.zeros((options.n_iterations, task.n_repeats)),
        arrivals=np.zeros(task.n_repeats, np.int64),
        visits=np.zeros((task.n_repeats, task.n_states)),
        record=Recorder(source.histories.last) if record else None,
    )


def _advance(propagator: Propagator, options: WeightedEnsemble, source: Source, ensemble: Ensemble) -> None:
    """Draw tau steps of every walker; one that reaches the target is put back at once and goes on from the source.

    The walker in place k of an iteration has the random numbers of stream k, and those of a step are used once: copies
    of one parent, which have different places, are independent from then on.
    """
    task, counted = propagator.task, ensemble.iteration >= options.burnt
    n = len(ensemble.weight)
    left = np.full(n, options.tau)
    random: np.random.Generator | None = None
    while left.any():
        first = ensemble.iteration * options.tau + (options.tau - left)
        tokens, taken = propagator.advance(np.arange(n), first, left, task.target)
        moved = np.flatnonzero(taken)
        ensemble.present[moved] = tokens[moved, taken[moved] - 1]
        hit = moved[task.target[ensemble.present[moved]]]
        done = options.tau - left
        left -= taken
        if len(hit):
            np.add.at(ensemble.flux[ensemble.iteration], ensemble.repeat[hit], ensemble.weight[hit] / options.tau)
            random = random or task.random(4, ensemble.iteration)
            index = random.integers(len(source.histories.tokens), size=len(hit))
            again = source.histories.take(index)
            propagator.place(hit, again)
            if ensemble.record is not None:
                ensemble.record.arrived(hit, done[hit] + taken[hit], ensemble.present[hit], index)
            ensemble.present[hit] = tokens[hit, taken[hit] - 1] = again.last
        if ensemble.record is not None:
            ensemble.record.drawn(done, tokens, taken)
        if counted:
            drawn = np.arange(tokens.shape[1]) < taken[:, None]
            place = ensemble.repeat[:, None] * task.n_states + tokens
            weight = np.broadcast_to(ensemble.weight[:, None], tokens.shape)
            seen = np.bincount(place[drawn], weight[drawn], minlength=ensemble.visits.size)
            ensemble.visits += seen.reshape(ensemble.visits.shape)
            np.add.at(ensemble.arrivals, ensemble.repeat[hit], 1)


def _state(propagator: Propagator, ensemble: Ensemble) -> dict[str, NDArray[Any]]:
    histories = propagator.walkers.histories()
    flat, length = pack(histories.tokens)
    kept: dict[str, NDArray[Any]] = {}
    if ensemble.record is not None:
        kept = {"parent": ensemble.parent, "merged": ensemble.merged, **ensemble.record.segments().arrays()}
    return {
        "tokens": flat, "length": length, "n_before": histories.n_before,
        "weight": ensemble.weight, "repeat": ensemble.repeat, "flux": ensemble.flux, "visits": ensemble.visits,
        "arrivals": ensemble.arrivals, "counts": np.array([ensemble.iteration, propagator.steps], np.int64), **kept,
    }  # fmt: skip


def _restore(
    propagator: Propagator, options: WeightedEnsemble, found: dict[str, NDArray[Any]], source: Source, record: bool
) -> Ensemble:
    task = propagator.task
    n = len(found["weight"])
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "counts": ((2,), np.int64), "weight": ((n,), np.float64), "repeat": ((n,), np.int64),
        "n_before": ((n,), np.uint64), "flux": ((options.n_iterations, task.n_repeats), np.float64),
        "visits": ((task.n_repeats, task.n_states), np.float64), "arrivals": ((task.n_repeats,), np.int64),
    }  # fmt: skip
    Checkpoint.check(found, shapes)
    iteration, steps = (int(x) for x in found["counts"])
    histories = Histories(unpack(found["tokens"], found["length"], n, task.n_states), found["n_before"])
    weight, repeat = found["weight"], found["repeat"]
    ordered = ((repeat >= 0) & (repeat < task.n_repeats)).all() and 0 < iteration <= options.n_iterations and steps >= 0
    sums = np.bincount(repeat, weight, task.n_repeats) if ordered else np.zeros(1)
    positive = (weight > 0).all() and all((found[name] >= 0).all() for name in ("flux", "visits", "arrivals"))
    if not (ordered and positive and np.abs(sums - 1).max() < 1e-6):
        raise StoreError("the checkpoint of the weighted ensemble is damaged: its weights are impossible")
    recorder, parent, merged = None, np.zeros(n, np.int64), np.zeros((0, 2), np.int64)
    if record:
        Checkpoint.check(found, {"parent": ((n,), np.int64), "merged": ((len(found.get("merged", ())), 2), np.int64)})
        segments, parent, merged = (
            Segments.read(found, task.n_states, "the checkpoint"),
            found["parent"],
            found["merged"],
        )
        fits = len(segments.n_walkers) == iteration and segments.tau == options.tau
        if iteration < options.n_iterations:  # else they are those of the last
            last = int(segments.n_walkers[-1])
            fits = fits and all(
                ((x >= 0) & (x < most)).all() for x, most in ((parent, last), (merged[:, 0], n), (merged[:, 1], last))
            )
        if not (fits and np.array_equal(segments.history, source.histories.last)):
            raise StoreError("the checkpoint of the weighted ensemble is damaged: its segments are those of another")
        recorder = Recorder.going_on(segments)
    propagator.restart(histories)
    propagator.steps = steps
    return Ensemble(
        iteration, weight, repeat, parent, merged, histories.last, found["flux"], found["arrivals"], found["visits"],
        recorder,
    )  # fmt: skip
