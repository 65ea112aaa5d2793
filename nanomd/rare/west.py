"""A weighted ensemble in the layout of WESTPA 2's west.h5, so that its tools can read it.

J. D. Russo and others, J. Chem. Theory Comput. 18, 638 (2022). The layout is that of file format version 8. What
the file says in it:

- an iteration is one of the ensemble, its steps the points of ``pcoord``, whose two columns are progress and bin: bin 0
  is the source, the last one the target;
- all repetitions are one ensemble, in which each has its part of the weight (``auxdata/repeat`` tells them apart);
- a walker that arrives before the end of its iteration stays in the target in ``pcoord``. In truth it is put back at
  once, and goes on: its child begins where it was at the end (``auxdata/state`` has the labels);
- the basis states are the histories to which walkers are put back; each walker that arrived has an initial state of
  its own, which its children begin from: their parent is the negative of its number minus one, as in WESTPA;
- there are no bin mappers, which would be pickles: tools that ask for bins need a boundary between every two numbers
  of the second column (`bin_expression`).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError, StoreError
from nanomd.base.extras import needs
from nanomd.base.files import explain_os_error, replacing
from nanomd.rare.committor import bins_of_states
from nanomd.rare.segments import Segments

if TYPE_CHECKING:
    from nanomd.rare.result import RareEvents

FORMAT_VERSION = 8
_DIGITS = 8  # of the number of an iteration in the name of its group
_CONTINUES, _MERGED, _RECYCLED = 1, 2, 3  # how a segment ends
_TO_DO, _COMPLETE = 1, 2  # its status
_BASIS, _GENERATED = 1, 2  # what an initial state is
_PREPARED = 1  # its status

_SUMMARY = np.dtype([
    ("n_particles", "<i8"), ("norm", "<f8"), ("min_bin_prob", "<f8"), ("max_bin_prob", "<f8"),
    ("min_seg_prob", "<f8"), ("max_seg_prob", "<f8"), ("cputime", "<f8"), ("walltime", "<f8"), ("binhash", "S64"),
])  # fmt: skip
_SEGMENT = np.dtype([
    ("weight", "<f8"), ("parent_id", "<i8"), ("wtg_n_parents", "<u8"), ("wtg_offset", "<u8"), ("cputime", "<f8"),
    ("walltime", "<f8"), ("endpoint_type", "u1"), ("status", "u1"),
])  # fmt: skip
_NEW_WEIGHT = np.dtype([
    ("source_type", "u1"), ("weight", "<f8"), ("prev_seg_id", "<i8"), ("target_state_id", "<i8"),
    ("initial_state_id", "<i8"),
])  # fmt: skip
_FROM_TARGET = 0  # a source_type


def bin_expression(n_bins: int) -> str:
    """Return the bins as WESTPA's tools take them (``--bins-from-expr``).

    Examples
    --------
    >>> bin_expression(3)
    '[[-inf, inf], [-0.5, 0.5, 1.5, 2.5]]'
    """
    bounds = ", ".join(f"{k - 0.5}" for k in range(n_bins + 1))
    return f"[[-inf, inf], [{bounds}]]"


def write_west(result: RareEvents, path: Path) -> Path:
    """Do what `RareEvents.save_west` does."""
    if result.method != "weighted_ensemble":
        raise InputError(f"save_west writes weighted ensembles, got a result of {result.method}")
    if result.segments is None:
        raise InputError("the segments were not recorded; sample with record=True (the command: --west)")
    needs("save_west", "h5py")
    import h5py

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as new, h5py.File(new, "w") as file:
            _write(result, _with_next(result.segments), file)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {explain_os_error(error)}") from None
    return path


def _with_next(segments: Segments) -> Segments:
    """Return the segments with an iteration more, in which all go on as they stand: WESTPA has it prepared."""
    row = segments.rows()[-1]
    n = row.stop - row.start
    return replace(
        segments,
        n_walkers=np.append(segments.n_walkers, n),
        weight=np.concatenate((segments.weight, segments.weight[row])),
        parent=np.concatenate((segments.parent, np.arange(n, dtype=np.int32))),
        state=np.concatenate((segments.state, np.repeat(segments.state[row, -1:], segments.tau + 1, axis=1))),
    )


class _Initial(NamedTuple):
    """States to begin from, one of each walker of the first iteration, then one of each that arrived.

    Parameters
    ----------
    created, used : (n,) int64
        Iterations, from 1; created in 0 are the first ones, used in 0 those that no walker begins from.
    history : (n,) int64
        Of the source: the basis state.
    kind : (n,) int64
    token : (n,) uint16
        Where walkers begin from there.
    walker : (n,) int64
        Whose children they are: the row of a segment among those of all iterations; -1 for the first ones.
    """

    created: NDArray[np.int64]
    used: NDArray[np.int64]
    history: NDArray[np.int64]
    kind: NDArray[np.int64]
    token: NDArray[np.uint16]
    walker: NDArray[np.int64]


def _initial_states(segments: Segments, has_children: NDArray[np.bool_]) -> _Initial:
    rows, tau = segments.rows(), segments.tau
    first = segments.parent[rows[0]].astype(np.int64)
    # A walker may arrive more than once in an iteration: where it was put back to last is what counts.
    arrival = segments.arrival[np.lexsort(segments.arrival.T[[2, 1, 0]])]
    starts = np.array([some.start for some in rows])
    walker = starts[arrival[:, 0]] + arrival[:, 1]
    last = np.append(walker[1:] != walker[:-1], True)[: len(walker)]
    arrival, walker = arrival[last], walker[last]
    at_end = arrival[:, 2] == tau
    return _Initial(
        np.concatenate((np.zeros(len(first), np.int64), arrival[:, 0] + 1)),
        np.concatenate((np.ones(len(first), np.int64), np.where(has_children[walker], arrival[:, 0] + 2, 0))),
        np.concatenate((first, arrival[:, 4])),
        np.concatenate((np.full(len(first), _BASIS), np.where(at_end, _BASIS, _GENERATED))),
        np.concatenate((segments.history[first], segments.state[walker, -1])),
        np.concatenate((np.full(len(first), -1), walker)),
    )


def _has_children(segments: Segments) -> NDArray[np.bool_]:
    found = np.zeros(len(segments.weight), bool)
    for before, now in pairwise(segments.rows()):
        found[before.start + segments.parent[now]] = True
    return found


def _shown(segments: Segments) -> NDArray[np.uint16]:
    """Return the states of all segments, in which one that arrives stays in the target until its iteration ends."""
    shown = segments.state.copy()
    starts = np.array([some.start for some in segments.rows()])
    for iteration, walker, step, token, _ in segments.arrival[np.argsort(-segments.arrival[:, 2])].tolist():
        shown[starts[iteration] + walker, step:] = token  # the first arrival last
    return shown


def _weight_graph(segments: Segments, iteration: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the walkers before that gave weight, those of each walker one after another, and their number."""
    parent = segments.parent[segments.rows()[iteration]]
    merged = segments.merged[segments.merged[:, 0] == iteration]
    walker = np.concatenate((np.arange(len(parent)), merged[:, 1]))
    giver = np.concatenate((parent, merged[:, 2])).astype(np.int64)
    return giver[np.argsort(walker, kind="stable")], np.bincount(walker, minlength=len(parent))


