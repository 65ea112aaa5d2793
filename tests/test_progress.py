"""Progress where nobody watches: a line every so often, with what is left; nothing of short work."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from nanomd.base import progress
from nanomd.base.progress import progress_bar, skip


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def test_a_line_every_minute_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    bar = progress_bar(10_000, "train", "step")
    skip(bar, 4_000)  # of an earlier process: no speed
    bar.note("loss 1.25")
    for _ in range(12):
        clock.now += 10
        bar.update(100)
    bar.close()
    assert capsys.readouterr().err.splitlines() == [
        "train: 4,600 of 10,000 steps, 46 %, 9 min 0 s left; loss 1.25",
        "train: 5,200 of 10,000 steps, 52 %, 8 min 0 s left; loss 1.25",
    ]


def test_short_work_and_quiet_work_say_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    quiet, short = progress_bar(10, "x", enabled=False), progress_bar(10, "x")
    for bar in (quiet, short):
        bar.update(5)
        bar.note("y")
        bar.close()
    clock.now += 1000
    quiet.update(5)
    assert capsys.readouterr().err == ""


def test_a_bar_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    bar = progress_bar(10, "roll", "step", enabled=True)
    bar.update(10)
    bar.note("done")
    bar.close()
    assert "roll" in capsys.readouterr().err


def test_a_notebook_has_bars_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    import tqdm.auto

    made = []
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "ipywidgets", object())
    monkeypatch.setattr(tqdm.auto, "tqdm", lambda **options: made.append(options))
    progress_bar(10, "roll")
    assert made[0]["desc"] == "roll"


def test_an_estimator_shows_a_bar_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    from nanomd import GPTEstimator

    data = np.tile([0, 1, 1], 100)
    GPTEstimator("tiny", n_steps=2, seed=1, n_threads=1, progress=True).fit(data)
    assert "train: 100%" in capsys.readouterr().err
    GPTEstimator("tiny", n_steps=2, seed=1, n_threads=1, progress=False).fit(data)
    assert capsys.readouterr().err == ""


def test_long_work_that_was_not_asked_to_speak_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    with progress.reporting(None, 100, "train") as bar:
        clock.now += 61
        bar.update(50)
        clock.now += 61
        bar.note("output layer, sweep 3")  # nothing advances
    assert capsys.readouterr().err.splitlines() == [
        "train: 50 of 100 steps, 50 %, 1 min 1 s left",
        "train: 50 of 100 steps, 50 %, 2 min 2 s left; output layer, sweep 3",
    ]


def test_everything_that_takes_long_takes_progress(capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    from nanomd import GPTEstimator, Sampler, Tokenizer, validate

    data = [np.tile([0, 1, 1, 0, 2], 100)]
    model = GPTEstimator("tiny", n_steps=2, seed=1, n_threads=1).fit_fetch(data)
    assert capsys.readouterr().err == ""
    rollout = Sampler(model).generate(100, progress=True)
    validate(data, rollout, n_bootstrap=20, lagtimes=[1, 2], progress=True)
    Tokenizer(n_states=3, progress=True).fit_transform_arrays([np.arange(50.0)[:, None]])
    said = capsys.readouterr().err
    assert "generate: 100%" in said and "validate: 100%" in said
