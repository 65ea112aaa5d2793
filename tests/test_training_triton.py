"""Training with the Triton kernels, through Triton's interpreter, and with plain PyTorch: one loss curve."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

N_STEPS = 200
# The interpreter is chosen when Triton is imported, for the whole process.
PROGRAM = """
import sys
import numpy as np
from nanomd.base.config import ModelConfig, TrainConfig
from nanomd.kernels import registry
from nanomd.training.loop import train
import nanomd.training.loop as training
from nanomd.training.step import TrainingStep

model = ModelConfig(n_states=5, d_model=16, n_layer=1, n_head=1, context_length=8, mlp_ratio=2, markov_head=True)
config = TrainConfig(objective=sys.argv[1], n_steps=int(sys.argv[2]), train_length=16, batch_size=2, warmup_steps=5,
    mix_max=0.5, mix_anneal=False, hidden_step_base=0.9, seed=3, device="cpu", lr_schedule="constant")
rng = np.random.default_rng(0)
data = [(np.cumsum(rng.integers(-1, 2, 400)) % 5).astype(np.uint8)]
used = set()
find = registry.resolve
def resolve(*arguments):
    one = find(*arguments)
    used.add((one.op, one.name))
    return one
registry.resolve = resolve
curves = {}
for backend in ("triton", "reference"):
    losses = []
    class Kept(TrainingStep):
        def __init__(self, *args, **options):
            super().__init__(*args, **options, fixed=True)
        def __call__(self, step):
            loss = super().__call__(step)
            losses.append(float(loss))
            return loss
    training.TrainingStep = Kept
    train(model, config.replace(backend=backend), data)
    curves[backend] = losses
np.savez(sys.argv[3], **curves, used=["/".join(pair) for pair in sorted(used)])
"""


@pytest.mark.parametrize(
    ("objective", "n_steps"), [pytest.param("two_pass_token", N_STEPS, marks=pytest.mark.slow), ("two_pass_hidden", 10)]
)
def test_kernels_train_as_plain_pytorch_does(tmp_path, objective, n_steps):
    pytest.importorskip("triton", reason="triton is not installed")
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    out = tmp_path / "curves.npz"
    command = [sys.executable, "-c", PROGRAM, objective, str(n_steps), str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = np.load(out)
    operations = ["attention", "cross_entropy"] + (["sample_mix"] if objective == "two_pass_token" else [])
    assert {f"{op}/{name}" for op in operations for name in ("triton", "reference")} <= set(found["used"].tolist())
    assert len(found["triton"]) == n_steps
    assert not np.array_equal(found["triton"], found["reference"])  # two ways, that round apart
    np.testing.assert_allclose(found["triton"], found["reference"], rtol=2e-4)
    # Half of the inputs are replaced in the end, so that the loss rises: the curves must have gone somewhere together.
    assert n_steps < N_STEPS or np.ptp(found["triton"]) > 0.5