def _write(result: RareEvents, segments: Segments, file: Any) -> None:
    """Write everything; the last iteration of the segments is still to do."""
    symbols, rows = result.state_map.symbols, segments.rows()
    source, target = np.isin(symbols, result.source), np.isin(symbols, result.target)
    bins = bins_of_states(result.progress, source, target, int(result.settings["n_bins"]))
    n_bins = int(bins.max()) + 1
    coordinate = np.column_stack((result.progress, bins)).astype(np.float64)  # of every state
    has_children, shown = _has_children(segments), _shown(segments)
    initial = _initial_states(segments, has_children)
    repeat = segments.repeats(result.n_repeats)
    arrivals = np.zeros(len(segments.weight), np.int64)
    starts = np.array([some.start for some in rows])
    np.add.at(arrivals, starts[segments.arrival[:, 0]] + segments.arrival[:, 1], 1)
    begins = np.arange(len(segments.weight)) - np.repeat(starts, segments.n_walkers)  # the parent_id of its children
    begins[initial.walker[initial.walker >= 0]] = -1 - np.flatnonzero(initial.walker >= 0)

    settings = {f"nanomd_{name}": result.settings[name] for name in ("tau", "burn_in", "walkers_per_bin", "seed")}
    file.attrs.update({
        "west_file_format_version": FORMAT_VERSION, "west_iter_prec": _DIGITS, "west_current_iteration": len(rows),
        "nanomd_bins": bin_expression(n_bins), "nanomd_step": str(result.frame_interval), **settings,
    })  # fmt: skip
    basis, sink = _write_states(file, result, segments, initial, coordinate)
    summary = np.zeros(len(rows), _SUMMARY)
    counts = np.full(n_bins, result.n_repeats * int(result.settings["walkers_per_bin"]), np.uint64)
    counts[-1] = 0  # those in the target are put back
    for iteration, row in enumerate(rows):
        group = file.create_group(f"iterations/iter_{iteration + 1:0{_DIGITS}d}")
        group.attrs.update({"n_iter": iteration + 1, "binhash": ""})
        group["ibstates"], group["tstates"] = basis, sink
        index = np.zeros(row.stop - row.start, _SEGMENT)
        index["weight"] = segments.weight[row] / result.n_repeats
        done = iteration + 1 < len(rows)
        index["status"] = _COMPLETE if done else _TO_DO
        if done:
            ends = np.where(has_children[row], _CONTINUES, _MERGED)
            index["endpoint_type"] = np.where(arrivals[row] > 0, _RECYCLED, ends)
        if iteration:
            index["parent_id"] = begins[rows[iteration - 1]][segments.parent[row]]
            graph, number = _weight_graph(segments, iteration)
            _write_new_weights(
                group, segments, initial, iteration, (coordinate, shown, segments.weight / result.n_repeats)
            )
        else:
            index["parent_id"] = graph = -1 - np.arange(len(index))
            number = np.ones(len(index), np.int64)
        index["wtg_n_parents"], index["wtg_offset"] = number, np.cumsum(number) - number
        for name, table in {"seg_index": index, "wtgraph": graph, "pcoord": coordinate[shown[row]]}.items():
            group.create_dataset(name, data=table, compression="gzip", shuffle=True)
        group["bin_target_counts"] = counts
        kept = {"state": symbols[segments.state[row]], "repeat": repeat[row], "arrivals": arrivals[row]}
        for name, array in kept.items():
            group.create_dataset(f"auxdata/{name}", data=array, compression="gzip", shuffle=True)
        weight = index["weight"]
        held = np.bincount(bins[segments.state[row, 0]], weight)
        held = held[held > 0]
        extremes = (held.min(), held.max(), weight.min(), weight.max())
        summary[iteration] = (len(index), weight.sum(), *extremes, 0, 0, b"")
    file["summary"] = summary


