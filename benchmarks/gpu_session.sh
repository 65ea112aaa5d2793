#!/usr/bin/env bash
# One go on a machine with a GPU, without a network, in under nine minutes: build with CUDA where nvcc is found, run the
# tests marked gpu, memory and race checks on small shapes, the benchmarks, and a profile of the main kernels; a short
# table last. Every step has a log and a time limit, and one that fails does not stop the others. Uses the Python that is
# active (PYTHON=...), with torch and the build tools (scikit-build-core, pybind11, cmake, ninja, pytest) already there;
# where a tool is missing, its step is named as skipped.
#
#   [PYTHON=python3] [OUT=folder] bash benchmarks/gpu_session.sh [--quick]
#
# OUT (build/gpu_session) takes session.log, all logs after the summary, and the JSON records; with --keep the records go
# to benchmarks/results.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
if [ -z "${PYTHON:-}" ]; then
  if [ -x .venv/bin/python ]; then PYTHON=$PWD/.venv/bin/python; else PYTHON=python3; fi
fi
OUT=${OUT:-build/gpu_session}
quick=() records=$OUT
for option in "$@"; do
  case $option in
    --quick) quick=(--quick) ;;
    --keep) records=benchmarks/results ;;
    *) sed -n '2,11p' "$0" >&2; exit 2 ;;
  esac
done
mkdir -p "$OUT" "$records"
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
export PYTHONUNBUFFERED=1
budget=${BUDGET:-530}  # seconds for everything
table=()

step() {  # step NAME SECONDS COMMAND...: run with a limit, keep the log, remember the outcome
  local name=$1 limit=$2 start=$SECONDS left=$((budget - SECONDS)) outcome code last
  shift 2
  printf '\n== %s\n' "$name"
  if [ "$left" -lt 5 ]; then
    skip "$name" "no time left of $budget s"
    return
  fi
  [ "$left" -lt "$limit" ] && limit=$left
  timeout --kill-after=10 "$limit" "$@" 2>&1 | tee "$logs/$name.log"
  code=${PIPESTATUS[0]}
  case $code in
    0) outcome=ok ;;
    124 | 137) outcome="TIMED OUT" ;;
    *) outcome="FAILED ($code)" ;;
  esac
  last=$(grep -vE '^[[:space:]]*$' "$logs/$name.log" | tail -n 1 | cut -c1-90)
  table+=("$(printf '%-13s %-12s %4d s  %s' "$name" "$outcome" $((SECONDS - start)) "$last")")
}

skip() {  # skip NAME REASON
  table+=("$(printf '%-13s skipped: %s' "$1" "$2")")
}

if command -v nvcc >/dev/null; then cuda=ON; else cuda=OFF; fi
# Only this card's architecture: the others are compiled in continuous integration.
architectures=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d .)
case $architectures in
  90) architectures=90a-real ;;
  [0-9]*) architectures=$architectures-real ;;
  *) architectures="80-real;90a-real;100" ;;
esac
step build 240 "$PYTHON" -m pip install --no-build-isolation --no-deps --no-index -q -e . \
  -Ccmake.define.NANOMD_CUDA=$cuda "-Ccmake.define.NANOMD_CUDA_ARCHITECTURES=$architectures"
step doctor 60 "$PYTHON" -m nanomd.cli.main doctor
# Exit code 5: nothing marked gpu was collected.
step gpu_tests 180 bash -c "cd tests && PYTHONPATH= '$PYTHON' -P -m pytest -m gpu -q -p no:cacheprovider . || [ \$? -eq 5 ]"

