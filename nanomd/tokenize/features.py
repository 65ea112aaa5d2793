"""What is measured on each frame: torsions, distances, contacts, or a function of the user's.

A feature is a small frozen description; `prepare` resolves it on a topology into atom indices, and `compute` measures
a chunk of frames. Lengths are in nm.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError
from nanomd.tokenize.images import ImageCheck
from nanomd.tokenize.pairs import ALPHA, resolve_pairs, select_atoms

Array: TypeAlias = NDArray[np.float32]


class Feature(Protocol):
    """Something to measure."""

    def prepare(self, topology: Any) -> Callable[[Any], NDArray[Any]]:
        """Return the function from an `mdtraj.Trajectory` of n frames to an array of shape (n, n_features)."""


FeaturesLike: TypeAlias = "str | Feature | Callable[[Any], Any] | Sequence[str | Feature | Callable[[Any], Any]]"


@dataclass(frozen=True)
class BackboneTorsions:
    """Cosine and sine of the backbone torsions phi and psi: (cos phi..., sin phi..., cos psi..., sin psi...).

    Parameters
    ----------
    omega : bool
        Add the peptide-bond torsion.
    periodic : bool
        Use the minimum image where the files have a unit cell.
    atoms : str, optional
        mdtraj selection; torsions of which an atom lies outside are left out. All by default.
    """

    omega: bool = False
    periodic: bool = True
    atoms: str | None = None

    def prepare(self, topology: Any) -> Callable[[Any], NDArray[Any]]:
        """Find the torsions."""
        from mdtraj.geometry import dihedral

        kinds = [dihedral.indices_phi, dihedral.indices_psi] + ([dihedral.indices_omega] if self.omega else [])
        quads = [np.asarray(kind(topology)).reshape(-1, 4) for kind in kinds]
        where = "the topology"
        if self.atoms is not None:
            chosen, where = select_atoms(topology, self.atoms), repr(self.atoms)
            quads = [indices[np.isin(indices, chosen).all(axis=1)] for indices in quads]
        if not sum(map(len, quads)):
            raise InputError(f"{where} has no backbone torsions (no N, CA, C atoms of two residues); use distances")

        def compute(chunk: Any) -> NDArray[Any]:
            columns = []
            for indices in quads:
                angles = dihedral.compute_dihedrals(chunk, indices, periodic=self.periodic)
                columns += [np.cos(angles), np.sin(angles)]
            return np.concatenate(columns, axis=1)

        return compute


@dataclass(frozen=True)
class Distances:
    """Distances between pairs of atoms, in nm.

    Parameters
    ----------
    pairs : sequence of (int, int), optional
        Zero-based atom indices. By default all pairs of `atoms` whose residues are at least `min_separation` apart.
    atoms : str
        mdtraj selection of the atoms to pair; by default the C-alpha atoms of proteins. ``"name P"`` pairs the
        phosphorus atoms of DNA or lipids.
    min_separation : int
        Least distance along the sequence, in residues; atoms of different chains always qualify. With 0 atoms of one
        residue are paired too, those of a ligand for example.
    periodic : bool
        Use the minimum image where the files have a unit cell.
    """

    pairs: tuple[tuple[int, int], ...] | None = None
    atoms: str = ALPHA
    min_separation: int = 3
    periodic: bool = True

    def __post_init__(self) -> None:
        """Make pairs of any array-like hashable."""
        object.__setattr__(self, "pairs", _as_pairs(self.pairs))

    def prepare(self, topology: Any) -> Callable[[Any], NDArray[Any]]:
        """Resolve the pairs."""
        return _measure(topology, resolve_pairs(topology, self.pairs, self.atoms, self.min_separation), self.periodic)


@dataclass(frozen=True)
class Contacts:
    """Contacts between pairs of atoms: 1 where they touch, 0 where they do not.

    With ``width > 0`` contacts are soft, 1 / (1 + exp((r - cutoff) / width)), which varies smoothly with the distance r
    and so keeps what TICA needs; with ``width = 0`` they are hard, r < cutoff.

    Parameters
    ----------
    pairs, atoms, min_separation, periodic
        As in `Distances`.
    cutoff : float or sequence of float
        Contact distance in nm, one for all or one for each of `pairs`.
    width : float
        Softness in nm.
    """

    pairs: tuple[tuple[int, int], ...] | None = None
    cutoff: float | tuple[float, ...] = 0.8
    width: float = 0.05
    atoms: str = ALPHA
    min_separation: int = 3
    periodic: bool = True

    def __post_init__(self) -> None:
        """Check the distances."""
        object.__setattr__(self, "pairs", _as_pairs(self.pairs))
        if not isinstance(self.cutoff, int | float):
            object.__setattr__(self, "cutoff", tuple(float(value) for value in self.cutoff))
        if not (np.all(np.isfinite(self.cutoff)) and np.all(np.asarray(self.cutoff) > 0)):
            raise InputError(f"contact cutoff must be positive (nm), got {self.cutoff}")
        if not (np.isfinite(self.width) and self.width >= 0):
            raise InputError(f"contact width must be at least 0 nm (0: hard contacts), got {self.width}")

    def prepare(self, topology: Any) -> Callable[[Any], NDArray[Any]]:
        """Resolve the pairs."""
        pairs = resolve_pairs(topology, self.pairs, self.atoms, self.min_separation)
        distances = _measure(topology, pairs, self.periodic)
        cutoff = np.asarray(self.cutoff, dtype=np.float64)
        if cutoff.ndim and len(cutoff) != len(pairs):
            raise InputError(f"contact cutoff must be one number or one per pair ({len(pairs)}), got {len(cutoff)}")

        def compute(chunk: Any) -> NDArray[Any]:
            excess = distances(chunk) - cutoff
            if self.width == 0:
                return np.asarray(excess < 0, dtype=np.float32)
            # The exponent is bounded so that a far pair gives exactly the limit instead of an overflow warning.
            return np.asarray(1.0 / (1.0 + np.exp(np.minimum(excess / self.width, 80.0))))

        return compute


def _measure(topology: Any, pairs: NDArray[np.int64], periodic: bool) -> Callable[[Any], NDArray[Any]]:
    """Return the function from a chunk of frames to the distances of pairs in nm."""
    import mdtraj

    check = ImageCheck(topology, pairs) if periodic else None

    def compute(chunk: Any) -> NDArray[Any]:
        if check is not None:
            check.look(chunk)
        return np.asarray(mdtraj.compute_distances(chunk, pairs, periodic=periodic))

    return compute


_BY_NAME: dict[str, type[Any]] = {"backbone_torsions": BackboneTorsions, "distances": Distances, "contacts": Contacts}


def _as_pairs(pairs: Any) -> tuple[tuple[int, int], ...] | None:
    if pairs is None:
        return None
    array = np.asarray(pairs)
    if array.ndim != 2 or array.shape[1] != 2 or array.dtype.kind not in "iu":
        raise InputError(f"pairs must be atom indices of shape (n_pairs, 2), got shape {array.shape} of {array.dtype}")
    return tuple((int(i), int(j)) for i, j in array)


def make_feature(
    name: str, *, atoms: str | None = None, min_separation: int | None = None, periodic: bool = True
) -> Any:
    """Return a feature by name with the options that the command line has.

    Parameters
    ----------
    name : str
        ``"backbone_torsions"``, ``"distances"`` or ``"contacts"``.
    atoms : str, optional
        mdtraj selection: of the atoms to pair, or within which torsions lie; by default C-alpha atoms, or all.
    min_separation : int, optional
        See `Distances`.
    periodic : bool
        Use the minimum image where the files have a unit cell.
    """
    kind = _kind(name)
    if kind is BackboneTorsions:
        if min_separation is not None:
            raise InputError("min_separation is for distances and contacts; backbone torsions have none")
        return BackboneTorsions(atoms=atoms, periodic=periodic)
    return kind(
        atoms=ALPHA if atoms is None else atoms,
        min_separation=3 if min_separation is None else min_separation,
        periodic=periodic,
    )


def _kind(name: str) -> type[Any]:
    if name not in _BY_NAME:
        raise InputError(f"features must be one of {', '.join(_BY_NAME)}, or a function, got {name!r}")
    return _BY_NAME[name]


def parse_features(features: FeaturesLike) -> list[Any]:
    """Turn names, descriptions and functions into a list of descriptions and functions."""
    items = [features] if isinstance(features, str) or not isinstance(features, Sequence) else list(features)
    if not items:
        raise InputError("features is empty; give at least one")
    result: list[Any] = []
    for item in items:
        if isinstance(item, str):
            result.append(_kind(item)())
        elif isinstance(item, tuple(_BY_NAME.values())) or callable(item):
            result.append(item)
        else:
            raise InputError(f"features must be names, descriptions or functions, got {type(item).__name__}")
    return result


def prepare(features: Sequence[Any], topology: Any) -> Callable[[Any], Array]:
    """Return the function from a chunk of frames to (n_frames, n_features), float32, all features side by side."""
    parts: list[Callable[[Any], Any]] = [
        item.prepare(topology) if isinstance(item, BackboneTorsions | Distances | Contacts) else item
        for item in features
    ]
    names = [name_of(item) for item in features]

    def compute(chunk: Any) -> Array:
        columns = []
        for name, part in zip(names, parts, strict=True):
            values = np.asarray(part(chunk))
            if values.ndim == 1:
                values = values[:, None]
            if values.ndim != 2 or len(values) != chunk.n_frames or values.dtype.kind not in "biuf":
                raise InputError(
                    f"feature {name} must return numbers of shape ({chunk.n_frames}, n_features) for "
                    f"{chunk.n_frames} frames, got shape {values.shape} of {values.dtype}"
                )
            columns.append(values.astype(np.float32))
        joined = np.concatenate(columns, axis=1)
        if joined.shape[1] == 0:
            raise InputError("the features are empty: 0 values per frame; choose other features")
        return joined

    return compute


def describe(feature: Any) -> dict[str, Any]:
    """Return a JSON-ready description: the name and options, or the name of a function (which is not stored)."""
    if feature is None:  # a function that was not stored
        return {"name": "function"}
    for name, kind in _BY_NAME.items():
        if isinstance(feature, kind):
            return {"name": name, "options": dataclasses.asdict(feature)}
    return {"name": f"{getattr(feature, '__module__', '')}.{getattr(feature, '__qualname__', type(feature).__name__)}"}


def name_of(feature: Any) -> str:
    """Return what a feature is called."""
    return str(describe(feature)["name"])


def restore(description: Any) -> Any:
    """Rebuild a feature from `describe`; None for a function, which the user has to bring again."""
    if not isinstance(description, dict) or not isinstance(description.get("name"), str):
        raise InputError("a feature description must be a table with a name")
    kind = _BY_NAME.get(description["name"])
    if kind is None:
        return None
    options = description.get("options")
    known = {field.name for field in dataclasses.fields(kind)}
    if not isinstance(options, dict) or set(options) - known:
        raise InputError(f"feature {description['name']} has unknown options; it knows {', '.join(sorted(known))}")
    try:
        return kind(**options)
    except (TypeError, ValueError) as error:
        raise InputError(f"feature {description['name']} has a bad option: {error}") from None
