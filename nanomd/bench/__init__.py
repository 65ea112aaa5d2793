"""Benchmarks: each fast path is proved to compute what a float64 reference does, then timed beside its peers.

`run` measures and writes one JSON record, `compare` sets two records side by side.
"""

from __future__ import annotations

from nanomd.bench.compare import compare
from nanomd.bench.models import MODELS, TOLERANCE, VerificationError, bench_config, random_model
from nanomd.bench.suite import PARTS, run
from nanomd.bench.timing import interleaved, read_record, stamp, write_record

__all__ = [
    "MODELS",
    "PARTS",
    "TOLERANCE",
    "VerificationError",
    "bench_config",
    "compare",
    "interleaved",
    "random_model",
    "read_record",
    "run",
    "stamp",
    "write_record",
]
