"""Adaptive multilevel splitting: of many trajectories out of the source the last are ended, and others branch.

F. Cerou, A. Guyader, Stoch. Anal. Appl. 25, 417 (2007); in discrete time, with ties: C.-E. Brehier, M. Gazeau,
L. Goudenege, T. Lelievre, M. Rousset, Ann. Appl. Probab. 26, 3559 (2016), whose unbiased estimators these are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd._native import Histories
from nanomd.base.checks import check_whole
from nanomd.base.errors import InputError, StoreError
from nanomd.rare.files import Checkpoint, pack, unpack
from nanomd.rare.propagator import STREAM_EXCURSION, Propagator, Task
from nanomd.rare.source import Exits, receptive_field

FloatArray = NDArray[np.float64]
Tokens = NDArray[np.uint16]

_CHUNK = 64  # steps between two looks at the trajectories under way
_LONGEST = 1 << 24  # steps of one excursion


@dataclass(frozen=True, slots=True, kw_only=True)
class Splitting:
    """How adaptive multilevel splitting is run.

    Parameters
    ----------
    n_particles : int
        Trajectories out of the source, of each repetition.
    n_killed : int, optional
        At least so many are ended at every level, the last ones and all that are level with them; a tenth by default.
    n_walkers : int
        Of each repetition, that live in the source and show how often it is left.
    """

    n_particles: int = 500
    n_killed: int | None = None
    n_walkers: int = 8

    def __post_init__(self) -> None:
        """Check everything."""
        object.__setattr__(self, "n_particles", check_whole("n_particles", self.n_particles, 2, 1 << 24))
        object.__setattr__(self, "n_walkers", check_whole("n_walkers", self.n_walkers, 1, 1 << 20))
        tenth = max(1, self.n_particles // 10)
        killed = tenth if self.n_killed is None else check_whole("n_killed", self.n_killed, 1)
        if killed >= self.n_particles:
            raise InputError(f"n_killed must be less than n_particles = {self.n_particles}, got {killed}")
        object.__setattr__(self, "n_killed", killed)

    @property
    def killed(self) -> int:
        """`n_killed` as a number."""
        assert self.n_killed is not None
        return self.n_killed


@dataclass
class Particle:
    """A trajectory from the first state outside the source to the source or the target, both ends included.

    Parameters
    ----------
    past : (n,) uint16
        What came before, as far as the model can see.
    n_before : int
        Tokens before those.
    path : (m,) uint16
    peak : float
        The furthest progress on it; infinite if it ends in the target.
    """

    past: Tokens
    n_before: int
    path: Tokens
    peak: float


@dataclass
class Swarm:
    """All repetitions.

    Parameters
    ----------
    particles : list of list of Particle
        Of each repetition.
    weight : (n_repeats,) float64
        Of all its particles together.
    visits : (n_repeats, V) float64
        Weighted steps in each state, of the particles that were ended.
    levels : list of list of (float, float)
        Each level and the weight left above it, of each repetition.
    round, launched : int
        Levels done; trajectories begun, which number the streams of random numbers.
    """

    particles: list[list[Particle]]
    weight: FloatArray
    visits: FloatArray
    levels: list[list[tuple[float, float]]] = field(default_factory=list)
    round: int = 0
    launched: int = 0


def run(
    propagator: Propagator, options: Splitting, exits: Exits, progress: FloatArray, checkpoint: Checkpoint
) -> Swarm:
    """Run all levels, from the start or from where the checkpoint stands.

    Parameters
    ----------
    propagator : Propagator
    options : Splitting
    exits : Exits
        Where trajectories begin.
    progress : (V,) float64
        Of every state that is neither in the source nor in the target.
    checkpoint : Checkpoint
    """
    task = propagator.task
    value = np.where(task.source, -np.inf, np.where(task.target, np.inf, progress))
    found = checkpoint.load("levels")
    swarm = _begin(propagator, options, exits, value) if found is None else _restore(propagator, options, found, value)
    while True:
        branches = [_end_the_last(task, options, swarm, r, value) for r in range(task.n_repeats)]
        if not any(branches):
            return swarm
        _continue(propagator, swarm, [particle for some in branches for particle in some], value)
        swarm.round += 1
        task.report.update(1)
        task.report.note(f"probability {swarm.weight.mean():.3g}")
        if checkpoint.due:
            checkpoint.save("levels", _state(propagator, swarm))


def _begin(propagator: Propagator, options: Splitting, exits: Exits, value: FloatArray) -> Swarm:
    task = propagator.task
    particles: list[list[Particle]] = []
    for r, histories in enumerate(exits.histories):
        n, random = len(histories.tokens), task.random(5, r)
        # Every exit as often as every other, or once more: on average an exit stands for all.
        order = (
            np.concatenate([random.permutation(n) for _ in range(-(-options.n_particles // n))]) if n else np.zeros(0)
        )
        chosen = histories.take(order[: options.n_particles])
        particles.append(
            [
                Particle(tokens[:-1], int(before), tokens[-1:].copy(), -np.inf)
                for tokens, before in zip(chosen.tokens, chosen.n_before, strict=True)
            ]
        )
    swarm = Swarm(
        particles,
        np.array([float(bool(some)) for some in particles]),
        np.zeros((task.n_repeats, task.n_states)),
        [[] for _ in particles],
    )
    _continue(propagator, swarm, [particle for some in particles for particle in some], value)
    return swarm


def _continue(propagator: Propagator, swarm: Swarm, particles: list[Particle], value: FloatArray) -> None:
    """Go on with trajectories until each has arrived in the source or the target."""
    task = propagator.task
    arrived = task.source | task.target
    moving = [p for p in particles if not arrived[p.path[-1]]]
    streams = STREAM_EXCURSION + swarm.launched + np.arange(len(moving))
    swarm.launched += len(moving)
    reach = receptive_field(task)
    histories = []
    for particle in moving:
        whole = np.concatenate((particle.past, particle.path))
        histories.append((whole[-reach:], particle.n_before + max(0, len(whole) - reach)))
    propagator.restart(Histories([h for h, _ in histories], np.array([b for _, b in histories], np.uint64)))
    pieces: list[list[Tokens]] = [[p.path] for p in moving]
    under_way, done = np.ones(len(moving), bool), 0
    while under_way.any():
        if done >= _LONGEST:
            raise InputError(
                f"source and target were not reached within {done:,} steps after the source was left; give larger sets"
            )
        tokens, taken = propagator.advance(streams, done, np.where(under_way, _CHUNK, 0), arrived)
        for k in np.flatnonzero(under_way).tolist():
            piece = tokens[k, : taken[k]].copy()
            pieces[k].append(piece)
            under_way[k] = not arrived[piece[-1]]
        done += _CHUNK
    for particle, parts in zip(moving, pieces, strict=True):
        particle.path = np.concatenate(parts)
    for particle in particles:
        particle.peak = float(value[particle.path].max())


def _end_the_last(task: Task, options: Splitting, swarm: Swarm, repeat: int, value: FloatArray) -> list[Particle]:
    """End the particles of a repetition that got least far; return the branches in their place, yet to go on."""
    particles = swarm.particles[repeat]
    peaks = np.array([particle.peak for particle in particles])
    level = np.sort(peaks)[options.killed - 1] if len(peaks) else np.inf
    if level == np.inf:
        return []
    last = peaks <= level  # and all that are level with the last of them, or the estimate would be biased
    n, share = len(peaks), swarm.weight[repeat] / len(peaks)
    for k in np.flatnonzero(last).tolist():
        swarm.visits[repeat] += share * np.bincount(particles[k].path[:-1], minlength=task.n_states)
    survivors = np.flatnonzero(~last)
    swarm.weight[repeat] *= len(survivors) / n
    swarm.levels[repeat].append((float(level), float(swarm.weight[repeat])))
    if not len(survivors):
        swarm.particles[repeat] = []
        return []
    chosen = task.random(6, swarm.round, repeat).choice(survivors, size=int(last.sum()))
    branches = []
    for k, parent in zip(np.flatnonzero(last).tolist(), chosen.tolist(), strict=True):
        old = particles[parent]
        first = int(np.argmax(value[old.path] > level))  # beyond the level
        particles[k] = Particle(old.past, old.n_before, old.path[: first + 1], -np.inf)
        branches.append(particles[k])
    return branches


def arrived_weight(swarm: Swarm) -> FloatArray:
    """Return the probability to reach the target before the source, of each repetition, (n_repeats,)."""
    shares = [np.mean([p.peak == np.inf for p in some]) if some else 0.0 for some in swarm.particles]
    found: FloatArray = swarm.weight * np.array(shares)
    return found


def all_visits(swarm: Swarm) -> FloatArray:
    """Return the expected steps in each state between leaving the source and arriving, (n_repeats, V)."""
    visits = swarm.visits.copy()
    for r, some in enumerate(swarm.particles):
        for particle in some:
            counted = np.bincount(particle.path[:-1], minlength=visits.shape[1])
            visits[r] += swarm.weight[r] / len(some) * counted
    return visits


# --- the checkpoint --------------------------------------------------------------------------------------------------
def _state(propagator: Propagator, swarm: Swarm) -> dict[str, NDArray[Any]]:
    flat = [p for some in swarm.particles for p in some]
    past, past_length = pack([p.past for p in flat])
    path, path_length = pack([p.path for p in flat])
    return {
        "past": past, "past_length": past_length, "path": path, "path_length": path_length,
        "n_before": np.array([p.n_before for p in flat], np.int64),
        "n_particles": np.array([len(some) for some in swarm.particles], np.int64),
        "weight": swarm.weight, "visits": swarm.visits,
        "n_levels": np.array([len(some) for some in swarm.levels], np.int64),
        "levels": np.array([pair for some in swarm.levels for pair in some], np.float64).reshape(-1, 2),
        "counts": np.array([swarm.round, swarm.launched, propagator.steps], np.int64),
    }  # fmt: skip


def _restore(propagator: Propagator, options: Splitting, found: dict[str, NDArray[Any]], value: FloatArray) -> Swarm:
    task = propagator.task
    r = task.n_repeats
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "n_particles": ((r,), np.int64), "n_levels": ((r,), np.int64), "weight": ((r,), np.float64),
        "visits": ((r, task.n_states), np.float64), "counts": ((3,), np.int64),
    }  # fmt: skip
    Checkpoint.check(found, shapes)
    number, n_levels = found["n_particles"], found["n_levels"]
    if not (np.isin(number, (0, options.n_particles)).all() and (n_levels >= 0).all() and (found["counts"] >= 0).all()):
        raise StoreError("the checkpoint of the splitting is damaged: its numbers of particles are impossible")
    n = int(number.sum())
    Checkpoint.check(found, {"n_before": ((n,), np.int64), "levels": ((int(n_levels.sum()), 2), np.float64)})
    shares = np.concatenate((found["weight"], found["levels"][:, 1]))
    if not ((shares >= 0) & (shares <= 1)).all() or (found["visits"] < 0).any() or (found["n_before"] < 0).any():
        raise StoreError("the checkpoint of the splitting is damaged: its weights are impossible")
    path = unpack(found.get("path"), found.get("path_length"), n, task.n_states)
    past = unpack(found.get("past"), found.get("past_length"), n, task.n_states, least=0)
    particles = iter(
        Particle(before, int(n_before), own, float(value[own].max()))
        for before, n_before, own in zip(past, found["n_before"], path, strict=True)
    )
    groups = [[next(particles) for _ in range(count)] for count in number.tolist()]
    pairs = iter(found["levels"].tolist())
    levels = [[(float(a), float(b)) for a, b in (next(pairs) for _ in range(count))] for count in n_levels.tolist()]
    swarm = Swarm(groups, found["weight"], found["visits"], levels)
    swarm.round, swarm.launched, propagator.steps = (int(x) for x in found["counts"])
    return swarm
