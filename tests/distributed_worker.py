"""What each of two processes does in `test_distributed.py`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np

from nanomd.base.config import ModelConfig, TrainConfig

MODEL = ModelConfig(n_states=4, d_model=16, n_layer=1, n_head=2, context_length=4, mlp_ratio=2, markov_head=True)
TRAIN = TrainConfig(
    n_steps=24, batch_size=5, warmup_steps=3, mix_max=0.5, hidden_step_base=0.9, validation_interval=6, seed=3,
    time_reversal=True, device="cpu", compile="none",  # as several processes run; the compiled step draws others
)  # fmt: skip
OBJECTIVES = ("one_pass", "two_pass_token", "two_pass_hidden")
KILLED_AT = 8  # the second process dies before this step, from 0


def data() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 4, n).astype(np.uint8) for n in (300, 120, 7)]


def curves() -> dict[str, np.ndarray]:
    """Train every objective; return losses, the chosen step and its weights."""
    from nanomd.training.loop import train

    found = {}
    for objective in OBJECTIVES:
        result = train(MODEL, TRAIN.replace(objective=objective), data()[:2], data()[2:])
        found[f"{objective} loss"] = np.array([record["loss"] for record in result.history])
        found[f"{objective} best"] = np.array([result.best_step, result.best_loss])
        for which, tensors in (("last", result.last), ("model", result.model.state_dict())):
            found[f"{objective} {which}"] = np.concatenate([value.numpy().ravel() for value in tensors.values()])
    return found


def killed(arguments: list[str]) -> int:
    """Run the command line; the second process kills itself at a step."""
    from nanomd.cli.main import main
    from nanomd.training.step import TrainingStep

    call = TrainingStep.__call__

    def dying(self: TrainingStep, step: int) -> object:
        if self.world.rank == 1 and step == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(self, step)

    TrainingStep.__call__ = dying  # type: ignore[method-assign]
    return main(arguments)


if __name__ == "__main__":
    if sys.argv[1] == "curves":
        np.savez(Path(sys.argv[2]) / f"rank{os.environ['RANK']}.npz", **curves())
    else:
        sys.exit(killed(sys.argv[2:]))
