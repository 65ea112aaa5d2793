"""The nearest chain with given numbers, against brute force, closed forms and deeptime's augmented Markov model."""

from __future__ import annotations

import numpy as np
import pytest
from caliber_chains import CHAIN, JOINT, PI, by_minimisation, entropy_rate, passage, slowest, stationary

from nanomd.base.errors import InputError
from nanomd.caliber.chain import Chain, Functional, PassageTime, SetShare, SlowestTimescale, StateAverage
from nanomd.caliber.nearest import nearest_chain
from nanomd.caliber.static import nearest_populations

F = np.array([1.0, 2.0, 4.0, 3.0])
LEFT, RIGHT = np.array([1, 1, 0, 0], bool), np.array([0, 0, 1, 1], bool)
FIRST, LAST = np.array([1, 0, 0, 0], bool), np.array([0, 0, 0, 1], bool)


def nearest(functional: Functional, wanted: float, error: float = 0.0, weight: float = 1.0):
    return nearest_chain(CHAIN, [functional], np.array([wanted]), np.array([error]), weight)


def logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


@pytest.mark.parametrize(
    ("functional", "number", "wanted"),
    [
        (StateAverage(F), lambda p: stationary(p) @ F, 2.9),
        (SetShare(LEFT), lambda p: logit(stationary(p)[:2].sum()), logit(0.25)),
        (PassageTime(LEFT, RIGHT), lambda p: np.log(passage(p, [0, 1], [2, 3])), np.log(400.0)),
        (PassageTime(FIRST, LAST, reversible=False), lambda p: np.log(passage(p, [0], [3])), np.log(300.0)),
        (SlowestTimescale(), lambda p: np.log(slowest(p)), np.log(200.0)),
    ],
    ids=["average", "population", "passage", "passage with states between", "timescale"],
)
def test_it_is_the_chain_that_brute_force_finds(functional, number, wanted) -> None:
    assert functional.at(Chain(CHAIN))[0] == pytest.approx(number(CHAIN), abs=1e-8)
    exact = by_minimisation(CHAIN, number, wanted)
    found = nearest(functional, wanted)
    assert found.converged
    assert number(found.chain.p) == pytest.approx(wanted, abs=1e-7)
    assert abs(exact - CHAIN).max() > 1e-3  # there is something to find
    np.testing.assert_allclose(found.chain.p, exact, atol=1e-5)
    assert found.relative_entropy == pytest.approx(entropy_rate(exact, CHAIN), rel=1e-4)
    np.testing.assert_allclose(found.offsets, np.log(found.chain.p / CHAIN), atol=1e-9)


@pytest.mark.parametrize(
    "functional",
    [
        StateAverage(F),
        SetShare(LEFT),
        PassageTime(LEFT, RIGHT, reversible=False),
        PassageTime(FIRST, LAST, reversible=False),
        SlowestTimescale(reversible=False),
    ],
)
def test_influences_are_derivatives(functional) -> None:
    chain = Chain(CHAIN)
    change = np.random.default_rng(1).normal(size=(4, 4))
    step = 1e-5
    up, down = (functional.at(chain.tilted(sign * step * change))[0] for sign in (1, -1))
    influence = chain.centred(functional.at(chain)[1])
    assert (PI[:, None] * CHAIN * influence * change).sum() == pytest.approx((up - down) / (2 * step), rel=1e-5)


def test_averages_give_the_tilted_chain_in_doobs_form() -> None:
    found = nearest(StateAverage(F), 2.9)
    tilted = CHAIN * np.exp(found.multipliers[0] * F)
    values, vectors = np.linalg.eig(tilted)
    rho, r = values.real.max(), abs(vectors[:, np.argmax(values.real)].real)
    np.testing.assert_allclose(found.chain.p, tilted * r / (rho * r[:, None]), atol=1e-8)


@pytest.mark.parametrize("functional", [StateAverage(F), PassageTime(FIRST, LAST), SlowestTimescale()])
def test_a_chain_in_equilibrium_stays_there(functional) -> None:
    found = nearest(functional, functional.at(Chain(CHAIN))[0] + 0.4)
    flow = found.chain.pi[:, None] * found.chain.p
    assert found.converged
    np.testing.assert_allclose(flow, flow.T, atol=1e-10)


def test_the_reversible_chain_costs_hardly_more_than_the_nearest_of_all() -> None:
    wanted = np.log(passage(CHAIN, [0], [3])) + 0.7
    kept = nearest(PassageTime(FIRST, LAST), wanted).relative_entropy
    free = nearest(PassageTime(FIRST, LAST, reversible=False), wanted).relative_entropy
    assert free * (1 - 1e-9) < kept < 1.01 * free


def test_several_wishes_at_once() -> None:
    functionals = [SetShare(LEFT), PassageTime(LEFT, RIGHT), StateAverage(F)]
    wanted = np.array([logit(0.4), np.log(500.0), 2.7])
    found = nearest_chain(CHAIN, functionals, wanted, np.zeros(3))
    assert found.converged
    np.testing.assert_allclose(found.values, wanted, atol=1e-8)
    assert stationary(found.chain.p)[:2].sum() == pytest.approx(0.4)
    assert passage(found.chain.p, [0, 1], [2, 3]) == pytest.approx(500.0, rel=1e-6)


