"""The four-state model potential of Tsai, Kuo and Tiwary (Nat. Commun. 11, 5115, 2020), simulated and tokenised.

U(x, y) = 1e-4 (x^6 + y^6) + g(0, 0) - g(2, -1) - g(0.5, 2) - g(-0.5, -2) - g(-2, 1),
g(a, b) = exp(-((x - a)^2 + (y - b)^2) / (2 * 0.8^2)); unit mass, friction 1, time step 0.01.

U(x, y) = U(-x, -y), so the exact populations of the first and fourth, and of the second and third minimum, are equal.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanomd import _native
from nanomd.base.checks import check_range
from nanomd.base.errors import InputError
from nanomd.base.progress import Progress
from nanomd.tokenize.clustering import TWO_LEVELS_ABOVE
from nanomd.tokenize.clustering import kmeans_centers as two_level_centers

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Scheme = Literal["cores", "x-bins", "kmeans"]

#: The four minima, in the order of the states of ``tokenize(scheme="cores")``.
MINIMA: FloatArray = np.array([[2.0, -1.0], [0.5, 2.0], [-0.5, -2.0], [-2.0, 1.0]])
MINIMA.flags.writeable = False

#: Inverse temperature, and steps between frames.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"beta": 9.5, "spacing": 100},
    "demo": {"beta": 5.0, "spacing": 100},
}

FRICTION = 1.0
TIME_STEP = 0.01
_CHUNK_FRAMES = 200_000  # frames (of all trajectories together) between two updates of the progress bar
_START_COUNTER = 2**63  # step counter of the random number that draws a start; no simulation gets there


def simulate(
    n_frames: int,
    n_trajs: int = 1,
    *,
    seed: int = 0,
    preset: Literal["paper", "demo"] = "paper",
    beta: float | None = None,
    spacing: int | None = None,
    friction: float = FRICTION,
    time_step: float = TIME_STEP,
    start: ArrayLike | None = None,
    first_trajectory: int = 0,
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> FloatArray:
    """Simulate Langevin dynamics on the four-state potential.

    Parameters
    ----------
    n_frames, n_trajs : int
        Frames per trajectory, and independent trajectories. The start is not a frame.
    seed : int
        Key of the counter-based noise. A trajectory depends on the seed, its index, its start and the settings alone:
        not on how many run together, nor on the number of threads.
    preset : str
        ``"paper"``: inverse temperature 9.5, a frame every 100 steps. ``"demo"``: hotter, so that its slowest process
        takes a few hundred frames.
    beta, spacing : float and int, optional
        Inverse temperature, and steps between frames, in place of the preset's.
    friction, time_step : float
        In the units of the potential (unit mass).
    start : array (2,) or (n_trajs, 2), optional
        Where trajectories start; by default each in one of the four minima, drawn uniformly from the seed.
    first_trajectory : int
        Index of the first trajectory, to make part of a larger set.
    n_threads : int, optional
        All cores when None.
    progress : Progress, optional
        Told of frames done.

    Returns
    -------
    ndarray (n_trajs, n_frames, 2), float64
        x and y.

    Raises
    ------
    InputError
        For settings out of range, and for a trajectory that escapes because they are too violent.
    """
    if preset not in PRESETS:
        raise InputError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    beta = float(PRESETS[preset]["beta"] if beta is None else beta)
    spacing = int(PRESETS[preset]["spacing"] if spacing is None else spacing)
    check_range("n_frames", n_frames, 1)
    check_range("n_trajs", n_trajs, 1)
    check_range("seed", seed, 0, 2**64 - 1)
    check_range("first_trajectory", first_trajectory, 0)
    threads = n_threads if n_threads is not None else (os.cpu_count() or 1)
    check_range("n_threads", threads, 1)
    walkers = np.zeros((n_trajs, 4))
    walkers[:, :2] = _starts(start, n_trajs, seed, first_trajectory)
    xy = np.empty((n_trajs, n_frames, 2))
    chunk = max(1, _CHUNK_FRAMES // n_trajs)
    for begin in range(0, n_frames, chunk):
        size = min(chunk, n_frames - begin)
        xy[:, begin : begin + size] = _native.simulate_four_state(
            walkers,
            size,
            beta=beta,
            friction=friction,
            time_step=time_step,
            spacing=spacing,
            seed=seed,
            first_frame=begin,
            first_trajectory=first_trajectory,
            n_threads=threads,
        )
        if progress is not None:
            progress.update(size * n_trajs)
    return xy


def _starts(start: ArrayLike | None, n_trajs: int, seed: int, first_trajectory: int) -> FloatArray:
    if start is None:
        uniform = [
            _native.rollout_uniform(seed, _START_COUNTER, index)
            for index in range(first_trajectory, first_trajectory + n_trajs)
        ]
        return MINIMA[(np.array(uniform) * len(MINIMA)).astype(np.int64)]
    points = np.asarray(start, np.float64)
    if points.shape not in ((2,), (n_trajs, 2)) or not np.isfinite(points).all():
        raise InputError(f"start must be finite points of shape (2,) or ({n_trajs}, 2), got shape {points.shape}")
    return np.broadcast_to(points, (n_trajs, 2))


def potential(x: ArrayLike, y: ArrayLike) -> FloatArray:
    """Return U(x, y), elementwise."""
    return _native.four_state_potential(x, y)


def tokenize(
    xy: ArrayLike,
    scheme: Scheme = "cores",
    *,
    radius: float = 0.5,
    n_states: int | None = None,
    centers: ArrayLike | None = None,
    seed: int = 0,
) -> list[IntArray]:
    """Turn positions into discrete trajectories.

    Parameters
    ----------
    xy : array (n_trajs, n_frames, 2), or a list of arrays (n_frames, 2)
        Positions.
    scheme : str
        ``"cores"``: the last visited of four discs around the minima (milestoning), -1 before the first visit.
        ``"x-bins"``: x alone, in equal bins of [-3, 3] (the outer ones catch the rest): strongly non-Markovian.
        ``"kmeans"``: the nearest of some k-means centres in x and y.
    radius : float
        Of the cores.
    n_states : int, optional
        Number of bins (32) or of k-means centres (100).
    centers : array (n_states, 2), optional
        k-means centres to use again, so that several simulations share one set of states; see `kmeans_centers`.
    seed : int
        Of k-means.

    Returns
    -------
    list of ndarray (n_frames,), int64
    """
    trajs = [np.asarray(x, np.float64) for x in (xy if isinstance(xy, list | tuple) else np.asarray(xy))]
    for i, x in enumerate(trajs):
        if x.ndim != 2 or x.shape[1] != 2 or len(x) == 0:
            raise InputError(f"xy[{i}] must have the shape (n_frames, 2) with n_frames >= 1, got {x.shape}")
        if not np.isfinite(x).all():
            raise InputError(
                f"xy[{i}] has frames that are not finite, the first is {int(np.argmin(np.isfinite(x).all(1)))}"
            )
    if scheme == "cores":
        if n_states not in (None, 4):
            raise InputError(f"scheme 'cores' has 4 states, got n_states = {n_states}")
        if not 0 < radius <= 1:
            raise InputError(f"radius must be in (0, 1], or cores overlap; got {radius}")
        return [_last_core(x, radius) for x in trajs]
    if scheme == "x-bins":
        bins = 32 if n_states is None else n_states
        check_range("n_states", bins, 2, 65536)
        edges = np.linspace(-3.0, 3.0, bins + 1)[1:-1]
        return [np.digitize(x[:, 0], edges).astype(np.int64) for x in trajs]
    if scheme == "kmeans":
        points = (
            np.asarray(centers, np.float64)
            if centers is not None
            else kmeans_centers(trajs, 100 if n_states is None else n_states, seed=seed)
        )
        if points.ndim != 2 or points.shape[1] != 2:
            raise InputError(f"centers must have the shape (n_states, 2), got {points.shape}")
        from scipy.spatial import cKDTree

        tree = cKDTree(points)
        return [np.asarray(tree.query(x)[1], np.int64) for x in trajs]
    raise InputError(f"scheme must be one of cores, x-bins, kmeans, got {scheme!r}")


def kmeans_centers(xy: FloatArray | Sequence[FloatArray], n_states: int = 100, *, seed: int = 0) -> FloatArray:
    """Return k-means centres (n_states, 2) of the positions, sorted by x.

    In mini-batches of at most 100000 frames; above 2000 states in two levels, of all frames.
    """
    from sklearn.cluster import MiniBatchKMeans

    frames = np.concatenate([np.asarray(x, np.float64).reshape(-1, 2) for x in xy])
    check_range("n_states", n_states, 2, min(len(frames), 65536))
    if n_states > TWO_LEVELS_ABOVE:
        return two_level_centers([frames.astype(np.float32)], n_states, seed)
    frames = frames[:: max(1, len(frames) // 100_000)]
    model = MiniBatchKMeans(n_states, random_state=seed, n_init=1, batch_size=4096, max_iter=50)
    points: FloatArray = model.fit(frames).cluster_centers_
    return points[np.argsort(points[:, 0])]


def _last_core(xy: FloatArray, radius: float) -> IntArray:
    """Return the core that each frame is in, or was in last; -1 before the first."""
    core = np.full(len(xy), -1)
    for k, (x, y) in enumerate(MINIMA):
        core[(xy[:, 0] - x) ** 2 + (xy[:, 1] - y) ** 2 <= radius**2] = k
    last = np.maximum.accumulate(np.where(core >= 0, np.arange(len(core)), -1))
    return np.where(last >= 0, core[last], -1).astype(np.int64)
