"""Does averaging weights, a lower learning rate or a larger batch reduce the error of the model's kinetics?

    python benchmarks/weights.py --system chain --settings base constant --seeds 0 1 --out weights.jsonl

Trains at equal numbers of optimiser steps, on one thread, rolls out 10^7 states of the last weights and of their means,
and compares them with the training data: geometric-mean and largest factor of the mean first passage times over all
pairs of macrostates, largest error of a population, and the loss on data held out. Appends a line of JSON per model.
The systems: the four-state potential in 20 bins of x as in ``nanomd demo``, and a second-order chain (known_chain).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nanomd.base.config import ModelConfig, TrainConfig, model_preset
from nanomd.base.units import FrameInterval
from nanomd.data.counts import transition_counts
from nanomd.data.states import StateMap
from nanomd.kinetics.estimates import Sample, passage_times
from nanomd.kinetics.macrostates import macrostates
from nanomd.kinetics.markov import estimate_markov_model
from nanomd.model.files import ModelFiles, Starts
from nanomd.model.scoring import mean_log_likelihood
from nanomd.rollout.sampler import Sampler
from nanomd.systems import four_state
from nanomd.training.averaging import WeightAverage
from nanomd.training.loop import Training
from nanomd.training.setup import torch_settings

MEANS = {"ema 0.1": ("ema", 0.1), "tail 0.1": ("tail", 0.1), "tail 0.3": ("tail", 0.3), "tail 0.5": ("tail", 0.5)}
SETTINGS: dict[str, dict[str, Any]] = {
    "base": {},
    "constant": {"lr_schedule": "constant"},
    "lr / 2": {"learning_rate": 0.5},
    "lr / 4": {"learning_rate": 0.25},
    "batch x 2": {"batch_size": 2},
    "batch x 4": {"batch_size": 4},
    "two_pass_token": {"objective": "two_pass_token"},
    "lookahead": {"lookahead_lags": (2, 5, 20, 50)},
    "time reversal": {"time_reversal": True},
    "no decay": {"weight_decay": 0.0},
    "beta2 0.999": {"beta2": 0.999},
}
DEMO_STEPS, CHAIN_STEPS = 1000, 1500


def demo() -> tuple[list[Any], list[Any], np.ndarray, int, ModelConfig, TrainConfig]:
    xy = four_state.simulate(200_000, 16, preset="demo", seed=0, n_threads=1)
    dtrajs = [np.asarray(x, np.uint8) for x in four_state.tokenize(xy, "x-bins", n_states=20)]
    counts = transition_counts(dtrajs[4:], 20, 40)
    model = estimate_markov_model(counts, 40)
    sets = macrostates(model, counts, np.bincount(np.concatenate(dtrajs[4:]), minlength=20), 4)
    shape = model_preset("tiny", 20, context_length=32, markov_head=True)
    train = TrainConfig(
        objective="one_pass", train_length=128, batch_size=16, learning_rate=4e-3, mix_max=0.05, n_steps=DEMO_STEPS
    )
    return dtrajs[:4], dtrajs[4:], sets, 40, shape, train


def chain() -> tuple[list[Any], list[Any], np.ndarray, int, ModelConfig, TrainConfig]:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from known_chain import default_chain

    known = default_chain()
    shape = model_preset("tiny", 4, d_model=16, n_layer=1, context_length=4, markov_head=True)
    train = TrainConfig(objective="one_pass", train_length=64, batch_size=32, learning_rate=5e-3, n_steps=CHAIN_STEPS)
    return known.sample(20000, 60, seed=10), known.sample(20000, 180, seed=11), np.arange(4), 1, shape, train


def kinetics(dtrajs: list[Any], sets: np.ndarray, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ln MFPT of all pairs, and ln populations."""
    n_sets = int(sets.max()) + 1
    macro = Sample.make([np.asarray(x) for x in dtrajs], len(sets), n_bootstrap=20).coarse(sets, n_sets)
    passages, _ = passage_times(macro, stride)
    visits = np.bincount(np.concatenate(macro.dtrajs), minlength=n_sets)
    return np.log(passages.value[~np.eye(n_sets, dtype=bool)]), np.log(visits / visits.sum())


def errors(model: tuple[np.ndarray, np.ndarray], md: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    apart = abs(model[0] - md[0])
    return {
        "mfpt": float(np.exp(apart.mean())),
        "worst": float(np.exp(apart.max())),
        "population": float(np.expm1(abs(model[1] - md[1]).max())),
    }


class Means(WeightAverage):
    """Several means of the weights beside the training, which does not see them."""

    def __init__(self, model: torch.nn.Module, config: TrainConfig) -> None:
        super().__init__(model, config)
        self.others = {
            name: WeightAverage(model, config.replace(average=kind, average_span=span))
            for name, (kind, span) in MEANS.items()
        }

    def update(self, step: int) -> None:
        super().update(step)
        for mean in self.others.values():
            mean.update(step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", choices=("chain", "demo"), required=True)
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=["base"])
    parser.add_argument("--means", nargs="*", choices=list(MEANS), default=list(MEANS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--n-states", type=int, default=10_000_000, help="rolled out per model")
    parser.add_argument("--n-steps", type=int, default=None)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    training, held_out, sets, stride, shape, train = {"chain": chain, "demo": demo}[options.system]()
    seen, truth = kinetics(training, sets, stride), kinetics(held_out, sets, stride)

    def write(**record: Any) -> None:
        text = json.dumps({"system": options.system, **record})
        print(text, flush=True)
        with options.out.open("a", encoding="utf-8") as file:
            file.write(text + "\n")

    write(setting="training MD", held_out=errors(seen, truth))
    for seed in options.seeds:
        for name in options.settings:
            changes = dict(SETTINGS[name])
            for field in ("learning_rate", "batch_size"):
                if field in changes:
                    changes[field] *= getattr(train, field)
            if options.n_steps:
                changes["n_steps"] = options.n_steps
            config = train.replace(seed=seed, **changes)
            begin = time.process_time()
            device = torch.device("cpu")
            with torch_settings(device, 1):
                loop = Training(shape, config, training, (), device)
                means = loop.average = Means(loop.model, config)
                loop.run()
            seconds = time.process_time() - begin
            last = {key: value.detach().clone() for key, value in loop.model.state_dict().items()}
            variants = {"none": last} | {key: means.others[key].weights() for key in options.means}
            for kind, weights in variants.items():
                begin = time.process_time()
                loop.model.load_state_dict(weights)
                loss = -mean_log_likelihood(loop.model, held_out, max_targets=400_000)
                starts = Starts(
                    np.full(shape.n_states, 1 / shape.n_states), np.zeros((0, shape.context_length), np.int32)
                )
                files = ModelFiles(
                    shape, loop.model.to_tensors(), StateMap(np.arange(shape.n_states)), starts, FrameInterval(), {}
                )
                rollout = Sampler(files, "cpu").generate(
                    options.n_states // 16 + 2000, 16, start="uniform", seed=7, n_threads=1
                )
                own = kinetics([row[2000:] for row in rollout.tokens], sets, stride)
                write(
                    setting=name,
                    average=kind,
                    seed=seed,
                    n_steps=config.n_steps,
                    loss=loss,
                    training=errors(own, seen),
                    held_out=errors(own, truth),
                    populations=np.exp(own[1]).tolist(),
                    train_seconds=seconds,
                    judge_seconds=time.process_time() - begin,
                )


if __name__ == "__main__":
    main()
