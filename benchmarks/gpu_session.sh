#!/usr/bin/env bash
# One go on a machine with a GPU, without a network: stages in order of worth, each with a time limit, a log and a record
# of its own that are on the disk as soon as it ends, so that a session cut short loses only what had not run. The first
# six take six minutes. A stage that fails does not stop the others.
#
#   bash benchmarks/gpu_session.sh [--quick] [--keep] [--dry-run] [STAGE ...]
#
#   build      with CUDA, for this card's architecture alone        training   steps beside eager and compiled PyTorch
#   doctor     what was built and found                             tests      all tests marked gpu
#   parity     the CUDA engine against the CPU engine               sanitizer  memcheck and racecheck on tiny shapes
#   speed      rollouts of XS and S, many and one, beside PyTorch   ncu        a profile of the three main kernels
#   kernels    the training kernels, each beside its reference      two_gpus   data-parallel training, where there are two
#
# Without names: all, as far as BUDGET (530) seconds reach. --quick: fewer timings in training and kernels. --keep:
# records to benchmarks/results too. --dry-run: no device; what can run on emulated threads and on the CPU does.
# OUT (build/gpu_session): session.log and one JSON record a stage. PYTHON: with torch and the build tools. WHEELS: a
# folder of wheels of what that Python lacks (msgspec, tomli-w; mdtraj, deeptime and nvtx may be missing).
set -uo pipefail
cd "$(dirname "$0")/.." || exit
stages=(build doctor parity speed training tests sanitizer ncu kernels two_gpus)
OUT=${OUT:-build/gpu_session}
quick=() dry="" keep="" named=()
while [ $# -gt 0 ]; do
  case $1 in
    --quick) quick=(--quick) ;;
    --keep) keep=1 ;;
    --dry-run) dry=1 ;;
    *)
      if [[ " ${stages[*]} " != *" $1 "* ]]; then
        sed -n '2,19p' "$0" >&2
        exit 2
      fi
      named+=("$1")
      ;;
  esac
  shift
done
budget=${BUDGET:-$([ -n "$dry" ] && echo 3000 || echo 530)} # seconds
if [ -z "${PYTHON:-}" ]; then
  if [ -x .venv/bin/python ]; then PYTHON=$PWD/.venv/bin/python; else PYTHON=python3; fi
fi
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
export PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1
export PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin
session=$OUT/session.log table=()
: >"$session"

report() { # report NAME OUTCOME SECONDS LINE: on the disk at once
  local row
  row=$(printf '%-20s %-12s %4d s  %s' "$1" "$2" "$3" "$4")
  table+=("$row")
  printf '\n>> %s\n' "$row" | tee -a "$session"
}

step() { # step NAME SECONDS COMMAND...: run with a limit, log as it goes, remember the outcome
  local name=$1 limit=$2 start=$SECONDS left=$((budget - SECONDS)) code last
  shift 2
  if [ "$left" -lt 5 ]; then
    report "$name" skipped 0 "no time left of $budget s"
    return
  fi
  [ -n "$dry" ] && limit=$((limit * 6)) # emulated threads are slow
  [ "$left" -lt "$limit" ] && limit=$left
  printf '\n== %s (at most %d s)\n' "$name" "$limit" | tee -a "$session"
  timeout --kill-after=10 "$limit" "$@" 2>&1 | tee -a "$session" "$OUT/.last"
  code=${PIPESTATUS[0]}
  last=$(grep -vE '^[[:space:]]*$' "$OUT/.last" | tail -n 1 | cut -c1-90)
  rm -f "$OUT/.last"
  case $code in
    0) report "$name" ok $((SECONDS - start)) "$last" ;;
    124 | 137) report "$name" "TIMED OUT" $((SECONDS - start)) "$last" ;;
    *) report "$name" "FAILED ($code)" $((SECONDS - start)) "$last" ;;
  esac
}

have() { # have TOOL STAGE: else the stage is named as skipped
  command -v "$1" >/dev/null || { report "$2" skipped 0 "no $1 here" && false; }
}

