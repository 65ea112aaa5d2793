"""What is due after a step, and which weights are kept."""

from __future__ import annotations

import pytest

from nanomd.base.config import TrainConfig
from nanomd.training.schedule import METRICS_INTERVAL, SELECTION_TOLERANCE, Choice, Due, Schedule

CONFIG = TrainConfig(n_steps=110, validation_interval=25, checkpoint_interval=30)


def steps(schedule: Schedule, what: str) -> list[int]:
    return [step for step in range(1, 111) if getattr(schedule.due(step), what)]


def test_each_thing_is_due_at_its_interval_and_all_at_the_end() -> None:
    schedule = Schedule(CONFIG, held_out=True, rollouts=(60, 71))
    assert steps(schedule, "roll_out") == [60, 71]
    assert steps(schedule, "validate") == [25, 50, 60, 71, 75, 100, 110]
    assert steps(schedule, "save") == [30, 60, 90, 110]
    every = range(METRICS_INTERVAL, 111, METRICS_INTERVAL)
    assert steps(schedule, "record") == sorted({*every, *steps(schedule, "validate"), *steps(schedule, "save")})
    assert [step for step in steps(schedule, "record") if not schedule.due(step).at_once] == [20, 40, 80]


def test_nothing_held_out_is_nothing_to_validate() -> None:
    schedule = Schedule(CONFIG, held_out=False)
    assert steps(schedule, "validate") == steps(schedule, "roll_out") == []
    assert schedule.due(7) == Due(record=False, validate=False, roll_out=False, save=False)
    assert not schedule.due(7).at_once and schedule.due(110).record


@pytest.mark.parametrize(
    ("choice", "kept"),
    [
        (Choice(), [4]),
        (Choice("validation_loss"), [0, 1]),
        (Choice("validation_loss", relative=0.1), [0, 1, 3]),
        (Choice("kinetics_score", absolute=0.2), [1, 3]),
    ],
)
def test_the_latest_within_a_tolerance_of_the_lowest_is_kept(choice: Choice, kept: list[int]) -> None:
    records = [
        {"validation_loss": 2.0},
        {"validation_loss": 1.0, "kinetics_score": 1.0},
        {"loss": 0.0},
        {"validation_loss": 1.05, "kinetics_score": 1.15},
        {"validation_loss": 1.2, "kinetics_score": 1.3},
    ]
    assert [k for k, r in enumerate(records) if choice.takes(r, records[:k], last=k == 4)] == kept


def test_select_names_the_choice() -> None:
    assert Choice.of(CONFIG, True, None) == Choice("validation_loss", relative=SELECTION_TOLERANCE)
    assert Choice.of(CONFIG, False, None) == Choice.of(CONFIG.replace(select="last"), True, None) == Choice()
    assert Choice.of(CONFIG, True, 0.3) == Choice("kinetics_score", absolute=0.3)
