"""What the compiler says of the CUDA kernels, for every architecture: no spills, registers and shared memory in bounds.

``python tests/test_cuda_compile.py [ARCHITECTURE ...]`` prints the table.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
ARCHITECTURES = ("80", "90a", "100")
THREADS = 256
REGISTERS = 65536  # of a multiprocessor


def compile_report(source, architecture):
    """Return one row per kernel: name, template arguments, registers, stack, spills, static shared memory (bytes)."""
    with tempfile.TemporaryDirectory() as folder:
        command = [shutil.which("nvcc"), "-std=c++20", "-O3", "--fmad=false", "-I", str(ROOT / "csrc/include"), "-I"]
        command += [str(ROOT / "csrc"), f"-gencode=arch=compute_{architecture},code=sm_{architecture}", "-Xptxas=-v"]
        command += ["-c", str(source), "-o", str(Path(folder) / "object.o")]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    rows = []
    for block in re.split(r"Compiling entry function '", result.stderr)[1:]:
        mangled = block.split("'")[0]
        name, arguments = re.search(r"\d+([a-z]+_kernel)(?:I(.*?)EEv)?", mangled).groups()
        # The kernel first, then the functions that it calls.
        frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", block)
        registers = int(re.search(r"Used (\d+) registers", block).group(1))
        shared = re.search(r"(\d+) bytes smem", block)
        rows.append(
            {
                "architecture": architecture,
                "kernel": name,
                "constants": [int(x) for x in re.findall(r"L[ib](\d+)E", (arguments or "") + "E")],
                "registers": registers,
                "stack": int(frames[0][0]),
                "spills": sum(int(stores) + int(loads) for _, stores, loads in frames),
                "shared": int(shared.group(1)) if shared else 0,
            }
        )
    return rows


def reports(architectures):
    jobs = [(source, architecture) for architecture in architectures for source in SOURCES]
    with ThreadPoolExecutor(2) as pool:
        return [row for rows in pool.map(lambda job: compile_report(*job), jobs) for row in rows]


def threads_together(row):
    """Threads that a multiprocessor must hold at once: 256, or twice as many in throughput; see rollout_kernel.cuh."""
    if row["kernel"] not in ("rollout_kernel", "resident_kernel") or row["architecture"] == "100":
        return THREADS
    _, group, *precise = row["constants"]
    return THREADS if precise == [1] and group > 1 else 2 * THREADS


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not here")
@pytest.mark.parametrize(
    "architecture", [pytest.param(a, marks=[] if a == "90a" else pytest.mark.sweep) for a in ARCHITECTURES]
)
def test_kernels_neither_spill_nor_starve(architecture):
    rows = reports([architecture])
    small = {"angle_kernel", "pair_kernel", "set_kernel"}
    assert {row["kernel"] for row in rows} == {"rollout_kernel", "resident_kernel", "cluster_kernel", *small}
    assert len([row for row in rows if row["kernel"] == "rollout_kernel"]) == 6
    for row in rows:
        assert row["spills"] == 0, row
        assert row["kernel"] in small or row["stack"] == 0, row
        assert row["shared"] == 0, row  # all of it is asked for at launch
        assert row["registers"] * threads_together(row) <= REGISTERS, row


def main(architectures):
    begun = time.perf_counter()
    print(f"{'sm':5s} {'kernel':15s} {'constants':12s} registers stack spills shared")
    for row in reports(architectures):
        print(
            f"{row['architecture']:5s} {row['kernel']:15s} {row['constants']!s:12s} {row['registers']:9d} "
            f"{row['stack']:5d} {row['spills']:6d} {row['shared']:6d}"
        )
    print(f"compiled in {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:] or ARCHITECTURES)