# --- What the Python here lacks, and whether there is a card.
if [ -n "${WHEELS:-}" ]; then
  "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$OUT/.site" "$WHEELS"/*.whl
  export PYTHONPATH=$OUT/.site${PYTHONPATH:+:$PYTHONPATH}
fi
card=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1)
if [ -z "$card" ] && [ -z "$dry" ]; then
  echo "no GPU here (nvidia-smi shows none); --dry-run runs what needs none" >&2
  exit 2
fi
if [ ${#named[@]} -eq 0 ]; then named=("${stages[@]}"); fi
installed() { (cd / && "$PYTHON" -c 'import nanomd._core') 2>/dev/null; }
if [[ " ${named[*]} " != *" build "* ]] && ! installed; then named=(build "${named[@]}"); fi

stage_build() {
  local cuda=OFF emulate=OFF architectures
  if [ -n "$dry" ] && installed; then
    report build skipped 0 "nanomd is installed"
    return
  fi
  command -v nvcc >/dev/null && cuda=ON
  [ -n "$dry" ] && emulate=ON
  # Only this card's architecture: the others are compiled by the tests.
  architectures=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d .)
  case $architectures in
    90) architectures=90a-real ;;
    [0-9]*) architectures=$architectures-real ;;
    *) architectures="90a-real" ;;
  esac
  step build 110 "$PYTHON" -m pip install --no-build-isolation --no-deps --no-index -q -e . \
    -Ccmake.define.NANOMD_CUDA=$cuda "-Ccmake.define.NANOMD_CUDA_ARCHITECTURES=$architectures" \
    -Ccmake.define.NANOMD_EMULATE_CUDA=$emulate
}

stage_doctor() { step doctor 20 "$PYTHON" -m nanomd doctor; }

stage_parity() { step parity 40 "$PYTHON" benchmarks/gpu_parity.py --out "$OUT" ${dry:+--emulate}; }

stage_speed() {
  if [ -n "$dry" ]; then
    step speed 80 "$PYTHON" benchmarks/bench_cuda_rollout.py --dry-run
  else
    step speed 80 "$PYTHON" benchmarks/bench_cuda_rollout.py --preset xs base --quick --out "$OUT"
  fi
}

stage_training() {
  if [ -n "$dry" ]; then
    step training 70 "$PYTHON" benchmarks/bench_train.py --run "$OUT" --models XS --batch 4 \
      --objectives one_pass --quick
  else
    step training 70 "$PYTHON" benchmarks/bench_train.py --run "$OUT" --models S XS --precision bf16 \
      --objectives one_pass --seconds 0.5 --repeats 3 "${quick[@]}"
  fi
}

stage_tests() {
  # Only the files with such tests: others may need packages that are not here. Exit code 5: none was collected.
  local files
  files=$(grep -ls 'mark\.gpu' tests/*.py tests/kernels/*.py | tr '\n' ' ')
  step tests 40 bash -c "'$PYTHON' -P -m pytest -m gpu -q -p no:cacheprovider $files || [ \$? -eq 5 ]"
}

stage_sanitizer() {
  have compute-sanitizer sanitizer || return
  for tool in memcheck racecheck; do
    step "sanitizer_$tool" 60 compute-sanitizer --tool $tool --error-exitcode 1 \
      "$PYTHON" benchmarks/gpu_parity.py --brief
  done
}

stage_ncu() {
  have ncu ncu || return
  # One launch of each: the throughput kernels of many trajectories, the cluster kernel of one.
  local kernel profile="import sys; sys.path.insert(0, 'benchmarks')
from bench_cuda_rollout import PRESETS, engine_rollout
from nanomd.bench import random_model
files = random_model(PRESETS['base'])
engine_rollout(files, 8448, regime='throughput')(64)
engine_rollout(random_model(PRESETS['xs']), 8448, regime='throughput', weights='resident')(64)
engine_rollout(files, 1, regime='latency')(64)"
  for kernel in rollout_kernel resident_kernel cluster_kernel; do
    step "ncu_$kernel" 60 ncu --clock-control none --launch-skip 1 --launch-count 1 \
      -k "regex:$kernel" --section SpeedOfLight --section MemoryWorkloadAnalysis --section Occupancy \
      --section WarpStateStats "$PYTHON" -c "$profile"
  done
}

stage_kernels() {
  local script
  for script in benchmarks/kernels/bench_*.py; do
    if [ -n "$dry" ]; then
      report "$(basename "$script" .py)" skipped 0 "needs a device"
    else
      step "$(basename "$script" .py)" 60 "$PYTHON" "$script" --out "$OUT" "${quick[@]}"
    fi
  done
}

stage_two_gpus() {
  local run=$OUT/.two_gpus
  if [ "$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')" -lt 2 ]; then
    report two_gpus skipped 0 "fewer than two GPUs here"
    return
  fi
  step two_gpus 120 bash -c "rm -rf '$run' \
    && '$PYTHON' -m nanomd simulate --run '$run' --n-frames 20000 --n-trajs 4 --quiet \
    && '$PYTHON' -m nanomd tokenize --run '$run' --states 20 --quiet \
    && '$PYTHON' -m torch.distributed.run --standalone --nproc-per-node 2 -m -- nanomd train --run '$run' --n-steps 200"
}

for stage in "${stages[@]}"; do
  if [[ " ${named[*]} " == *" $stage "* ]]; then "stage_$stage"; fi
done
if [ -n "$keep" ]; then cp "$OUT"/*.json benchmarks/results/; fi

{
  printf '\n== summary (%s, %d s)\n' "${card:-no card}" "$SECONDS"
  printf '%s\n' "${table[@]}"
} | tee -a "$session"
! printf '%s\n' "${table[@]}" | grep -qE 'FAILED|TIMED OUT'
