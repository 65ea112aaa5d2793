"""What validate does with awkward data: basins never joined, traps, strides, labels, states in no macrostate."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from markov_walk import MATRIX, STATIONARY, walks

from nanomd.base.errors import InputError
from nanomd.baselines.msm import MSMEstimator
from nanomd.data.counts import transition_counts
from nanomd.kinetics import inputs, macrostates, markov, paths, validate
from nanomd.kinetics.markov import MarkovModel
from nanomd.kinetics.processes import processes_between

FAST = {"lagtimes": [1, 5, 10], "lagtime": 1, "n_bootstrap": 50}


def rows(result):
    return {row.quantity: row.cells for row in result.rows}


# --- Outside the largest connected set -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def basins():
    """Two basins that no trajectory joins, states 0-2 and 3-5: five eighths of the frames in the first."""
    return [*walks(20_000, 1, 1), *(x + 3 for x in walks(12_000, 1, 2))]


def test_a_rollout_in_one_of_two_basins_fails(basins):
    result = validate(basins, walks(16_000, 2, 3), **FAST)
    assert result.verdict == "fail"
    cells = rows(result)
    for name, state in (("A", 1), ("B", 0), ("C", 2)):
        of_all = STATIONARY[state] * 5 / 8
        assert cells[f"population {name}"]["MD"].value == pytest.approx(of_all, abs=0.03)
        assert cells[f"population {name}"]["GPT"].passed is not True
    assert cells["population A"]["GPT"].passed is False
    assert cells["outside the connected set"]["MD"].value == 0.375
    assert cells["outside the connected set"]["GPT"].value == 0
    assert any(note.startswith("37.5 % of MD lie outside the largest connected set") for note in result.warnings)
    assert any(note.endswith("states 3, 4, 5") for note in result.warnings)


def test_a_rollout_in_both_basins_passes(basins):
    both = [*walks(20_000, 1, 4), *(x + 3 for x in walks(12_000, 1, 5))]
    result = validate(basins, both, **FAST)
    assert result.verdicts["GPT"].n_failed == 0
    assert result.verdicts["MSM"].outcome == "fail", "it knows the larger basin only"


def test_steps_where_the_reference_has_never_been_fail(basins):
    """The model learnt both basins, the reference that judges knows one."""
    both = [*walks(10_000, 1, 6), *(x + 3 for x in walks(10_000, 1, 7))]
    for training in (None, basins):
        result = validate(walks(20_000, 1, 8), both, training=training, **FAST)
        cell = rows(result)["never visited by MD"]["GPT"]
        assert cell.value == 0.5 and cell.passed is False and result.verdict == "fail"
        assert any("lies in states that MD never visits" in reason for reason in result.verdicts["GPT"].reasons)
        assert any("50 % of GPT" in note and "in states that MD never visits" in note for note in result.warnings)


def test_a_rare_state_that_a_short_reference_could_have_missed_is_not_blamed():
    rollout = walks(20_000, 4, 9)
    rollout[0] = np.concatenate([rollout[0][:9_000], np.full(60, 3), rollout[0][9_000:]])
    result = validate(walks(20_000, 2, 10), rollout, **FAST)
    cell = rows(result)["never visited by MD"]["GPT"]
    assert cell.value > 0 and cell.passed is None and cell.undecided, "once in 80,000 steps, and the MD has 40,000"
    assert result.verdict == "pass"


def test_many_states_that_are_seen_once_or_not_at_all_are_no_fault():
    """Half of the frames are in one of 30,000 states at random: an independent sample visits thousands of new."""

    def rarely(seed: int) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        return [np.where(rng.random(5_000) < 0.5, rng.integers(3, 30_000, 5_000), x) for x in walks(5_000, 2, seed)]

    result = validate(rarely(1), rarely(2), **FAST)
    cell = rows(result)["never visited by MD"]["GPT"]
    assert cell.value > 0.3 and cell.passed is None and result.verdicts["GPT"].n_failed == 0
    # A tenth of the frames more is a fault.
    missed = np.setdiff1d(np.arange(3, 30_000), np.concatenate(rarely(1)))
    worse = [np.where(np.arange(5_000) % 5 == 0, missed[:5_000], x) for x in rarely(2)]
    cell = rows(validate(rarely(1), worse, **FAST))["never visited by MD"]["GPT"]
    assert cell.passed is False


def test_states_that_no_model_can_know_are_named():
    md = [np.where(np.arange(20_000) % 1000 < 5, 3, x) for x in walks(20_000, 2, 11)]
    result = validate(md, walks(20_000, 2, 12), training=walks(20_000, 2, 13), **FAST)
    assert any(
        note.startswith("0.5 % of MD lie in states that the training data never visit") and note.endswith("states 3")
        for note in result.warnings
    )


def test_a_trap_longer_than_the_rest_is_no_model():
    """50,000 frames that mix, then 50,001 in a trap: a Markov model of the first, as deeptime's."""
    from deeptime.markov import TransitionCountEstimator
    from deeptime.markov.msm import MaximumLikelihoodMSM

    md = [np.concatenate([walks(50_000, 1, 14)[0], np.full(50_001, 3)])]
    model = MSMEstimator(1).fit(md).fetch_model()
    theirs = MaximumLikelihoodMSM().fit_fetch(TransitionCountEstimator(1, "sliding").fit_fetch(md).submodel_largest())
    np.testing.assert_allclose(model.timescales(2), theirs.timescales(2), rtol=1e-5)
    np.testing.assert_allclose(model.stationary_distribution[:3], theirs.stationary_distribution, rtol=1e-5)
    result = validate(md, walks(50_000, 2, 15), lagtime=1, n_bootstrap=50)
    assert rows(result)["timescale 1"]["MD"].value == pytest.approx(theirs.timescales(1)[0], rel=1e-5)
    assert result.verdict == "fail", "it spends no time in the trap"
    assert any("50 % of MD lie outside the largest connected set" in note for note in result.warnings)


