#!/usr/bin/env bash
# Every figure of docs/benchmarks.md, on a machine that does nothing else: about 40 minutes on two cores.
#   PYTHON=python bash benchmarks/run_all.sh [FOLDER]
# Then: $PYTHON benchmarks/plot.py FOLDER/*.json
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python)}
OUT=${1:-benchmarks/results}
export OMP_NUM_THREADS=1
bench() { "$PYTHON" -m nanomd.cli.main bench --quiet "${@:2}" --out "$OUT/$1.json" && echo "$OUT/$1.json"; }

# Every instruction set, threads 1 and 2, the benchmark configurations and what peers can take of them.
bench rollout_avx2 --isa avx2 --preset S S-learned XS XS-learned --mode ring hop --batch 1 16 64 --n-threads 1 2
bench rollout_avx512 --isa avx512 --preset S XS --mode ring --batch 1 64 --n-threads 1 --no-peers || echo "no AVX-512 here"
bench rollout_sse2 --isa sse2 --preset S XS --mode ring --batch 1 64 --n-threads 1 --no-peers
# Crop, the published shapes, many states.
bench rollout_crop --preset S-learned paper-four-state paper-alanine-dipeptide paper-ww-domain --mode crop hop --batch 1 64 --n-threads 1
bench rollout_many_states --preset S-V1000-markov --mode ring --batch 1 64 --n-threads 1
# Against the number of trajectories, and against the window.
bench batch --isa avx2 --preset S --mode ring --batch 1 2 4 8 16 32 64 128 --n-threads 1
bench window --isa avx2 --preset S --mode ring --window 16 32 64 128 256 512 --batch 1 64 --n-threads 1
# Long rollouts, cold start, and everything around the rollout.
bench long --part flatness --preset S --last-step 1000000
bench parts --part start train tokenizer kinetics --preset S
