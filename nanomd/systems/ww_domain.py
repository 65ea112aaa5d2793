"""A structure-based (Go) model of the Pin1 WW domain near its folding midpoint: a small protein that folds often.

34 C-alpha beads (PDB 1PIN, residues 6-39), 61 native contacts, four independent runs of 31250 frames, one frame per
0.75 ps of model time. A stand-in for the Fip35 WW domain, to which the same pipeline applies. `simulate` makes such
runs with OpenMM; the model itself is in `nanomd.systems.go_model`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanomd.base.config import check_choice
from nanomd.base.file_lists import natural_key
from nanomd.systems.data import data_folder
from nanomd.systems.go_model import read_contacts

if TYPE_CHECKING:
    from nanomd.base.units import FrameInterval
    from nanomd.systems.replicas import Platform, Simulated

NAME = "ww_domain_go"
_SOURCE = (
    "They are a C-alpha Go model of the Pin1 WW domain: topology, native contacts (residue_i, residue_j, "
    "native_ca_distance_nm) and runs ww_go_*.xtc; `nanomd simulate ww-domain --out DIR` makes such a folder"
)
_TOPOLOGY, _CONTACTS = "ww_go.pdb", "contacts.csv"


class Files(NamedTuple):
    """Where the WW domain's files are."""

    topology: Path
    trajectories: list[Path]
    contacts: Path


def files(data_dir: str | Path | None = None) -> Files:
    """Find the topology, the runs (naturally sorted) and the table of native contacts.

    Parameters
    ----------
    data_dir : path, optional
        The folder with the files, or the one above; default NANOMD_DATA, else ``../shared/data``.
    """
    folder = data_folder(NAME, (_TOPOLOGY, _CONTACTS, "ww_go_0.xtc"), data_dir, _SOURCE)
    runs = sorted(folder.glob("ww_go_*.xtc"), key=natural_key)
    return Files(folder / _TOPOLOGY, runs, folder / _CONTACTS)


