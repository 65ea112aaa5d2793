"""Experiments: pieces, the choice of processes, errors between records, and a whole small experiment."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from two_wells import two_wells

from nanomd import experiments
from nanomd.base.errors import InputError
from nanomd.cli.main import main
from nanomd.experiments import cases, methods, report, runner, tables, tasks
from nanomd.experiments.case import Data, cut_into_pieces
from nanomd.experiments.scoring import errors
from nanomd.kinetics.processes import processes_between
from nanomd.kinetics.results import ValidationResult


@given(
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=5),
    length=st.integers(2, 20),
    seed=st.integers(0, 2**32 - 1),
)
def test_pieces_are_the_trajectories_cut(lengths, length, seed):
    # Every frame has its own label, so that a piece shows where it comes from.
    starts = np.cumsum([0, *(n + 1000 for n in lengths)])
    dtrajs = [np.arange(start, start + n) for start, n in zip(starts, lengths, strict=False)]
    expected = sum(n // length for n in lengths)
    if expected == 0:
        with pytest.raises(InputError, match="no trajectory has"):
            cut_into_pieces(dtrajs, length, seed)
        return
    pieces = cut_into_pieces(dtrajs, length, seed)
    assert len(pieces) == expected
    frames = np.concatenate(pieces)
    assert len(np.unique(frames)) == len(frames) == expected * length
    for piece in pieces:
        assert (np.diff(piece) == 1).all()  # successive frames of one trajectory
    assert sorted(frames) == sorted(np.concatenate([d[: len(d) // length * length] for d in dtrajs]))


def test_pieces_are_shuffled_by_the_seed():
    dtrajs = [np.arange(1000)]
    first, again, other = (cut_into_pieces(dtrajs, 10, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(np.concatenate(first), dtrajs[0])


def trap_chain():
    """Two wells of two states, and a trap that one of the wells' states opens into: slower, and of no interest."""
    T = np.array(
        [
            [0.90, 0.09, 0.01, 0.00, 0.00],
            [0.09, 0.91, 0.00, 0.00, 0.00],
            [0.01, 0.00, 0.90, 0.09, 0.00],
            [0.00, 0.00, 0.09, 0.9099, 0.0001],
            [0.00, 0.00, 0.00, 0.0001, 0.9999],
        ]
    )
    values, vectors = np.linalg.eigh(T)  # symmetric: the stationary distribution is uniform
    order = np.argsort(-values)[1:]
    return values[order], vectors[:, order], np.full(5, 0.2)


def test_processes_between_macrostates_leave_a_trap_aside():
    values, right, stationary = trap_chain()
    assert abs(right[4, 0]) > 0.8  # the slowest process is the trap
    wells = np.array([0, 0, 1, 1, -1])
    (chosen,) = processes_between(right, stationary, wells, 2)
    difference = right[:2, chosen].mean() - right[2:4, chosen].mean()
    assert abs(difference) > 0.8
    assert chosen == 1
    assert values[chosen] < values[0]


def interval(value):
    return {"value": value, "low": None, "high": None}


def kinetics(mfpt, events=100, timescales=(50.0, 20.0), populations=(0.5, 0.5)):
    return {
        "n_trajs": 1,
        "mfpt": interval([[None, mfpt[0]], [mfpt[1], None]]),
        "mfpt_events": [[0, events], [events, 0]],
        "timescales": interval(list(timescales)),
        "populations": interval(list(populations)),
        "leakage": 0.25,
    }


def test_errors_are_geometric_means_of_factors():
    reference = kinetics((100.0, 100.0))
    found = errors(kinetics((200.0, 50.0), timescales=(25.0, 80.0), populations=(0.6, 0.4)), reference)
    assert found["mfpt_factor"] == pytest.approx(2.0)  # twice too slow and twice too fast do not cancel
    assert found["mfpt_worst"] == pytest.approx(2.0)
    assert found["timescale_factor"] == pytest.approx(np.sqrt(8.0))
    assert found["population_error"] == pytest.approx(0.1)
    assert errors(reference, reference)["mfpt_factor"] == 1.0