def _write_new_weights(
    group: Any,
    segments: Segments,
    initial: _Initial,
    iteration: int,
    of: tuple[NDArray[Any], NDArray[Any], NDArray[Any]],
) -> None:
    """Write where weight comes in from: of the walkers that arrived in the iteration before."""
    coordinate, shown, weight = of
    number = np.flatnonzero((initial.walker >= 0) & (initial.created == iteration))
    walker = initial.walker[number]
    index = np.zeros(len(number), _NEW_WEIGHT)
    index["source_type"], index["weight"] = _FROM_TARGET, weight[walker]
    index["prev_seg_id"] = walker - segments.rows()[iteration - 1].start
    index["initial_state_id"] = number
    new = group.create_group("new_weights")
    new["index"] = index
    new["prev_init_pcoord"], new["prev_final_pcoord"] = coordinate[shown[walker, 0]], coordinate[shown[walker, -1]]
    new["new_init_pcoord"] = coordinate[initial.token[number]]


def _write_states(
    file: Any, result: RareEvents, segments: Segments, initial: _Initial, coordinate: NDArray[np.float64]
) -> tuple[Any, Any]:
    """Write where walkers begin and end; return the two groups, which every iteration points to."""
    import h5py

    text, symbols = h5py.string_dtype(), result.state_map.symbols
    labels = [f"history {k}, state {label}" for k, label in enumerate(symbols[segments.history].tolist())]
    basis_type = np.dtype([("label", text), ("probability", "<f8"), ("auxref", text)])
    initial_type = np.dtype([
        ("iter_created", "<u8"), ("iter_used", "<u8"), ("basis_state_id", "<i8"), ("istate_type", "u1"),
        ("istate_status", "u1"), ("basis_auxref", text),
    ])  # fmt: skip
    groups = []
    for name, number, count in (("ibstates", "n_bstates", len(labels)), ("tstates", "n_states", 1)):
        group = file.create_group(f"{name}/0")
        kind = np.dtype([("iter_valid", "<u8"), (number, "<u8"), ("group_ref", h5py.ref_dtype)])
        file[name]["index"] = np.array([(1, count, group.ref)], kind)
        groups.append(group)
    basis, sink = groups
    basis["bstate_index"] = np.array([(label, 1 / len(labels), "") for label in labels], basis_type)
    basis["bstate_pcoord"] = coordinate[segments.history]
    table = zip(
        initial.created.tolist(), initial.used.tolist(), initial.history.tolist(), initial.kind.tolist(), strict=True
    )
    basis["istate_index"] = np.array([(*row, _PREPARED, "") for row in table], initial_type)
    basis["istate_pcoord"] = coordinate[initial.token]
    sink["index"] = np.array([("target",)], np.dtype([("label", text)]))
    sink["pcoord"] = coordinate[np.isin(symbols, result.target)][:1]
    return basis, sink