def native_contacts(data_dir: str | Path | None = None) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the native contacts: atom pairs, shape (61, 2), zero-based, and their distances in nm, shape (61,)."""
    return read_contacts(files(data_dir).contacts, _SOURCE)


def simulate(
    out: str | Path,
    ns: float | None = None,
    n_trajs: int = 4,
    *,
    n_frames: int | None = None,
    seed: int = 0,
    temperature: float = 121.0,
    friction: float = 0.2,
    time_step: float = 15.0,
    frame_interval: str | FrameInterval = "0.75 ps",
    equilibration: float = 3000.0,
    platform: Platform = "auto",
    n_workers: int | None = None,
    data_dir: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    progress: bool | None = None,
) -> Simulated:
    """Simulate the model with OpenMM; the folder can be given as `data_dir` to everything here.

    Parameters
    ----------
    out : path
        The folder; gets ww_go.pdb, contacts.csv, ww_go_0.xtc ... and simulation.json.
    ns : float, optional
        Length of each run in model time.
    n_trajs : int
        Independent runs.
    n_frames : int, optional
        Length of each run in frames, in place of `ns`; 31250 where neither is given.
    seed : int
    temperature : float
        K, in the model's units: 121 is close to its folding midpoint.
    friction : float
        Per ps.
    time_step : float
        fs.
    frame_interval : str
        A whole number of time steps.
    equilibration : float
        ps before each run, thrown away. Runs start folded; the default is several folding times, so that the first
        frame is a fair draw.
    data_dir : path, optional
        A folder with ww_go.pdb and contacts.csv, of this protein or of another one; by default the native structure in
        the package.
    platform, n_workers, resume, force, progress
        See `nanomd.systems.replicas.simulate`. With several workers a script needs ``if __name__ == "__main__":``.

    Raises
    ------
    BackendUnavailableError
        Without OpenMM (`pip install 'nanomd[openmm]'`).
    """
    from nanomd.systems import go_model, replicas

    if data_dir is None:
        model = go_model.ww_domain()
    else:
        folder = data_folder(NAME, (_TOPOLOGY, _CONTACTS), data_dir, _SOURCE)
        model = go_model.load_model(folder / _TOPOLOGY, folder / _CONTACTS)
    dynamics = replicas.make_dynamics(
        temperature=temperature,
        friction=friction,
        time_step=time_step,
        frame_interval=frame_interval,
        equilibration=equilibration,
        minimize=False,
    )

    def write_contacts(folder: Path) -> list[Path]:
        model.write_contacts(folder / _CONTACTS)
        return [folder / _CONTACTS]

    return replicas.simulate(
        out,
        model,
        dynamics,
        system="ww-domain",
        stem="ww_go",
        n_frames=replicas.count_frames(ns, 31250 if ns is None and n_frames is None else n_frames, dynamics),
        n_trajs=n_trajs,
        seed=seed,
        platform=platform,
        n_workers=n_workers,
        description={**go_model.DESCRIPTION, "native": model.fingerprint()},
        write_more=write_contacts,
        resume=resume,
        force=force,
        progress=progress,
    )


def tokenize(
    n_states: int = 100,
    features: Literal["distances", "contacts"] = "distances",
    *,
    lagtime: int = 20,
    n_components: int = 5,
    stride: int = 1,
    seed: int = 0,
    data_dir: str | Path | None = None,
    progress: bool | None = None,
) -> tuple[Any, list[NDArray[np.int64]]]:
    """Tokenize the four runs: C-alpha distances or native contacts, TICA, k-means.

    Parameters
    ----------
    n_states : int
    features : str
        ``"distances"`` (all C-alpha pairs at least three residues apart, nm) or ``"contacts"`` (soft native contacts).
    lagtime : int
        Of TICA, in frames after the stride.
    n_components : int
        Slow coordinates kept.
    stride, seed, data_dir, progress
        As in `Tokenizer`.

    Returns
    -------
    tokenizer : Tokenizer
        Fitted.
    dtrajs : list of int64 arrays, shape (n_frames,)
    """
    from nanomd.tokenize.features import Distances
    from nanomd.tokenize.tokenizer import Tokenizer

    check_choice("features", features, Literal["distances", "contacts"])
    found = files(data_dir)
    chosen = Distances() if features == "distances" else _soft_contacts(data_dir)
    tokenizer = Tokenizer(
        chosen,
        reduction="tica",
        lagtime=lagtime,
        n_components=n_components,
        n_states=n_states,
        seed=seed,
        progress=progress,
    )
    return tokenizer, tokenizer.fit_transform(found.topology, found.trajectories, stride)


def fraction_native(
    trajectories: Any = None, *, stride: int = 1, data_dir: str | Path | None = None
) -> list[NDArray[np.float64]]:
    """Return the fraction of native contacts Q of each frame, shape (n_frames,), one array per trajectory.

    Q is the mean over native contacts of 1 / (1 + exp((r - 1.2 r0) / w)), w = 0.02 nm (Best, Hummer and Eaton 2013):
    near 1 when folded, below 0.5 when unfolded.

    Parameters
    ----------
    trajectories : path, pattern or sequence, optional
        Trajectories of the same 34 beads, generated structures for example; by default the four runs.
    stride, data_dir
        As in `tokenize`.
    """
    groups = (np.ones(len(native_contacts(data_dir)[0]), bool),)
    return [mean[:, 0] for mean in _mean_contacts(groups, trajectories, stride, data_dir)]


# Residues from zero. The first hairpin's contacts join the first two strands, the second's the last two.
_HAIRPIN_1_ENDS = 20
_HAIRPIN_2_BEGINS = 15


def hairpin_contacts(
    trajectories: Any = None, *, stride: int = 1, data_dir: str | Path | None = None
) -> list[NDArray[np.float64]]:
    """Return the fractions of native contacts within the first and the second hairpin, (n_frames, 2), per trajectory.

    Both are formed in the folded state, neither in the unfolded one; the intermediates have one. Parameters as in
    `fraction_native`.
    """
    pairs, _ = native_contacts(data_dir)
    groups = (pairs.max(axis=1) <= _HAIRPIN_1_ENDS, pairs.min(axis=1) >= _HAIRPIN_2_BEGINS)
    return _mean_contacts(groups, trajectories, stride, data_dir)


def _mean_contacts(
    groups: tuple[NDArray[np.bool_], ...], trajectories: Any, stride: int, data_dir: str | Path | None
) -> list[NDArray[np.float64]]:
    """Return the means of soft contacts over groups of them, (n_frames, len(groups)), per trajectory."""
    from nanomd.base.config import check_range
    from nanomd.tokenize.features import prepare
    from nanomd.tokenize.sources import group_files, load_topology
    from nanomd.tokenize.stream import FileStream

    check_range("stride", stride, 1)
    found = files(data_dir)
    topology = load_topology(found.topology)
    runs = group_files(found.trajectories if trajectories is None else trajectories)
    compute = prepare([_soft_contacts(data_dir)], topology)
    stream = FileStream(runs, topology, compute, stride, with_times=False, on_frames=lambda _: None)
    parts: list[list[NDArray[np.float64]]] = [[] for _ in runs]
    for trajectory, chunk in stream.chunks():
        means = [chunk[:, group].mean(axis=1, dtype=np.float64) for group in groups]
        parts[trajectory].append(np.stack(means, axis=1))
    return [np.concatenate(part) for part in parts]


def _soft_contacts(data_dir: str | Path | None) -> Any:
    from nanomd.tokenize.features import Contacts

    pairs, native = native_contacts(data_dir)
    return Contacts(pairs=tuple(map(tuple, pairs.tolist())), cutoff=tuple(1.2 * native), width=0.02)
