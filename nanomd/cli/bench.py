"""Measure speed against the floor of this machine, the eager reference, and peers on the same weights.

First proves that all compute the same probabilities, then times them in turns. Writes one JSON record.
"""

from __future__ import annotations

import argparse

from nanomd.cli.common import add_common, arguments, real, say, whole


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_common(parser, run=False, force=False)
    parser.add_argument(
        "--run", dest="folder", default=None, metavar="DIR", help="write the record here instead of benchmarks/results"
    )
    parser.add_argument("--out", metavar="FILE", default=None, help="name of the JSON record")
    parser.add_argument("--quick", action="store_true", help="small, in seconds: for correctness rather than figures")
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("A.json", "B.json"),
        default=None,
        help="measure nothing, set two records side by side",
    )
    parser.add_argument(
        "--part",
        dest="parts",
        metavar="PART",
        nargs="+",
        default=["rollout"],
        help="rollout flatness start train tokenizer kinetics, or all",
    )
    parser.add_argument(
        "--preset",
        dest="presets",
        metavar="PRESET",
        nargs="+",
        default=None,
        help="models: S, XS, demo, S-learned, S-V1000-markov, ..., presets of `train`; small:200 has 200 states",
    )
    parser.add_argument(
        "--mode", dest="modes", nargs="+", default=None, choices=["ring", "hop", "crop"], help="default: all three"
    )
    parser.add_argument(
        "--batch",
        dest="batches",
        metavar="N",
        nargs="+",
        type=whole,
        default=None,
        help="numbers of trajectories (default: 1 16 64)",
    )
    parser.add_argument(
        "--window",
        dest="windows",
        metavar="W",
        nargs="+",
        type=whole,
        default=None,
        help="context lengths, instead of the model's own",
    )
    parser.add_argument(
        "--n-threads", nargs="+", type=whole, default=None, help="CPU threads (default: 1, 2 and all cores)"
    )
    parser.add_argument("--isa", default="", choices=["", "sse2", "avx2", "avx512"], help="force an instruction set")
    parser.add_argument(
        "--precision",
        dest="precisions",
        metavar="PRECISION",
        nargs="+",
        default=None,
        help="of our engine (default: all that it offers)",
    )
    parser.add_argument("--no-peers", action="store_true", help="leave out Hugging Face, CTranslate2 and ONNX Runtime")
    parser.add_argument("--seconds", type=real, default=None, help="length of one timing (default: 1)")
    parser.add_argument("--repeats", type=whole, default=None, help="timed repeats (default: 5, quick 2)")
    parser.add_argument("--last-step", type=whole, default=None, help="length of the long rollout (default: 1000000)")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from nanomd import bench

    if options.compare is not None:
        print(bench.compare(*options.compare), flush=True)
        return 0
    peers = () if options.no_peers else None
    bench.run(**arguments(options, "compare", "no_peers"), peers=peers, say=lambda text: say(options, text))
    return 0
