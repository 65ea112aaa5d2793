"""What makes a verdict: the four rollouts that it must tell apart, its rule by hand, and how often it is wrong."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from known_chain import default_chain
from markov_walk import MATRIX, slowed, walks

from nanomd.base.errors import InputError
from nanomd.kinetics import validate
from nanomd.kinetics.comparison import Comparison, Rule, difference, expected_events, half_width
from nanomd.kinetics.interval import Interval
from nanomd.kinetics.results import ValidationResult

FAST = {"lagtimes": [1, 5, 10], "lagtime": 1, "n_bootstrap": 50}


def rows(result):
    return {row.quantity: row.cells for row in result.rows}


# --- The four rollouts -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chain():
    """Eight trajectories of a process with memory, and the settings that see its processes settle."""
    return default_chain().sample(20_000, 8, seed=31), {"lagtimes": [1, 20, 50], "lagtime": 20, "n_bootstrap": 50}


def test_training_data_cut_in_two_pass(chain):
    md, settings = chain
    result = validate([x[:10_000] for x in md], [x[10_000:] for x in md], **settings)
    assert result.verdict == "pass", result.summary()
    assert result.verdicts["MSM (lag 1)"].outcome == "fail", "it is blind to the memory"
    assert "a model 1." in result.summary() and "times off would have failed" in result.summary()


def test_a_frozen_rollout_fails(chain):
    md, settings = chain
    result = validate(md, [np.zeros(20_000, int)] * 8, **settings)
    assert result.verdict == "fail"
    judged = [row["GPT"] for row in rows(result).values() if row["GPT"].passed is not None]
    assert len(judged) >= 25 and not any(cell.passed for cell in judged), "nothing of it is right"
    assert result.mfpt_errors["GPT"].factor == math.inf
    assert "lacks 12 of the passages" in result.verdicts["GPT"].reasons[0]


def test_a_rollout_of_one_basin_fails(chain):
    md, settings = chain
    result = validate(md, [np.where(x > 1, 1, x) for x in md], **settings)
    assert result.verdict == "fail"
    cells = rows(result)
    lost = [name for name in ("A", "B", "C", "D") if cells[f"population {name}"]["GPT"].value == 0]
    assert len(lost) == 2 and all(cells[f"population {name}"]["GPT"].passed is False for name in lost)
    assert all(cells[f"residence {name}"]["GPT"].passed is False for name in lost)


def test_a_rollout_twice_as_slow_fails(chain):
    md, settings = chain
    result = validate(md, [np.repeat(x, 2) for x in default_chain().sample(20_000, 8, seed=32)], **settings)
    assert result.verdict == "fail"
    first = result.verdicts["GPT"].reasons[0]
    assert first.startswith("passage times are off from MD by a factor of 1.") and "too slow" in first
    assert all(rows(result)[f"population {name}"]["GPT"].passed is True for name in "ABCD")


def test_a_state_that_is_never_visited_fails():
    """Two of three states in the right proportion, at the right rates: all that is shown is right, and too little."""
    two = np.array([[0.97, 0.03], [0.02, 0.98]])
    result = validate(walks(20_000, 3, 1), walks(20_000, 3, 2, two), **FAST)
    assert result.verdict == "fail"
    cells = rows(result)
    for quantity in ("population C", "MFPT A to C", "MFPT C to B", "residence C", "transition path B to C"):
        assert cells[quantity]["GPT"].passed is False, quantity
    assert cells["MFPT off by (mean factor)"]["GPT"].passed is False
    assert result.mfpt_errors["GPT"].factor == math.inf and result.mfpt_errors["GPT"].n_missing == 4


def test_a_rollout_too_short_to_show_an_event_is_not_blamed():
    md = walks(40_000, 4, 3)
    result = validate(md, [np.zeros(30, int)], **FAST)  # a stay of 33 frames in the mean: nothing to be seen in 30
    assert result.verdict == "undecided"
    assert result.verdicts["GPT"].n_failed == 0
    assert "could not tell a model 2 times off from this one" in result.verdicts["GPT"].reasons[0]


# --- The rule --------------------------------------------------------------------------------------------------------


def test_the_rule_by_hand():
    one, many = Rule.of(1, 0.95), Rule.of(20, 0.95)
    assert one.widening == 1 and one.power == pytest.approx(1.2816 / 1.96, abs=1e-4)
    assert many.widening == pytest.approx(3.0233 / 1.96, abs=1e-4)  # a twentieth of the tails
    margin = math.log(1.1)
    assert not Comparison(margin + 0.29, 0.3, margin).fails(one) and Comparison(margin + 0.31, 0.3, margin).fails(one)
    assert not Comparison(margin + 0.31, 0.3, margin).fails(many)
    assert Comparison(-(margin + 0.31), 0.3, margin).fails(one)
    assert not Comparison(-(margin + 0.31), 0.3, margin, one_sided=True).fails(one), "too little is right"
    assert Comparison(0.0, 0.3, margin).resolves(one) == pytest.approx(1.1 * math.exp(0.3 * (1 + one.power)))
    assert Comparison(0.0, math.nan, margin).resolves(one) == math.inf
    assert Comparison(math.inf, math.nan, margin).fails(one) and not Comparison(math.nan, math.nan, margin).fails(one)


def test_differences_are_taken_on_the_natural_scale():
    def interval(value, low, high):
        return Interval(*(np.array(x) for x in (value, low, high)))

    time, twice = interval(10.0, 5.0, 20.0), interval(20.0, 10.0, 40.0)
    assert difference(twice, time, "log") == pytest.approx(math.log(2)) == half_width(time, "log")
    assert difference(interval(0.5, 0.4, 0.6), interval(0.2, 0.1, 0.3), "logit") == pytest.approx(math.log(4))
    assert half_width(interval(0.5, 0.2, 0.8), "logit") == pytest.approx(math.log(4))
    assert math.isnan(difference(interval(0.0, 0.0, 0.1), time, "log"))
    assert math.isnan(half_width(Interval.undefined(3.0), "log"))
    assert expected_events(12, 600, 100) == 2


def test_a_long_rollout_of_a_good_model_passes_as_a_short_one_does():
    """A model that is off by 1.04 throughout fails nothing, however sharp its intervals are."""
    nearly = np.eye(3) + (MATRIX - np.eye(3)) / 1.04
    md = walks(40_000, 8, 4)
    for n_steps, seed in ((5_000, 5), (100_000, 6)):
        result = validate(md, walks(n_steps, 8, seed, nearly), **FAST)
        assert result.verdict == "pass" and result.verdicts["GPT"].n_failed == 0, result.summary()
    assert result.margin == 1.1 and result.verdicts["GPT"].resolves < 1.25


def test_what_is_sharp_in_the_training_data_is_judged_by_them():
    """Eight passages of a barrier in the reference excuse a model that is twice too fast; the training data do not."""
    slow = np.array([[0.999, 0.001, 0.0], [0.02, 0.96, 0.02], [0.0, 0.001, 0.999]])
    held_out = walks(20_000, 1, 6, slow)
    training = walks(40_000, 8, 7, slow)
    fast = np.eye(3) + (slow - np.eye(3)) * 2
    settings = {"lagtimes": [1, 10], "lagtime": 1, "n_bootstrap": 50, "macrostate_of_state": [0, -1, 1]}
    alone = validate(held_out, walks(20_000, 8, 8, fast), **settings)
    assert alone.sources["MD"].mfpt_events.sum() == 11
    assert alone.verdict == "undecided" and "could not tell a model 2 times off" in alone.summary()
    both = validate(held_out, walks(20_000, 8, 8, fast), training=training, **settings)
    assert both.verdict == "fail"
    assert any("of training MD" in reason or "from training MD" in reason for reason in both.verdicts["GPT"].reasons)
    right = validate(held_out, walks(20_000, 8, 9, slow), training=training, **settings)
    assert right.verdict == "pass", right.summary()


def test_few_events_do_not_excuse_a_model_a_hundred_times_too_fast():
    held_out = [np.concatenate([np.repeat([0, 1], [1000, 1000])] * 6)]
    fast = np.array([[0.9, 0.1], [0.1, 0.9]])
    result = validate(held_out, walks(20_000, 4, 10, fast), **(FAST | {"lagtimes": [1, 10]}))
    assert result.sources["MD"].mfpt_events[0, 1] == 5
    assert result.verdict == "fail"
    reasons = result.verdicts["GPT"].reasons
    assert reasons[0].startswith("passage times are off from MD by a factor of") and "too fast" in reasons[0]


# --- How often it is wrong -------------------------------------------------------------------------------------------


def outcomes(n, factor, n_steps=3000, training=False):
    md, made, seen = (walks(n_steps, 2 * n, seed) for seed in (11, 12, 13))
    found = []
    for k in range(n):
        mine = slice(2 * k, 2 * k + 2)
        extra = {"training": seen[mine]} if training else {}
        rollout = slowed(made[mine], factor, k) if factor != 1 else made[mine]
        result = validate(md[mine], rollout, lagtimes=[1], lagtime=1, n_bootstrap=20, seed=k, **extra)
        found.append(result.verdict)
    return found


def test_an_exact_model_rarely_fails_and_a_slow_one_rarely_passes():
    """The MD holds 100 slowest timescales in two pieces; each bound is passed by chance in fewer than 1 of 1000.

    A rate of false failures of 1 % (as observed over 1000 repeats) gives more than 3 of 40 with P = 0.0007, and one of
    10 % would be found out with P = 0.58. Of models that are two times too slow all must be found out.
    """
    exact = outcomes(40, 1)
    assert exact.count("fail") <= 3 and exact.count("pass") >= 30, exact
    assert outcomes(20, 2).count("fail") == 20


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
def test_rates_of_error(training):
    """Over 200 repeats: exact models fail in 3 % at most; models 1.5 times too slow, with 400 timescales, in 90 %."""
    exact = outcomes(200, 1, training=training)
    assert exact.count("fail") <= 6 and exact.count("pass") >= 160, exact
    slow = outcomes(200, 1.5, n_steps=6000, training=training)
    assert slow.count("fail") >= 180, slow


# --- On disk ---------------------------------------------------------------------------------------------------------


def test_verdicts_on_disk(tmp_path):
    md = walks(20_000, 2, 14)
    result = validate(md, [np.zeros(20_000, int)], training=walks(20_000, 2, 15), **FAST)
    result.save(tmp_path / "validation.json")
    read = ValidationResult.load(tmp_path / "validation.json")
    assert read.to_dict() == result.to_dict()
    assert read.verdict == "fail" and read.summary() == result.summary() and str(read) == str(result)
    assert read.mfpt_errors["GPT"].factor == math.inf
    old = dataclasses.replace(result, verdicts={}, judged_by="")
    assert old.verdict == "undecided" and old.summary() == "" and str(old).startswith("quantity")
    wrong = tmp_path / "wrong.json"
    wrong.write_text((tmp_path / "validation.json").read_text().replace('"fail"', '"no"'))
    with pytest.raises(InputError, match="not a validation result"):
        ValidationResult.load(wrong)
