"""`Tokenizer`: MD files -> features -> slow coordinates -> microstates, and microstates -> structures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd.base.checks import check_choice
from nanomd.base.errors import InputError, one_line
from nanomd.base.units import Duration, FrameInterval
from nanomd.tokenize import features as feature_kinds
from nanomd.tokenize import storage
from nanomd.tokenize.checks import check_whole
from nanomd.tokenize.clustering import check_n_states
from nanomd.tokenize.fitted import Clusters, Fit, Fitted, fit
from nanomd.tokenize.frame_index import FrameIndex
from nanomd.tokenize.opening import Opened, open_stream
from nanomd.tokenize.reduction import Method, Reduction
from nanomd.tokenize.sources import FilesLike, SourceFile
from nanomd.tokenize.stream import ArrayStream, FeatureStream
from nanomd.tokenize.structures import find_sources, find_topology, write_structures

Target = Literal["states", "coordinates"]


class Tokenizer:
    """Turns molecular dynamics into discrete trajectories, and states back into structures.

    Files are read in chunks, so memory grows with frames times slow coordinates (times features, without a reduction),
    never with atoms. Trajectories are kept apart throughout.

    Parameters
    ----------
    features : str, feature, function, or a sequence of them
        ``"backbone_torsions"`` (cosine and sine of phi and psi), ``"distances"`` (C-alpha pairs, nm), ``"contacts"``;
        a `BackboneTorsions`, `Distances` or `Contacts` with options; or a function from an `mdtraj.Trajectory` of n
        frames to an array (n, n_features). Several are put side by side.
    reduction : str, optional
        ``"tica"`` or ``"vamp"``: project on slow coordinates before clustering.
    lagtime : int or str
        Lag of the reduction, in frames of the dtrajs (after the stride) or a time such as ``"1 ns"``.
    n_components : int, optional
        Slow coordinates kept; 5 by default, or all where there are fewer.
    n_states : int
        Microstates, at least 2.
    seed : int
        Of the clustering.
    two_levels : bool, optional
        Cluster cells of frames each by itself (`nanomd.tokenize.clustering`); by default above 2000 states.
    frame_interval : str, tuple or FrameInterval, optional
        Time between frames in the files, such as ``"0.2 ns"``; by default from the files' time stamps (XTC, TRR).
    progress : bool, optional
        Show a progress bar; by default on a terminal.

    Attributes
    ----------
    frame_interval : FrameInterval
        Of the dtrajs: the files' interval times the stride.
    centers, state_coordinates : float64 array, shape (n_states, n_coordinates)
    counts : int64 array, shape (n_states,)
        Frames of each state in the data that was fitted.
    reduction_ : Reduction or None
    frame_index : FrameIndex

    Examples
    --------
    >>> tokenizer = Tokenizer("distances", reduction="tica", lagtime=20, n_states=100, seed=1)
    >>> dtrajs = tokenizer.fit_transform("protein.pdb", "run_*.xtc", stride=5)  # doctest: +SKIP

    Features that are arrays already:

    >>> import numpy as np
    >>> tokenizer = Tokenizer(n_states=2, frame_interval="1 ps")
    >>> dtrajs = tokenizer.fit_transform_arrays([np.array([[0.0], [0.1], [5.0]]), np.array([[5.1], [0.2]])])
    >>> [len(labels) for labels in dtrajs], bool(dtrajs[0][2] == dtrajs[1][0] != dtrajs[1][1])
    ([3, 2], True)
    """

    def __init__(
        self,
        features: feature_kinds.FeaturesLike = "backbone_torsions",
        *,
        reduction: Method | None = None,
        lagtime: Duration = 10,
        n_components: int | None = None,
        n_states: int = 100,
        seed: int = 0,
        two_levels: bool | None = None,
        frame_interval: Any = None,
        progress: bool | None = None,
    ) -> None:
        if reduction is not None:
            check_choice("reduction", reduction, Method)
        if not isinstance(lagtime, str):
            lagtime = check_whole("lagtime", lagtime, 1, "frames")
        n_components = None if n_components is None else check_whole("n_components", n_components, 1)
        n_states = check_whole("n_states", n_states)
        check_n_states(n_states)
        seed = check_whole("seed", seed, 0)
        self.features = feature_kinds.parse_features(features)
        self.reduction, self.lagtime, self.n_components = reduction, lagtime, n_components
        self.n_states, self.seed, self.two_levels, self.progress = n_states, seed, two_levels, progress
        self._interval = None if frame_interval is None else FrameInterval.parse(frame_interval)
        self._fitted: Fitted | None = None
        self._topology: Any = None

    def __repr__(self) -> str:
        """Show what is measured, and what a fit found."""
        kinds = ", ".join(feature_kinds.name_of(item) for item in self.features)
        slow = f", reduction={self.reduction!r}, lagtime={self.lagtime}" if self.reduction else ""
        text = f"Tokenizer({kinds}{slow}, n_states={self.n_states}, seed={self.seed})"
        return f"{text}: {'not fitted' if self._fitted is None else self._fitted.summary()}"

    def fit(self, topology: Any, files: FilesLike | None = None, stride: int = 1) -> Self:
        """Find the microstates of trajectories; see `fit_transform`."""
        self.fit_transform(topology, files, stride)
        return self

    def fit_transform(self, topology: Any, files: FilesLike | None = None, stride: int = 1) -> list[NDArray[np.int64]]:
        """Find the microstates of trajectories, and give each frame its state.

        Parameters
        ----------
        topology : path, mdtraj.Topology or mdtraj.Trajectory
            Without `files`: the trajectories themselves, one or a list of mdtraj trajectories or of MDAnalysis
            universes or atom groups.
        files : path, pattern, mdtraj.Trajectory, MDAnalysis.Universe, or a sequence of them, optional
            Each is one trajectory; a sequence inside the sequence holds consecutive parts of one trajectory.
        stride : int
            Use every stride-th frame.

        Returns
        -------
        list of int64 arrays, shape (n_frames,)
            Labels in [0, n_states), one array per trajectory.

        Raises
        ------
        InputError
            For missing, damaged or empty files, atom counts that differ, frames that cannot be coordinates, a lag
            longer than the trajectories, fewer frames than states, or time stamps that disagree.
        """
        stride = check_whole("stride", stride, 1, "frames")
        _, stream, bar = self._open(topology, files, stride, passes=1 if self.reduction is None else 2)
        interval = stream.frame_interval() if self._interval is None else self._interval.times(stride)
        try:
            dtrajs, fitted = self._fit(stream, interval)
        finally:
            bar.close()
        fitted.take_files(stream, topology, self._topology.n_atoms, stride, interval)
        fitted.index = FrameIndex.build(dtrajs, self.n_states, stream.parts, stride)
        self._fitted = fitted
        return dtrajs

    def fit_transform_arrays(
        self, arrays: Sequence[ArrayLike] | NDArray[Any], frame_interval: Any = None
    ) -> list[NDArray[np.int64]]:
        """Find the microstates of features you computed, one array (n_frames, n_features) per trajectory.

        `features` and `stride` play no part. The frame index counts arrays as files, so that `to_structures` works with
        `topology` and `files` given, one file per array with the same frames.
        """
        stream = ArrayStream(arrays)
        interval = self._interval if frame_interval is None else FrameInterval.parse(frame_interval)
        interval = interval or FrameInterval()
        dtrajs, fitted = self._fit(stream, interval)
        fitted.frame_interval = interval
        parts = [[(number, len(array))] for number, array in enumerate(stream.arrays)]
        fitted.index = FrameIndex.build(dtrajs, self.n_states, parts, 1)
        fitted.n_frames = [len(array) for array in stream.arrays]
        self._fitted = fitted
        return dtrajs

    def transform(
        self, topology: Any, files: FilesLike | None = None, stride: int | None = None, *, to: Target = "states"
    ) -> list[NDArray[Any]]:
        """Give each frame of other trajectories its state; the stride is the fit's unless given.

        The frame index stays that of the fitted ones. With ``to="coordinates"``, return where each frame lies among
        the coordinates of `state_coordinates`, (n_frames, n_coordinates): the projection on TICA's or VAMP's.
        """
        check_choice("to", to, Target)
        fitted = self._need_fit()
        stride = fitted.stride if stride is None else stride
        stride = check_whole("stride", stride, 1, "frames")
        if not fitted.n_atoms:
            raise InputError("this tokenizer was fitted to arrays; use transform_arrays")
        kept = self._topology
        _, stream, bar = self._open(topology, files, stride, passes=1)
        try:
            if self._topology.n_atoms != fitted.n_atoms:
                raise InputError(
                    f"the topology has {self._topology.n_atoms} atoms, the tokenizer was fitted to {fitted.n_atoms}; "
                    "strip or keep the same molecules"
                )
            return fitted.assign(stream) if to == "states" else fitted.project(stream)
        finally:
            self._topology = kept
            bar.close()

    def transform_arrays(
        self, arrays: Sequence[ArrayLike] | NDArray[Any], *, to: Target = "states"
    ) -> list[NDArray[Any]]:
        """Give each frame of features you computed its state, or its coordinates; see `transform`."""
        check_choice("to", to, Target)
        fitted, stream = self._need_fit(), ArrayStream(arrays)
        return fitted.assign(stream) if to == "states" else fitted.project(stream)

    def _open(self, topology: Any, files: FilesLike | None, stride: int, passes: int) -> Opened:
        known = self._interval is not None
        opened = open_stream(self.features, topology, files, stride, passes, regardless=known, progress=self.progress)
        self._topology = opened.topology
        return opened

    def _fit(self, stream: FeatureStream, interval: FrameInterval) -> Fit:
        if isinstance(self.lagtime, str):
            self.lagtime = check_whole("lagtime", interval.frames(self.lagtime, "lagtime"), 1, "frames")
        clusters = Clusters(self.n_states, self.seed, self.two_levels)
        return fit(stream, self.reduction, self.lagtime, self.n_components, clusters)

    def _need_fit(self) -> Fitted:
        if self._fitted is None:
            raise InputError("the tokenizer is not fitted; call fit or fit_transform first")
        return self._fitted

    @property
    def frame_interval(self) -> FrameInterval:
        """Time between frames of the dtrajs."""
        return self._need_fit().frame_interval

    @property
    def centers(self) -> NDArray[np.float64]:
        """Centres of the microstates, shape (n_states, n_coordinates)."""
        return self._need_fit().centers

    @property
    def state_coordinates(self) -> NDArray[np.float64]:
        """Where each state lies among the slow coordinates, shape (n_states, n_coordinates).

        With a reduction these are scaled such that distances are kinetic (a kinetic map): states that interconvert fast
        lie close to each other. Without one they are features.
        """
        return self.centers

    @property
    def reduction_(self) -> Reduction | None:
        """The fitted slow coordinates."""
        return self._need_fit().reduction

    @property
    def frame_index(self) -> FrameIndex:
        """For each microstate, the (file, frame) pairs it came from."""
        return self._need_fit().index

    @property
    def counts(self) -> NDArray[np.int64]:
        """Frames of each state in the fitted data."""
        return self.frame_index.counts

    @property
    def sources(self) -> list[SourceFile]:
        """The files of the fitted data, in the order of the frame index."""
        return self._need_fit().sources

    def to_structures(
        self,
        labels: ArrayLike,
        out: str | Path,
        seed: int = 0,
        *,
        topology: Any = None,
        files: FilesLike | None = None,
        write_pdb: bool = False,
        overwrite: bool = False,
    ) -> Path:
        """Write a structure for each label, drawn at random from the MD frames of that microstate.

        Parameters
        ----------
        labels : int array, shape (n_frames,)
            Raw labels (a rollout's ``dtrajs[i]``), in [0, n_states).
        out : path
            An ``.xtc`` file; coordinates in nm. Time stamps count `frame_interval` in ps.
        seed : int
            Of the drawing: equal labels and seed give equal structures.
        topology, files : optional
            Where the topology and the source trajectories are now, if they moved or were in memory when the tokenizer
            was saved; `files` in the order of `sources`.
        write_pdb : bool
            Also write the first structure as a PDB beside, as topology for viewers.
        overwrite : bool
            Replace `out` if it exists.

        Returns
        -------
        Path
            Of the XTC file.

        Raises
        ------
        InputError
            For unknown or unvisited states, and source files that moved or changed.
        """
        fitted = self._need_fit()
        resolved = find_topology(topology, self._topology, fitted)
        return write_structures(
            Path(out),
            labels,
            fitted,
            find_sources(files, fitted),
            resolved,
            seed=seed,
            write_pdb=write_pdb,
            overwrite=overwrite,
            show_progress=self.progress,
        )

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json, tokenizer.npz and frames_index.npz to a folder (made if absent)."""
        fitted = self._need_fit()
        settings = {
            "features": [feature_kinds.describe(item) for item in self.features],
            "reduction": self.reduction,
            "lagtime": self.lagtime,
            "n_components": self.n_components,
            "n_states": self.n_states,
            "seed": self.seed,
            **fitted.settings(),
        }
        storage.save_folder(Path(folder), settings, fitted.arrays(), fitted.index.arrays())

    @classmethod
    def load(cls, folder: str | Path, features: feature_kinds.FeaturesLike | None = None) -> Tokenizer:
        """Read a tokenizer back.

        Parameters
        ----------
        folder : path
        features : optional
            The features again, needed for `transform` if one of them was a function.
        """
        folder = Path(folder)
        settings, arrays, index = storage.load_folder(folder)
        try:
            kinds = [feature_kinds.restore(item) for item in settings["features"]]
            tokenizer = cls(
                "backbone_torsions",
                reduction=settings["reduction"],
                lagtime=int(settings["lagtime"]),
                n_components=settings["n_components"],
                n_states=int(settings["n_states"]),
                seed=int(settings["seed"]),
            )
            tokenizer.features = kinds if features is None else feature_kinds.parse_features(features)
            tokenizer._fitted = Fitted.restore(
                settings,
                arrays,
                index,
                tokenizer.n_states,
                int(settings["lagtime"]) if tokenizer.reduction else None,
                folder,
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            if isinstance(error, InputError):
                raise
            where = folder / storage.SETTINGS_FILE
            raise InputError(
                f"{where} is damaged ({type(error).__name__}: {one_line(error)}); tokenize again"
            ) from None
        return tokenizer
