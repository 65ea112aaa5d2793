"""Constraints on models whose answer is known: chains in a markov head, and a chain with memory that was learnt."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from caliber_chains import CHAIN, PI, by_minimisation, chain_of, entropy_rate, model_of, passage, slowest, stationary
from known_chain import default_chain

import nanomd
from nanomd import InputError
from nanomd.base.errors import NanomdWarning
from nanomd.caliber import Average, Population, Rate, Relaxation, constrain
from nanomd.caliber.chain import Chain, PassageTime
from nanomd.caliber.nearest import nearest_chain
from nanomd.model.files import load_model_files

F = [1.0, 2.0, 4.0, 3.0]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rollouts of 2^18 steps, and probabilities after 2^14 of their contexts: enough for what is exact anyway."""
    monkeypatch.setattr("nanomd.matching.rollouts.LEAST_FRAMES", 1 << 18)
    monkeypatch.setattr("nanomd.caliber.rolled._CONTEXTS", 1 << 14)


def run(**wishes):
    return constrain(model_of(CHAIN), n_threads=1, progress=False, **wishes)


def test_an_average_gives_the_exact_chain_and_its_price() -> None:
    exact = by_minimisation(CHAIN, lambda p: stationary(p) @ F, 2.9)
    found = run(averages=[Average(F, 2.9, name="J")])
    np.testing.assert_allclose(chain_of(found.files), exact, atol=1e-4)
    price = entropy_rate(exact, CHAIN)
    assert found.relative_entropy == pytest.approx(price, abs=4 * found.relative_entropy_error + 1e-3 * price)
    (row,) = found.rows
    assert row.met and row.name == "J" and row.wanted == pytest.approx(2.9) and row.error == 0
    assert row.before.low < PI @ F < row.before.high and row.after.low < 2.9 < row.after.high
    assert found.warnings == []
    np.testing.assert_allclose(found.files.starts.stationary, stationary(exact), atol=0.05)
    assert found.effective == pytest.approx(1 / (stationary(exact) ** 2 / PI).sum(), rel=0.1)


def test_a_population_and_a_rate_in_steps_or_time() -> None:
    exact = by_minimisation(CHAIN, lambda p: np.log(passage(p, [0, 1], [2, 3])), np.log(400.0))
    found = run(rates=[Rate([0, 1], [2, 3], mfpt="200 ns")])  # a step is 0.5 ns
    np.testing.assert_allclose(chain_of(found.files), exact, atol=1e-4)
    assert float(found.rows[0].after.value) == pytest.approx(400, rel=0.15)  # some 300 passages
    share = run(populations=[Population([0, 1], 0.25)])
    assert stationary(chain_of(share.files))[:2].sum() == pytest.approx(0.25, abs=1e-4)
    both = run(populations=[Population([0, 1], 0.25)], rates=[Rate([2, 3], [0, 1], rate="0.004 /ns")])
    assert stationary(chain_of(both.files))[:2].sum() == pytest.approx(0.25, abs=1e-4)
    assert passage(chain_of(both.files), [2, 3], [0, 1]) == pytest.approx(500.0, rel=1e-3)
    assert "ns" in str(both) and "yes" in str(both)


def test_static_populations_are_those_of_reweighted_frames() -> None:
    found = run(averages=[Average(F, 2.9)], static=True)
    pi = stationary(chain_of(found.files))
    slope = np.polyfit(F, np.log(pi / PI), 1)
    np.testing.assert_allclose(np.log(pi / PI), np.polyval(slope, F), atol=1e-3)
    assert pi @ F == pytest.approx(2.9, abs=1e-3) and found.rows[0].met


def test_a_relaxation_time() -> None:
    found = run(relaxation=Relaxation(280.0))
    assert slowest(chain_of(found.files)) == pytest.approx(280.0, rel=0.08)
    assert found.rows[0].after.low < 280 < found.rows[0].after.high


def test_what_the_model_gives_by_itself_changes_nothing() -> None:
    found = run(averages=[Average(F, float(PI @ F))], rates=[Rate([0], [3], mfpt=passage(CHAIN, [0], [3]))])
    assert abs(found.offsets).max() < 1e-3  # of probabilities in float32
    assert found.relative_entropy < 1e-6 and found.effective > 0.99


def test_out_of_reach_is_said_and_gone_as_far_as_it_goes() -> None:
    out_of_reach = r"J: 7\.00 is out of reach: .* visits have 1\.00 to 4\.00 \(nearest: state 2\)"
    with pytest.warns(NanomdWarning, match=out_of_reach):
        found = run(averages=[Average(F, 7.0, name="J")])
    assert not found.rows[0].met and found.rows[0].wanted == 7.0
    assert float(found.rows[0].after.value) == pytest.approx(3.97, abs=0.03)
    assert len(found.warnings) == 1 and "3.97 is aimed at" in found.warnings[0]
    assert "NO" in str(found) and "warning: J" in str(found)


def test_errors_of_the_experiment_are_weighed_against_the_simulation() -> None:
    sure, doubtful = (run(averages=[Average(F, 2.9, error)]) for error in (0.01, 1.5))
    before = float(sure.rows[0].before.value)
    assert float(sure.rows[0].after.value) == pytest.approx(2.9, abs=0.05)
    assert before + 0.05 < stationary(chain_of(doubtful.files)) @ F < 2.8
    heavier = run(averages=[Average(F, 2.9, 1.5)], weight=20.0)
    assert stationary(chain_of(heavier.files)) @ F < stationary(chain_of(doubtful.files)) @ F


