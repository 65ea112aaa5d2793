"""Intervals and results: what a person sees of them, and the file they are kept in."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t as student
from synthetic_result import make_result

from nanomd.kinetics.bootstrap import Bootstrap
from nanomd.kinetics.interval import Interval


def test_an_interval_is_read_at_a_glance():
    times = Interval(np.array([31.2, 12.7]), np.array([25.4, 12.0]), np.array([38.3, 13.4]))
    assert repr(times) == "Interval(31.2 [25.4, 38.3], 12.7 [12.0, 13.4])"
    assert f"{times[0]:.1f}" == "31.2 [25.4, 38.3]"
    assert f"{times[1]}" == "12.7 [12.0, 13.4]"
    assert f"{Interval.undefined(2.5):.2f}" == "2.50" and repr(Interval.undefined(np.nan)) == "Interval(n/a)"
    assert repr(Interval.undefined(np.zeros((3, 4)))) == "Interval of shape (3, 4)(0, 0, 0, 0, 0, 0, ...)"
    pair = Interval.stack([times, times.scaled(2.0)])
    np.testing.assert_array_equal(pair[1].high, [76.6, 26.8])
    assert np.isnan(pair.error).all() and pair.error.shape == (2, 2)


@pytest.mark.parametrize(("scale", "transform"), [("log", np.log), ("logit", lambda p: np.log(p / (1 - p)))])
def test_an_interval_carries_the_error_it_was_made_of(scale, transform):
    boot = Bootstrap.draw(12, 100, 0.9, 0)
    replicates = boot.sums(np.random.default_rng(1).random((12, 3))) / 20
    found = boot.interval(replicates.mean(axis=0), replicates, scale)
    half = student.ppf(0.95, 11) * found.error
    np.testing.assert_allclose(transform(found.high) - transform(found.value), half)
    np.testing.assert_allclose(transform(found.value) - transform(found.low), half)
    np.testing.assert_allclose(found.error, transform(replicates).std(axis=0, ddof=1) * np.sqrt(12 / 11))
    alone = Bootstrap.draw(1, 20, 0.9, 0).interval(np.array([1.0]), np.ones((20, 1)), "log")
    assert np.isnan(alone.error).all()


def test_a_result_prints_its_verdict():
    result = make_result(names=("folded", "<i>unfolded</i>"))
    assert str(result).splitlines()[0].split()[:2] == ["quantity", "MD"]
    assert repr(result).startswith("ValidationResult(") and "GPT: 3,200,000 frames" in repr(result)
    html = result._repr_html_()
    assert html.count("<tr>") == 1 + len(result.rows)
    assert "&lt;i&gt;unfolded&lt;/i&gt;" in html and "<i>" not in html and "FAIL" in html


def test_an_error_without_a_passage_stays_infinite_on_disk():
    from nanomd.base.plain import from_plain, to_plain
    from nanomd.kinetics import mfpt_error
    from nanomd.kinetics.results import MfptError

    for error in (
        mfpt_error([[0, 5.0], [7.0, 0]], [[0, 5.5], [np.nan, 0]]),
        mfpt_error([[0, 5.0], [7, 0]], [[0, 5], [9, 0]]),
    ):
        back = from_plain(to_plain(error), MfptError)
        assert repr(back) == repr(error)
    assert np.isfinite(error.factor)


@pytest.mark.parametrize("lagtimes", [10, ["1 ns"], [1.5], [[1, 2]], "10"])
def test_lags_that_are_no_list_of_frames(lagtimes):
    from nanomd import InputError, validate

    with pytest.raises(InputError, match=r"^lagtimes (must be a (list|whole number)|is a time)"):
        validate([np.arange(300) % 3], lagtimes=lagtimes)