def test_a_passage_that_is_never_made_is_an_infinite_error():
    assert errors(kinetics((None, 100.0)), kinetics((100.0, 100.0)))["mfpt_factor"] == np.inf


def test_passages_seen_a_few_times_are_left_out():
    found = errors(kinetics((None, 7.0)), kinetics((100.0, 100.0), events=4))
    assert found["mfpt_pairs"] == 0
    assert np.isnan(found["mfpt_factor"])


@pytest.fixture
def small_case(monkeypatch):
    """Two wells of two states each; a second of training."""

    def load(dataset, data):
        rng = np.random.default_rng(dataset)
        walks = []
        for _ in range(4):
            uniform = rng.random(6000)
            walk = np.zeros(6000, np.int64)
            for i in range(1, len(walk)):
                side, inner = divmod(walk[i - 1], 2)
                side = 1 - side if inner == 0 and uniform[i] < 0.05 else side
                walk[i] = 2 * side + (uniform[i] > 0.5)
            walks.append(walk)
        return Data(walks[:1], walks[1:], np.array([0, 0, 1, 1]), ("left", "right"))

    case = two_wells(
        load, n_steps=30, lagtimes=(1, 2, 4, 5000), rollout=(4, 2000), burn_in=100, pieces=(20,),
        lstm={"embedding_dim": 4, "hidden_dim": 8, "n_steps": 10},
    )  # fmt: skip
    monkeypatch.setitem(cases.CASES, case.name, case)
    return case


def run_here(small_case, tmp_path, **options):
    """Run without processes: a case that exists in this process only cannot be spawned."""
    material = runner.prepare(small_case, 0, None, tmp_path)
    runner.run_reference(small_case, material, 0, tmp_path)
    job = runner.Job(small_case.name, **options)
    return json.loads(runner.run_job(job, small_case, material, tmp_path).read_text())


@pytest.mark.parametrize("method", ["one_pass", "two_pass_token+markov+reversal", "LSTM"])
def test_a_job_is_recorded(small_case, tmp_path, method):
    record = run_here(small_case, tmp_path, method=method, dataset=0, seed=1)
    assert record["method"] == method
    assert record["settings"]["n_steps"] == (10 if method == "LSTM" else 30)
    assert 0.5 < record["held_out_nll"] < 3.0
    assert sum(record["kinetics"]["populations"]["value"]) == pytest.approx(1.0)
    assert record["kinetics"]["n_frames"] == (4 * 50 if method == "LSTM" else 4 * 2000)
    table = tables.rows(*tables.load_records(tmp_path))
    names = [row["method"] for row in table]
    assert names == ["training MD", "MSM lag 1", "MSM lag 2", "memory kernel", method]
    row = dict(zip(names, table, strict=True))
    assert row["training MD"]["mfpt_model"] == [1.0]
    assert row["MSM lag 1"]["mfpt_model"][0] == pytest.approx(1.0, abs=0.1)  # the walk is Markovian
    assert row["memory kernel"]["mfpt_model"][0] == pytest.approx(1.0, abs=0.1)
    assert method in tables.markdown(table)


def test_other_numbers_of_steps_and_no_refit_have_rows_of_their_own(small_case, tmp_path):
    for options in ({"method": "one_pass, no refit"}, {"method": "one_pass", "n_steps": 7}, {"method": "one_pass"}):
        record = run_here(small_case, tmp_path, dataset=0, seed=0, **options)
        assert ("refit" in record["settings"]) == ("no refit" in options["method"])
        assert record["settings"]["n_steps"] == options.get("n_steps", 30)
    table = tables.rows(*tables.load_records(tmp_path))
    names = [row["method"] for row in table][4:]
    assert sorted(names) == ["one_pass", "one_pass, 7 steps", "one_pass, no refit"] and names[2] == "one_pass, no refit"
    assert all(len(row["mfpt_model"]) == 1 for row in table)