def test_the_same_for_any_number_of_threads_and_another_for_another_seed() -> None:
    one, two = (
        constrain(model_of(CHAIN), populations=[Population([0], 0.4)], n_threads=n, progress=False) for n in (1, 2)
    )
    assert np.array_equal(one.files.tensors["markov.weight"], two.files.tensors["markov.weight"])
    assert one.describe()["wishes"] == two.describe()["wishes"]


def test_it_is_a_model_like_any_other_and_the_old_one_stays(tmp_path) -> None:
    files = model_of(CHAIN, np.array([2, 3, 5, 9]))
    table = files.tensors["markov.weight"].copy()
    values = np.full(10, np.nan)
    values[[2, 3, 5, 9]] = F
    found = constrain(files, averages=[Average(values, 2.9)], out=tmp_path / "new", n_threads=1, progress=False)
    assert np.array_equal(files.tensors["markov.weight"], table)
    saved = load_model_files(tmp_path / "new")
    assert np.array_equal(saved.tensors["markov.weight"], found.files.tensors["markov.weight"])
    assert saved.provenance["made"] == "by hand" and saved.provenance["constrained"]["wishes"][0]["met"] is True
    labels = nanomd.Sampler(saved, "cpu").generate(1000, seed=1, n_threads=1).dtrajs[0]
    assert set(np.unique(labels)) <= {2, 3, 5, 9}
    again = constrain(tmp_path / "new", averages=[Average(dict(zip([2, 3, 5, 9], F, strict=True)), 2.9)], n_threads=1)
    assert again.relative_entropy < 1e-3 * found.relative_entropy


def test_a_model_without_a_markov_head_gets_one() -> None:
    files = model_of(CHAIN)
    bare = dataclasses.replace(
        files,
        config=files.config.replace(markov_head=False),
        tensors={name: x for name, x in files.tensors.items() if name != "markov.weight"},
    )
    found = constrain(bare, populations=[Population([0], 0.5)], n_threads=1, progress=False)
    p = Chain(np.full((4, 4), 0.25)).tilted(found.offsets).p
    np.testing.assert_allclose(stationary(p)[0], 0.5, atol=1e-4)


@pytest.mark.parametrize(
    ("wishes", "match"),
    [
        ({}, "nothing is wished for"),
        ({"averages": [Average([1.0, 2.0], 1.5)]}, "state 2 and 1 others has none"),
        ({"averages": [Average([1.0] * 4, 1.0)]}, "all states have the value 1"),
        ({"averages": [Average(F, np.nan)]}, "finite number"),
        ({"averages": [Average(F, 2.0, "ten %")]}, "zero or a positive number"),
        ({"averages": [Average(F, 2.0, "0.1")]}, "a share such as '5 %'"),
        ({"populations": [Population([0], 1.0)]}, "share between 0 and 1"),
        ({"populations": [Population([7], 0.5)]}, "unknown state 7"),
        ({"populations": [Population([], 0.5)]}, "holds no state"),
        ({"populations": [Population([0, 1, 2, 3], 0.5)]}, "every state of the model"),
        ({"rates": [Rate([0], [0, 1], mfpt=3.0)]}, "state 0 is in source and target"),
        ({"rates": [Rate([0], [1])]}, "either mfpt or rate, got neither"),
        ({"rates": [Rate([0], [1], mfpt=-3.0)]}, "must be positive"),
        ({"rates": [Rate([0], [1], rate="3 ns")]}, "'0.7 /ns'"),
        ({"rates": [Rate([0], [1], mfpt="3 parsec")]}, "unknown unit"),
        ({"relaxation": Relaxation("long")}, "number of frames or a time"),
        ({"relaxation": Relaxation(3.0), "static": True}, "averages and populations alone"),
        ({"populations": [Population([0], 0.5)], "weight": 0.0}, "weight must be at least"),
    ],
)
def test_wishes_that_make_no_sense_are_refused(wishes, match) -> None:
    with pytest.raises(InputError, match=match):
        run(**wishes)


@pytest.mark.slow
def test_a_model_with_memory_meets_its_wishes_at_little_more_than_the_least_price(monkeypatch) -> None:
    monkeypatch.setattr("nanomd.matching.rollouts.LEAST_FRAMES", 1 << 20)  # 3 % of a passage time
    chain = default_chain()
    model = nanomd.GPTEstimator("tiny", n_steps=400, seed=1, n_threads=1).fit(chain.sample(20_000, 8, seed=1))
    files = model.fetch_model().to_files()
    own = chain.mfpt([0], [3])
    found = constrain(files, rates=[Rate([0], [3], mfpt=2 * own)], seed=3, n_threads=1, progress=False)
    (row,) = found.rows
    assert row.met
    assert float(row.after.value) == pytest.approx(2 * own, rel=0.08)  # 289 steps before, of the mean chain 80
    # The least price of all changes that know the pair of states, of which this chain is a Markov chain.
    states = np.arange(16) % 4
    start, end = states == 0, states == 3
    live = chain.pair_stationary.ravel() > 0
    least = nearest_chain(
        chain.pair_matrix[np.ix_(live, live)],
        [PassageTime(start[live], end[live], reversible=False)],
        np.log([2 * own]),
        np.zeros(1),
    ).relative_entropy
    assert 0.8 * least < found.relative_entropy < 1.25 * least
