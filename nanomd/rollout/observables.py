"""Kinetics of a rollout without its tokens: what to accumulate while states are drawn, and what came out.

Everything is an exact integer, equal to what `nanomd.kinetics` counts in the stored tokens (stride 1), whatever the
batch, the threads, the shards or the interruptions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd import _native
from nanomd.base.arrays import read_npz
from nanomd.base.checks import check_whole
from nanomd.base.errors import InputError, StoreError
from nanomd.base.units import Duration, FrameInterval, GivenInterval, in_frames
from nanomd.data.counts import MAX_DENSE_STATES, count_model
from nanomd.data.dtrajs import MAX_LABEL, DtrajsLike, load_dtrajs
from nanomd.data.states import StateMap
from nanomd.rollout.durations import Durations, log_bin_edges


def parse_set(text: str) -> tuple[str, list[int]]:
    """Read ``"folded=0,1,7-9"``: a name and raw state labels.

    Raises
    ------
    InputError
        For anything else.
    """
    name, equals, states = text.partition("=")
    labels: list[int] = []
    for piece in states.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,18})\s*(?:-\s*([0-9]{1,18})\s*)?", piece)
        low, high = (int(match.group(1)), int(match.group(2) or match.group(1))) if match else (1, 0)
        if not equals or not low <= high < low + 65536:
            raise InputError(f"a set must look like NAME=0,1,7-9, got {text!r}")
        labels += range(low, high + 1)
    return name.strip(), labels


def _whole_numbers(name: str, values: Any, low: int | None = None, high: int | None = None) -> tuple[int, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise InputError(f"{name} must be a sequence of whole numbers, got {values!r}")
    return tuple(check_whole(name, value, low, high) for value in values)


@dataclass(frozen=True)
class Observables:
    """What to accumulate while trajectories are generated.

    State populations are always counted.

    Parameters
    ----------
    lagtimes : sequence of int
        Transitions are counted (sliding) at each of these lags, in steps; or times such as ``"1 ns"``, for a rollout.
    sets : mapping of str to sequence of int
        Named sets of raw state labels, disjoint. Residence times are counted in each, first passages between all.
    bins : "log", int or sequence of int
        Bins of the histograms of durations, in steps: logarithmic (see `log_bin_edges`), that many bins of one step
        each (the last takes all that is longer), or increasing lower edges, the first 0.

    Examples
    --------
    >>> observables = Observables(lagtimes=[1, 10], sets={"folded": [0, 1], "unfolded": [5]})
    """

    lagtimes: Sequence[Duration] = (1,)
    sets: Mapping[str, Sequence[int]] = field(default_factory=dict)
    bins: str | int | Sequence[int] = "log"

    def __post_init__(self) -> None:
        """Check everything that does not need the model."""
        given = self.lagtimes
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise InputError(f"lagtimes must be a sequence of whole numbers or times, got {given!r}")
        lagtimes = tuple(x if isinstance(x, str) else check_whole("lagtimes", x, 1, 1 << 24) for x in given)
        if len(set(lagtimes)) != len(lagtimes):
            raise InputError(f"lagtimes must differ from each other, got {list(lagtimes)}")
        if not isinstance(self.sets, Mapping):
            raise InputError(f"sets must map names to states, as in {{'folded': [0, 1]}}, got {self.sets!r}")
        sets = {
            str(name): _whole_numbers(f"set {str(name)!r}", labels, 0, MAX_LABEL) for name, labels in self.sets.items()
        }
        owner: dict[int, str] = {}
        for name, labels in sets.items():
            if not name or not name.isprintable():
                raise InputError(f"the name of a set must be printable text, got {name!r}")
            if not labels:
                raise InputError(f"set {name!r} must hold at least one state")
            for label in labels:
                if owner.setdefault(label, name) != name:
                    raise InputError(f"sets must be disjoint, but state {label} is in {owner[label]!r} and {name!r}")
        object.__setattr__(self, "lagtimes", lagtimes)
        object.__setattr__(self, "sets", sets)
        if not isinstance(self.bins, str):
            one = np.ndim(self.bins) == 0
            bins = check_whole("bins", self.bins, 2, 1 << 20) if one else _whole_numbers("bins", self.bins, 0, 2**62)
            object.__setattr__(self, "bins", bins)
        edges = self.bin_edges
        if edges[:1] != (0,) or any(a >= b for a, b in pairwise(edges)):
            raise InputError(f"bins must be increasing edges, the first 0, got {list(edges)[:8]}")

    @property
    def bin_edges(self) -> tuple[int, ...]:
        """Lower edges of the bins, in steps; the last bin is open."""
        if isinstance(self.bins, str):
            if self.bins != "log":
                raise InputError(f'bins must be "log", a number of bins or their edges, got {self.bins!r}')
            return log_bin_edges()
        return tuple(range(self.bins)) if isinstance(self.bins, int) else tuple(self.bins)

    def in_steps(self, interval: FrameInterval) -> Observables:
        """Return the same with lags that are times as numbers of steps, which are `interval` long."""
        return replace(self, lagtimes=tuple(interval.frames(lag, "lagtimes") for lag in self.lagtimes))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        bins = self.bins if isinstance(self.bins, str | int) else list(self.bins)
        sets = {name: list(labels) for name, labels in self.sets.items()}
        return {"lagtimes": list(self.lagtimes), "sets": sets, "bins": bins}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Observables:
        """Build from `to_dict`'s values."""
        return cls(values["lagtimes"], values["sets"], values["bins"])

    def spec(self, state_map: StateMap) -> _native.ObservablesSpec:
        """Translate to tokens.

        Raises
        ------
        InputError
            For a state that the model does not know, and transitions among too many states.
        """
        if self.lagtimes and state_map.n_states > MAX_DENSE_STATES:
            raise InputError(
                f"lagtimes must be empty for more than {MAX_DENSE_STATES} states, whose transitions would take a table "
                f"of all by all, got {list(self.lagtimes)} and {state_map.n_states} states; keep the tokens, and count "
                "them with nanomd.data.counts.sparse_transition_counts"
            )
        set_of = np.full(state_map.n_states, -1, np.int32)
        for index, labels in enumerate(self.sets.values()):
            set_of[state_map.encode_labels(np.array(labels, np.int64))] = index
        tokens = tuple(int(s) for s in set_of)
        lagtimes = tuple(FrameInterval().frames(lag, "lagtimes") for lag in self.lagtimes)
        return _native.ObservablesSpec(state_map.n_states, lagtimes, len(self.sets), tokens, self.bin_edges)

    def count(self, dtrajs: DtrajsLike, state_map: StateMap | None = None, n_threads: int = 1) -> ObservablesResult:
        """Accumulate over stored trajectories of raw labels.

        Unassigned frames (negative) are in no state and no transition. They do not say where the molecule is: a stay or
        passage goes on through them. Those before the first assigned frame of a trajectory are left out.

        Parameters
        ----------
        dtrajs : as for `nanomd.load_dtrajs`
        state_map : StateMap, optional
            Of a model; by default the labels that occur.
        """
        raw = load_dtrajs(dtrajs)
        states = StateMap.fit(raw) if state_map is None else state_map
        spec = self.spec(states)
        totals = np.zeros(_native.observables_layout(spec)["size"], np.int64)
        for labels in raw:
            assigned = labels >= 0
            begin = int(assigned.argmax())
            if not assigned[begin]:
                continue
            labels, assigned = labels[begin:], assigned[begin:]
            latest = np.maximum.accumulate(np.where(assigned, np.arange(len(labels)), 0))
            tokens = states.encode_labels(labels[latest])  # an unassigned frame belongs to the state before it ...
            writer = _native.NativeObservables(spec, 1, totals)
            writer.add(tokens[None, :], check_whole("n_threads", n_threads, 1, 1 << 16))
            writer.finish()
            totals = writer.totals()
            if not assigned.all():
                _leave_out(totals, spec, tokens, assigned)
        return ObservablesResult(self, states, totals)