# --- States in no macrostate -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lagtime", [1, 3])
def test_an_exact_markov_chain_with_a_state_in_no_macrostate_is_its_own_model(lagtime):
    result = validate(
        walks(40_000, 4, 16), walks(40_000, 4, 17), lagtimes=[1, 3], lagtime=lagtime, macrostate_of_state=[0, -1, 1],
        n_bootstrap=50,
    )  # fmt: skip
    md, model = result.sources["MD"], result.sources["MSM"]
    np.testing.assert_allclose(md.macro_populations.value, STATIONARY[[0, 2]], atol=0.02)
    np.testing.assert_allclose(model.macro_populations.value, md.macro_populations.value, rtol=0.02)
    np.testing.assert_allclose(model.residence.value, md.residence.value, rtol=0.02)
    np.testing.assert_allclose(model.ck_estimated.value, md.ck_estimated.value, atol=0.02)
    np.testing.assert_allclose(model.mfpt.value[[0, 1], [1, 0]], md.mfpt.value[[0, 1], [1, 0]], rtol=0.06)
    for name in ("GPT", "MSM"):
        assert result.verdicts[name].outcome == "pass" and result.verdicts[name].n_failed == 0, result.summary()


def test_gaps_are_no_state():
    """Frames whose state is unknown count for no population; a tenth of them changes nothing."""
    rng = np.random.default_rng(0)
    md = walks(40_000, 3, 18)
    with_gaps = [np.where(rng.random(len(x)) < 0.1, -1, x) for x in md]
    whole, gaps = validate(md, walks(40_000, 3, 19), **FAST), validate(with_gaps, walks(40_000, 3, 19), **FAST)
    np.testing.assert_allclose(
        gaps.sources["MD"].macro_populations.value, whole.sources["MD"].macro_populations.value, atol=0.005
    )
    assert gaps.sources["MD"].macro_populations.value.sum() == pytest.approx(1)
    assert gaps.verdict == "pass" and gaps.verdicts["GPT"].n_failed == 0


