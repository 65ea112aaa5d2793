"""The paper's systems as experiments: stages of its training, judged as far as it has come, and its analyses."""

import json

import numpy as np
import pytest
import torch

from nanomd.base.errors import InputError
from nanomd.base.units import FrameInterval
from nanomd.experiments import analyses, cases, paper, runner, tables
from nanomd.experiments.case import Case, Data
from nanomd.experiments.scoring import Judge
from nanomd.training.step import TrainingStep


def walk(n_frames: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.cumsum(random.random(n_frames) < 0.1) % 3


def case_of(**changes) -> Case:
    options = {
        "name": "three-in-a-ring", "title": "Three in a ring",
        "load": lambda dataset, data: Data([walk(900, 0)], [walk(900, s) for s in (1, 2)], np.arange(3), tuple("ABC")),
        "n_datasets": 1, "n_macrostates": 3, "lagtime": 2, "lagtimes": (1, 2, 4), "frame_interval": FrameInterval(),
        "gpt": {"preset": "tiny", "context_length": 8, "train_length": 32, "batch_size": 8, "n_steps": 5},
        "lstm": {"embedding_dim": 4, "hidden_dim": 8, "n_steps": 3}, "paper": "paper-four-state",
        "rollout": (4, 300), "lstm_steps": 50, "burn_in": 20, "published": True,
        "training": {"n_epochs": 3, "keep_epochs": (1, 2), "batch_size": 4}, "pooled": (1, 2),
    }  # fmt: skip
    return Case(**options | changes)


def run(case: Case, folder, **options):
    material = runner.prepare(case, 0, None, folder)
    runner.run_reference(case, material, 0, folder)
    unfinished = options.pop("unfinished", False)
    job = runner.Job(case.name, **{"method": "paper", "dataset": 0, "seed": 0} | options)
    runner.run_job(job, case, material, folder, unfinished=unfinished)
    return tables.load_records(folder)


def test_every_stage_and_the_pooled_epochs_are_recorded(tmp_path):
    _, records = run(case_of(), tmp_path)
    found = {tables.label(r): r for r in records}
    assert list(found) == ["paper", "paper, 2 steps", "paper, 4 steps", "paper, 6 steps"]  # 8 windows, 4 a step
    assert found["paper"]["kinetics"]["n_trajs"] == 4
    mean = np.mean([found[f"paper, {n} steps"]["held_out_nll"] for n in (2, 4)])
    assert found["paper"]["held_out_nll"] == pytest.approx(mean)
    assert found["paper, 2 steps"]["settings"]["objective"] == "two_pass_hidden"
    assert [r["step"] for r in found["paper"]["history"]] == []  # validations are rarer than that


def test_without_pooling_the_last_weights_are_the_result(tmp_path):
    _, records = run(case_of(pooled=()), tmp_path)
    assert [tables.label(r) for r in records] == ["paper", "paper, 2 steps", "paper, 4 steps"]
    estimator_steps = json.loads((tmp_path / "records" / "paper_data0_seed0.json").read_text())["settings"]["n_steps"]
    assert estimator_steps == 6


def test_a_training_is_judged_as_far_as_it_has_come_and_goes_on_afterwards(tmp_path, monkeypatch):
    case = case_of()
    with pytest.raises(InputError, match="holds no weights yet"):
        run(case, tmp_path, unfinished=True)
    config = paper.training_config(case, {}, 0, None).replace(checkpoint_interval=1)
    with monkeypatch.context() as patched:
        original = TrainingStep.__call__

        def step(self, number):
            if number == 3:
                raise KeyboardInterrupt
            return original(self, number)

        patched.setattr(TrainingStep, "__call__", step)
        with pytest.raises(KeyboardInterrupt):
            paper.train(case, config, [walk(900, 0)], tmp_path / "trainings" / "paper_data0_seed0")
    _, records = run(case, tmp_path, unfinished=True)
    assert [tables.label(r) for r in records] == ["paper, 2 steps", "paper, 3 steps"]
    _, records = run(case, tmp_path)
    assert "paper" in [tables.label(r) for r in records]


def test_the_last_weights_are_refitted_without_another_training(tmp_path, monkeypatch):
    case = case_of()
    run(case, tmp_path)
    trained = tmp_path / "trainings"
    before = sorted(trained.rglob("*"))
    _, records = run(case, tmp_path, method="paper, refit")
    assert sorted(trained.rglob("*")) == before
    found = {tables.label(r): r["held_out_nll"] for r in records}
    assert found["paper, refit"] < found["paper, 6 steps"] - 0.1  # six steps know little; all transitions do


def test_weights_of_a_stage_are_those_of_the_training(tmp_path):
    case = case_of(pooled=())
    run(case, tmp_path)
    config = paper.training_config(case, {}, 0, None)
    stages = dict(paper.epochs(case, config, [walk(900, 0)], tmp_path / "trainings" / "paper_data0_seed0"))
    from safetensors.torch import load_file

    last = load_file(tmp_path / "trainings" / "paper_data0_seed0" / "checkpoints" / "step_000006" / "model.safetensors")
    model = stages[6].model
    assert model is not None
    for name, value in model.module.state_dict().items():
        assert torch.equal(value, last[name])


def test_a_step_of_several_frames_is_judged_in_frames(tmp_path):
    case = case_of()
    _, records = run(case, tmp_path, method="default")
    (record,) = records
    stride = record["settings"]["frame_stride"]
    assert record["kinetics"]["n_frames"] == 4 * 300 and stride >= 1
    assert (record["held_out_nll"] is None) == (stride > 1)  # that of steps is not that of frames


def test_analyses_show_every_source(tmp_path, monkeypatch):
    case = case_of(pooled=())
    for method in ("paper", "default", "LSTM"):
        run(case, tmp_path / case.name, method=method)
    monkeypatch.setattr(analyses, "_look_inside", lambda *_: INSIDE)
    text = analyses.analyse(case, tmp_path / case.name)
    for word in ("MD held out", "MSM lag 2", "memory kernel", "paper, ", "default", "LSTM", "A to B", "C to A"):
        assert word in text
    assert text == (tmp_path / case.name / "analyses.md").read_text()
    assert "| share of attention, by steps back | 0 | 1 | 2 to 4 |" in text


INSIDE = {
    "frame_stride": 1, "attention": [0.5, 0.2, 0.1, 0.1, 0.1, 0.0, 0.0], "traced_lags": [0, 1], "clean": 0.9,
    "corrupted": 0.3, "single": [0.5, 0.01], "memory": [1, 2, 4], "distances": [0.4, 0.5], "p_values": [0.01, 0.2],
}  # fmt: skip


def test_changes_are_counted_at_the_lag_per_frames():
    case = case_of()
    judge = Judge.make(case, case.load(0, None))
    seen = np.array([0, 0, 1, 1, 1, 1, 2, 2, 0, 0] * 10)
    changes = np.array(judge.changes([seen]))
    assert changes[0, 1] == changes[1, 2] == 10_000  # ten in a hundred frames
    assert changes[2, 0] == 10_000 and changes[0, 2] == 0 and np.trace(changes) == 0


@pytest.mark.parametrize("name", ["paper-four-state", "paper-alanine-dipeptide", "paper-ww-domain"])
def test_the_papers_cases_have_a_training_and_stages(name):
    case = cases.get_case(name)
    config = paper.training_config(case, {}, 3, None)
    assert (
        config.seed == 3 and config.keep_epochs[-1] == config.n_epochs and set(case.pooled) <= set(config.keep_epochs)
    )
    assert paper.training_config(case, {"objective": "one_pass"}, 0, 400).n_steps == 400
