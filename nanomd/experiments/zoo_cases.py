"""The zoo: data of many kinds that no setting was chosen for, each to be learnt with the defaults alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanomd.experiments.case import cut_into_pieces
from nanomd.experiments.cases import get_case

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
Split = tuple[list[IntArray], list[IntArray]]  # what trains, and what judges
_JUDGING = 6  # trajectories of a model system that judge


@dataclass(frozen=True)
class ZooCase:
    """Data to be learnt without any option.

    Parameters
    ----------
    name, title : str
    load : callable
        Maps a folder of molecular dynamics (or None) to training and held-out trajectories.
    needs_data : bool
        Whether that folder is needed.
    """

    name: str
    title: str
    load: Callable[[str | Path | None], Split]
    needs_data: bool = False


def markov_chain(transition: FloatArray, n_frames: int, seed: int) -> IntArray:
    """Return a trajectory (n_frames,) of a Markov chain that starts in state 0; stays are drawn whole."""
    random = np.random.default_rng(seed)
    n = len(transition)
    stay = np.diag(transition).copy()
    jump = transition - np.diag(stay)
    cumulative = np.cumsum(jump / jump.sum(axis=1, keepdims=True), axis=1)
    states, lengths, total, state = [], [], 0, 0
    while total < n_frames:
        length = int(random.geometric(1.0 - stay[state]))
        states.append(state)
        lengths.append(length)
        total += length
        state = min(int(np.searchsorted(cumulative[state], random.random(), side="right")), n - 1)
    return np.repeat(np.array(states, np.int64), lengths)[:n_frames]


def hidden_gates(memory: int, n_frames: int, seed: int) -> IntArray:
    """Return two states, in each of which a hidden gate with a relaxation time of `memory` frames lets changes through.

    Each of the states is seen as one of three labels, drawn anew every frame: six labels in all.
    """
    close, opens, cross = 0.85 / memory, 0.15 / memory, 0.85 / memory
    rates = np.zeros((4, 4))  # closed 0, open 0, open 1, closed 1
    rates[0, 1] = rates[3, 2] = opens
    rates[1, 0] = rates[2, 3] = close
    rates[1, 2] = rates[2, 1] = cross
    rates[np.arange(4), np.arange(4)] = 1.0 - rates.sum(axis=1)
    side = (markov_chain(rates, n_frames, seed) >= 2).astype(np.int64)
    label = np.random.default_rng([seed, 1]).choice(3, p=[0.5, 0.3, 0.2], size=n_frames)
    return np.asarray(3 * side + label, np.int64)


def ring(n_states: int, forwards: float, backwards: float, barrier: int = 0) -> FloatArray:
    """Return a chain around a circle; with `barrier` every so-many-th step is twenty times rarer."""
    transition = np.zeros((n_states, n_states))
    for i in range(n_states):
        rare = 0.05 if barrier and (i + 1) % barrier == 0 else 1.0
        j = (i + 1) % n_states
        transition[i, j] += forwards * rare
        transition[j, i] += backwards * rare
    transition[np.arange(n_states), np.arange(n_states)] = 1.0 - transition.sum(axis=1)
    return transition


def _chains(transition: FloatArray, n_frames: int) -> Callable[[str | Path | None], Split]:
    def load(data: str | Path | None) -> Split:  # noqa: ARG001
        return [markov_chain(transition, n_frames, 1)], [markov_chain(transition, n_frames, s) for s in (2, 3, 4)]

    return load


def _gates(memory: int, transitions: int) -> ZooCase:
    """Hidden gates that are open 15 % of the time, and then let a change through 0.85 times in `memory` frames."""
    n_frames = round(transitions * memory / (0.15 * 0.85))

    def load(data: str | Path | None) -> Split:  # noqa: ARG001
        judges = [hidden_gates(memory, min(4 * n_frames, 2_000_000), s) for s in (2, 3, 4)]
        return [hidden_gates(memory, n_frames, 1)], judges

    return ZooCase(f"gates-{memory}-{transitions}", f"hidden gates, memory {memory}, {transitions:,} changes", load)


def _system(name: str, dataset: int = 0, pieces: int = 0) -> Callable[[str | Path | None], Split]:
    def load(data: str | Path | None) -> Split:
        found = get_case(name).load(dataset, data)
        training = cut_into_pieces(found.training, pieces) if pieces else found.training
        return training, found.held_out[:_JUDGING]

    return load


def _pentapeptide(n_states: int) -> Callable[[str | Path | None], Split]:
    """One of the five trajectories judges."""

    def load(data: str | Path | None) -> Split:
        from nanomd.systems.data import data_folder
        from nanomd.tokenize import Tokenizer

        top = "pentapeptide-impl-solv.pdb"
        folder = data_folder(
            "pentapeptide",
            [top],
            data,
            source="Simulations of Trp-Leu-Ala-Leu-Leu in implicit solvent, from the mdshare collection.",
        )
        files = sorted(folder.glob("pentapeptide-*.xtc"))
        dtrajs = Tokenizer("backbone_torsions", n_states=n_states, progress=False).fit_transform(folder / top, files)
        return dtrajs[:-1], dtrajs[-1:]

    return load


_GATES = ((10, 200), (10, 2000), (10, 20_000), (100, 200), (100, 2000), (1000, 200))
_TWO = np.array([[0.99, 0.01], [0.01, 0.99]])

ZOO: dict[str, ZooCase] = {
    case.name: case
    for case in (
        ZooCase("two-states", "two states, 500 transitions", _chains(_TWO, 50_000)),
        ZooCase("driven", "a ring of six states, driven", _chains(ring(6, 0.02, 0.005), 50_000)),
        *(_gates(memory, transitions) for memory, transitions in _GATES),
        ZooCase("ring-2000", "a ring of 2000 states with four barriers", _chains(ring(2000, 0.3, 0.3, 500), 500_000)),
        ZooCase("four-state", "four-state potential, four states", _system("four-state")),
        ZooCase("four-state-bins", "four-state potential seen through x, 32 bins", _system("four-state-bins")),
        ZooCase("four-state-kmeans", "four-state potential, 100 k-means states", _system("four-state-kmeans")),
        ZooCase("alanine-dipeptide-0", "alanine dipeptide", _system("alanine-dipeptide"), True),
        ZooCase("alanine-dipeptide-1", "alanine dipeptide, the other way", _system("alanine-dipeptide", 1), True),
        ZooCase("pentapeptide-50", "pentapeptide, 50 states", _pentapeptide(50), True),
        ZooCase("pentapeptide-200", "pentapeptide, 200 states", _pentapeptide(200), True),
        ZooCase("pentapeptide-500", "pentapeptide, 500 states", _pentapeptide(500), True),
        ZooCase("ww-domain", "WW domain, 100 states", _system("ww-domain"), True),
        ZooCase("ww-domain-1000", "WW domain, 1000 states", _system("ww-domain-1000"), True),
        ZooCase("ww-domain-pieces-50", "WW domain in pieces of 50 frames", _system("ww-domain", 0, 50), True),
        ZooCase("ww-domain-pieces-200", "WW domain in pieces of 200 frames", _system("ww-domain", 0, 200), True),
        ZooCase("ww-domain-pieces-1000", "WW domain in pieces of 1000 frames", _system("ww-domain", 0, 1000), True),
    )
}
