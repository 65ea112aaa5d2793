"""The command `nanomd interpret` end to end, and its pictures, also of odd shapes, in the report."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rollout_models import make_files
from synthetic_result import make_result

from nanomd.base.units import FrameInterval
from nanomd.cli.main import main
from nanomd.estimator import GPTModel
from nanomd.interpret import Interpretation, interpret_model
from nanomd.report import write_report
from nanomd.report.plots_interpretation import attention_map_pictures, interpretation_groups

SMALL = ["--windows", 10, "--targets", 40, "--tracing-windows", 4, "--draws", 2]


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def labels(n: int, length: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 11, length) * 3 + 5 for _ in range(n)]


def small(**changes: object) -> Interpretation:
    model = GPTModel(make_files(seed=1, **changes))
    options = {"distances": {"lagtime": 1}, "tracing": {"n_windows": 4, "n_draws": 1}, "memory": {"n_windows": 30}}
    return interpret_model(model, labels(4, 80), attention={"n_windows": 10, "n_maps": 1}, **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interpret") / "run"
    data = folder.parent / "dtraj"
    data.mkdir()
    for index, labels_ in enumerate(labels(4, 300)):
        labels_[:100:7] = 38 if index == 3 else 8  # a state that only the held-out trajectory visits
        np.save(data / f"d{index}.npy", labels_)
    assert run("tokenize", "--run", folder, "--quiet", "--frame-interval", "0.2 ns", data / "d*.npy") == 0
    train = ["--preset", "tiny", "--n-steps", 3, "--batch-size", 2, "--train-length", 32, "--context-length", 8]
    assert run("train", "--run", folder, *train, "--hold-out", 1, "--n-threads", 1, "--quiet") == 0
    assert run("interpret", "--run", folder, *SMALL, "--lagtime", 1) == 0
    return folder


def test_the_command_writes_numbers_pictures_and_provenance(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = Interpretation.load(made / "interpret")
    assert found.memory.contexts[-1] == 15
    assert found.tracing.n_draws == 2 and found.tracing.n_windows == 4
    for name in ("memory", "memory_2", "attention", "attention_2", "tracing", "tracing_2", "distances"):
        picture = Image.open(made / "interpret" / f"{name}.png")
        assert len(np.unique(np.asarray(picture.convert("L").resize((90, 60))))) > 10  # not empty
    assert (made / "interpret" / "attention_maps.png").exists()
    stage = json.loads((made / "provenance.json").read_text())["stages"]["interpret"]
    assert stage["looked_at"] == "held-out trajectories"
    assert set(stage["inputs"]) == {"tokens", "model"}
    assert run("interpret", "--run", made, *SMALL, "--lagtime", 1) == 0
    text = capsys.readouterr().out
    assert "nothing to do" in text
    assert "memory: " in text and re.search(r" [np]s: the shortest context", text) and "commute distance" in text
    assert run("interpret", "--run", made, *SMALL, "--lagtime", 2) == 2
    assert "lagtime (1 -> 2)" in capsys.readouterr().err


def test_what_is_about_another_model_is_not_reported(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from nanomd.base.errors import StoreError
    from nanomd.study.folder import RunFolder
    from nanomd.study.results import load_interpretation

    copy = Path(shutil.copytree(made, tmp_path / "run"))
    assert load_interpretation(RunFolder(copy)) is not None
    (copy / "model" / "config.json").write_text((copy / "model" / "config.json").read_text() + "\n")
    with pytest.raises(StoreError, match="nanomd interpret"):
        load_interpretation(RunFolder(copy))
    assert run("interpret", "--run", tmp_path / "empty") == 2
    assert "does not exist" in capsys.readouterr().err


def test_the_report_shows_it_and_keeps_no_older_picture(tmp_path: Path) -> None:
    result = make_result(names=("a", "b"), n_states=6, extra=False, n_timescales=1)
    found = small(n_layer=2, context_length=24, markov_head=True)
    old = tmp_path / "png" / "memory_9.png"
    old.parent.mkdir()
    old.write_bytes(b"")
    page = write_report(tmp_path, result, title="t", interpretation=found).read_text()
    assert not old.exists()
    for key, words in (
        ("memory", "How much memory"),
        ("attention", "Attention by lag"),
        ("tracing", "Markov head is a second embedding"),
        ("distances", "commute distance"),
    ):
        assert f'<section id="{key}">' in page and words in page
        assert (tmp_path / "png" / f"{key}.png").exists()


@pytest.mark.parametrize(
    "changes", [{"position": "learned"}, {"n_layer": 9, "context_length": 4}, {"d_model": 96, "n_head": 12}]
)
def test_pictures_of_odd_shapes(changes: dict[str, object]) -> None:
    found = small(**changes)
    groups = [*interpretation_groups(found, FrameInterval(0.2, "ns")), attention_map_pictures(found.attention)]
    for group in groups:
        assert group.panels and group.caption
        for panel in group.panels:
            width, height = Image.open(io.BytesIO(panel.png)).size
            assert 300 < width < 4000 and 200 < height < 4000
    attention = groups[1]
    assert len(attention.panels) == min(8, found.attention.mean.value.shape[0])
    assert bool(attention.notes) == (found.attention.mean.value.shape[0] > 8)


def test_undefined_intervals_still_make_pictures() -> None:
    found = small(n_layer=1)
    nan = {"low": np.full(len(found.memory.contexts), np.nan), "high": np.full(len(found.memory.contexts), np.nan)}
    memory = dataclasses.replace(
        found.memory, loss=dataclasses.replace(found.memory.loss, **nan),
        log_likelihood=dataclasses.replace(found.memory.log_likelihood, **nan),
    )  # fmt: skip
    groups = interpretation_groups(dataclasses.replace(found, memory=memory), FrameInterval())
    assert all(group.panels for group in groups)
