"""Rollout speed against the eager reference, verified first: ``python benchmarks/bench_rollout.py [--quick]``."""

from __future__ import annotations

import argparse

from common import RESULTS

from nanomd import bench


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--preset", nargs="+")
    parser.add_argument("--n-threads", type=int)
    parser.add_argument("--repeats", type=int)
    options = parser.parse_args()
    print(
        bench.run(
            presets=options.preset,
            quick=options.quick,
            n_threads=options.n_threads,
            repeats=options.repeats,
            folder=RESULTS,
        )
    )


if __name__ == "__main__":
    main()
