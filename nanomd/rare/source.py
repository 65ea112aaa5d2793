"""Where walkers begin, and are put back to: the source, with histories that the model has made there itself."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanomd._native import Histories
from nanomd.base.errors import InputError
from nanomd.model.starts import start_labels
from nanomd.rare.propagator import STREAM_BASIN, STREAM_SOURCE, Propagator, Task

_N_HISTORIES = 128
_CHUNK = 256  # steps between two looks at a long simulation
_LONGEST = 1 << 24  # steps of all walkers together without an exit, after which the source is called too deep
_MOST_RETURNS = 2.0**40  # steps of a stay in the source, more than anybody waits for


class Source(NamedTuple):
    """The histories to start from, and how often the source is left.

    Parameters
    ----------
    histories : Histories
        Each ends in the source.
    exit_rate : float
        Exits a step.
    """

    histories: Histories
    exit_rate: float


def receptive_field(task: Task) -> int:
    """Return the frames of the past that the next state can depend on."""
    config = task.files.config
    return config.receptive_field if task.mode == "ring" else config.context_length


def given_histories(task: Task, start: object) -> Histories:
    """Return prompts of a user, raw labels (P,) or (n, P) that end in the source, as histories."""
    labels = start_labels(start)  # type: ignore[arg-type]
    labels = labels.reshape(1, -1) if labels.ndim < 2 else labels
    if labels.ndim != 2 or not labels.size:
        raise InputError(f"start must be one prompt (P,) or several (n, P) of state labels, got shape {labels.shape}")
    tokens = task.files.state_map.encode_labels(labels).astype(np.uint16)
    outside = ~task.source[tokens[:, -1]]
    if outside.any():
        raise InputError(f"every prompt of start must end in the source, got one that ends in {labels[outside][0, -1]}")
    return Histories(list(tokens), np.zeros(len(tokens), np.uint64))


def equilibrate(propagator: Propagator, prompts: Histories | None, n_steps: int) -> Source:
    """Let walkers live in the source, and keep the history of each when it was there last.

    A walker that reaches the target is kept as it was in the source before.

    Parameters
    ----------
    propagator : Propagator
    prompts : Histories, optional
        Where they begin; by default single states of the source, by their stationary probability. Prompts of a user
        are what walkers are put back to, as they are.
    n_steps : int
        Of each walker.
    """
    task = propagator.task
    random = task.random(1)
    given = prompts
    if prompts is None:
        members = np.flatnonzero(task.source)
        weight = task.files.starts.stationary[members]
        weight = weight / weight.sum() if weight.any() else np.full(len(members), 1 / len(members))
        chosen = random.choice(members, _N_HISTORIES, p=weight).astype(np.uint16)
        prompts = Histories(list(chosen[:, None]), np.zeros(_N_HISTORIES, np.uint64))
    else:
        prompts = prompts.take(np.arange(_N_HISTORIES) % len(prompts.tokens))
    propagator.restart(prompts)
    tokens, taken = propagator.advance(STREAM_SOURCE + np.arange(_N_HISTORIES), 0, n_steps, task.target)
    reach, kept, before, exits = receptive_field(task), [], [], 0
    for row, (prompt, drawn) in enumerate(zip(prompts.tokens, tokens, strict=True)):
        whole = np.concatenate((prompt, drawn[: taken[row]]))
        inside = task.source[whole]
        exits += int((inside[:-1] & ~inside[1:])[len(prompt) - 1 :].sum())
        end = int(np.flatnonzero(inside)[-1]) + 1
        kept.append(whole[max(0, end - reach) : end])
        before.append(int(prompts.n_before[row]) + max(0, end - reach))
    histories = Histories(kept, np.array(before, np.uint64))
    return Source(histories if given is None else given, exits / max(int(taken.sum()), 1))


class Exits(NamedTuple):
    """How trajectories leave the source, for each repetition.

    Parameters
    ----------
    histories : list of Histories
        Each ends with the first state outside.
    flux : (n_repeats,) float64
        Exits a step.
    inside : (n_repeats, V) float64
        Share of the steps spent in each state of the source.
    """

    histories: list[Histories]
    flux: NDArray[np.float64]
    inside: NDArray[np.float64]


def collect_exits(propagator: Propagator, source: Source, n_exits: int, n_walkers: int, n_warm_up: int) -> Exits:
    """Simulate the source until about `n_exits` exits of each repetition are expected.

    The number of steps is fixed beforehand, from the rate at which the source was left before, so that exits over
    steps is unbiased. Walkers that reach the target are put back, as in the process whose rate is asked for.
    """
    task = propagator.task
    rate = source.exit_rate or _first_exit(propagator, source)
    per_walker = int(np.ceil(n_exits / rate / n_walkers))
    if per_walker > _MOST_RETURNS:
        raise InputError(f"source is left once in {1 / rate:.3g} steps, too rarely; give a smaller set of states")
    n = task.n_repeats * n_walkers
    repeat = np.repeat(np.arange(task.n_repeats), n_walkers)
    reach = receptive_field(task)
    random = task.random(2)
    propagator.restart(source.histories.take(random.integers(len(source.histories.tokens), size=n)))
    past = [history[-reach:] for history in propagator.walkers.histories().tokens]
    seen = np.array([len(h) for h in past], np.int64) + propagator.walkers.histories().n_before.astype(np.int64)
    inside = np.zeros((task.n_repeats, task.n_states))
    found: list[list[tuple[NDArray[np.uint16], int]]] = [[] for _ in range(task.n_repeats)]
    total = n_warm_up + per_walker
    done = np.zeros(n, np.int64)  # steps of each walker, of `total`
    streams = STREAM_BASIN + np.arange(n)
    while (done < total).any():
        tokens, taken = propagator.advance(streams, done, np.minimum(_CHUNK, total - done), task.target)
        for w in range(n):
            if not taken[w]:
                continue
            whole = np.concatenate((past[w], tokens[w, : taken[w]]))
            first = len(past[w])  # of the new ones
            was_in = task.source[whole[first - 1 : -1]]
            now_in = task.source[whole[first:]]
            counted = done[w] + np.arange(taken[w]) >= n_warm_up
            inside[repeat[w]] += np.bincount(whole[first:][now_in & counted], minlength=task.n_states)
            for at in (first + np.flatnonzero(was_in & ~now_in & counted)).tolist():
                begin = max(0, at + 1 - max(reach, 2))  # with the last state inside, whatever the model reads
                found[repeat[w]].append((whole[begin : at + 1].copy(), int(seen[w]) - first + begin))
            past[w] = whole[-reach:]
            seen[w] += taken[w]
        done += taken
        hit = np.flatnonzero((taken > 0) & task.target[[history[-1] for history in past]])
        if len(hit):
            again = source.histories.take(random.integers(len(source.histories.tokens), size=len(hit)))
            propagator.place(hit, again)
            for w, history, before in zip(hit.tolist(), again.tokens, again.n_before.tolist(), strict=True):
                past[w], seen[w] = history[-reach:], before + len(history)
    steps = per_walker * n_walkers
    return Exits(
        [Histories([h for h, _ in some], np.array([b for _, b in some], np.uint64)) for some in found],
        np.array([len(some) / steps for some in found]),
        inside / steps,
    )


def _first_exit(propagator: Propagator, source: Source) -> float:
    """Return a rough rate of exits of a source that was not left while it was equilibrated."""
    task = propagator.task
    n, begun = len(source.histories.tokens), propagator.steps
    propagator.restart(source.histories)
    done, exits = 0, 0
    while exits < 10 and propagator.steps - begun < _LONGEST:
        _, taken = propagator.advance(STREAM_SOURCE + n + np.arange(n), done, _CHUNK, ~task.source)
        left = np.flatnonzero(taken < _CHUNK)
        exits += len(left)
        done += _CHUNK
        if len(left):
            propagator.place(left, source.histories.take(left))
    if not exits:
        raise InputError(
            f"source was not left within {propagator.steps - begun:,} steps; give a smaller set of states as source"
        )
    return exits / (propagator.steps - begun)