def test_cores_lie_where_the_user_s_macrostates_commit():
    """A rare trap is the slowest process, and PCCA+ would split it off; the user's wells have cores all the same."""
    chain = np.zeros((7, 7))
    for i in range(5):  # a row of six states with a barrier in the middle; state 6 is a trap off state 0
        chain[i, i + 1] = chain[i + 1, i] = 0.2 if i != 2 else 0.01
    chain[0, 6], chain[6, 0] = 1e-5, 1e-4
    chain[np.diag_indices(7)] = 1 - chain.sum(axis=1)
    pi = np.array([1, 1, 1, 1, 1, 1, 0.1]) / 6.1
    model = MarkovModel(chain, pi, np.arange(7), 1)
    given = np.array([0, 0, 0, 1, 1, 1, 0])
    _, right, _ = model.eigen(6)
    core = macrostates.given_cores(right[:, processes_between(right, pi, given, 2)], pi, given, 2)
    assert core[[2, 3]].tolist() == [0, 1], "both sides of the barrier are wells to the rim"
    assert (core[core >= 0] == given[core >= 0]).all()
    three = np.array([0, 1, 1, 2, 2, 2, -1])  # a boundary that is no barrier, between 0 and 1
    core = macrostates.given_cores(right[:, processes_between(right, pi, three, 3)], pi, three, 3)
    assert (core[core >= 0] == three[core >= 0]).all()
    assert all((core == a).any() for a in range(3)), "every macrostate has a core"


def test_number_of_macrostates():
    assert macrostates.choose_n_macrostates(np.array([100.0, 90.0, 10.0, 9.0]), 50) == 3
    assert macrostates.choose_n_macrostates(np.array([100.0, 9.0, 8.0, np.nan]), 50) == 2
    assert macrostates.choose_n_macrostates(np.array([100.0, 9.0]), 4) == 4


def test_macrostates_drawn_as_cores_are_cores():
    md = walks(30_000, 3, 20)
    result = validate(md, macrostate_of_state={0: "left", 2: "right", 1: "between"}, **FAST)
    assert [name.split(" (")[0] for name in result.macrostate_names] == ["left", "right", "between"]
    result = validate(md, macrostate_of_state={0: "left", 2: "right"}, **FAST)
    assert result.core_of_state.tolist() == [0, -1, 1]
    found = paths.transition_times(md, [0, -1, 1], n_bootstrap=20)
    np.testing.assert_array_equal(result.sources["MD"].path_mean.value[0, 1], found.mean.value[0, 1])
    assert "MFPT left to right" in rows(result)


# --- Labels ----------------------------------------------------------------------------------------------------------


def test_labels_far_apart_are_as_many_states():
    labels = np.array([0, 7, 90_000])
    md, rollout = walks(20_000, 3, 21), walks(20_000, 3, 22)
    plain = validate(md, rollout, **FAST)
    sparse = validate([labels[x] for x in md], [labels[x] for x in rollout], **FAST)
    assert sparse.state_symbols.tolist() == labels.tolist() and plain.state_symbols.tolist() == [0, 1, 2]
    assert sparse.macrostate_of_state.tolist() == plain.macrostate_of_state.tolist()
    np.testing.assert_array_equal(sparse.sources["GPT"].mfpt.value, plain.sources["GPT"].mfpt.value)
    assert "state 90000" in " ".join(sparse.processes)
    named = validate([labels[x] for x in md], macrostate_of_state={0: 0, 7: 0, 90_000: 1}, **FAST)
    assert named.macrostate_of_state.tolist() == [0, 0, 1]


def states_of(dtrajs, named=()):
    return inputs.number_states([inputs.Handed([x]) for x in dtrajs], named)


