"""The recipe for the Fip35 WW domain on a stand-in of its size and layout: time and memory of every command.

    python benchmarks/fip35_recipe.py --data DIR --work /tmp/fip35 --out fip35_recipe.json

The real trajectories may not be passed on. The stand-in has their 57 files in two folders, 544 atoms, and a frame every
0.2 ns; the 34 C-alpha positions are those of the structure-based model in DIR/ww_domain_go, again and again from
other frames on, with fifteen atoms around each. Their kinetics mean nothing; nothing is said of them here.
`--frames-per-file 17544` makes the million frames of 200 us (6.5 GB).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

FILES, ATOMS_A_RESIDUE, STRIDE = (29, 28), 16, 5
LAGTIMES = ["1", "10", "50", "100", "200"]


def make(data: Path, work: Path, frames_per_file: int) -> tuple[Path, list[Path]]:
    """Write topology and DCD files; returns their paths."""
    import mdtraj

    source = sorted((data / "ww_domain_go").glob("ww_go_*.xtc"))
    positions = [mdtraj.load(path, top=data / "ww_domain_go" / "ww_go.pdb").xyz for path in source]
    n_residues = positions[0].shape[1]
    topology = mdtraj.Topology()
    chain = topology.add_chain()
    for _ in range(n_residues):
        residue = topology.add_residue("ALA", chain)
        for k in range(ATOMS_A_RESIDUE):
            name, element = ("CA", mdtraj.element.carbon) if k == 0 else (f"H{k}", mdtraj.element.hydrogen)
            topology.add_atom(name, element, residue)
    random = np.random.default_rng(0)
    around = random.normal(scale=0.15, size=(n_residues, ATOMS_A_RESIDUE, 3)).astype(np.float32)
    around[:, 0] = 0
    top, paths = work / "fip35.pdb", []
    for folder, n_files in zip(("run_a", "run_b"), FILES, strict=True):
        (work / folder).mkdir(parents=True, exist_ok=True)
        for number in range(n_files):
            path = work / folder / f"part-{number}.dcd"
            paths.append(path)
            if path.exists():
                continue
            run = positions[(len(paths) - 1) % len(positions)]
            first = int(random.integers(len(run)))
            frames = run[(first + np.arange(frames_per_file)) % len(run)]
            xyz = (frames[:, :, None, :] + around[None]).reshape(len(frames), -1, 3)
            mdtraj.Trajectory(xyz, topology).save_dcd(str(path))
            if not top.exists():
                mdtraj.Trajectory(xyz[:1], topology).save_pdb(str(top))
    return top, paths


def timed(command: list[str], log: Path) -> dict[str, Any]:
    """Run a command; returns its wall and processor seconds and its greatest memory in MiB."""
    begun = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"{' '.join(command[:5])} failed:\n{log.read_text()[-2000:]}")
    return {
        "seconds": round(time.perf_counter() - begun, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "memory_mib": round(usage.ru_maxrss / 1024),
    }


def recipe(top: Path, files: list[Path], work: Path, n_states: int) -> dict[str, Any]:
    """Run every command of the recipe with `n_states` microstates."""
    run = ["--run", str(work / f"states_{n_states}"), "--force", "--quiet"]
    features = ["--features", "distances", "--reduction", "tica", "--lagtime", "100", "--n-components", "5"]
    layout = ["--join-folders", "--frame-interval", "0.2 ns", "--stride", str(STRIDE)]
    threads = ["--n-threads", "1"]
    commands = {
        "tokenize": [*run, "--top", str(top), *layout, *features, "--states", str(n_states), *map(str, files)],
        "train": [*run, *threads],
        "generate": [*run, *threads, "--n-steps", "1000000", "--n-trajs", "16"],
        "validate": [*run, "--lagtimes", *LAGTIMES],
        "report": run,
    }
    found = {}
    for name, options in commands.items():
        found[name] = timed([sys.executable, "-m", "nanomd", name, *options], work / f"states_{n_states}_{name}.log")
        print(n_states, name, found[name], flush=True)
    return found


def main() -> None:
    """Make the files, run the recipe with 5, 100 and 1000 states, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with ww_domain_go/")
    parser.add_argument("--work", type=Path, required=True, help="folder for the files made, 6.5 kB a frame")
    parser.add_argument("--frames-per-file", type=int, default=17_544)
    parser.add_argument("--states", type=int, nargs="+", default=[5, 100, 1000])
    parser.add_argument("--out", type=Path, default=Path("fip35_recipe.json"))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    top, files = make(options.data, options.work, options.frames_per_file)
    record = {
        "files": len(files),
        "frames": len(files) * options.frames_per_file,
        "stride": STRIDE,
        "gigabytes": round(sum(path.stat().st_size for path in files) / 1e9, 2),
        "commands": {str(n): recipe(top, files, options.work, n) for n in options.states},
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
