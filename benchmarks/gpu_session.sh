#!/usr/bin/env bash
# One go on a machine with a GPU, without a network: build with CUDA where nvcc is found, run the tests marked gpu and the
# benchmarks, and print a short table last. Uses the Python that is active (PYTHON=...), with torch and the build tools
# (scikit-build-core, pybind11, cmake, ninja, pytest) already there; where a tool is missing, that step is named as skipped.
#
#   PYTHON=python3 bash benchmarks/gpu_session.sh [--quick]
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
QUICK=${1:-}
OUT=${OUT:-build/gpu_session}
mkdir -p "$OUT"
table=()

step() {  # step NAME COMMAND...: run, keep the log, remember the outcome
  local name=$1 start=$SECONDS
  shift
  printf '\n== %s\n' "$name"
  if "$@" 2>&1 | tee "$OUT/$name.log"; then outcome=ok; else outcome="FAILED (${PIPESTATUS[0]})"; fi
  table+=("$(printf '%-12s %-12s %4d s  %s' "$name" "$outcome" $((SECONDS - start)) "$(grep -vE '^\s*$' "$OUT/$name.log" | tail -1 | cut -c1-90)")")
}

if command -v nvcc >/dev/null; then cuda=ON; else cuda=OFF; fi
step build "$PYTHON" -m pip install --no-build-isolation --no-deps --no-index -q -e . -Ccmake.define.NANOMD_CUDA=$cuda
step doctor "$PYTHON" -m nanomd.cli.main doctor
# Exit code 5: nothing marked gpu was collected.
step gpu_tests bash -c "cd tests && PYTHONPATH= '$PYTHON' -P -m pytest -m gpu -q -p no:cacheprovider .; code=\$?; [ \$code -eq 5 ] && exit 0; exit \$code"
# --- The CUDA engine: memory errors and races on small shapes, speeds, and a profile of the two main kernels.
if [ "$cuda" = ON ]; then
  small="import numpy as np, sys; sys.path.insert(0, 'benchmarks')
from bench_cuda_rollout import PRESETS, engine_of
from nanomd.bench import random_model
files = random_model(PRESETS['tiny'])
for options in ({'regime': 'throughput', 'tile': 16}, {'regime': 'latency', 'ranks': 2}, {'precision': 'float32'}):
    session = engine_of(files, **options).open(np.zeros((19, 3), np.uint16), np.arange(19, dtype=np.uint64), mode='ring')
    session.advance(40, np.empty((19, 40), np.uint8))
print('done')"
  for tool in memcheck racecheck; do
    if command -v compute-sanitizer >/dev/null; then
      step $tool timeout 120 compute-sanitizer --tool $tool --error-exitcode 1 "$PYTHON" -c "$small"
    else
      table+=("$tool        skipped: no compute-sanitizer here")
    fi
  done
  step cuda_rollout "$PYTHON" benchmarks/bench_cuda_rollout.py $QUICK
  if command -v ncu >/dev/null; then
    step ncu timeout 120 ncu --clock-control none --launch-skip 2 --launch-count 2 -k regex:rollout_kernel\|cluster_kernel \
      --section SpeedOfLight --section MemoryWorkloadAnalysis --section Occupancy "$PYTHON" -c "$small"
  else
    table+=("ncu          skipped: no ncu here")
  fi
fi

step rollout "$PYTHON" benchmarks/bench_rollout.py $QUICK
# Training: every contender verified and timed, and a trace of the steps; with two devices, two processes over NCCL.
step training "$PYTHON" benchmarks/bench_train.py $QUICK --profile "$OUT/train_trace.json"
if [ "$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')" -ge 2 ]; then
  step two_gpus bash -c "rm -rf '$OUT/two' && '$PYTHON' -m nanomd simulate --run '$OUT/two' --n-frames 20000 --n-trajs 4 --quiet \
    && '$PYTHON' -m nanomd tokenize --run '$OUT/two' --states 20 --quiet \
    && '$PYTHON' -m torch.distributed.run --standalone --nproc-per-node 2 -m -- nanomd train --run '$OUT/two' --n-steps 200"
fi

printf '\n== summary (%s, CUDA %s)\n' "$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1 || true)" "$cuda"
printf '%s\n' "${table[@]}"
! printf '%s\n' "${table[@]}" | grep -q FAILED
