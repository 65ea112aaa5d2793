from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nanomd.base.errors import InputError
from nanomd.data.smoothing import halve_short_visits, smooth

LABELS = hnp.arrays(np.int64, st.integers(1, 40), elements=st.integers(-1, 3))


def by_hand(dtraj: np.ndarray, window: int, rule: str) -> list[int]:
    out = []
    for t, own in enumerate(dtraj.tolist()):
        if own < 0:
            out.append(own)
            continue
        first, last = t - window // 2, t - window // 2 + window - 1
        left = right = t
        while left > max(first, 0) and dtraj[left - 1] >= 0:
            left -= 1
        while right < min(last, len(dtraj) - 1) and dtraj[right + 1] >= 0:
            right += 1
        seen = dtraj[left : right + 1].tolist()
        if rule == "median":
            out.append(sorted(seen)[(len(seen) - 1) // 2])
        else:
            counts = Counter(seen)
            most = max(counts.values())
            out.append(own if counts[own] == most else min(k for k, n in counts.items() if n == most))
    return out


@settings(max_examples=200, deadline=None)
@given(LABELS, st.integers(1, 9), st.sampled_from(["majority", "median"]))
def test_every_frame_has_the_state_of_its_window(dtraj, window, rule):
    assert smooth(dtraj, window, rule)[0].tolist() == by_hand(dtraj, window, rule)


def test_flicker_is_one_stay_and_the_crossing_stays_where_it_was():
    dtraj = np.repeat([0, 1], 200)
    noisy = dtraj.copy()
    noisy[20:180:10] = 1
    noisy[220:380:10] = 0
    for rule in ("majority", "median"):
        assert np.array_equal(smooth(noisy, 21, rule)[0], dtraj)


def test_a_majority_knows_no_order_and_a_median_does():
    assert smooth([0, 0, 0, 9, 9, 9, 5], 7)[0].tolist() != smooth([0, 0, 0, 9, 9, 9, 5], 7, "median")[0].tolist()
    assert smooth([9, 9, 0, 0, 5], 5, "median")[0][2] == 5 and smooth([9, 9, 0, 0, 5], 5)[0][2] == 0


def test_a_window_longer_than_the_trajectory():
    assert smooth([1, 2, 2], 99)[0].tolist() == [2, 2, 2]
    assert smooth([1, 2, 3], 99, "median")[0].tolist() == [2, 2, 2]


@pytest.mark.parametrize(("window", "rule"), [(0, "majority"), (3, "mean")])
def test_what_cannot_be_is_refused(window, rule):
    with pytest.raises(InputError):
        smooth([0, 1], window, rule)


def test_peaks_vanish_steps_are_halved_and_ends_stay():
    assert halve_short_visits([0] * 5 + [1] * 3 + [0] * 5, 3)[0].tolist() == [0] * 13
    assert halve_short_visits([0] * 5 + [1] * 4 + [2] * 5, 4)[0].tolist() == [0] * 7 + [2] * 7
    assert halve_short_visits([0] * 5 + [1] * 5 + [2] * 5, 4)[0].tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert halve_short_visits([1, 0, 0, 0, 0, 2], 3)[0].tolist() == [1, 0, 0, 0, 0, 2]


def test_a_chain_of_short_visits_moves_by_half_a_visit():
    """As in the published preparation: the second of two short visits begins in the middle of the first."""
    before = [0] * 9 + [1] * 4 + [2] * 4 + [3] * 9
    assert halve_short_visits(before, 4)[0].tolist() == [0] * 11 + [2] * 4 + [3] * 11


def test_short_visits_do_not_reach_over_unassigned_frames():
    gap = [0] * 5 + [-1] * 2 + [1] * 2 + [0] * 5
    assert halve_short_visits(gap, 3)[0].tolist() == gap  # the gap stays, and the visit behind it is a first one