def _leave_out(
    totals: NDArray[np.int64], spec: _native.ObservablesSpec, tokens: NDArray[Any], assigned: NDArray[np.bool_]
) -> None:
    """Take unassigned frames out of the visits and transitions: ... of stays and passages, but is not a visit to it."""
    layout, n = _native.observables_layout(spec), spec.n_states
    np.subtract.at(totals, layout["visits"] + tokens[~assigned].astype(np.int64), 1)
    for index, lag in enumerate(spec.lagtimes):
        pair = tokens[:-lag].astype(np.int64) * n + tokens[lag:]
        wrong = ~(assigned[:-lag] & assigned[lag:])
        np.subtract.at(totals, layout["transitions"] + index * n * n + pair[wrong], 1)


@dataclass(frozen=True, eq=False, repr=False)
class ObservablesResult:
    """What was accumulated.

    Parameters
    ----------
    observables : Observables
        What was asked for.
    state_map : StateMap
        Token k stands for the raw label ``state_map.symbols[k]``.
    totals : flat int64 array
        All tables; use the properties.
    """

    observables: Observables
    state_map: StateMap
    totals: NDArray[np.int64]

    @property
    def spec(self) -> _native.ObservablesSpec:
        """The description in tokens."""
        return self.observables.spec(self.state_map)

    @property
    def set_names(self) -> tuple[str, ...]:
        """Names of the sets, in the order of all tables."""
        return tuple(self.observables.sets)

    @property
    def visits(self) -> NDArray[np.int64]:
        """Frames by token, (n_states,)."""
        return self._table("visits", (self.state_map.n_states,))

    @property
    def n_frames(self) -> int:
        """Frames of all trajectories."""
        return int(self.visits.sum())

    @property
    def populations(self) -> NDArray[np.float64]:
        """Fraction of the frames by token, (n_states,)."""
        return self.visits / max(self.n_frames, 1)

    def transition_counts(self, lagtime: Duration, *, frame_interval: GivenInterval = None) -> NDArray[np.int64]:
        """Sliding transition counts at one of the lags, (n_states, n_states).

        The lag is a number of steps, or a time where `frame_interval` gives that of a step.
        """
        lagtime = in_frames(lagtime, frame_interval, "lagtime")
        lagtimes, V = tuple(self.observables.lagtimes), self.state_map.n_states
        if lagtime not in lagtimes:
            raise InputError(f"lagtime must be one that was accumulated, {list(lagtimes)}, got {lagtime}")
        counts: NDArray[np.int64] = self._table("transitions", (len(lagtimes), V, V))[lagtimes.index(lagtime)]
        return counts

    def to_count_model(self, lagtime: Duration, *, frame_interval: GivenInterval = None) -> Any:
        """Return deeptime's TransitionCountModel at one of the lags, as for `transition_counts`, in our tokens.

        `state_map.symbols` are the labels of the tokens.
        """
        steps = in_frames(lagtime, frame_interval, "lagtime")
        return count_model(self.transition_counts(steps), steps, self.visits)

    @property
    def residence(self) -> Durations:
        """Frames in a row inside each set; tables (n_sets,) and (n_sets, n_bins)."""
        return self._durations(("stay_exposure", "stay_exits", "stay_steps", "stay_completed", "stay_cut"), 1)

    @property
    def first_passage(self) -> Durations:
        """First passages between sets i -> j, tables (n_sets, n_sets) and (n_sets, n_sets, n_bins).

        A passage begins at the first visit to i since the last visit to j (or the start of the trajectory) and ends at
        the next visit to j, as in `nanomd._native.count_passages`.
        """
        names = ("passage_exposure", "passages", "passage_steps", "passage_completed", "passage_cut")
        return self._durations(names, 2)

    def __add__(self, other: ObservablesResult) -> ObservablesResult:
        """Join the counts of different trajectories."""
        if not isinstance(other, ObservablesResult):
            return NotImplemented
        if self.observables != other.observables or self.state_map != other.state_map:
            raise InputError("only results of the same observables and the same states can be added")
        return ObservablesResult(self.observables, self.state_map, self.totals + other.totals)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ObservablesResult)
            and (self.observables, self.state_map) == (other.observables, other.state_map)
            and np.array_equal(self.totals, other.totals)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        names = self.set_names
        text = f"ObservablesResult({self.n_frames:,} frames of {self.state_map.n_states} states"
        if self.observables.lagtimes:
            text += f"; transitions at lag {', '.join(map(str, self.observables.lagtimes))}"
        if not names:
            return f"{text})"
        stays, passages = self.residence.events, self.first_passage.events
        return f"{text}; sets {', '.join(names)}: {stays.sum():,} stays, {passages.sum():,} passages)"

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything as arrays of numbers and text, as they are saved."""
        sets = self.observables.sets
        bins = self.observables.bins
        return {
            "totals": self.totals,
            "state_symbols": self.state_map.symbols,
            "lagtimes": np.array(self.observables.lagtimes, np.int64),
            "set_names": np.array(list(sets), dtype=np.str_),
            "set_states": np.array([label for labels in sets.values() for label in labels], np.int64),
            "set_sizes": np.array([len(labels) for labels in sets.values()], np.int64),
            "bins": np.array([] if isinstance(bins, str) else bins, np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> ObservablesResult:
        """Build from `to_arrays`' values, which may come from a hostile file.

        Raises
        ------
        InputError, KeyError, ValueError
            If they make no sense.
        """
        sizes = [int(n) for n in arrays["set_sizes"].reshape(-1)]
        names = [str(name) for name in arrays["set_names"].reshape(-1)]
        if any(n < 1 for n in sizes) or len(names) != len(sizes):
            raise InputError("the sets are damaged")
        parts = np.split(arrays["set_states"].reshape(-1), np.cumsum(sizes)[:-1]) if sizes else []
        sets = {name: part.tolist() for name, part in zip(names, parts, strict=True)}
        bins = arrays["bins"]
        observables = Observables(
            arrays["lagtimes"].reshape(-1).tolist(),
            sets,
            "log" if not bins.size else int(bins) if bins.ndim == 0 else bins.tolist(),
        )
        result = cls(observables, StateMap(arrays["state_symbols"]), arrays["totals"])
        size = _native.observables_layout(result.spec)["size"]
        if result.totals.dtype != np.int64 or result.totals.shape != (size,) or (result.totals < 0).any():
            raise InputError(f"the totals must be {size} counts, got {result.totals.dtype} {result.totals.shape}")
        return result

    def save(self, path: str | Path) -> None:
        """Write a .npz file without pickled objects."""
        np.savez(path, allow_pickle=False, **self.to_arrays())

    @classmethod
    def load(cls, path: str | Path) -> ObservablesResult:
        """Read what `save` wrote.

        Raises
        ------
        StoreError
            If the file is missing or damaged.
        """
        try:
            return cls.from_arrays(read_npz(path))
        except (InputError, KeyError, ValueError, TypeError, OverflowError) as error:
            raise StoreError(f"{path} is damaged: {error}") from None

    def _table(self, name: str, shape: tuple[int, ...]) -> NDArray[np.int64]:
        begin = _native.observables_layout(self.spec)[name]
        return self.totals[begin : begin + int(np.prod(shape))].reshape(shape)

    def _durations(self, names: tuple[str, str, str, str, str], n_axes: int) -> Durations:
        shape = (len(self.observables.sets),) * n_axes
        edges = np.array(self.observables.bin_edges, np.int64)
        counts = [self._table(name, shape) for name in names[:3]]
        histograms = [self._table(name, (*shape, edges.size)) for name in names[3:]]
        return Durations(counts[0], counts[1], counts[2], histograms[0], histograms[1], edges)
