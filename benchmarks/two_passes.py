"""Where do two passes help? Ways to show a model its own states in training, at equal compute, on states with a memory.

    python benchmarks/two_passes.py --system gates --methods one_pass token counts --seeds 3 --out two_passes.jsonl

One layer, d = 32, and a window that is shorter than the memory of the states, where errors of the model's own states
add up most. A step of two passes counts double. Every training ends with the mean of its last weights; "+refit" then
fits the output layer to the data. Rollouts of 64 chains are compared with the training data: factors of mean first
passage times between all pairs of macrostates, and the slowest timescale. Appends a line of JSON per model, and prints
means over seeds.

one_pass    teacher forcing
token       two_pass_token; "token:0.5" replaces half of the inputs, from the first step to the last
hidden      two_pass_hidden, its schedule over the whole training
after:k     a prompt of the MD, k states of the model, then the MD's true state is the target (of a tenth of the loss)
beside:k    the last k inputs of a window are the model's own, all their targets those of the MD (of a tenth)
counts      windows of the model's own rollouts: every state drawn is weighed by what the transitions that it lies in,
            between macrostates at two lags, lack in the rollouts against the data (the gradient of their cross-entropy)
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanomd.base.config import ModelConfig, TrainConfig
from nanomd.base.units import FrameInterval
from nanomd.data.states import StateMap
from nanomd.experiments.case import Case, Data
from nanomd.experiments.cases import get_case
from nanomd.experiments.scoring import Judge, errors, record
from nanomd.experiments.zoo_cases import hidden_gates
from nanomd.matching.slow_kinetics import SlowKinetics
from nanomd.model.files import ModelFiles, Starts
from nanomd.model.network import NanoGPT
from nanomd.model.scoring import weighted_nll
from nanomd.rollout.sampler import Sampler
from nanomd.training.draws import GeneratorDraws, mix_rate
from nanomd.training.objectives import training_loss
from nanomd.training.refit import refit
from nanomd.training.windows import Batch, WindowSampler

IntArray = NDArray[np.int64]
BATCH, RATE = 16, 4e-3
BEGIN = 1 / 3  # of the training has passed before the model's own states come in
EVERY, CHAINS, LENGTH = 20, 32, 4000  # steps between rollouts of "counts", and their size
LAGS, WEIGHT = (0.25, 1.0), 5.0  # of "counts": lags over that of `SlowKinetics`, and weight beside the loss


@dataclass(frozen=True)
class System:
    """Training data by seed, how rollouts are judged, the window, and whether data are read both ways."""

    case: Case
    load: Callable[[int], Data]
    window: int
    reverse: bool = False


def gates() -> System:
    """Two sides with hidden gates, a memory of 30 frames, seen as six noisy labels; every seed has its own data."""

    def load(seed: int) -> Data:
        held_out = [hidden_gates(30, 500_000, 77 + k) for k in range(4)]
        return Data([hidden_gates(30, 60_000, 1000 + seed)], held_out, np.repeat([0, 1], 3), ("A", "B"))

    case = replace(get_case("four-state"), n_macrostates=2, lagtime=15, lagtimes=(1, 15, 60), burn_in=300)
    return System(replace(case, rollout=(64, 20_000)), load, 8)


def bins() -> System:
    """The four-state potential seen through x."""
    case = replace(get_case("four-state-bins"), rollout=(64, 30_000), burn_in=5000, lagtimes=(1, 200, 1000))

    def load(seed: int) -> Data:  # noqa: ARG001
        data = case.load(0, None)
        return Data(data.training, data.held_out[:4])

    return System(case, load, 16)


def ww() -> System:
    """The WW domain in 100 states (NANOMD_DATA)."""
    case = replace(get_case("ww-domain"), rollout=(64, 20_000), burn_in=2000, lagtimes=(1, 40, 160))
    return System(case, lambda seed: case.load(0, None), 8, reverse=True)  # noqa: ARG005


SYSTEMS = {"gates": gates, "bins": bins, "ww": ww}


def generate(model: NanoGPT, n_steps: int, n_trajs: int, seed: int) -> IntArray:
    """Roll out chains (n_trajs, n_steps) from states drawn uniformly."""
    n, window = model.config.n_states, model.config.context_length
    starts = Starts(np.full(n, 1 / n), np.zeros((0, window), np.int32))
    files = ModelFiles(model.config, model.to_tensors(), StateMap(np.arange(n)), starts, FrameInterval(), {})
    rollout = Sampler(files, "cpu").generate(n_steps, n_trajs, start="uniform", seed=seed, n_threads=1)
    return np.stack([np.asarray(row, np.int64) for row in rollout.dtrajs])


class Counts:
    """Windows of own rollouts, and how much more or less often each of their states should have been drawn."""

    def __init__(self, training: list[IntArray], n_states: int, reverse: bool, seed: int) -> None:
        slow = SlowKinetics.of_data(training, n_states)
        if slow.macrostate is None:
            sys.exit("the data have no macrostates")
        self.macrostate, self.reverse, self.seed = slow.macrostate, reverse, seed
        self.lags = [max(1, round(share * slow.lagtime)) for share in LAGS]
        self.wanted = [self._rates(training, lag) for lag in self.lags]
        self.random = np.random.default_rng(seed + 99)

    def _rates(self, dtrajs: list[IntArray] | IntArray, lag: int) -> NDArray[np.float64]:
        m = int(self.macrostate.max()) + 1
        counts = np.full((m, m), 0.5)
        for dtraj in dtrajs:
            a, b = self.macrostate[dtraj[:-lag]], self.macrostate[dtraj[lag:]]
            inside = (a >= 0) & (b >= 0)
            counts += np.bincount(a[inside] * m + b[inside], minlength=m * m).reshape(m, m)
        if self.reverse:
            counts += counts.T
        return np.asarray(counts / counts.sum(axis=1, keepdims=True))

    def roll_out(self, model: NanoGPT, step: int) -> None:
        """Generate, and weigh every state by the transitions that it lies in."""
        self.own = generate(model, LENGTH, CHAINS, 1000 * self.seed + step)[:, model.config.receptive_field :]
        side, frame = self.macrostate[self.own], np.arange(self.own.shape[1])
        self.advantage = np.zeros(self.own.shape)
        for lag, wanted in zip(self.lags, self.wanted, strict=True):
            lacking = np.clip(wanted / self._rates(self.own, lag) - 1.0, -1.0, 3.0)
            inside = (side[:, :-lag] >= 0) & (side[:, lag:] >= 0)
            of_pair = np.where(inside, lacking[side[:, :-lag], side[:, lag:]], 0.0)
            of_pair -= of_pair.mean()
            total = np.concatenate([np.zeros((len(self.own), 1)), np.cumsum(of_pair, axis=1)], axis=1)
            last = of_pair.shape[1]  # the state drawn at a frame lies in pairs that begin in the `lag` frames before it
            covering = total[:, np.clip(frame, 0, last)] - total[:, np.clip(frame - lag, 0, last)]
            self.advantage += covering / (lag * len(self.lags))

    def term(self, model: NanoGPT, length: int, burn_in: int) -> Tensor:
        """Return the term of the loss, of as many windows as a batch has."""
        rows = self.random.integers(0, len(self.own), BATCH)
        first = self.random.integers(0, self.own.shape[1] - length - 1, BATCH)
        frames = first[:, None] + np.arange(length + 1)
        tokens = torch.from_numpy(self.own[rows[:, None], frames])
        weight = torch.from_numpy(self.advantage[rows[:, None], frames[:, 1:]]).float()
        weight[:, :burn_in] = 0
        chosen = model(tokens[:, :-1]).log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
        return -WEIGHT * (weight * chosen).sum() / (BATCH * (length - burn_in))


@torch.no_grad()
def continue_with_own(model: NanoGPT, tokens: Tensor, n_own: int, generator: torch.Generator) -> Tensor:
    """Return windows (B, T) whose last `n_own` states are the model's."""
    model.eval()
    own = tokens[:, : tokens.shape[1] - n_own]
    for _ in range(n_own):
        logits = model(own[:, -model.config.receptive_field :])[:, -1]
        own = torch.cat([own, torch.multinomial(logits.softmax(-1), 1, generator=generator)], dim=1)
    model.train()
    return own