# --- The CUDA engine: memory errors and races on small shapes, speeds, and a profile of the three main kernels.
small="import sys; sys.path.insert(0, 'benchmarks')
import numpy as np
from bench_cuda_rollout import PRESETS, engine_of
from nanomd import _native
from nanomd.bench import random_model
from nanomd.rollout.observables import Observables
files = random_model(PRESETS['tiny'])
spec = Observables([1, 7], {'A': [1, 2], 'B': [3]}).spec(files.state_map)
for n, options in ((19, {'regime': 'throughput', 'tile': 16, 'weights': 'streamed'}),
                   (2200, {'regime': 'throughput', 'tile': 8, 'weights': 'resident'}),
                   (19, {'precision': 'fp32', 'regime': 'throughput'}),
                   (2, {'regime': 'latency', 'ranks': 2}), (200, {'regime': 'latency', 'ranks': 4})):
    watch = _native.NativeObservables(spec, n)
    session = engine_of(files, **options).open(np.zeros((n, 3), np.uint16), np.arange(n, dtype=np.uint64), mode='ring',
                                               observables=watch)
    session.advance(40, np.empty((n, 40), np.uint8))
    session.collect(watch)
    assert watch.totals().sum() > 0
print('done')"
if [ "$cuda" = ON ]; then
  step cuda_bench 200 "$PYTHON" benchmarks/bench_cuda_rollout.py --out "$records" "${quick[@]}"
  for tool in memcheck racecheck; do
    if command -v compute-sanitizer >/dev/null; then
      step $tool 60 compute-sanitizer --tool $tool --error-exitcode 1 "$PYTHON" -c "$small"
    else
      skip $tool "no compute-sanitizer here"
    fi
  done
  if command -v ncu >/dev/null; then
    # One launch of each: the throughput kernels of many trajectories, the cluster kernel of one.
    profile="import sys; sys.path.insert(0, 'benchmarks')
from bench_cuda_rollout import PRESETS, engine_rollout
from nanomd.bench import random_model
files = random_model(PRESETS['base'])
engine_rollout(files, 8448, regime='throughput')(64)
engine_rollout(random_model(PRESETS['xs']), 8448, regime='throughput', weights='resident')(64)
engine_rollout(files, 1, regime='latency')(64)
print('done')"
    for kernel in rollout_kernel resident_kernel cluster_kernel; do
      step "ncu_$kernel" 60 ncu --clock-control none --launch-skip 1 --launch-count 1 -k "regex:$kernel" \
        --section SpeedOfLight --section MemoryWorkloadAnalysis --section Occupancy --section WarpStateStats \
        "$PYTHON" -c "$profile"
    done
  else
    skip ncu "no ncu here"
  fi
else
  skip cuda_bench "no nvcc here"
fi

for script in benchmarks/kernels/bench_*.py; do
  [ -e "$script" ] && step "$(basename "$script" .py)" 60 "$PYTHON" "$script" --out "$records" "${quick[@]}"
done
# --- Training: S against eager and compiled PyTorch, the small shapes without the compiler, and a trace of the steps.
step bench_train 240 "$PYTHON" benchmarks/bench_train.py --run "$records" --models S --precision bf16 "${quick[@]}"
step bench_train_more 90 "$PYTHON" benchmarks/bench_train.py --run "$records" --models S XS demo --no-compiled --repeats 3 \
  --seconds 0.3 --profile "$OUT/train_trace.json" "${quick[@]}"
if [ "$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')" -ge 2 ]; then
  two="$OUT/two_gpus"
  step two_gpus 120 bash -c "rm -rf '$two' && '$PYTHON' -m nanomd simulate --run '$two' --n-frames 20000 --n-trajs 4 --quiet \
    && '$PYTHON' -m nanomd tokenize --run '$two' --states 20 --quiet \
    && '$PYTHON' -m torch.distributed.run --standalone --nproc-per-node 2 -m -- nanomd train --run '$two' --n-steps 200"
else
  skip two_gpus "one GPU here"
fi

{
  printf '\n== summary (%s, CUDA %s, %d s)\n' \
    "$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1)" "$cuda" "$SECONDS"
  printf '%s\n' "${table[@]}"
} | tee "$OUT/session.log"
for log in "$logs"/*.log; do printf '\n== %s\n' "$(basename "$log" .log)"; cat "$log"; done >>"$OUT/session.log"
! printf '%s\n' "${table[@]}" | grep -qE 'FAILED|TIMED OUT'
