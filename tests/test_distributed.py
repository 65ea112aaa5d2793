"""Two processes and one loss curve; one of them killed, and the training goes on from its checkpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import distributed_worker
import numpy as np
import pytest
import torch.distributed as dist

from nanomd.model.files import load_model_files
from nanomd.study.tokenize import tokenize
from nanomd.study.train import train
from nanomd.training.checkpoint import find_checkpoints

pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="needs gloo")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}
FLAGS = [
    "--preset", "tiny", "--d-model", "16", "--n-layer", "1", "--context-length", "8", "--n-steps", "24",
    "--batch-size", "4", "--mix-max", "0.5", "--validation-interval", "6", "--checkpoint-interval", "5",
    "--seed", "5", "--quiet",
]  # fmt: skip


def two_processes(*arguments: str) -> list[subprocess.CompletedProcess]:
    """Start the worker twice, as ``torchrun`` would; they meet at a store that lives here, so no port can be taken."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    worker = Path(__file__).with_name("distributed_worker.py")
    processes = []
    for rank in range(2):
        variables = {
            "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port,
            "TORCHELASTIC_USE_AGENT_STORE": True,
        }  # fmt: skip
        environment = ENVIRONMENT | {name: str(value) for name, value in variables.items()}
        command = [sys.executable, str(worker), *arguments]
        processes.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    done = []
    for process in processes:
        out, errors = process.communicate(timeout=300)
        done.append(subprocess.CompletedProcess(process.args, process.returncode, out, errors))
    return done


def test_two_processes_have_the_loss_curve_of_one(tmp_path):
    for process in two_processes("curves", str(tmp_path)):
        assert process.returncode == 0, process.stderr
    first, second = (dict(np.load(tmp_path / f"rank{rank}.npz")) for rank in range(2))
    alone = distributed_worker.curves()
    for name, expected in alone.items():
        assert np.array_equal(first[name], second[name]), name  # every process has the same, bit for bit
        kind = name.split()[-1]
        tolerance = {"rtol": 2e-3, "atol": 2e-4} if kind in ("last", "model") else {"rtol": 2e-5}
        np.testing.assert_allclose(first[name], expected, err_msg=name, **tolerance)
    for objective in distributed_worker.OBJECTIVES[1:]:  # the comparison can fail: objectives differ by more
        assert np.abs(alone[f"{objective} loss"] / alone["one_pass loss"] - 1).max() > 1e-4


def test_a_killed_process_leaves_a_checkpoint_that_resumes(tmp_path):
    runs = tmp_path / "shared", tmp_path / "alone"
    for run in runs:
        files = []
        for index, trajectory in enumerate(distributed_worker.data()):
            files.append(tmp_path / f"{index}.npy")
            np.save(files[-1], trajectory)
        tokenize(run, files)
    first, second = two_processes("killed", "train", "--run", str(runs[0]), *FLAGS)
    assert second.returncode == -signal.SIGKILL
    assert first.returncode == 2 and "go on with --resume" in first.stderr, first.stderr
    assert "Traceback" not in first.stderr
    kept = find_checkpoints(runs[0] / "checkpoints")
    assert [path.name for path in kept] == ["step_000005"]
    assert not (runs[0] / "model").exists()

    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "--",
        "nanomd",
    ]
    command = [*launcher, "train", "--run", str(runs[0]), *FLAGS, "--resume"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""  # quiet
    overrides = {name[2:].replace("-", "_"): value for name, value in zip(FLAGS[2:-3:2], FLAGS[3:-2:2], strict=True)}
    numbers = {name: float(value) if "." in value else int(value) for name, value in overrides.items()}
    train(runs[1], preset="tiny", overrides=numbers, seed=5, progress=False)
    shared, alone = (load_model_files(run / "model") for run in runs)
    for name, expected in alone.tensors.items():
        np.testing.assert_allclose(shared.tensors[name], expected, rtol=2e-3, atol=2e-4, err_msg=name)
    records = [[json.loads(x) for x in (run / "logs" / "metrics.jsonl").read_text().splitlines()] for run in runs]
    assert [record["step"] for record in records[0]] == [record["step"] for record in records[1]]
    for one, two in zip(*records, strict=True):
        assert one.get("validation_loss", 0) == pytest.approx(two.get("validation_loss", 0), rel=2e-5)
        if one["step"] > 6:  # the first record after the checkpoint is a mean of what came after it
            assert one["loss"] == pytest.approx(two["loss"], rel=2e-5)
    assert json.loads((runs[0] / "provenance.json").read_text())["stages"]["train"]["n_processes"] == 2
