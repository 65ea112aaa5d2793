"""What every benchmark here shares; the work is done by `nanomd.bench`, so that an installed package can run it too."""

from __future__ import annotations

from pathlib import Path

from nanomd.bench import interleaved, stamp, write_record

RESULTS = Path(__file__).parent / "results"

__all__ = ["RESULTS", "interleaved", "stamp", "write_record"]
