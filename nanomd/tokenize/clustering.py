"""Microstates: k-means centres, and the nearest centre of each frame."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd import _native
from nanomd.base.config import MAX_STATES
from nanomd.base.errors import InputError
from nanomd.base.extras import needs

MINIBATCH_ABOVE = 500_000
TWO_LEVELS_ABOVE = 2000  # states
_MINIBATCH_FRAMES = 10_240
_ASSIGN_FRAMES = 65_536
_MAX_ITERATIONS, _TOLERANCE = 300, 1e-4  # of the mean variance, by which all centres together move
_COARSE_FRAMES = 200_000  # of the first level
_CELL_ITERATIONS = 30  # of the second: cells are small, and well begun


def kmeans_centers(
    coordinates: Sequence[NDArray[Any]], n_states: int, seed: int, two_levels: bool | None = None
) -> NDArray[np.float64]:
    """Find centres by k-means, started by k-means++; in mini-batches above 500,000 frames.

    With two levels frames are first put into some sqrt(n_states) cells, and each cell is clustered by itself: the work
    grows with the root of the number of states, and the mean squared distance to the nearest centre is some percent
    larger. A cell has states in proportion to (its sum of squared distances)^(d / (d + 2)), as the best centres have
    (Zador, IEEE Trans. Inf. Theory 28, 139, 1982). Frames are given the nearest centre of all, whatever their cell.

    Runs on one thread, since sums over threads have no fixed order: the same data and seed give the same centres.

    Parameters
    ----------
    coordinates : sequence of arrays, shape (n_frames, n_dimensions)
    n_states : int
    seed : int
    two_levels : bool, optional
        By default above 2000 states, where there are four frames a state.

    Returns
    -------
    float64 array, shape (n_states, n_dimensions)
        Sorted by the first coordinate, so that neighbouring states tend to have neighbouring labels.

    Raises
    ------
    InputError
        If there are fewer distinct frames than states.
    """
    needs("a clustering", "sklearn")
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    check_n_states(n_states)
    n_frames = sum(map(len, coordinates))
    if n_frames < n_states:
        raise InputError(f"n_states must be at most the number of frames, {n_frames}, got {n_states}")
    joined = coordinates[0] if len(coordinates) == 1 else np.concatenate(coordinates)
    seed %= 2**32  # scikit-learn's seeds have 32 bits
    if two_levels is None:
        two_levels = n_states > TWO_LEVELS_ABOVE and n_frames >= 4 * n_states
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        # Too few distinct points is the one thing that scikit-learn warns of here; it is an error below.
        warnings.simplefilter("ignore", ConvergenceWarning)
        if two_levels:
            found = _two_levels(joined, n_states, seed)
        elif n_frames > MINIBATCH_ABOVE:
            estimator = MiniBatchKMeans(n_states, batch_size=_MINIBATCH_FRAMES, n_init=3, random_state=seed)
            found = estimator.fit(joined).cluster_centers_
        else:
            found = _all_frames(joined, n_states, seed)
    centers = np.asarray(found, dtype=np.float64)
    n_distinct = len(np.unique(centers, axis=0))
    if n_distinct < n_states:
        raise InputError(
            f"n_states must be at most the number of distinct frames: only {n_distinct} distinct centres for "
            f"{n_states} states; use fewer states or other features"
        )
    return centers[np.lexsort(centers.T[::-1])]


def _two_levels(frames: NDArray[Any], n_states: int, seed: int) -> NDArray[Any]:
    """Return centres (n_states, d) of cells of frames, clustered each by itself; see `kmeans_centers`."""
    some = frames
    if len(frames) > _COARSE_FRAMES:
        some = frames[np.sort(np.random.default_rng(seed).choice(len(frames), _COARSE_FRAMES, replace=False))]
    coarse = _all_frames(some, min(round(n_states**0.5), len(some)), seed)
    cell = assign(frames, coarse)
    order = np.argsort(cell, kind="stable")
    edges = np.searchsorted(cell[order], np.arange(len(coarse) + 1))
    inertia = [float(((frames[order[a:b]] - coarse[c]) ** 2).sum()) for c, (a, b) in enumerate(pairwise(edges))]
    d = frames.shape[1]
    numbers = _shared_out(n_states, np.array(inertia) ** (d / (d + 2)), np.diff(edges))
    return np.concatenate(
        [
            _all_frames(frames[order[a:b]], int(k), seed + c, _CELL_ITERATIONS)
            for c, ((a, b), k) in enumerate(zip(pairwise(edges), numbers, strict=True))
            if k
        ]
    )


def _shared_out(total: int, shares: NDArray[np.float64], most: NDArray[np.int64]) -> NDArray[np.int64]:
    """Share `total` out as whole numbers (n,), at least 1 where there is anything, at most half of `most` if possible.

    Raises
    ------
    InputError
        Where there is less than `total`.
    """
    if most.sum() < total:
        raise InputError(f"n_states must be at most the number of frames, {most.sum()}, got {total}")
    for cap in (most // 2, most):
        cap = np.maximum(cap, most > 0)
        number = np.minimum(np.maximum(np.floor(total * shares / max(shares.sum(), 1e-300)), 1), cap).astype(np.int64)
        # What rounding and caps leave over goes, one by one, to whom it is owed most.
        while number.sum() != total and (number < cap).any() | (number.sum() > total):
            up = bool(number.sum() < total)
            owed = shares / np.maximum(number, 1)
            owed = np.where(number < cap, owed, -np.inf) if up else np.where(number > 1, -owed, -np.inf)
            step = min(abs(total - int(number.sum())), max(1, len(number) // 4))
            chosen = np.argsort(-owed, kind="stable")[:step]
            number[chosen[np.isfinite(owed[chosen])]] += 1 if up else -1
        if number.sum() == total:
            return np.asarray(number, np.int64)
    return most


def _all_frames(frames: NDArray[Any], n_states: int, seed: int, max_iterations: int = _MAX_ITERATIONS) -> NDArray[Any]:
    """Return the centres of scikit-learn's ``KMeans(n_states, n_init=1, random_state=seed)``, at less cost.

    Its own iterations write all distances to memory and look through them one by one. Ours never store them, and their
    rounding depends on no library of linear algebra. What they cannot do is left to scikit-learn: numbers in double
    precision, and centres that lose all their frames.
    """
    from sklearn.cluster import KMeans, kmeans_plusplus

    if frames.dtype == np.float32 and np.isfinite(frames).all():
        mean = frames.mean(axis=0)
        x = np.ascontiguousarray(frames - mean)
        centers = np.ascontiguousarray(kmeans_plusplus(x, n_states, random_state=seed)[0])
        smallest = _TOLERANCE * np.mean(np.var(frames, axis=0))
        labels, before = np.full(len(x), -1, np.int32), np.full(len(x), -1, np.int32)
        for _ in range(max_iterations):
            norms = np.einsum("ij,ij->i", centers, centers)
            centers, counts, shifts = _native.lloyd(x, centers, norms, labels)
            if not counts.all():
                break
            if np.array_equal(labels, before) or (shifts**2).sum() <= smallest:
                return np.asarray(centers + mean)
            before[:] = labels
        else:
            return np.asarray(centers + mean)
    found = KMeans(n_states, n_init=1, max_iter=max_iterations, random_state=seed).fit(frames)
    return np.asarray(found.cluster_centers_)


def check_n_states(n_states: int) -> None:
    """Refuse a number of states that has no kinetics, or that tokens cannot hold."""
    if n_states < 2:
        raise InputError(f"n_states must be at least 2, got {n_states}: one state has no kinetics to learn")
    if n_states > MAX_STATES:
        raise InputError(f"n_states must be in [2, {MAX_STATES}] (tokens are stored in 16 bits), got {n_states}")


def assign(coordinates: NDArray[Any], centers: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the nearest centre of each frame, shape (n_frames,).

    A tree search computes each distance by itself, so a frame's state does not depend on the frames around it, as it
    can with the rounding of blocked matrix products.
    """
    from scipy.spatial import cKDTree

    tree = cKDTree(centers)
    labels = np.empty(len(coordinates), dtype=np.int64)
    for start in range(0, len(coordinates), _ASSIGN_FRAMES):
        block = np.asarray(coordinates[start : start + _ASSIGN_FRAMES], dtype=np.float64)
        labels[start : start + len(block)] = tree.query(block)[1]
    return labels


def mean_coordinates(
    coordinates: Sequence[NDArray[Any]] | NDArray[Any], dtrajs: Sequence[NDArray[np.int64]]
) -> NDArray[np.float64]:
    """Return the mean of the frames of each state, shape (n_labels, n_coordinates), NaN where there is none.

    Parameters
    ----------
    coordinates : sequence of arrays, shape (n_frames, n_coordinates)
    dtrajs : sequence of int64 arrays, shape (n_frames,)
        Labels; frames of negative ones are left out.
    """
    labels, x = np.concatenate(list(dtrajs)), np.concatenate(list(coordinates))
    labels, x = labels[labels >= 0], x[labels >= 0]
    counts = np.bincount(labels)
    sums = np.stack([np.bincount(labels, weights=column) for column in x.T], axis=1)
    return np.asarray(np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], np.nan))