def test_labels_are_states_as_long_as_they_are_dense():
    assert states_of([np.array([0, 2, 3, -1])]).tolist() == [0, 1, 2, 3], "one of four does not occur"
    assert states_of([np.array([0, 9])]).tolist() == [0, 9]
    assert states_of([np.array([0, 9])], [4]).tolist() == [0, 4, 9]
    assert states_of([np.array([5, -2], np.int8), np.array([10**6])]).tolist() == [5, 10**6]
    assert [x.tolist() for x in inputs.encode(inputs.Handed([np.array([9, -3, 0])]), np.array([0, 9]))] == [[1, -1, 0]]


def test_states_without_a_macrostate_are_named_and_in_none():
    md = [np.where(np.arange(20_000) % 500 < 10, 3, x) for x in walks(20_000, 2, 23)]
    result = validate(md, walks(20_000, 2, 24), macrostate_of_state=[0, 0, 1], **FAST)
    assert result.macrostate_of_state.tolist() == [0, 0, 1, -1]
    assert any(
        note.startswith("800 frames (2 %) of MD are in states that macrostate_of_state does not name")
        and note.endswith("3")
        for note in result.warnings
    )
    np.testing.assert_allclose(result.sources["MD"].macro_populations.value.sum(), 0.98)
    silent = validate(md, walks(20_000, 2, 24), macrostate_of_state=[0, 0, 1, -1], **FAST)
    assert not any("does not name" in note for note in silent.warnings), "a state in none on purpose"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({0: "a", 1: 1}, "all to names"),
        ({"0": "a"}, "map states, whole numbers"),
        ({-1: 0, 1: 1}, "whole numbers from 0"),
        ({0: 0, 1: 2}, "every number from 0"),
        ([0.0, 1.0, 1.0], "whole number for each state"),
        ([[0], [1]], r"shape \(2, 1\)"),
    ],
)
def test_macrostates_that_are_none(given, words):
    with pytest.raises(InputError, match=words):
        validate(walks(2000, 1, 25), macrostate_of_state=given, **FAST)


# --- Strides ---------------------------------------------------------------------------------------------------------


def test_the_md_is_counted_at_every_offset_of_a_strided_rollout():
    md, made = walks(3_000, 2, 26), walks(30_000, 2, 27)
    rollout = SimpleNamespace(dtrajs=[x[::5] for x in made], stride=5)
    result = validate(md, rollout, lagtimes=[1, 2], lagtime=1, n_bootstrap=50, training=walks(3_000, 2, 28))
    source = result.sources["MD"]
    assert (source.n_trajs, source.n_frames) == (2, 1200)
    model = markov.estimate_markov_model(transition_counts(md, 3, 5), 1)
    assert source.timescales.value[0, 0] == pytest.approx(model.timescales(1)[0]), "sliding, at a lag of five frames"
    known = transition_counts(walks(3_000, 2, 28), 3, 5) > 0
    unseen = transition_counts(rollout.dtrajs, 3, 1)[~known].sum()
    assert result.sources["GPT"].unseen_events == unseen
    thinned = transition_counts([x[::5] for x in walks(3_000, 2, 28)], 3, 1) > 0
    assert known.sum() >= thinned.sum()
    assert source.mfpt_events.max() < 1200 / 5, "the views of one trajectory see the same passages"


def test_a_stride_loses_no_transition_of_the_training_data():
    """A transition that the training data make once, between two kept frames, is not new to the rollout."""
    training = np.zeros(4000, np.int64)
    training[1001::10] = 1  # 0 -> 1 -> 0 only at an offset that a stride of 5 from the first frame never meets
    training[2000:2100] = 2
    rollout = SimpleNamespace(dtrajs=[np.tile([0, 1, 0, 0], 500)], stride=5)
    md = walks(20_000, 1, 29)
    result = validate(md, rollout, training=[training], lagtimes=[1], lagtime=1, n_bootstrap=20)
    assert result.sources["GPT"].unseen_events == 0
    with pytest.raises(InputError, match="longer than the rollout's stride, 5 frames"):
        validate([np.array([0, 1, 0, 1])], rollout, lagtimes=[1], lagtime=1)


def test_matrix_of_the_tests():
    np.testing.assert_allclose(STATIONARY @ MATRIX, STATIONARY)
