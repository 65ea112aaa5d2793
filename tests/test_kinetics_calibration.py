"""Intervals keep their promise: over many samples of a chain with exact kinetics, 95 % intervals cover the truth.

With 200 repeats a true coverage of 95 % shows between 90 % and 99 % in all but 1 of 400 cases per quantity (binomial:
P(<= 179 or >= 199) = 0.003); the seeds are fixed. An interval half as wide would cover about 67 %.
"""

from __future__ import annotations

import numpy as np
import pytest
from known_chain import default_chain
from scipy.stats import binom

from nanomd.kinetics import estimates
from nanomd.kinetics.estimates import Sample
from nanomd.kinetics.markov_source import markov_source
from nanomd.kinetics.yardstick import Yardstick

CHAIN, LAG, REPEATS = default_chain(), 20, 200
LOW, HIGH = 0.90, 0.99


def test_the_bound_means_something():
    assert binom.cdf(LOW * REPEATS - 1, REPEATS, 0.95) + binom.sf(HIGH * REPEATS, REPEATS, 0.95) < 0.005
    assert binom.sf(LOW * REPEATS - 1, REPEATS, 0.80) < 0.001


def quantities(sample):
    times, _ = estimates.timescales(sample, LAG, 3)
    population = estimates.populations(sample)
    mfpt, _ = estimates.passage_times(sample, LAG)
    residence, _, _ = estimates.residence_times(sample, LAG, np.array([0, LAG]))
    stay = estimates.self_transitions(sample, np.array([60]))
    return {
        "timescale 1": (times[0], CHAIN.implied_timescales(LAG)[0]),
        "timescale 2": (times[1], CHAIN.implied_timescales(LAG)[1]),
        "population 0": (population[0], CHAIN.stationary[0]),
        "population 2": (population[2], CHAIN.stationary[2]),
        "mfpt 0 to 3": (mfpt[0, 3], CHAIN.mfpt([0], [3], LAG)),
        "mfpt 3 to 0": (mfpt[3, 0], CHAIN.mfpt([3], [0], LAG)),
        "mfpt 2 to 0": (mfpt[2, 0], CHAIN.mfpt([2], [0], LAG)),
        "residence 0": (residence[0], CHAIN.residence([0], LAG)),
        "stay 0": (stay[0, 0], CHAIN.lagged_matrix(60)[0, 0]),
    }


@pytest.mark.slow
@pytest.mark.parametrize(("n_steps", "n_trajs"), [(20_000, 1), (3_000, 8)], ids=["one long", "eight short"])
def test_coverage(n_steps, n_trajs):
    trajs = CHAIN.sample(n_steps, n_trajs * REPEATS, seed=5)
    covered: dict[str, list[bool]] = {}
    ratios: dict[str, list[float]] = {}
    for r in range(REPEATS):
        sample = Sample.make(trajs[r * n_trajs : (r + 1) * n_trajs], 4, timescale=140, seed=r)
        for name, (interval, truth) in quantities(sample).items():
            covered.setdefault(name, []).append(bool(interval.low <= truth <= interval.high))
            ratios.setdefault(name, []).append(float(interval.value) / truth)
    coverage = {name: float(np.mean(hits)) for name, hits in covered.items()}
    assert all(LOW <= c <= HIGH for c in coverage.values()), coverage
    bias = {name: float(np.mean(r)) for name, r in ratios.items()}
    assert all(abs(b - 1) < 0.04 for b in bias.values()), bias


@pytest.mark.slow
def test_markov_source_covers_what_it_estimates():
    """The Markov model's intervals cover the values of a Markov model of infinite data."""
    trajs = CHAIN.sample(20_000, 100, seed=6)
    matrix = CHAIN.lagged_matrix(1)
    yardstick = Yardstick(
        macrostate=np.arange(4),
        right=np.linalg.eig(matrix)[1].real[:, np.argsort(-np.linalg.eigvals(matrix).real)[1:]],
        stationary=CHAIN.stationary,
        lagtimes=np.array([1]),
        lagtime=4,
        residence_times=np.array([0, 4, 8]),
        ck_lagtimes=np.array([4, 8]),
    )
    from nanomd.kinetics.markov import mean_residence, passage_times

    power = np.linalg.matrix_power(matrix, 4)
    truth = {
        "mfpt": 4 * passage_times(power, CHAIN.stationary, np.arange(4), 4)[0, 3],
        "residence": 4 * mean_residence(power, CHAIN.stationary, np.arange(4), 4)[0][0],
        "stay": np.linalg.matrix_power(power, 2)[0, 0],
        "timescale": CHAIN.implied_timescales(1)[0],
        "population": CHAIN.stationary[0],
    }
    hits: dict[str, list[bool]] = {name: [] for name in truth}
    for r, x in enumerate(trajs):
        source = markov_source("MSM", Sample.make([x], 4, timescale=140, n_bootstrap=40, seed=r), yardstick, 1).kinetics
        found = {
            "mfpt": source.mfpt[0, 3],
            "residence": source.residence[0],
            "stay": source.ck_estimated[1, 0],
            "timescale": source.timescales[0, 0],
            "population": source.populations[0],
        }
        for name, interval in found.items():
            hits[name].append(bool(interval.low <= truth[name] <= interval.high))
    coverage = {name: float(np.mean(h)) for name, h in hits.items()}
    assert all(0.88 <= c <= 1.0 for c in coverage.values()), coverage
