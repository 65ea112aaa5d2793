"""`tokenize`: trajectories of any kind into tokens/, as sequences of states."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanomd.base.arrays import write_array
from nanomd.base.checks import check_range
from nanomd.base.errors import InputError
from nanomd.base.files import replacing, sha256_of, write_atomic
from nanomd.base.paths import expand_home, expand_paths
from nanomd.base.units import Duration, FrameInterval
from nanomd.study.folder import RunFolder
from nanomd.study.known_systems import FourState, Scheme, known_system
from nanomd.study.step import begin_step
from nanomd.study.token_sources import (
    Choices,
    Coordinates,
    FeatureArrays,
    MDFiles,
    Measured,
    ReadyMade,
    Reduction,
    Tokens,
    TokenSource,
)  # fmt: skip
from nanomd.tokenize.colvar import is_colvar

IntArray = NDArray[np.int64]
STATE_COORDINATES = "state_coordinates.npy"  # in tokens/: float64 (n_labels, n_coordinates), row k that of label k


def tokenize(
    run: str | Path,
    files: Sequence[str | Path] = (),
    *,
    top: str | Path | None = None,
    system: str | None = None,
    data: str | Path | None = None,
    features: str = "backbone_torsions",
    select: str | None = None,
    min_separation: int | None = None,
    periodic: bool = True,
    reduction: Reduction = None,
    lagtime: Duration | None = None,
    n_components: int | None = None,
    columns: Sequence[str] | None = None,
    n_states: int | None = None,
    stride: int = 1,
    join_folders: bool = False,
    scheme: Scheme = "x-bins",
    frame_interval: str | FrameInterval | None = None,
    seed: int = 0,
    force: bool = False,
    progress: bool | None = None,
) -> str:
    """Write discrete trajectories to tokens/, from MD files, arrays, ready-made dtrajs, a known system, or simulation/.

    With `join_folders` the files of one folder are consecutive parts of one trajectory, in the order of their times
    where they tell them, else in natural order. For `features` and its three options see
    `nanomd.tokenize.features.make_feature`; with ``"arrays"`` the files hold features, (n_frames, n_features), and
    `columns` are the variables to take of PLUMED's COLVAR files, which are known by their first line.
    """
    check_range("stride", stride, 1)
    measured = Measured(features, select, min_separation, periodic)
    coordinates = Coordinates(reduction, lagtime, n_components)
    choices = Choices(n_states=n_states, stride=stride, seed=seed, frame_interval=frame_interval, progress=progress)
    source = _find_source(
        run, files, choices, measured, coordinates,
        top=top, system=system, data=data, scheme=scheme, join_folders=join_folders, columns=columns,
    )  # fmt: skip
    folder = RunFolder(run)
    with begin_step(folder, "tokenize", source.settings, lambda: _hashes(source.files), force=force) as step:
        if step.done:
            return step.nothing_to_do()
        with replacing(folder.work / "tokens") as part:
            part.mkdir()
            tokens = source.make(part)
            states = write_tokens(part, tokens)
        n_frames = sum(map(len, tokens.dtrajs))
        step.record |= {"n_states": len(states), "n_frames": n_frames}
    each = "" if tokens.interval.unit == "frame" else f" of {tokens.interval}"
    return f"{len(tokens.dtrajs)} trajectories, {n_frames:,} frames{each}, {len(states)} states{step.notes}"


def _find_source(
    run: str | Path,
    files: Sequence[str | Path],
    choices: Choices,
    measured: Measured,
    coordinates: Coordinates,
    *,
    top: str | Path | None,
    system: str | None,
    data: str | Path | None,
    scheme: Scheme,
    join_folders: bool,
    columns: Sequence[str] | None,
) -> TokenSource:
    """Return the source that these arguments mean: see `nanomd.study.tokenize.tokenize`.

    Raises
    ------
    InputError
        For arguments that exclude each other, or none.
    """
    if measured.chosen and top is None:
        raise InputError("--select, --min-separation and --no-periodic are for trajectory files: give --top")
    if join_folders and top is None:
        raise InputError("join_folders is for trajectory files with a topology: give --top")
    if system is not None:
        if files or top:
            raise InputError("--system reads its own files from --data: leave out the files and --top")
        return known_system(system, choices, data)
    paths = expand_paths([Path(file) for file in files]) if files else []
    if top is not None:
        if measured.features == "arrays":
            raise InputError("--features arrays takes features that were measured before: leave out --top")
        if not files:
            raise InputError("--top needs trajectory files: `nanomd tokenize --top protein.pdb traj_*.xtc`")
        return MDFiles([*expand_paths(top, "topology"), *paths], choices, measured, coordinates, join_folders)
    if measured.features == "arrays" or (paths and all(is_colvar(path) for path in paths)):
        if not files:
            raise InputError("--features arrays needs files of features: `nanomd tokenize --features arrays f_*.npy`")
        return FeatureArrays(paths, choices, coordinates, columns)
    if columns is not None:
        raise InputError("--columns is for COLVAR files of PLUMED")
    if files:
        return ReadyMade(paths, choices)
    folder = RunFolder(run, create=False) if expand_home(run).exists() else None
    simulated = {} if folder is None else folder.record("simulate")
    if folder is None or not simulated:
        raise InputError(
            "nothing to tokenize: give trajectory files with --top, discrete trajectories, or --system, "
            f"or run `nanomd simulate --run {run}` first"
        )
    of = str(simulated.get("settings", {}).get("system", "four-state"))
    if of == "four-state":
        return FourState(sorted(folder.simulation.glob("xy_*.npy")), choices, scheme)
    return known_system(of, choices, folder.simulation)


def write_tokens(part: Path, tokens: Tokens) -> IntArray:
    """Write trajectories, coordinates of states and the manifest, and return the states that are visited."""
    from nanomd.data.dtrajs import save_dtrajs

    dtrajs, interval, coordinates = tokens
    save_dtrajs(dtrajs, part)
    if coordinates is not None:
        write_array(part / STATE_COORDINATES, coordinates)
    states = np.unique(np.concatenate(dtrajs))
    states = states[states >= 0]
    if len(states) < 2:
        raise InputError(f"the trajectories visit {len(states)} state; kinetics need at least 2: use more states")
    manifest = {
        "format": "nanomd-dtrajs",
        "format_version": 1,
        "frame_interval": {"value": interval.value, "unit": interval.unit},
        "n_states": len(states),
        "trajectories": [{"name": f"md_{i:04d}.npy", "n_frames": len(d)} for i, d in enumerate(dtrajs)],
    }
    write_atomic(part / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    return states


def _hashes(sources: Sequence[Path]) -> dict[str, str]:
    """Return the SHA-256 of each file by name; by path where files of several folders have one name."""
    count = Counter(path.name for path in sources)
    return {path.name if count[path.name] == 1 else str(path): sha256_of(path) for path in sources}
