"""Training steps by objective, in frames per second: ``nanomd bench --part train``, whose other options it takes."""

from __future__ import annotations

<<<<<<< HEAD
import sys
=======
import argparse
from collections.abc import Callable
from typing import Any

import torch
from common import RESULTS, interleaved, write_record

from nanomd.config import TrainConfig, model_preset
from nanomd.model import NanoGPT
from nanomd.two_pass import training_loss

OBJECTIVES = ("one_pass", "two_pass_token", "two_pass_hidden")


def batch_of(n_states: int, batch: int, length: int, device: str) -> tuple[Any, Any, Any]:
    frames = torch.randint(n_states, (batch, length + 1), generator=torch.Generator().manual_seed(0)).to(device)
    return frames[:, :-1], frames[:, 1:], torch.ones(batch, length, device=device)


def one_loss(model: NanoGPT, batch: tuple[Any, Any, Any], config: TrainConfig, step: int) -> Any:
    generator = torch.Generator(device=batch[0].device).manual_seed(1)
    return training_loss(model, *batch, step=step, config=config, generator=generator)


def verify(model: NanoGPT, batch: tuple[Any, Any, Any]) -> float:
    with torch.no_grad():
        one = one_loss(model, batch, TrainConfig(objective="one_pass"), 0)
        two = one_loss(model, batch, TrainConfig(objective="two_pass_token", mix_max=0.0), 500)
    error = abs(float(one - two))
    if error > 1e-5:
        raise SystemExit(f"two_pass_token without replacement differs from one_pass by {error:.2g}")
    return error


def stepper(preset: str, n_states: int, batch: int, objective: str, device: str) -> Callable[[int], int]:
    config = TrainConfig(objective=objective, n_steps=10_000)  # type: ignore[arg-type]
    model = NanoGPT(model_preset(preset, n_states)).to(device).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    data = batch_of(n_states, batch, 4 * model.config.context_length, device)

    def run(n_steps: int) -> int:
        for _ in range(n_steps):
            optimiser.zero_grad(set_to_none=True)
            one_loss(model, data, config, step=5_000).backward()
            optimiser.step()
        if device == "cuda":
            torch.cuda.synchronize()
        return n_steps * data[0].numel()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--preset", nargs="+", default=None)
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cases = []
    print(f"{'preset':<8}{'objective':<18}{'frames/s':>12}{'lowest':>12}{'highest':>12}   on {device}")
    for preset in options.preset or (["tiny"] if options.quick else ["small", "base"]):
        batch = 4 if options.quick else options.batch_size
        model = NanoGPT(model_preset(preset, 100)).to(device).eval()
        error = verify(model, batch_of(100, batch, 4 * model.config.context_length, device))
        functions = {objective: stepper(preset, 100, batch, objective, device) for objective in OBJECTIVES}
        timed = interleaved(functions, 0.1 if options.quick else 2.0, 2 if options.quick else 5)
        for objective, speed in timed.items():
            print(f"{preset:<8}{objective:<18}{speed['median']:>12,.0f}{speed['low']:>12,.0f}{speed['high']:>12,.0f}")
        cases.append(
            {"preset": preset, "batch_size": batch, "device": device, "loss_error": error, "frames_per_second": timed}
        )
    print("record:", write_record("train", {"quick": options.quick, "cases": cases}, folder=RESULTS))
>>>>>>> main

from common import run_command

if __name__ == "__main__":
    sys.exit(run_command("train"))
