"""The frame index: for each microstate, the frames of the MD that belong to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd.base.errors import InputError


@dataclass(frozen=True, eq=False)
class FrameIndex:
    """Frames grouped by state.

    Parameters
    ----------
    offsets : int64 array, shape (n_states + 1,)
        The frames of state s are the entries ``offsets[s]:offsets[s + 1]``.
    file : int32 array, shape (n_frames,)
        Index of the file (of the array, for features given as arrays).
    frame : int64 array, shape (n_frames,)
        Number of the frame in the original file, whatever the stride.
    """

    offsets: NDArray[np.int64]
    file: NDArray[np.int32]
    frame: NDArray[np.int64]

    @classmethod
    def build(
        cls, dtrajs: Sequence[NDArray[Any]], n_states: int, files: Sequence[Sequence[tuple[int, int]]], stride: int
    ) -> FrameIndex:
        """Group frames by state.

        Parameters
        ----------
        dtrajs : sequence of int arrays
            Labels 0..n_states-1 of each trajectory.
        n_states : int
        files : for each trajectory, its consecutive (file index, frames in the file before any stride)
        stride : int
            Entry k of a dtraj is frame ``k * stride`` of the trajectory.
        """
        file_parts, frame_parts = [], []
        for labels, parts in zip(dtrajs, files, strict=True):
            position = np.arange(len(labels), dtype=np.int64) * stride
            ends = np.cumsum([count for _, count in parts])
            part = np.searchsorted(ends, position, side="right")
            begins = np.concatenate(([0], ends[:-1]))
            file_parts.append(np.array([index for index, _ in parts], dtype=np.int32)[part])
            frame_parts.append(position - begins[part])
        states = np.concatenate(dtrajs)
        order = np.argsort(states, kind="stable")
        offsets = np.concatenate(([0], np.cumsum(np.bincount(states, minlength=n_states)))).astype(np.int64)
        return cls(offsets, np.concatenate(file_parts)[order], np.concatenate(frame_parts)[order])

    @property
    def n_states(self) -> int:
        """Number of states, visited or not."""
        return len(self.offsets) - 1

    @property
    def counts(self) -> NDArray[np.int64]:
        """Frames of each state, shape (n_states,)."""
        return np.diff(self.offsets)

    def frames_of(self, state: int) -> list[tuple[int, int]]:
        """Return the (file, frame) pairs of a state."""
        if not 0 <= state < self.n_states:
            raise InputError(f"state must be in [0, {self.n_states - 1}], got {state}")
        span = slice(int(self.offsets[state]), int(self.offsets[state + 1]))
        return list(zip(self.file[span].tolist(), self.frame[span].tolist(), strict=True))

    def draw(self, labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
        """Draw for each label one of its frames, uniformly; returns entries of `file` and `frame`.

        Draw i uses the i-th number of a Philox stream keyed by `seed`, so equal labels and seeds give equal frames.
        """
        wrong = (labels < 0) | (labels >= self.n_states)
        if wrong.any():
            raise InputError(
                f"labels must be states in [0, {self.n_states - 1}], got {labels[wrong][0]} at position "
                f"{np.flatnonzero(wrong)[0]}; use the tokenizer that made the states"
            )
        counts = self.counts[labels]
        if np.any(counts == 0):
            raise InputError(f"state {labels[counts == 0][0]} has no frame in the MD, so no structure can stand for it")
        if not 0 <= seed < 2**63:
            raise InputError(f"seed must be in [0, 2^63 - 1], got {seed}")
        raw = np.random.Philox(key=seed).random_raw(len(labels))
        uniform = (np.asarray(raw, dtype=np.uint64) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return np.asarray(self.offsets[labels] + np.minimum((uniform * counts).astype(np.int64), counts - 1))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays to store."""
        return {"offsets": self.offsets, "files": self.file, "frames": self.frame}

    @classmethod
    def from_arrays(
        cls, arrays: dict[str, NDArray[Any]], n_states: int, frames_in: Sequence[int], where: str
    ) -> FrameIndex:
        """Check stored arrays against the number of states and the frames in each file."""
        offsets, file, frame = (arrays[name] for name in ("offsets", "files", "frames"))
        good = (
            offsets.shape == (n_states + 1,)
            and file.shape == frame.shape == (int(offsets[-1]),)
            and int(offsets[0]) == 0
            and bool(np.all(np.diff(offsets) >= 0))
        )
        if good and file.size:
            limits = np.asarray(frames_in, dtype=np.int64)
            good = bool(file.min() >= 0 and file.max() < len(limits) and frame.min() >= 0)
            good = good and bool(np.all(frame < limits[file]))
        if not good:
            raise InputError(f"{where} is damaged: its arrays do not fit each other; tokenize again")
        return cls(offsets, file, frame)
