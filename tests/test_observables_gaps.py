"""Observables of stored trajectories with unassigned frames: the kinetics of the same frames."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanomd import _native, kinetics
from nanomd.data.states import StateMap
from nanomd.rollout.observables import Observables

V = 4
STATES = StateMap(np.arange(V))
frames = st.lists(st.integers(-1, V - 1), min_size=1, max_size=30).filter(lambda x: x[0] >= 0)


@settings(max_examples=100, deadline=None)
@given(st.lists(frames, min_size=1, max_size=4))
def test_unassigned_frames_are_no_visits_and_end_nothing(dtrajs):
    """Every frame that is assigned counts, alone between gaps or not."""
    sets = {"A": [0], "B": [1, 2]}
    labels = np.array([0, 1, 1, -1])
    found = Observables([1, 3], sets).count(dtrajs, STATES)
    rows = [np.array(x) for x in dtrajs]
    assert np.array_equal(found.visits, _native.count_visits(rows, V)[0])
    for lag in (1, 3):
        assert np.array_equal(found.transition_counts(lag), _native.count_transitions(rows, V, lag)[0])
    table = np.append(labels, -1)
    exposure, passages = _native.count_passages([table[row] for row in rows], 2)
    assert np.array_equal(found.first_passage.exposure, exposure[0])
    assert np.array_equal(found.first_passage.events, passages[0])
    table = np.append(np.where(labels < 0, 2, labels), -1)
    exposure, exits, _, _ = _native.count_stays([table[row] for row in rows], 3)
    assert np.array_equal(found.residence.exposure, exposure[0, :2])
    assert np.array_equal(found.residence.events, exits[0, :2])


def test_counted_by_hand():
    found = Observables([1, 2], {"A": [0]}).count([[0, -1, 0, 0, 1], [-1, -1, 2], [-1], [3]], STATES)
    assert found.visits.tolist() == [3, 1, 1, 1] and found.n_frames == 6
    assert found.transition_counts(1)[0].tolist() == [1, 1, 0, 0]
    assert found.transition_counts(2)[0].tolist() == [1, 1, 0, 0]  # across the gap, too
    assert found.residence.events.tolist() == [1] and found.residence.mean[0] == 4
    stay, _, _ = kinetics.residence([[0, -1, 0, 0, 1]], [0, -1], n_bootstrap=20)
    assert stay.value[0] == pytest.approx(4)
