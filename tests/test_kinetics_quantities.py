"""Each quantity by itself, on the chain with exact kinetics."""

from __future__ import annotations

import numpy as np
import pytest
from known_chain import default_chain

from nanomd import kinetics
from nanomd.base.errors import InputError

CHAIN = default_chain()
DTRAJS = CHAIN.sample(20_000, 10, seed=21)


def test_values():
    p = kinetics.populations(DTRAJS)
    np.testing.assert_allclose(p.value, CHAIN.stationary, rtol=0.15)
    assert ((p.low < p.value) & (p.value < p.high)).all()
    times = kinetics.implied_timescales(DTRAJS, [5, 20])
    np.testing.assert_allclose(times.value, [CHAIN.implied_timescales(5), CHAIN.implied_timescales(20)], rtol=0.15)
    passage, events = kinetics.mfpt(DTRAJS, [0], [2, 3], stride=10, seed=1)
    assert float(passage.value) == pytest.approx(CHAIN.mfpt([0], [2, 3], 10), rel=0.15)
    assert float(passage.low) < float(passage.value) < float(passage.high)
    assert 200 < events < 2000
    macro = kinetics.pcca(DTRAJS, 20, 2)
    assert macro.tolist() == [1, 1, 0, 0] or macro.tolist() == [0, 0, 1, 1]
    stay, exits, survival = kinetics.residence(DTRAJS, macro, stride=20, times=[0, 20, 40])
    assert float(stay.value[macro[0]]) == pytest.approx(CHAIN.residence([0, 1], 20), rel=0.15)
    assert survival.shape == (2, 3)
    assert exits[0] == pytest.approx(exits[1], abs=10)
    lags, estimated, predicted = kinetics.ck_test(DTRAJS, 20, macro, steps=(1, 2, 4))
    assert lags.tolist() == [20, 40, 80]
    np.testing.assert_allclose(estimated.value[0], predicted[0], atol=1e-3)
    np.testing.assert_allclose(estimated.value, predicted, atol=0.03)
    assert kinetics.ck_test(DTRAJS, 20)[2].shape == (6, 4)


def test_free_energies():
    np.testing.assert_allclose(kinetics.free_energies([1.0, np.exp(-2), 0.0], kT=2.5), [0, 5, np.inf])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kinetics.mfpt(DTRAJS, [0, 1], [1]), "must not share states"),
        (lambda: kinetics.mfpt(DTRAJS, [0], [9]), r"target must name states in \[0, 3\]"),
        (lambda: kinetics.mfpt(DTRAJS, [0], [1], stride=0), "stride must be at least 1, got 0"),
        (lambda: kinetics.mfpt(DTRAJS, [0], [1], stride=20_000), r"lagtime must be in \[1, 19999\]"),
        (lambda: kinetics.populations(DTRAJS, n_states=3), "n_states must be at least 4"),
        (lambda: kinetics.free_energies([-1.0]), "must not be negative"),
        (lambda: kinetics.free_energies([1.0], kT=0), "kT must be positive"),
        (lambda: kinetics.residence(DTRAJS, [0, 1]), "macrostate must give a label for each of 4 states"),
        (
            lambda: kinetics.implied_timescales(DTRAJS, []),
            r"lagtimes must be a list of whole numbers of frames or of times, got \[\]",
        ),
        (lambda: kinetics.implied_timescales(DTRAJS, [20_000]), "got 20000"),
        (lambda: kinetics.pcca(DTRAJS, 1, 9), r"n_macrostates must be in \[2, 4\]"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
