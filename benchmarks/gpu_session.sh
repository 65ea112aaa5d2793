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
# OUT (build/gpu_session): session.log; session.jsonl, a line for each stage when it ends, with the end of its output;
# and the JSON records that stages write as they go. PYTHON: with torch and the build tools. WHEELS: a folder of wheels
# of what that Python lacks (msgspec, tomli-w, tqdm; mdtraj, deeptime and nvtx may be missing). Without nvcc there is no
# CUDA engine: its stages say so, and training, tests and kernels run all the same.
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
        sed -n '2,21p' "$0" >&2
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
for profiler in /opt/nvidia/nsight-compute/*/; do PATH=$PATH:$profiler; done
session=$OUT/session.log table=()
touch "$session"

report() { # report NAME OUTCOME SECONDS LINE: on the disk at once
  local row
  row=$(printf '%-20s %-12s %4d s  %s' "$1" "$2" "$3" "$4")
  table+=("$row")
  printf '\n>> %s\n' "$row" | tee -a "$session"
  tail -n 40 "$OUT/.last" 2>/dev/null | "$PYTHON" -c 'import json, sys, time
name, outcome, seconds, line, card, commit, file = sys.argv[1:]
row = dict(stage=name, outcome=outcome, seconds=int(seconds), line=line, output=sys.stdin.read().splitlines())
row |= dict(card=card, commit=commit, ended=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
open(file, "a").write(json.dumps(row) + "\n")' "$@" "$card" "$commit" "$OUT/session.jsonl"
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
  case $code in
    0) report "$name" ok $((SECONDS - start)) "${last:-done}" ;;
    124 | 137) report "$name" "TIMED OUT" $((SECONDS - start)) "$last" ;;
    *) report "$name" "FAILED ($code)" $((SECONDS - start)) "$last" ;;
  esac
  rm -f "$OUT/.last"
}

have() { # have TOOL STAGE: else the stage is named as skipped
  command -v "$1" >/dev/null || { report "$2" skipped 0 "no $1 here" && false; }
}

# --- What the Python here lacks, and whether there is a card.
# Beside OUT, which holds records alone: a few files are easily brought home.
if [ -n "${WHEELS:-}" ]; then
  site=$PWD/build/.gpu_site
  "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$site" "$WHEELS"/*.whl
  export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
fi
commit=$(git rev-parse --short=12 HEAD 2>/dev/null)
card=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1)
if [ -z "$card" ] && [ -z "$dry" ]; then
  echo "no GPU here (nvidia-smi shows none); --dry-run runs what needs none" >&2
  exit 2
fi
if [ ${#named[@]} -eq 0 ]; then named=("${stages[@]}"); fi
installed() { (cd / && "$PYTHON" -c 'import nanomd._core') 2>/dev/null; }
if [[ " ${named[*]} " != *" build "* ]] && ! installed; then named=(build "${named[@]}"); fi

engine() { # engine STAGE: else the stage is named as skipped
  local reason
  [ -n "$dry" ] && return
  # Outside the source tree, whose modules would hide those that are installed.
  reason=$(cd / && "$PYTHON" -c 'from nanomd._native import cuda_info; print(cuda_info()["reason"])' 2>&1 | tail -n 1)
  [ -z "$reason" ] || { report "$1" skipped 0 "$reason" && false; }
}

stage_build() {
  local cuda=OFF emulate=OFF architectures
  if [ -n "$dry" ] && installed; then
    report build skipped 0 "nanomd is installed"
    return
  fi
  if command -v nvcc >/dev/null; then cuda=ON; else report nvcc missing 0 "no nvcc here: the CUDA engine is not built"; fi
  [ -n "$dry" ] && emulate=ON
  # Only this card's architecture: the others are compiled by the tests.
  architectures=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d .)
  case $architectures in
    90) architectures=90a-real ;;
    [0-9]*) architectures=$architectures-real ;;
    *) architectures="90a-real" ;;
  esac
  step build 100 "$PYTHON" -m pip install --no-build-isolation --no-deps --no-index -q -e . \
    -Ccmake.define.NANOMD_CUDA=$cuda "-Ccmake.define.NANOMD_CUDA_ARCHITECTURES=$architectures" \
    -Ccmake.define.NANOMD_EMULATE_CUDA=$emulate
}

stage_doctor() { step doctor 20 "$PYTHON" -m nanomd doctor; }

stage_parity() { engine parity && step parity 40 "$PYTHON" benchmarks/gpu_parity.py --out "$OUT" ${dry:+--emulate}; }

stage_speed() {
  engine speed || return
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
  local files side=""
  files=$(grep -ls 'mark\.gpu' tests/*.py tests/kernels/*.py | tr '\n' ' ')
  # Most of the time goes into compiling kernels, which cores share.
  [ "$(nproc)" -ge 8 ] && "$PYTHON" -c 'import xdist' 2>/dev/null && side="-n 6"
  step tests 50 bash -c "'$PYTHON' -P -m pytest -m gpu -q -p no:cacheprovider $side $files || [ \$? -eq 5 ]"
}

stage_sanitizer() {
  have compute-sanitizer sanitizer && engine sanitizer || return
  for tool in memcheck racecheck; do
    step "sanitizer_$tool" 60 compute-sanitizer --tool $tool --error-exitcode 1 \
      "$PYTHON" benchmarks/gpu_parity.py --brief
  done
}

stage_ncu() {
  have ncu ncu && engine ncu || return
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
if [ -n "$keep" ]; then cp "$OUT"/*.json "$OUT"/session.jsonl benchmarks/results/; fi

{
  printf '\n== summary (%s, %d s)\n' "${card:-no card}" "$SECONDS"
  printf '%s\n' "${table[@]}"
} | tee -a "$session"
! printf '%s\n' "${table[@]}" | grep -qE 'FAILED|TIMED OUT'
