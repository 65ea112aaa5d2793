"""validate: right about a chain whose kinetics are known, and clear about what it cannot judge."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from known_chain import default_chain
from markov_walk import walks

import nanomd
from nanomd.base.errors import InputError
from nanomd.base.units import FrameInterval
from nanomd.baselines.msm import MSMEstimator
from nanomd.data.counts import largest_connected_set, transition_counts
from nanomd.kinetics import macrostates, markov, paths, processes
from nanomd.kinetics.compare import validate
from nanomd.kinetics.inputs import usable_length
from nanomd.kinetics.lags import choose_lags, default_lagtimes
from nanomd.kinetics.results import ValidationResult

CHAIN = default_chain()
FEW = CHAIN.sample(99, 1, seed=0)


@pytest.fixture(scope="module")
def result():
    md, rollout = CHAIN.sample(20_000, 10, seed=1), CHAIN.sample(40_000, 8, seed=2)
    return validate(
        md, rollout, lagtimes=[1, 5, 20, 50], lagtime=20, frame_interval="2 ns", others={"MD held out": md[:5]}
    )


def test_sources_and_shapes(result):
    assert list(result.sources) == ["MD", "GPT", "MD held out", "MSM", "MSM (lag 1)"]
    assert result.reference == "MD"
    assert result.frame_interval == FrameInterval(2.0, "ns")
    assert result.macrostate_of_state.tolist() == [1, 2, 3, 0]  # by falling population
    assert [name[0] for name in result.macrostate_names] == ["A", "B", "C", "D"]
    for source in result.sources.values():
        assert source.populations.value.shape == (4,)
        assert source.timescales.low.shape == (4, 3)
        assert source.mfpt.value.shape == source.mfpt_events.shape == (4, 4)
        assert np.isnan(np.diag(source.mfpt.value)).all()
        assert source.residence_survival.shape == (4, len(source.residence_times))
        assert source.ck_estimated.value.shape == source.ck_predicted.shape == (len(source.ck_lagtimes), 4)
        for interval in (source.populations, source.timescales, source.mfpt, source.residence, source.ck_estimated):
            known = np.isfinite(interval.low) & np.isfinite(interval.high)
            assert (interval.low[known] <= interval.value[known]).all()
            assert (interval.value[known] <= interval.high[known]).all()
    assert result.chain_length_over_slowest["GPT"] == pytest.approx(
        2 * result.chain_length_over_slowest["MD"], rel=1e-9
    )


def test_values_are_the_chain_s(result):
    order = np.argsort(result.macrostate_of_state)
    for name, tolerance in (("MD", 0.12), ("GPT", 0.1), ("MSM", 0.15)):
        source = result.sources[name]
        np.testing.assert_allclose(source.macro_populations.value, CHAIN.stationary[order], rtol=tolerance)
        np.testing.assert_allclose(source.timescales.value[2], CHAIN.implied_timescales(20), rtol=tolerance)
        for a in range(4):
            assert source.residence.value[a] == pytest.approx(CHAIN.residence([order[a]], 20), rel=tolerance)
            stay = CHAIN.lagged_matrix(40)[order[a], order[a]]
            assert source.ck_estimated.value[1, a] == pytest.approx(stay, rel=tolerance)
            for b in range(4):
                if a != b:
                    exact = (CHAIN.markov_mfpt if name == "MSM" else CHAIN.mfpt)([order[a]], [order[b]], 20)
                    assert source.mfpt.value[a, b] == pytest.approx(exact, rel=tolerance + 0.05)


def test_verdict_passes_the_truth_and_fails_the_lag_1_model(result):
    rows = {row.quantity: row for row in result.rows}
    verdicts = {name: [row.cells[name].passed for row in result.rows] for name in result.sources}
    assert all(v is None for v in verdicts["MD"])
    for name in ("GPT", "MD held out"):  # same process: one in twenty may fail by chance
        judged = [v for v in verdicts[name] if v is not None]
        assert len(judged) >= 25 and np.mean(judged) >= 0.85
    assert rows["timescale 1"].cells["MSM (lag 1)"].passed is False
    assert rows["MFPT A to B"].cells["MSM (lag 1)"].passed is False
    # What lies at stake: 35 of 131 steps.
    assert rows["timescale 1"].cells["MSM (lag 1)"].value == pytest.approx(2 * CHAIN.implied_timescales(1)[0], rel=0.1)
    assert rows["timescale 1"].unit == "ns"
    assert rows["timescale 1"].cells["MD"].value == pytest.approx(2 * CHAIN.implied_timescales(20)[0], rel=0.15)
    assert rows["MFPT A to B"].cells["GPT"].n_events > 100
    assert rows["MFPT A to B"].cells["MSM"].n_events is None


def test_survival_curves_agree(result):
    md, gpt, model = (result.sources[name] for name in ("MD", "GPT", "MSM"))
    assert (md.residence_survival[:, 0] == 1).all()
    assert (np.diff(md.residence_survival, axis=1) <= 0).all()
    np.testing.assert_allclose(gpt.residence_survival, md.residence_survival, atol=0.04)
    np.testing.assert_allclose(model.residence_survival, md.residence_survival, atol=0.04)
    np.testing.assert_allclose(model.ck_estimated.value, model.ck_predicted)


def test_json(result, tmp_path):
    path = tmp_path / "validation.json"
    result.save(path)
    read = json.loads(path.read_text())
    assert read["sources"]["MD"]["mfpt"]["value"][0][0] is None
    assert read["lagtime"] == 20
    again = ValidationResult.load(path)
    assert again.to_dict() == result.to_dict()
    assert again.mfpt_errors["GPT"] == result.mfpt_errors["GPT"]
    assert again.sources["GPT"].path_longer.shape == result.sources["GPT"].path_longer.shape
    path.write_text(json.dumps(read | {"format_version": 4}))
    with pytest.raises(InputError, match="format version is 4, this nanomd reads 1 to 3"):
        ValidationResult.load(path)


def test_json_of_older_formats(result, tmp_path):
    path = tmp_path / "validation.json"
    old = result.to_dict()
    for name in ("verdicts", "margin", "judged_by", "state_symbols"):
        del old[name]
    for source in old["sources"].values():
        del source["outside"], source["outside_entries"]
    for row in old["rows"]:
        for cell in row["cells"].values():
            del cell["undecided"], cell["resolves"]
    path.write_text(json.dumps(old | {"format_version": 2}))
    second = ValidationResult.load(path)
    assert second.verdict == "undecided" and second.verdicts == {} and len(second.sources["GPT"].outside.value) == 0
    assert second.rows[3].cells["GPT"].passed == result.rows[3].cells["GPT"].passed
    for name in ("format_version", "core_of_state", "processes", "mfpt_errors", "noise_floor"):
        del old[name]
    for source in old["sources"].values():
        for name in [x for x in source if x.startswith(("path_", "timescale_")) or x in ("unseen", "unseen_events")]:
            del source[name]
    path.write_text(json.dumps(old))
    read = ValidationResult.load(path)
    assert read.noise_floor is None and read.mfpt_errors == {}
    assert read.sources["GPT"].path_mean.value.shape == (0, 0)
    assert np.isnan(read.sources["GPT"].unseen.value)
    np.testing.assert_array_equal(read.sources["GPT"].mfpt.value, result.sources["GPT"].mfpt.value)


def test_transition_paths_are_those_of_the_chain(result):
    order = np.argsort(result.macrostate_of_state)
    core = np.empty(4, np.int64)
    core[order] = np.arange(4)
    assert result.core_of_state.tolist() == core.tolist()
    pairs = np.tile(core, 4)
    args = (pairs, 4, np.array([1, 10]))
    exact, longer = paths.markov_path_times(CHAIN.pair_matrix, CHAIN.pair_stationary.ravel(), *args)
    gpt, lag1 = result.sources["GPT"], result.sources["MSM (lag 1)"]
    for a, b in ((0, 1), (1, 0), (0, 2)):
        assert gpt.path_mean.value[a, b] == pytest.approx(exact[a, b], rel=0.12)
        assert lag1.path_mean.value[a, b] < 0.8 * exact[a, b]
        at = int(np.searchsorted(gpt.path_times, 10))
        assert gpt.path_times[at] >= 10 and gpt.path_longer[a, b, at] <= longer[a, b, 1] + 0.05
    rows = {row.quantity: row for row in result.rows}
    assert rows["transition path A to B"].cells["GPT"].passed is True
    assert rows["transition path A to B"].cells["MSM (lag 1)"].passed is False
    assert rows["transition path A to B"].cells["MSM"].passed is None, "it sees every 20th frame only"
    assert "transition path A to D" not in rows, "neighbours"
    assert result.sources["MSM"].path_resolution == 20


def test_all_passage_times_in_one_number(result):
    errors = result.mfpt_errors
    assert list(errors) == ["GPT", "MD held out", "MSM", "MSM (lag 1)"]
    assert errors["GPT"].factor < 1.2 and errors["GPT"].low < 1.1
    assert errors["MSM (lag 1)"].low > 1.5 and errors["MSM (lag 1)"].shift < 0.7
    cells = {row.quantity: row for row in result.rows}["MFPT off by (mean factor)"].cells
    assert result.noise_floor is None and cells["GPT"].passed is True and result.margin == 1.1
    assert cells["GPT"].value == errors["GPT"].factor and cells["MD"].value == 1
    md, other = CHAIN.sample(10_000, 6, seed=1), CHAIN.sample(10_000, 6, seed=3)
    judged = validate(md, other, lagtimes=[20], lagtime=20, training=CHAIN.sample(10_000, 6, seed=4), n_bootstrap=50)
    assert 1 < judged.noise_floor.factor < 1.3
    cells = {row.quantity: row for row in judged.rows}["MFPT off by (mean factor)"].cells
    assert (cells["GPT"].passed, cells["MSM (lag 1)"].passed) == (True, False)


def test_a_process_of_one_visit_is_set_apart():
    md = [x.astype(np.int64) for x in CHAIN.sample(20_000, 4, seed=1)]
    md[0] = np.concatenate([md[0][:8000], np.full(3000, 4), md[0][8000:]])
    result = validate(md, CHAIN.sample(20_000, 8, seed=2), lagtimes=[20], lagtime=20, n_macrostates=3, n_bootstrap=50)
    notes = [note for note in result.warnings if "set apart" in note]
    assert len(notes) == 1 and notes[0].startswith("process 1 of MD, state 4 (") and "rests on 2 passages" in notes[0]
    rows = {row.quantity: row for row in result.rows}
    assert rows["timescale 1"].cells["GPT"].passed is None
    assert rows["timescale 2"].cells["GPT"].passed is True, "the barrier, though slowest of what was generated"
    assert rows["timescale 2"].cells["GPT"].value == pytest.approx(CHAIN.implied_timescales(20)[0], rel=0.2)
    assert result.sources["GPT"].timescale_overlap[1] > 0.95
    assert not any("no process like" in note for note in result.warnings), "nobody is blamed for lacking the trap"
    lump = [np.where(x < 2, 0, 3) for x in CHAIN.sample(20_000, 8, seed=2)]
    coarse = validate(CHAIN.sample(20_000, 4, seed=1), lump, lagtimes=[20], lagtime=20, n_bootstrap=20)
    assert any("GPT has no process like process 3 of MD (overlap 0.00)" in note for note in coarse.warnings)


def test_unseen_transitions_are_counted():
    training = [np.tile([0, 0, 0, 1], 300)]  # 1 -> 1 is never seen
    md = [np.tile([0, 0, 0, 0, 1, 1], 200)]
    rollout = [np.tile([0, 0, 1, 1, 1], 200)]
    result = validate(md, rollout, lagtimes=[1], lagtime=1, training=training)
    assert result.sources["GPT"].unseen_fraction == pytest.approx(400 / 999)
    assert result.sources["MD"].unseen_fraction == pytest.approx(200 / 1199)
    assert result.sources["GPT"].unseen_events == 400
    assert result.sources["GPT"].unseen.low < 400 / 999 < result.sources["GPT"].unseen.high
    row = next(row for row in result.rows if row.quantity == "unseen transitions per step")
    assert (row.cells["GPT"].n_events, row.cells["GPT"].passed) == (400, False)
    less = validate(md, [np.tile([0, 0, 0, 0, 1, 0, 1, 1], 300)], lagtimes=[1], lagtime=1, training=training)
    row = next(row for row in less.rows if row.quantity == "unseen transitions per step")
    assert row.cells["GPT"].value < row.cells["MD"].value and row.cells["GPT"].passed is True


def test_repeatable_and_seeded():
    md = CHAIN.sample(3000, 3, seed=3)
    first, again, other = (validate(md, lagtimes=[10], seed=seed).to_dict() for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_a_strided_rollout_is_compared_at_its_stride():
    md, generated = CHAIN.sample(20_000, 4, seed=4), CHAIN.sample(20_000, 4, seed=5)
    rollout = SimpleNamespace(dtrajs=[x[::5] for x in generated], stride=5, frame_interval=FrameInterval(1.0, "ps"))
    result = validate(md, rollout, lagtimes=[1, 4], lagtime=4)
    assert result.frame_interval == FrameInterval(5.0, "ps")
    assert result.sources["MD"].n_frames == result.sources["GPT"].n_frames == 16_000
    assert any("states of the rollout are 5 frames of the MD apart" in note for note in result.warnings)
    assert any(note.endswith("at this stride, and their frames are 5 ps long") for note in result.warnings)
    rollout.frame_interval = FrameInterval()
    plain = validate(md, rollout, lagtimes=[1, 4], lagtime=4)
    assert any(note.endswith("at this stride, and their frames are that long") for note in plain.warnings)
    row = next(row for row in result.rows if row.quantity == "timescale 1")
    assert row.cells["GPT"].value == pytest.approx(CHAIN.implied_timescales(20)[0], rel=0.25)  # ps, as frames were 1 ps


def test_disconnected_and_unvisited_states():
    """State 4 is left and never entered, 5 is never visited by the MD, and negative labels mean nothing."""
    (x,) = CHAIN.sample(20_000, 1, seed=7)
    md = [np.concatenate([[4, 4, 4], x]).astype(np.int64), np.concatenate([[-1], x[:5000], [-1, -1]]).astype(np.int64)]
    rollout = [np.where(np.arange(20_000) % 1000 == 0, 5, x).astype(np.int64)]
    result = validate(md, rollout, lagtimes=[1, 10], lagtime=10, n_macrostates=2)
    assert result.macrostate_of_state[5] == -1
    assert result.macrostate_of_state[4] == result.macrostate_of_state[x[0]]
    assert result.sources["MD"].unseen_states.tolist() == [5]
    assert len(result.macrostate_names) == 2
    assert {tuple(np.flatnonzero(result.macrostate_of_state == k)[:2]) for k in (0, 1)} == {(0, 1), (2, 3)}
    assert result.sources["GPT"].unseen_fraction > 0


def test_warnings():
    few = validate(CHAIN.sample(1500, 1, seed=8), CHAIN.sample(300, 20, seed=9), lagtimes=[10])
    text = " | ".join(few.warnings)
    assert "MD holds" in text
    assert "GPT: a trajectory is" in text
    assert "fewer than 5 passages" in text
    assert "exceeds half the slowest timescale" in " ".join(
        validate(CHAIN.sample(20_000, 1, seed=1), lagtimes=[100, 200], lagtime=200).warnings
    )


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (
            ([np.zeros(10_000, int)],),
            {"lagtimes": [20_000]},
            r"lagtime must be in \[1, 9999\] frames \(shortest dtraj has 10000\), got 20000",
        ),
        (([np.arange(50) % 3],), {"lagtime": 0}, r"lagtime must be in \[1, 49\]"),
        (([np.zeros(100, int)],), {}, "no two states with transitions"),
        (([],), {}, "dtrajs must hold at least one trajectory"),
        (([np.array([-1, -1])],), {}, "two assigned frames"),
        (([np.array([0.5, 1.0])],), {}, r"dtrajs\[0\] must be a 1-D array of integers"),
        (([np.arange(100) % 3], [np.zeros((2, 2), int)]), {}, r"rollout\[0\] must be a 1-D"),
        (([np.arange(100) % 3],), {"lagtimes": []}, "lagtimes must not be empty"),
        (([np.arange(100) % 3],), {"others": {"MSM": [np.arange(9)]}}, "must not be named 'MSM'"),
        (([np.arange(100) % 3],), {"n_bootstrap": 2}, "n_bootstrap must be at least 20"),
        (([np.arange(100) % 3],), {"confidence": 1.0}, "confidence must be in"),
        ((CHAIN.sample(500, 1, seed=0),), {"lagtimes": [1], "n_macrostates": 7}, r"n_macrostates must be in \[2, 4\]"),
    ],
)  # fmt: skip
def test_bad_input(arguments, options, message):
    with pytest.raises(InputError, match=message):
        validate(*arguments, **options)


def test_public_name():
    assert nanomd.validate is validate


def test_lag_helpers():
    assert default_lagtimes(10_000).tolist()[0] == 1
    assert default_lagtimes(10_000).tolist()[-1] == 1000
    assert default_lagtimes(5).tolist() == [1]
    assert usable_length([np.zeros(n) for n in (1000, 1000, 3)]) == 1000
    assert usable_length([np.zeros(n) for n in (1000, 400)]) == 400


@pytest.mark.parametrize("seed", range(5))
def test_lag_is_chosen_where_timescales_have_settled(seed):
    chain = default_chain()  # at lag 1 its slowest timescale is a quarter of the truth
    remembers = choose_lags(chain.sample(40_000, 4, seed=seed), 4)
    assert remembers.settled and remembers.slowest > 0.85 * chain.implied_timescales(64)[0]
    forgets = choose_lags(walks(5_000, 4, seed=seed), 3)
    assert forgets.settled and forgets.lagtime <= 6  # of at most half the timescale, 15
    assert choose_lags(chain.sample(40_000, 4, seed=seed), 4, lagtimes=[1, 2, 200]).lagtime == 2  # 200 is too long
    assert not choose_lags([np.random.default_rng(seed).integers(0, 2, 1000)], 2).settled


# --- Markov models ---------------------------------------------------------------------------------------------------


def test_markov_model_of_known_matrix():
    counts = np.round(1e9 * CHAIN.stationary[:, None] * CHAIN.markov).astype(np.int64)
    model = markov.estimate_markov_model(counts, 1)
    np.testing.assert_allclose(model.transition, CHAIN.markov, atol=1e-6)
    np.testing.assert_allclose(model.stationary, CHAIN.stationary, atol=1e-6)
    np.testing.assert_allclose(model.timescales(5), [*CHAIN.implied_timescales(1), np.nan, np.nan], rtol=1e-4)
    values, right, left = model.eigen(3)
    np.testing.assert_allclose(left.T @ right, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(model.transition @ right, right * values, atol=1e-9)
    times = markov.passage_times(model.transition, model.stationary, np.array([0, -1, -1, 1]), 2)
    assert times[0, 1] == pytest.approx(CHAIN.markov_mfpt([0], [3]), rel=1e-4)
    assert times[1, 0] == pytest.approx(CHAIN.markov_mfpt([3], [0]), rel=1e-4)


def test_passage_times_between_single_states_are_the_textbook_ones():
    """From one state to another, mean first passage times solve m = 1 + T m with m = 0 at the target."""
    rng = np.random.default_rng(0)
    transition = rng.random((5, 5))  # not reversible
    transition /= transition.sum(axis=1, keepdims=True)
    values, vectors = np.linalg.eig(transition.T)
    pi = vectors[:, np.argmax(values.real)].real
    pi /= pi.sum()
    got = markov.passage_times(transition, pi, np.arange(5), 5)
    for b in range(5):
        others = [i for i in range(5) if i != b]
        expected = np.linalg.solve(np.eye(4) - transition[np.ix_(others, others)], np.ones(4))
        np.testing.assert_allclose(got[others, b], expected)


def test_full_length_arrays_whatever_is_connected():
    counts = np.zeros((6, 6), np.int64)
    counts[np.ix_([1, 3, 4], [1, 3, 4])] = [[50, 5, 0], [5, 30, 4], [0, 4, 90]]
    counts[0, 0], counts[5, 1] = 20, 3  # an island, and a state that is only left
    assert largest_connected_set(counts).tolist() == [1, 3, 4]
    model = markov.estimate_markov_model(counts, 2)
    assert model.stationary.shape == (6,)
    assert (model.stationary[[0, 2, 5]] == 0).all()
    np.testing.assert_allclose(model.transition.sum(axis=1), 1)
    np.testing.assert_allclose(model.stationary @ model.transition, model.stationary, atol=1e-9)
    macro = macrostates.macrostates(model, counts, counts.sum(axis=1), 2)
    assert macro[[0, 2]].tolist() == [-1, -1]
    assert macro[5] == macro[1]
    with pytest.raises(InputError, match="no transitions at lagtime 3"):
        markov.estimate_markov_model(np.zeros((3, 3)), 3)
    with pytest.raises(InputError, match="n_states must be at most"):
        transition_counts([np.array([0, 1])], 10**6, 1)


def test_processes_are_matched_by_eigenvector():
    rng = np.random.default_rng(2)
    pi = rng.dirichlet(np.ones(8))
    reference = np.linalg.qr(rng.normal(size=(8, 3)))[0] / np.sqrt(pi)[:, None]
    shuffled = -reference[:, [2, 0, 1]] + 0.05 * rng.normal(size=(8, 3))
    assert processes.match_processes(shuffled, reference, pi).tolist() == [1, 2, 0]
    assert processes.match_processes(shuffled[:, :2], reference, pi).tolist() == [1, -1, 0]


# --- The baseline ----------------------------------------------------------------------------------------------------


def test_msm_estimator():
    trajs = CHAIN.sample(50_000, 4, seed=10)
    model = MSMEstimator(lagtime=1).fit(trajs).fetch_model()
    assert model.log_likelihood(CHAIN.sample(50_000, 4, seed=11)) == pytest.approx(-CHAIN.markov_entropy_rate, rel=0.02)
    assert model.timescales(1)[0] == pytest.approx(CHAIN.implied_timescales(1)[0], rel=0.1)
    generated = model.generate(20_000, 8, seed=1)
    assert [len(x) for x in generated] == [20_000] * 8
    np.testing.assert_array_equal(model.generate(20_000, 8, seed=1)[3], generated[3])
    again = MSMEstimator().fit(generated, 1).fetch_model()
    np.testing.assert_allclose(again.transition_matrix, model.transition_matrix, atol=0.02)
    np.testing.assert_allclose(again.stationary_distribution, model.stationary_distribution, atol=0.04)
    unseen = [np.array([0, 3, 0])]
    assert model.log_likelihood(unseen) == -np.inf
    assert np.isfinite(MSMEstimator(pseudocount=1e-3).fit(trajs).fetch_model().log_likelihood(unseen))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MSMEstimator(0), "lagtime must be at least 1"),
        (lambda: MSMEstimator().fetch_model(), "call fit first"),
        (lambda: MSMEstimator().fit([]), "dtrajs must hold at least one trajectory"),
        (lambda: MSMEstimator(50).fit([np.arange(20) % 3]), r"lagtime must be in \[1, 19\]"),
        (lambda: MSMEstimator(2).fit(FEW).fetch_model().log_likelihood([]), "lagtime 1, got 2"),
        (lambda: MSMEstimator().fit(FEW).fetch_model().generate(0), "n_steps must be at least 1"),
    ],
)
def test_msm_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
