r"""Training windows: one flat token array with trajectory offsets, and which frames each step reads.

A trajectory of n frames has N = n - 1 targets (the states after the first). A window of T targets reads T + 1 frames of
one trajectory, never of two; a trajectory with N < T fills a window in part, and the rest is padding of weight zero.

Random windows (`window_shift` None) give every target of the data the same expected weight. A plain uniform start
would visit the first and last T frames of a trajectory less often than its middle, which matters when trajectories are
short: a start is therefore drawn from [-e, N - T + e], e = T // 2, and clamped into [0, N - T]. Of these
M = N - T + 1 + 2 e cases,

.. math:: c(j) = \min(j, N - T) - \max(0, j - T + 1) + 1 + e \, [j < T] + e \, [j \ge N - T]

cover target j, and its weight is T M / (N c(j)): between about 2/3 and 2 at the ends, 1 inside. Trajectories are drawn
with probability proportional to max(N, T).

**Burn-in.** A model with rotary positions cannot tell a window that has just begun from one in which the state has not
changed for long: attention averages over equal values, however many. If the first targets of windows counted, the
conditional after a long stay, which sets every slow rate, would be mixed with that of a state whose past is unknown,
which is the lag-1 MSM's. On a chain of known kinetics this shortened passage times by up to a quarter. So the first
`context` frames of a window are read but not scored, unless the trajectory itself begins there. In the formulae above
T is then the number of scored targets.

Every choice is a pure function of (seed, step), so that a resumed training needs no generator state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanomd.base.errors import InputError

# Streams of random numbers: each purpose of each step has its own.
STREAM_WINDOWS, STREAM_REVERSE, STREAM_MIX, STREAM_DROPOUT, STREAM_EPOCH, STREAM_ROLLOUT = range(1, 7)


def step_seed(seed: int, stream: int, step: int) -> int:
    """Return a 63-bit seed for one purpose of one optimiser step."""
    return int(np.random.SeedSequence([seed, stream, step]).generate_state(1, np.uint64)[0]) >> 1


def even_weights(target: Tensor, total: Tensor, length: int) -> Tensor:
    """Return the weights (B, T), float64, that even out how often random windows of `length` targets visit each target.

    `target` (B, T) is counted in its trajectory, of `total` (B, 1) targets.
    """
    last_start = (total - length).clamp(min=0)
    extra = length // 2
    cases = last_start + 1 + 2 * extra
    covering = torch.minimum(target, last_start) - (target - length + 1).clamp(min=0) + 1
    covering = covering + extra * (target < length) + extra * (target >= last_start)
    weights = (length * cases).double() / (total.clamp(min=1) * covering.clamp(min=1)).double()
    return weights.masked_fill(total < length, 1.0).masked_fill(target >= total, 0.0)


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's windows: `tokens` and `targets` int64 (B, T), `weights` (B, T), zero on padding.

    `total` is the sum of the weights of all windows of the step, also of those that other processes read.
    """

    tokens: Tensor
    targets: Tensor
    weights: Tensor
    total: Tensor


def count_windows(n_targets: int, length: int, shift: int) -> int:
    """Return how many windows of `length` targets, `shift` frames apart, cover a trajectory of `n_targets`."""
    last = max(n_targets - length, 0)
    return last // shift + 1 + (last % shift > 0)


