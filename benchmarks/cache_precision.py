"""What an 8-bit cache would cost in precision: |ln p error| of trained models with quantised keys and values.

``python benchmarks/cache_precision.py MODEL_FOLDER ...``

The float64 forward pass, everything exact but the cache, on trajectories that the model itself draws; keys after their
rotation, each row (one head at one position) with a scale of its own. The contract of 16-bit engines is 2e-2 where
p >= 1e-7, for all their roundings together.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from reference_numpy import log_probs_parallel

from nanomd.rollout.sampler import Sampler

Floats = NDArray[np.float64]
_E4M3 = np.array(sorted({m / 512 for m in range(8)} | {(1 + m / 8) * 2.0**e for e in range(-6, 9) for m in range(8)}))
_E4M3 = _E4M3[_E4M3 <= 448]


def float16(x: Floats) -> Floats:
    """Round to half precision."""
    return x.astype(np.float16).astype(np.float64)


def int8(x: Floats) -> Floats:
    """Round to 255 levels between plus and minus the largest of the row."""
    scale = np.abs(x).max(-1, keepdims=True) / 127
    scale[scale == 0] = 1
    return np.round(x / scale) * scale


def float8(x: Floats) -> Floats:
    """Round to e4m3 (three bits of mantissa, up to 448), the largest of the row at 448."""
    scale = np.abs(x).max(-1, keepdims=True) / 448
    scale[scale == 0] = 1
    size = np.abs(x) / scale
    upper = np.clip(np.searchsorted(_E4M3, size), 1, len(_E4M3) - 1)
    low, high = _E4M3[upper - 1], _E4M3[upper]
    return np.sign(x) * np.where(size - low < high - size, low, high) * scale


CACHES = {
    "float16": (float16, float16),
    "int8": (int8, int8),
    "int8 values": (float16, int8),
    "int8 keys": (int8, float16),
    "e4m3": (float8, float8),
}


def errors(folder: str) -> dict[str, tuple[float, float]]:
    """Largest and root-mean-square |ln p error| where p >= 1e-7, by cache."""
    sampler = Sampler.load(folder, backend="cpu")
    config, tensors = sampler.config, sampler.files.tensors
    W = config.context_length
    length = 3 * W if config.position == "rope" else W
    rows = np.asarray(sampler.generate(length + 500, 4, seed=1, n_threads=1).tokens)[:, 500:]

    def all_rows(**options: Any) -> Floats:
        return np.concatenate([log_probs_parallel(config, tensors, row, **options) for row in rows])

    exact = all_rows()
    seen = exact >= np.log(1e-7)
    result = {}
    for name, (keys, values) in CACHES.items():
        error = np.abs(all_rows(quantise=lambda k, v, f=keys, g=values: (f(k), g(v))) - exact)[seen]
        result[name] = (float(error.max()), float(np.sqrt((error**2).mean())))
    return result


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for folder in sys.argv[1:]:
        print(folder)
        for name, (largest, mean) in errors(folder).items():
            print(f"  {name:12s} largest {largest:.1e}  root mean square {mean:.1e}")


if __name__ == "__main__":
    main()
