"""Slow coordinates from features: TICA and VAMP, by deeptime, accumulated chunk by chunk.

Both look for linear combinations of the features that stay correlated over a lag (Perez-Hernandez et al. 2013;
Wu and Noe 2020). Time-lagged pairs never join two trajectories. Coordinates are scaled by their singular values
(kinetic map, Noe and Clementi 2015), so that distances between frames weigh slow motions more.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError, NanomdWarning
from nanomd.base.extras import needs

Method = Literal["tica", "vamp"]

# Frames given to deeptime at once: each call costs a pass over the covariance matrices, however few the frames.
_BATCH = 4096
_DEFAULT_COMPONENTS = 5
_FRAMES_A_FEATURE = 10  # with fewer, white noise shows correlations above 0.44


@dataclass(frozen=True, eq=False)
class Reduction:
    """A linear map y = (x - mean) @ matrix + offset.

    Parameters
    ----------
    mean : float64 array, shape (n_features,)
    matrix : float64 array, shape (n_features, n_components)
    offset : float64 array, shape (n_components,)
    singular_values : float64 array, shape (n_singular,)
        Positive correlations over the lag, largest first; more of them than components.
    lagtime : int
        Frames.
    """

    mean: NDArray[np.float64]
    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]
    singular_values: NDArray[np.float64]
    lagtime: int

    @property
    def n_components(self) -> int:
        """Number of slow coordinates."""
        return int(self.matrix.shape[1])

    @property
    def timescales(self) -> NDArray[np.float64]:
        """Implied timescales -lagtime / ln(singular value) in frames, slowest first; NaN where it is not below 1."""
        s = np.where((self.singular_values > 0) & (self.singular_values < 1), self.singular_values, np.nan)
        return np.asarray(-self.lagtime / np.log(s))

    def transform(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """Map (n_frames, n_features) to (n_frames, n_components)."""
        return np.asarray((features.astype(np.float64) - self.mean) @ self.matrix + self.offset, dtype=np.float32)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays to store."""
        return {
            "reduction_mean": self.mean,
            "reduction_matrix": self.matrix,
            "reduction_offset": self.offset,
            "reduction_singular_values": self.singular_values,
        }


class ReductionFit:
    """Collects features chunk by chunk and fits the reduction.

    Parameters
    ----------
    method : str
        ``"tica"`` (time-reversible) or ``"vamp"``.
    lagtime : int
        Frames.
    n_components : int, optional
        Slow coordinates to keep; by default 5, or all where there are fewer.
    """

    def __init__(self, method: Method, lagtime: int, n_components: int | None) -> None:
        needs("a reduction", "deeptime")
        from deeptime.decomposition import TICA, VAMP

        kind = TICA if method == "tica" else VAMP
        self._method, self._lagtime, self._n_components = method, lagtime, n_components
        self._estimator = kind(lagtime=lagtime, scaling="kinetic_map")
        self._trajectory = -1
        self._pending: list[NDArray[np.float64]] = []
        self._n_pending = 0
        self._longest = 0
        self._length = 0
        self._n_pairs = 0
        self._sum: NDArray[np.float64] | None = None
        self._n_frames = 0

    def add(self, trajectory: int, features: NDArray[Any]) -> None:
        """Take the next chunk, shape (n_frames, n_features), of a trajectory; trajectories come one after the other."""
        if trajectory != self._trajectory:
            self._end_trajectory()
            self._trajectory = trajectory
        values = features.astype(np.float64)
        self._sum = values.sum(axis=0) + (0.0 if self._sum is None else self._sum)
        self._n_frames += len(values)
        self._length += len(values)
        self._longest = max(self._longest, self._length)
        self._pending.append(values)
        self._n_pending += len(values)
        if self._n_pending >= _BATCH + self._lagtime:
            self._flush()

    def _flush(self) -> None:
        joined = np.concatenate(self._pending)
        if len(joined) > self._lagtime:
            self._estimator.partial_fit((joined[: -self._lagtime], joined[self._lagtime :]))
            self._n_pairs += len(joined) - self._lagtime
            # The last lagtime frames have been only the later half of a pair: they start the next batch.
            joined = joined[-self._lagtime :].copy()
        self._pending, self._n_pending = [joined], len(joined)

    def _end_trajectory(self) -> None:
        if self._pending:
            self._flush()
        self._pending, self._n_pending, self._length = [], 0, 0

    def finish(self) -> Reduction:
        """Fit the reduction to everything added.

        Raises
        ------
        InputError
            If the lag is longer than every trajectory, all features are constant, nothing is slow, or `n_components`
            exceeds the rank.
        """
        from deeptime.numeric import ZeroRankError

        self._end_trajectory()
        if self._n_pairs < 2 or self._sum is None:
            raise InputError(
                f"lagtime must be in [1, {max(self._longest - 2, 1)}] frames (longest trajectory has {self._longest}), "
                f"got {self._lagtime}"
            )
        try:
            model = self._estimator.fetch_model()
            mean = self._sum / self._n_frames
            # The model is affine: probing it at the mean and along each feature gives its matrix.
            offset = model.transform(mean[None])[0]
            matrix = model.transform(np.eye(len(mean)) + mean) - offset
            singular = np.real(np.asarray(model.singular_values, dtype=np.complex128))
        except ZeroRankError:
            raise InputError(
                "all features are constant; no slow coordinate can be found, choose other features"
            ) from None
        rank = matrix.shape[1]
        keep = min(_DEFAULT_COMPONENTS, rank) if self._n_components is None else self._n_components
        if keep > rank:
            raise InputError(f"n_components must be in [1, {rank}] (independent features), got {keep}")
        self._warn_of_noise(rank)
        # A coordinate that changes its sign over the lag is fast, or noise: it has no timescale.
        slow = np.flatnonzero(singular[:rank] > 0)
        if not len(slow):
            raise InputError(f"no coordinate is slower than the lag of {self._lagtime} frames; use a shorter lagtime")
        if self._n_components is not None and keep > len(slow):
            warnings.warn(
                f"only {len(slow)} coordinates have a positive correlation over the lag, and are kept; n_components is "
                f"{keep}",
                NanomdWarning,
                stacklevel=3,
            )
        singular, slow = singular[slow], slow[:keep]
        matrix, offset = np.array(matrix[:, slow], np.float64), np.array(offset[slow], np.float64)
        # The sign of a coordinate is arbitrary: make its largest weight positive, so that it is the same everywhere.
        signs = np.sign(matrix[np.abs(matrix).argmax(axis=0), np.arange(len(slow))])
        return Reduction(mean, matrix * signs, offset * signs, np.array(singular), self._lagtime)

    def _warn_of_noise(self, rank: int) -> None:
        """Warn where correlations over the lag may be of noise, since there are few frames for so many features."""
        if self._n_pairs >= _FRAMES_A_FEATURE * rank:
            return
        ratio = min(rank / self._n_pairs, 1.0)
        # The edges of the spectra of white noise, of a symmetrised correlation and of two sets whitened apart.
        half = min(ratio, 0.5)
        edge = np.sqrt(ratio * (2 - ratio) if self._method == "tica" else 4 * half * (1 - half))
        warnings.warn(
            f"{self._n_pairs} pairs of frames are few for {rank} independent features: noise alone would have slow "
            f"coordinates with correlations up to {edge:.2f}, so do not trust these timescales; use more frames, fewer "
            "features (another selection), or no reduction",
            NanomdWarning,
            stacklevel=4,
        )