class WindowSampler:
    """Batches of training windows from token trajectories.

    Parameters
    ----------
    trajectories : sequence of 1-D integer arrays
        Tokens; those with fewer than two frames hold no target and are left out.
    length : int
        T, targets per window.
    batch_size : int
        Windows per step.
    context : int
        Frames read before the scored targets of a window, where the trajectory has them; less than T.
    shift : int, optional
        Frames between window starts on a fixed grid, shuffled in every epoch; random starts when None.
    reverse : bool
        Read every window backwards with probability one half.
    seed : int
    device : torch.device
        Where the tokens live.
    """

    def __init__(
        self,
        trajectories: Sequence[NDArray[Any]],
        *,
        length: int,
        batch_size: int,
        context: int = 0,
        shift: int | None = None,
        reverse: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        kept = [np.asarray(trajectory) for trajectory in trajectories if len(trajectory) >= 2]
        if not kept:
            raise InputError("training needs a trajectory of at least 2 frames, got none")
        if length < 1:
            raise InputError(f"train_length must be at least 1 frame, got {length}")
        if not 0 <= context < length:
            raise InputError(f"burn_in must be in [0, {length - 1}] (below train_length), got {context}")
        self.length, self.batch_size, self.shift = length, batch_size, shift
        self.context, self.scored_length = context, length - context
        self.reverse, self.seed, self.device = reverse, seed, torch.device(device)
        frames = np.array([len(trajectory) for trajectory in kept], dtype=np.int64)
        self.offsets = np.concatenate(([0], np.cumsum(frames)))
        self.n_targets = frames - 1
        dtype = torch.uint8 if max(int(trajectory.max()) for trajectory in kept) < 256 else torch.int32
        flat = torch.from_numpy(np.concatenate([trajectory.astype(np.int32) for trajectory in kept]))
        self.flat = flat.to(dtype).to(self.device)
        self._device_offsets = torch.from_numpy(self.offsets).to(self.device)
        self._device_targets = torch.from_numpy(self.n_targets).to(self.device)
        self._share = np.cumsum(np.maximum(self.n_targets, self.scored_length)).astype(np.float64)
        self._grid = None if shift is None else self._make_grid(shift)
        self._epoch: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, dtype=np.int64))

    @property
    def n_frames(self) -> int:
        """Frames of all trajectories."""
        return int(self.offsets[-1])

    def _make_grid(self, shift: int) -> NDArray[np.int64]:
        """Return (trajectory, start) of all grid windows; the last of each trajectory ends at its last frame."""
        rows = []
        for index, total in enumerate(self.n_targets):
            last = max(int(total) - self.scored_length, 0)
            starts = np.arange(0, last + 1, shift, dtype=np.int64)
            if starts[-1] != last:
                starts = np.append(starts, last)
            rows.append(np.stack((np.full_like(starts, index), starts), axis=1))
        return np.concatenate(rows)

    def choose(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (trajectory, first frame within it) of the windows of a step, each (batch_size,) int64."""
        if self._grid is not None:
            index = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
            rows = np.array([self._shuffled(int(i) // len(self._grid))[int(i) % len(self._grid)] for i in index])
            return self._grid[rows, 0], self._grid[rows, 1]
        random = np.random.Generator(np.random.Philox(step_seed(self.seed, STREAM_WINDOWS, step)))
        # Stratified over the data: the windows of one step are spread evenly.
        place = (np.arange(self.batch_size) + random.random(self.batch_size)) / self.batch_size
        chosen = np.minimum(np.searchsorted(self._share, place * self._share[-1], side="right"), len(self._share) - 1)
        last = np.maximum(self.n_targets[chosen] - self.scored_length, 0)
        extra = self.scored_length // 2
        start = np.clip(random.integers(-extra, last + extra, endpoint=True), 0, last)
        return chosen.astype(np.int64), start.astype(np.int64)

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        if self._epoch[0] != epoch:
            assert self._grid is not None
            random = np.random.Generator(np.random.Philox(step_seed(self.seed, STREAM_EPOCH, epoch)))
            self._epoch = (epoch, random.permutation(len(self._grid)))
        return self._epoch[1]

    def plan(self, first: int, n_steps: int = 1) -> NDArray[np.int64]:
        """Return (trajectory, start, backwards) of the windows of some steps, (n_steps, batch_size, 3) int64."""
        rows = np.zeros((n_steps, self.batch_size, 3), dtype=np.int64)
        for row, step in zip(rows, range(first, first + n_steps), strict=True):
            row[:, 0], row[:, 1] = self.choose(step)
            if self.reverse:
                random = np.random.Generator(np.random.Philox(step_seed(self.seed, STREAM_REVERSE, step)))
                row[:, 2] = random.random(self.batch_size) < 0.5
        return rows

    def gather(self, plan: Tensor, rows: slice = slice(None)) -> Batch:
        """Return the windows of one step, gathered where the tokens live.

        Only operations of fixed shapes, without a word to the host, so that a CUDA graph can hold them.

        Parameters
        ----------
        plan : Tensor, shape (B, 3)
            One step of `plan`, int64, on the device of the tokens.
        rows : slice
            The windows to read; `Batch.total` is the weight of all of them.
        """
        chosen, start, backwards = plan[:, :1], plan[:, 1:2], plan[:, 2:]
        total = self._device_targets[chosen]
        scored = (total - start).clamp(max=self.scored_length)
        lead = start.clamp(max=self.context)  # frames read before the scored targets, as far as there are any
        place = torch.arange(self.length + 1, device=plan.device)
        target = place[:-1] - lead  # counted from the first scored one
        weights = ((target >= 0) & (target < scored)).double()
        if self._grid is None:
            seen = start + target.clamp(0, self.scored_length - 1)
            weights = weights * even_weights(seen, total, self.scored_length)
        weights = weights.float()
        # Frames in reading order. Read backwards, a trajectory is a trajectory like any other.
        frame = (start - lead)[rows] + torch.minimum(place, (lead + scored)[rows])
        frame = torch.where(backwards[rows] > 0, total[rows] - frame, frame)
        tokens = self.flat[self._device_offsets[chosen[rows]] + frame].long()
        return Batch(tokens=tokens[:, :-1], targets=tokens[:, 1:], weights=weights[rows], total=weights.sum())

    def batch(self, step: int, rows: slice = slice(None)) -> Batch:
        """Return the windows of an optimiser step, or some of them."""
        return self.gather(torch.from_numpy(self.plan(step)[0]).to(self.device), rows)
