"""Speed of what surrounds the rollout: the tokenizer, the kinetics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nanomd.bench.models import VerificationError
from nanomd.bench.timing import interleaved


def tokenizer_cases(n_frames: int, seconds: float, repeats: int) -> dict[str, Any]:
    """Time fitting and applying the tokenizer to dihedral-like features, in frames per second.

    Verified first: tokens of the fitted trajectories are the same when they are tokenized again.
    """
    from nanomd.tokenize import Tokenizer

    random = np.random.default_rng(0)
    angle = np.cumsum(random.normal(0, 0.3, (4, n_frames // 4, 4)), axis=1)
    features = [np.concatenate([np.sin(a), np.cos(a)], axis=1) for a in angle]

    def make() -> Any:
        return Tokenizer(features="backbone_torsions", reduction="tica", lagtime=5, n_components=3, n_states=50)

    fitted = make()
    first = fitted.fit_transform_arrays(features)
    if [len(x) for x in first] != [len(x) for x in features] or len(np.unique(np.concatenate(first))) < 2:
        raise VerificationError("the tokenizer lost frames, or put all of them in one state")
    if any(not np.array_equal(a, b) for a, b in zip(first, make().fit_transform_arrays(features), strict=True)):
        raise VerificationError("the tokenizer gives other tokens the second time")

    def fit(n: int) -> int:
        for _ in range(n):
            make().fit_transform_arrays(features)
        return n * n_frames

    return {"n_frames": n_frames, "n_features": 8, "frames_per_second": interleaved({"fit": fit}, seconds, repeats)}


def kinetics_cases(n_frames: int, seconds: float, repeats: int) -> dict[str, Any]:
    """Time counting in the core, beside numpy, in frames per second; verified to be equal first."""
    from nanomd._native import count_passages, count_transitions

    V, lagtime = 100, 10
    random = np.random.default_rng(0)
    dtrajs = [random.integers(0, V, n_frames // 16).astype(np.uint8) for _ in range(16)]

    def with_numpy() -> Any:
        counts = np.zeros(V * V, np.int64)
        for x in dtrajs:
            counts += np.bincount(x[:-lagtime].astype(np.int64) * V + x[lagtime:], minlength=V * V)
        return counts.reshape(V, V)

    if not np.array_equal(count_transitions(dtrajs, V, lagtime)[0], with_numpy()):
        raise VerificationError("transition counts differ from numpy's")

    def repeat(function: Callable[[], Any]) -> Callable[[int], int]:
        def run(n: int) -> int:
            for _ in range(n):
                function()
            return n * n_frames

        return run

    functions = {
        "counts nanomd": repeat(lambda: count_transitions(dtrajs, V, lagtime)),
        "counts numpy": repeat(with_numpy),
        "passages nanomd": repeat(lambda: count_passages(dtrajs, V)),
    }
    return {"n_frames": n_frames, "n_states": V, "frames_per_second": interleaved(functions, seconds, repeats)}
