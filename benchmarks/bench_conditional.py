"""A temperature that was never simulated: conditional models beside Markov models, and models of that temperature.

    python benchmarks/bench_conditional.py [--seeds 3] [--schemes kmeans x-bins] [--frames 5000] [--out FILE]

The four-state potential at three inverse temperatures gives the training data, ten trajectories of 5000 frames each, in
states that are the same at all temperatures: 50 k-means states of x and y, which forget within some frames, or 24 bins
of x alone, which hide y and remember it for long. Judged is at two other temperatures, one between them and one colder
than all, against fresh MD of forty times as many frames: populations of basins, and mean first passage times
between the states around the minima (k-means: the four; bins: left, middle and right).

conditional        `ConditionalGPTEstimator()`, all three temperatures, at the temperature that is judged
single             `GPTEstimator()` of MD *at* that temperature, as much as there is of one training temperature
nearest            `GPTEstimator()` of the training temperature that is nearest
MSM, Arrhenius     Markov models whose log-odds are straight lines in 1/T, all three temperatures, by maximum likelihood
                   of all transitions at a lag of 10 and of 30 frames (both ways in time)
Arrhenius plots    every passage time as it was counted in the training MD, ln t against 1/T, weighted with its events;
                   populations likewise

Errors are those of passage times: the root mean square of ln(t / t of the MD) over the pairs, and of populations: the
largest difference. Each seed has its own MD; means over seeds, and the standard deviations of single seeds.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS

from nanomd import ConditionalGPTEstimator, GPTEstimator
from nanomd.base.config import ModelConfig
from nanomd.base.environment import environment
from nanomd.base.plain import to_plain
from nanomd.conditional.conditions import Conditions
from nanomd.conditional.refit import refit
from nanomd.data.counts import stationary_vector
from nanomd.data.dtrajs import stride_trajectories
from nanomd.kinetics import markov
from nanomd.kinetics.estimates import Sample, passage_times, populations
from nanomd.model.network import NanoGPT
from nanomd.systems import four_state

TRAINED, BETWEEN, COLDER = (3.5, 5.0, 7.0), 6.0, 8.5  # inverse temperatures
N_KMEANS, N_BINS = 50, 24
LAGS = (10, 30)  # frames, of the Markov models
ROLLOUT = (64, 40_000)  # trajectories and steps of a model's rollout


@dataclass(frozen=True)
class Kinetics:
    """Shares of the basins (m,), and passage times between cores (m, m) in frames, with ends of 95 % intervals."""

    populations: np.ndarray
    times: np.ndarray
    low: np.ndarray
    high: np.ndarray
    events: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        return {k: np.asarray(getattr(self, k), float).tolist() for k in self.__dataclass_fields__}


@dataclass(frozen=True)
class States:
    """The states of a scheme: basin (n,) of each, and core (n,), -1 outside; k-means centres."""

    scheme: str
    basin: np.ndarray
    core: np.ndarray
    centers: np.ndarray | None = None

    @classmethod
    def of(cls, scheme: str, xy: list[np.ndarray], seed: int) -> States:
        if scheme == "x-bins":
            x = np.linspace(-3, 3, N_BINS + 1)[:-1] + 3 / N_BINS
            core = np.select([x < -1.75, abs(x) < 0.75, x > 1.75], [0, 1, 2], -1)
            return cls(scheme, np.digitize(x, [-1.25, 1.25]), core)
        centers = four_state.kmeans_centers(xy, N_KMEANS, seed=seed)
        distance = np.linalg.norm(centers[:, None] - four_state.MINIMA[None], axis=2)
        basin = distance.argmin(axis=1)
        return cls(scheme, basin, np.where(distance.min(axis=1) < 0.5, basin, -1), centers)

    @property
    def n(self) -> int:
        """Number of states."""
        return len(self.basin)

    @property
    def m(self) -> int:
        """Number of basins."""
        return int(self.basin.max()) + 1

    def tokenize(self, xy: np.ndarray) -> list[np.ndarray]:
        if self.centers is None:
            return four_state.tokenize(xy, "x-bins", n_states=N_BINS)
        return four_state.tokenize(xy, "kmeans", centers=self.centers)

    def kinetics(self, dtrajs: list[np.ndarray], stride: int = 1, views: int = 1) -> Kinetics:
        """Measure MD seen at every stride-th frame, or a rollout whose steps are so many frames (views = 0)."""
        sample = Sample.make(dtrajs, self.n, timescale=500.0)
        share = populations(sample.coarse(self.basin, self.m)).value
        interval, events = passage_times(sample.coarse(self.core, self.m), stride if views else 1)
        unit = 1 if views else stride
        return Kinetics(share, unit * interval.value, unit * interval.low, unit * interval.high, events)


def simulate(beta: float, n_frames: int, n_trajs: int, seed: int) -> np.ndarray:
    return four_state.simulate(n_frames, n_trajs, seed=seed, beta=beta, spacing=100, n_threads=1)


def rolled(model: Any, states: States, seed: int) -> Kinetics:
    n, length = ROLLOUT
    rollout = model.generate(length, n, seed=seed, start="stationary", n_threads=1)
    dropped = length // 8
    return states.kinetics([np.asarray(x)[dropped:] for x in rollout.dtrajs], model.frame_stride, views=0)


def arrhenius_markov(groups: list[list[np.ndarray]], states: States, lag: int) -> Any:
    """Return a function of beta: the kinetics of the Markov model whose log-odds are straight in it."""
    conditions, _ = Conditions.of([{"temperature": 1 / b} for b in TRAINED])
    shape = ModelConfig(n_states=states.n, d_model=8, n_layer=1, n_head=1, context_length=2, mlp_ratio=1)
    networks = [NanoGPT(shape.replace(markov_head=True)) for _ in groups]
    for network in networks:  # its head is zero: nothing but the tables
        network.start_at_markov(np.ones((states.n, states.n)), 1.0)
    lagged = [stride_trajectories(x, lag) for x in groups]
    found = refit(networks, conditions.table(), lagged, both_ways=True, pseudocount=0.1, ridge=1e6, burn_in=0)

    def at(beta: float) -> Kinetics:
        phi = conditions.features({"temperature": 1 / beta})
        logits = found.table[0].astype(float) + np.tensordot(phi, found.table[1:].astype(float), 1)
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        pi = stationary_vector(p)
        times = lag * markov.passage_times(p, pi, states.core, states.m)
        nothing = np.full(times.shape, np.nan)
        return Kinetics(np.bincount(states.basin, pi), times, nothing, nothing, nothing)

    return at


def arrhenius_plots(measured: list[Kinetics]) -> Any:
    """Return a function of beta: straight lines through logarithms of what was counted at the trained ones."""
    x = np.array(TRAINED)

    def line(y: np.ndarray, weights: np.ndarray, beta: float) -> float:
        good = np.isfinite(y) & (weights > 0)
        if good.sum() < 2:
            return np.nan
        return float(np.polyval(np.polyfit(x[good], y[good], 1, w=np.sqrt(weights[good])), beta))

    def at(beta: float) -> Kinetics:
        with np.errstate(divide="ignore"):
            times = np.log(np.stack([m.times for m in measured]))
            shares = np.log(np.stack([m.populations for m in measured]))
        events = np.stack([m.events for m in measured]).astype(float)
        m = shares.shape[1]
        t = np.array([[np.exp(line(times[:, a, b], events[:, a, b], beta)) for b in range(m)] for a in range(m)])
        p = np.exp([line(shares[:, a], np.ones(len(x)), beta) for a in range(m)])
        nothing = np.full(t.shape, np.nan)
        return Kinetics(p / p.sum(), t, nothing, nothing, nothing)

    return at


def error(found: Kinetics, md: Kinetics) -> dict[str, float]:
    off = ~np.eye(len(md.times), dtype=bool)
    return {
        "error_of_times": float(np.sqrt(np.mean(np.log(found.times[off] / md.times[off]) ** 2))),
        "error_of_populations": float(abs(found.populations - md.populations).max()),
    }


def one_seed(scheme: str, seed: int, frames: int, trajs: int) -> dict[str, Any]:
    xy = [simulate(b, frames, trajs, 100 * seed + k) for k, b in enumerate(TRAINED)]
    states = States.of(scheme, list(np.concatenate(xy)), seed)
    groups = [states.tokenize(x) for x in xy]
    begin = time.process_time()
    model = ConditionalGPTEstimator(seed=seed, n_threads=1, progress=False).fit_fetch(
        groups, [{"temperature": 1 / b} for b in TRAINED]
    )
    seconds = time.process_time() - begin
    print("\n".join(model.provenance["choices"]), f"\n{seconds:.0f} s", flush=True)
    by_rates = {lag: arrhenius_markov(groups, states, lag) for lag in LAGS}
    by_plots = arrhenius_plots([states.kinetics(x) for x in groups])
    rows = []
    for beta in (BETWEEN, COLDER):
        fresh = states.tokenize(simulate(beta, 20 * frames, 2 * trajs, 100 * seed + 50))
        own = states.tokenize(simulate(beta, frames, trajs, 100 * seed + 60))
        nearest = int(np.argmin([abs(beta - b) for b in TRAINED]))
        options: dict[str, Any] = {"seed": seed, "n_threads": 1, "progress": False}
        methods = {
            "conditional": lambda beta=beta: model.at(temperature=1 / beta),
            "single": lambda own=own, options=options: GPTEstimator(**options).fit_fetch(own),
            "nearest": lambda k=nearest, options=options: GPTEstimator(**options).fit_fetch(groups[k]),
        }
        md = states.kinetics(fresh)
        result: dict[str, Any] = {}
        for name, make in methods.items():
            one = make()
            stride = one.frame_stride
            seen = md if stride == 1 else states.kinetics(fresh, stride)  # MD as the model sees time
            found = rolled(one, states, seed)
            result[name] = {**error(found, seen), "stride": stride, **found.to_dict()}
        result["Arrhenius plots"] = {**error(by_plots(beta), md), "stride": 1, **by_plots(beta).to_dict()}
        for lag, at in by_rates.items():
            found, seen = at(beta), states.kinetics(fresh, lag)
            result[f"MSM, Arrhenius, lag {lag}"] = {**error(found, seen), "stride": lag, **found.to_dict()}
        for name, row in result.items():
            print(
                f"{scheme}, beta {beta}: {name:24s} {row['error_of_times']:.3f} {row['error_of_populations']:.3f}",
                flush=True,
            )
        rows.append({"beta": beta, "md": md.to_dict(), "methods": result})
    return {
        "scheme": scheme,
        "seed": seed,
        "seconds_of_the_conditional_fit": round(seconds, 1),
        "judged": rows,
    }


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: dict[tuple[str, float, str], list[dict[str, Any]]] = {}
    for run in runs:
        for judged in run["judged"]:
            for name, row in judged["methods"].items():
                found.setdefault((run["scheme"], judged["beta"], name), []).append(row)
    out = []
    for (scheme, beta, name), rows in found.items():
        line: dict[str, Any] = {"scheme": scheme, "beta": beta, "method": name}
        for what in ("error_of_times", "error_of_populations"):
            values = np.array([row[what] for row in rows])
            line |= {what: round(float(values.mean()), 4), f"{what}_spread": round(float(values.std()), 4)}
        out.append(line)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--schemes", nargs="+", choices=["kmeans", "x-bins"], default=["kmeans", "x-bins"])
    parser.add_argument("--frames", type=int, default=5000)
    parser.add_argument("--trajs", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULTS / "conditional.json")
    options = parser.parse_args()
    runs = []
    for scheme in options.schemes:
        for seed in range(1, options.seeds + 1):
            runs.append(one_seed(scheme, seed, options.frames, options.trajs))
            record = {
                "environment": environment(),
                "trained": TRAINED,
                "frames_of_each": options.frames * options.trajs,
                "summary": summary(runs),
                "runs": runs,
            }
            options.out.write_text(json.dumps(to_plain(record, 5), indent=1) + "\n")
    for line in summary(runs):
        print(line)


if __name__ == "__main__":
    main()
