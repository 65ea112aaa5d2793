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

from nanomd.base.checks import check_choice
from nanomd.base.paths import natural_key
from nanomd.systems import go_model
from nanomd.systems.data import data_folder
from nanomd.systems.replicas import Recipe

if TYPE_CHECKING:
    from nanomd.tokenize import Tokenizer

NAME = "ww_domain_go"
_SOURCE = (
    "They are a C-alpha Go model of the Pin1 WW domain: topology, native contacts (residue_i, residue_j, "
    "native_ca_distance_nm) and runs ww_go_*.xtc; `nanomd simulate ww-domain --out DIR` makes such a folder"
)
_TOPOLOGY = "ww_go.pdb"


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
    folder = data_folder(NAME, (_TOPOLOGY, go_model.CONTACTS_FILE, "ww_go_0.xtc"), data_dir, _SOURCE)
    runs = sorted(folder.glob("ww_go_*.xtc"), key=natural_key)
    return Files(folder / _TOPOLOGY, runs, folder / go_model.CONTACTS_FILE)


def native_contacts(data_dir: str | Path | None = None) -> go_model.NativeContacts:
    """Return the 61 native contacts."""
    return go_model.read_contacts(files(data_dir).contacts, _SOURCE)


def _molecule(data_dir: str | Path | None) -> go_model.GoModel:
    if data_dir is None:
        return go_model.ww_domain()
    folder = data_folder(NAME, (_TOPOLOGY, go_model.CONTACTS_FILE), data_dir, _SOURCE)
    return go_model.load_model(folder / _TOPOLOGY, folder / go_model.CONTACTS_FILE)


#: What `simulate` leaves can be given as `data_dir` to all functions here. Its own `data_dir` has a ww_go.pdb
#: and contacts.csv of this or another protein; by default the native structure in the package. 121 K, in the model's
#: units, is close to its folding midpoint. Runs start folded; equilibration takes several folding times, so that the
#: first frame is a fair draw. The length is that of the reference runs, 31250 frames.
RECIPE = Recipe(
    system="ww-domain",
    stem="ww_go",
    molecule=_molecule,
    ns=23.4375,
    temperature=121.0,
    friction=0.2,
    time_step=15.0,
    frame_interval="0.75 ps",
    equilibration=3000.0,
    minimize=False,
)
simulate = RECIPE.simulate


class Tokenized(NamedTuple):
    """The fitted tokenizer, and the labels of each run, int64 (n_frames,)."""

    tokenizer: Tokenizer
    dtrajs: list[NDArray[np.int64]]


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
) -> Tokenized:
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
    Tokenized
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
    return Tokenized(tokenizer, tokenizer.fit_transform(found.topology, found.trajectories, stride))


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
    from nanomd.base.checks import check_range
    from nanomd.tokenize.features import prepare
    from nanomd.tokenize.opening import open_parts
    from nanomd.tokenize.sources import group_files
    from nanomd.tokenize.stream import FileStream
    from nanomd.tokenize.topology import load_topology

    check_range("stride", stride, 1)
    found = files(data_dir)
    topology = load_topology(found.topology)
    md_files = group_files(found.trajectories if trajectories is None else trajectories)
    runs = open_parts(md_files, topology.n_atoms, regardless=True)
    compute = prepare([_soft_contacts(data_dir)], topology)
    stream = FileStream(runs, topology, compute, stride, on_frames=lambda _: None)
    parts: list[list[NDArray[np.float64]]] = [[] for _ in runs]
    for trajectory, chunk in stream.chunks():
        means = [chunk[:, group].mean(axis=1, dtype=np.float64) for group in groups]
        parts[trajectory].append(np.stack(means, axis=1))
    return [np.concatenate(part) for part in parts]


def _soft_contacts(data_dir: str | Path | None) -> Any:
    from nanomd.tokenize.features import Contacts

    pairs, native = native_contacts(data_dir)
    return Contacts(pairs=tuple(map(tuple, pairs.tolist())), cutoff=tuple(1.2 * native), width=0.02)