def test_pieces_train_and_are_judged_against_the_whole(small_case, tmp_path):
    record = run_here(small_case, tmp_path, method="one_pass", dataset=0, seed=0, pieces=20)
    assert record["pieces"] == 20
    assert record["settings"]["train_length"] == 19
    references, records = tables.load_records(tmp_path)
    assert [row["method"] for row in tables.rows(references, records, pieces=20)] == [
        "training MD", "MSM lag 1", "MSM lag 2", "memory kernel", "one_pass",
    ]  # fmt: skip
    assert len(tables.rows(references, records)) == 4  # it is not among those of whole trajectories
    assert tables.best_markov(references, 20)[0] < 1.1


def test_kept_trajectories_are_those_that_were_loaded(small_case, tmp_path):
    first = runner.prepare(small_case, 1, None, tmp_path)
    again = runner.load_dtrajs(tmp_path / "dtrajs_1.npz")
    for key in ("training", "held_out"):
        for a, b in zip(getattr(first.data, key), getattr(again, key), strict=True):
            np.testing.assert_array_equal(a, b)
    assert again.names == ("left", "right")
    np.testing.assert_array_equal(again.macrostates, [0, 0, 1, 1])
    (tmp_path / "dtrajs_1.npz").write_bytes(b"not a zip")
    with pytest.raises(InputError, match="cannot be read"):
        runner.load_dtrajs(tmp_path / "dtrajs_1.npz")


def test_states_that_a_model_never_saw_are_not_scored():
    scored = methods.known_states([np.array([3, 4, 5])], np.array([3, 5]))
    np.testing.assert_array_equal(scored[0], [3, -1, 5])


def test_the_report_judges_a_recorded_model(small_case, tmp_path, monkeypatch):
    folder = tmp_path / small_case.name
    for method in ("one_pass", "LSTM"):
        run_here(small_case, folder, method=method, dataset=0, seed=0)
    monkeypatch.setattr(report, "N_BOOTSTRAP", 20)
    page = report.report(small_case, folder, "one_pass")
    text = page.read_text()
    assert "A left, B right" in text
    assert "How much memory" in text
    result = ValidationResult.load(folder / "report" / "validation.json")
    assert list(result.sources) == ["MD", "GPT", "training MD", "LSTM", "MSM", "MSM (lag 1)"]
    np.testing.assert_array_equal(result.macrostate_of_state, [0, 0, 1, 1])
    np.testing.assert_allclose(result.sources["GPT"].macro_populations.value, 0.5, atol=0.1)
    with pytest.raises(InputError, match="has no model of 'two_pass_token'"):
        report.report(small_case, folder, "two_pass_token")


def test_what_is_recorded_is_not_repeated(small_case, tmp_path, monkeypatch):
    run_here(small_case, tmp_path / small_case.name, method="one_pass", dataset=0, seed=0)
    monkeypatch.setattr(tasks, "run_job", lambda *_: pytest.fail("repeated"))
    text = experiments.run(small_case.name, tmp_path, methods=["one_pass"], n_seeds=1)
    assert "one_pass" in text
    assert (tmp_path / small_case.name / "tables.md").read_text() == text


def test_bad_requests_are_refused(tmp_path):
    with pytest.raises(InputError, match="experiment must be one of"):
        experiments.run("protein", tmp_path)
    with pytest.raises(InputError, match="methods must be among"):
        experiments.run("four-state", tmp_path, methods=["magic"])
    with pytest.raises(InputError, match="n_datasets"):
        experiments.run("alanine-dipeptide", tmp_path, n_datasets=3)
    with pytest.raises(InputError, match="no records"):
        tables.load_records(tmp_path)


def test_the_command_lists_the_systems(capsys):
    assert main(["experiment", "list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in cases.CASES)


def test_every_case_has_lags_that_fit_its_stride():
    for case in cases.CASES.values():
        assert case.lagtime in case.lagtimes
        assert 1 in case.markov_lags
        assert dataclasses.asdict(case.frame_interval)["value"] > 0
