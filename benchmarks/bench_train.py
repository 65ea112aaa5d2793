"""Training steps beside plain PyTorch: prove that they compute the same, then time them in turns; one JSON record.

    python benchmarks/bench_train.py [--models S XS demo small:543] [--precision fp32 bf16] [--compiled] [--quick]
    python benchmarks/bench_train.py --contenders nanomd "nanomd, dropout"    what dropout of 0.2 costs
    python benchmarks/bench_train.py --profile trace.json     one traced step of each objective besides, for chrome://tracing

On a CUDA device where there is one. NVTX ranges (step, windows, pass 1, pass 2, backward, optimiser) show in Nsight.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch

from nanomd.base.config import TrainConfig
from nanomd.bench import stamp, write_record
from nanomd.bench.models import bench_config
from nanomd.bench.training import CONTENDERS, FIRST_STEP, N_STEPS, OBJECTIVES, make_step, train_cases


def profile(path: Path, model: str, batch: int, device: torch.device) -> None:
    """Write a trace of a few steps of every objective."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    steps = []
    for objective in OBJECTIVES:
        config = TrainConfig(objective=objective, n_steps=N_STEPS, batch_size=batch, mix_anneal=False)
        steps.append(make_step(bench_config(model), config, plain=False, device=device))
        for k in range(3):
            steps[-1](FIRST_STEP + k)
    with torch.profiler.profile(activities=activities) as trace:
        for step in steps:
            with torch.profiler.record_function(step.config.objective):
                for k in range(3, 6):
                    step(FIRST_STEP + k)
        if device.type == "cuda":
            torch.cuda.synchronize()
    trace.export_chrome_trace(str(path))
    by = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    print(trace.key_averages().table(sort_by=by, row_limit=20))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["S", "XS", "demo"])
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16", "fp16"], default=None)
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--batch", type=int, default=None, help="windows a step (default: 64k frames, on a CPU 2k)")
    parser.add_argument(
        "--compiled",
        action=argparse.BooleanOptionalAction,
        help="torch.compile too, slow to start (on CUDA: yes)",
    )
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, help="only these, where they run here")
    parser.add_argument("--n-threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one timing")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="everything is verified, and the times mean little")
    parser.add_argument("--device", choices=["auto", "cpu"], default="auto")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="write a trace of the torch profiler")
    parser.add_argument("--out", type=Path, help="the record (default: a new file in --run)")
    parser.add_argument("--run", type=Path, default=Path(__file__).parent / "results", help="a folder for records")
    options = parser.parse_args()
    before = stamp()
    cuda = options.device != "cpu" and torch.cuda.is_available()
    compiled = cuda and not options.quick if options.compiled is None else options.compiled
    contenders = [
        name
        for name, (plain, how) in CONTENDERS.items()
        if (not name.endswith("dropout") if options.contenders is None else name in options.contenders)
        and (cuda or "graph" not in how)
        and (not cuda or how != "none" or plain)
        and (compiled or "compile" not in how)
        and (plain or how != "compile" or not cuda)  # a graph of the compiled step takes its place
    ]
    cases = []
    facts = {"gpu": torch.cuda.get_device_name(0)} if cuda else {}
    path = options.out
    for precision in options.precision or (["fp32", "bf16"] if cuda else ["fp32"]):
        for name in options.models[:1] if options.quick else options.models:
            cases += train_cases(
                [name],
                options.batch,
                0.05 if options.quick else options.seconds,
                2 if options.quick else options.repeats,
                precision=precision,
                contenders=contenders,
                objectives=options.objectives,
                n_threads=options.n_threads,
                device=options.device,
            )
            show(cases[-1])
            # After every case: what is cut short keeps what was found.
            path = write_record("train", {"cases": cases, **facts}, path, options.run, before)
    if options.profile is not None:
        profile(options.profile, options.models[0], cases[0]["batch_size"], torch.device("cuda" if cuda else "cpu"))
    load = before["load_average"][0]
    if not cuda and load > 0.5:
        print(f"note: the load average was {load:.1f} on {len(os.sched_getaffinity(0))} cores: compare ratios only")
    print(f"record: {path}")
    return 0


def show(case: dict) -> None:
    """Print a table of one case."""
    print(f"\n{case['model']}, {case['batch_size']} x {case['length']} frames, {case['precision']}, {case['device']}")
    for objective, bound in case["floor"].items():
        print(f"  {objective}: floor {bound['frames_per_second']:,.0f} frames/s ({bound['bound']})")
        rows = {
            k.removeprefix(f"{objective} "): v for k, v in case["frames_per_second"].items() if k.startswith(objective)
        }
        for name, speed in rows.items():
            # On a CPU by processor time, which other work on the machine changes least.
            by = "median" if case["device"] == "cuda" else "per_cpu_second"
            ratio = rows["nanomd"][by] / speed[by] if "nanomd" in rows else float("nan")
            spread = f"{speed['low']:,.0f} to {speed['high']:,.0f}; {speed['per_cpu_second']:,.0f} a processor second"
            start = case["startup_seconds"][f"{objective} {name}"]
            print(f"    {name:24s} {speed['median']:12,.0f} ({spread}); ours {ratio:.2f} x; first step {start:.1f} s")
        if objective in case["cost_over_one_pass"]:
            print(f"    cost over one pass: {case['cost_over_one_pass'][objective]:.2f}")


if __name__ == "__main__":
    sys.exit(main())