def test_errors_leave_it_between_the_chain_and_the_wish() -> None:
    wanted, error, weight = 2.9, 0.6, 200.0
    found = nearest(StateAverage(F), wanted, error, weight)

    def paid(average: float) -> float:
        return weight * nearest(StateAverage(F), average).relative_entropy + (average - wanted) ** 2 / (2 * error**2)

    at = found.values[0]
    assert PI @ F + 0.02 < at < wanted - 0.02
    assert paid(at) < min(paid(at - 0.01), paid(at + 0.01))
    assert at == pytest.approx(wanted - weight * error**2 * found.multipliers[0])


def test_a_wish_for_what_is_there_changes_nothing() -> None:
    found = nearest(PassageTime(FIRST, LAST), np.log(passage(CHAIN, [0], [3])))
    assert found.converged and abs(found.offsets).max() < 1e-9 and abs(found.multipliers).max() < 1e-12


def test_sets_that_never_meet_are_refused() -> None:
    apart = np.kron(np.eye(2), np.full((2, 2), 0.5))
    with pytest.raises(InputError, match="no one equilibrium"):
        nearest_chain(apart, [StateAverage(F)], np.array([2.0]), np.zeros(1))


def test_deeptimes_augmented_model_agrees_where_the_observable_is_one_value_a_well() -> None:
    """Both meet the average. Of the populations, deeptime has pi exp(lambda f), maximum entropy without dynamics, and
    so has `nearest_populations`, everywhere.

    Maximum caliber counts what is shifted by what it costs a step: a shift between wells is cheap, one within a well,
    which relaxes at once, is not. So both agree where f has one value a well (to the share of steps over the barrier),
    and differ where it varies within wells.
    """
    from deeptime.markov import TransitionCountModel
    from deeptime.markov.msm import AugmentedMSMEstimator

    def both(f: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        estimator = AugmentedMSMEstimator(f[:, None], np.array([PI @ f + 0.2]), np.array([3.0]), maxiter=1000)
        amm = estimator.fit(TransitionCountModel(np.round(JOINT * 1e6))).fetch_model().stationary_distribution
        found = nearest(StateAverage(f), float(amm @ f))
        assert found.chain.pi @ f == pytest.approx(amm @ f, abs=1e-7)
        static = nearest_populations(CHAIN, [StateAverage(f)], np.array([amm @ f]), np.zeros(1))
        np.testing.assert_allclose(static.chain.pi, amm, atol=2e-4)
        weights = PI * (amm[3] / PI[3] / (amm[0] / PI[0])) ** ((f - f[0]) / (f[3] - f[0]))
        np.testing.assert_allclose(amm, weights / weights.sum(), atol=2e-4)  # what deeptime's model is
        return np.asarray(amm), found.chain.pi

    amm, caliber = both(np.array([0.0, 0.0, 1.0, 1.0]))
    assert abs(amm - PI).max() > 0.1
    assert abs(amm - caliber).max() < 0.004
    amm, caliber = both(np.array([0.0, 0.1, 1.0, 1.2]))
    assert 0.01 < abs(amm - caliber).max() < 0.03


def test_of_the_chains_with_static_populations_it_is_the_nearest() -> None:
    """Held to the general solver with three averages, which fix all four populations."""
    found = nearest_populations(CHAIN, [StateAverage(F)], np.array([2.9]), np.zeros(1))
    assert found.converged and found.chain.pi @ F == pytest.approx(2.9, abs=1e-9)
    weights = PI * np.exp(found.multipliers[0] * F)
    np.testing.assert_allclose(found.chain.pi, weights / weights.sum(), atol=1e-10)
    np.testing.assert_allclose(found.offsets, np.log(found.chain.p / CHAIN), atol=1e-9)
    assert found.relative_entropy == pytest.approx(entropy_rate(found.chain.p, CHAIN), rel=1e-6)
    fixed = [StateAverage(np.eye(4)[k]) for k in range(3)]
    exact = nearest_chain(CHAIN, fixed, found.chain.pi[:3], np.zeros(3))
    assert exact.converged
    np.testing.assert_allclose(found.chain.p, exact.chain.p, atol=1e-7)
    flow = found.chain.pi[:, None] * found.chain.p
    np.testing.assert_allclose(flow, flow.T, atol=1e-10)


def test_static_errors_and_several_wishes() -> None:
    wanted, error = 2.9, 0.6
    found = nearest_populations(CHAIN, [StateAverage(F)], np.array([wanted]), np.array([error]), 2.0)
    assert found.values[0] == pytest.approx(wanted - 2.0 * error**2 * found.multipliers[0])
    assert PI @ F + 0.02 < found.values[0] < wanted - 0.02
    both = nearest_populations(CHAIN, [StateAverage(F), SetShare(LEFT)], np.array([2.6, 0.0]), np.zeros(2))
    assert both.converged and both.chain.pi[:2].sum() == pytest.approx(0.5) and both.chain.pi @ F == pytest.approx(2.6)
    with pytest.raises(InputError, match="averages and populations alone"):
        nearest_populations(CHAIN, [SlowestTimescale()], np.array([5.0]), np.zeros(1))