def own_inputs_loss(model: NanoGPT, batch: Batch, kind: str, n_own: int, generator: torch.Generator) -> Tensor:
    """Return the loss of a batch of which one half is read as it is and the other after or beside own states."""
    half, length = BATCH // 2, batch.tokens.shape[1]
    own = continue_with_own(model, batch.tokens[:half], n_own, generator)
    weights = torch.zeros(half, length)
    weights[:, length - 1 if kind == "after" else length - n_own - 1 :] = 1.0
    mixed = weighted_nll(model(own), batch.targets[:half], weights)
    plain = weighted_nll(model(batch.tokens[half:]), batch.targets[half:], batch.weights[half:])
    return 0.9 * plain + 0.1 * mixed


def train(method: str, system: System, data: Data, n_states: int, seed: int, budget: int) -> NanoGPT:
    """Train with the compute of `budget` one-pass steps."""
    kind, _, number = method.partition(":")
    shape = ModelConfig(n_states=n_states, d_model=32, n_layer=1, n_head=2, context_length=system.window, mlp_ratio=2)
    model = NanoGPT(shape, seed=seed)
    model.train()
    length, burn_in = 4 * system.window, system.window - 1
    windows = WindowSampler(
        data.training, length=length, batch_size=BATCH, context=burn_in, seed=seed, reverse=system.reverse
    )
    n_steps = budget if kind == "one_pass" else budget // 2
    objective: Any = {"token": "two_pass_token", "hidden": "two_pass_hidden"}.get(kind, "one_pass")
    config = TrainConfig(objective=objective, n_steps=n_steps, hidden_schedule="training")
    if kind == "token" and number:
        config = config.replace(mix_max=float(number), mix_anneal=False)
    counts = Counts(data.training, n_states, system.reverse, seed) if kind == "counts" else None
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    generator = torch.Generator().manual_seed(seed)
    mean: dict[str, Tensor] = {}
    for step in range(n_steps):
        warm_up = min(50, n_steps // 2)
        decay = 0.5 * (1 + np.cos(np.pi * max(0, step - warm_up) / (n_steps - warm_up)))
        optimiser.param_groups[0]["lr"] = RATE * min(1.0, (step + 1) / warm_up) * decay
        batch = windows.batch(step)
        if kind in ("after", "beside") and step >= BEGIN * n_steps:
            loss = own_inputs_loss(model, batch, kind, int(number), generator)
        else:
            rate = mix_rate(step, config)
            draws = GeneratorDraws(config, rate, generator) if rate > 0 else None
            loss = training_loss(model, batch.tokens, batch.targets, batch.weights, config=config, draws=draws)
        if counts is not None and step >= BEGIN * n_steps:
            if step % EVERY == 0 or not hasattr(counts, "own"):
                counts.roll_out(model, step)
            loss = loss + counts.term(model, length, burn_in)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        taken = step - int(0.7 * n_steps)
        if taken >= 0:
            for name, value in model.state_dict().items():
                mean[name] = mean.get(name, torch.zeros(())) + (value - mean.get(name, torch.zeros(()))) / (taken + 1)
    model.load_state_dict(mean)
    return model.eval()


def refitted(model: NanoGPT, system: System, data: Data) -> NanoGPT:
    """Return the model with its output layer fitted to the data."""
    found = refit(model, data.training, both_ways=system.reverse, pseudocount=10.0, ridge=30.0)
    new = NanoGPT(model.config.replace(markov_head=True))
    layer = {"head.weight": found.head, "head.bias": found.bias, "markov.weight": found.table}
    new.load_tensors({**model.to_tensors(), **layer})
    return new.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", choices=list(SYSTEMS), required=True)
    parser.add_argument("--methods", nargs="+", required=True, help="as above, each with or without +refit")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=int, default=800, help="steps of one pass (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    system = SYSTEMS[options.system]()
    rows: dict[str, list[list[float]]] = {name: [] for name in options.methods}
    for seed in range(options.seeds):
        data = system.load(seed)
        n_states = 1 + max(int(d.max()) for d in [*data.training, *data.held_out])
        judge, case = Judge.make(system.case, data), system.case
        md = record(judge.trajectories("MD", data.training, is_md=True), case.lagtime)
        for name in options.methods:
            begun = time.process_time()
            method, _, fit = name.partition("+")
            model = train(method, system, data, n_states, seed, options.budget)
            model = refitted(model, system, data) if fit else model
            seconds = time.process_time() - begun
            n_trajs, n_steps = case.rollout
            chains = generate(model, n_steps + case.burn_in, n_trajs, 5000 + seed)[:, case.burn_in :]
            found = errors(record(judge.trajectories(name, list(chains)), case.lagtime), md)
            line = {"system": options.system, "method": name, "seed": seed, "budget": options.budget}
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line | found | {"seconds": seconds}) + "\n")
            rows[name].append([found["mfpt_factor"], found["mfpt_worst"], found["slowest_ratio"], seconds])
    print("| method | MFPT | worst pair | slowest timescale | seconds |\n|---|---|---|---|---|")
    for name, values in rows.items():
        table = np.array(values)
        mean, low, high = np.exp(np.log(table).mean(axis=0)), table.min(axis=0), table.max(axis=0)
        print(
            f"| {name} | {mean[0]:.2f} ({low[0]:.2f} to {high[0]:.2f}) | {mean[1]:.2f} "
            f"| {mean[2]:.2f} ({low[2]:.2f} to {high[2]:.2f}) | {mean[3]:.1f} |"
        )


if __name__ == "__main__":
    main()
