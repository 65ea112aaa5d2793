"""The command line itself: help, settings from a file, and errors of one line with exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nanomd.cli.main import build_parser, main

COMMANDS = [
    "simulate", "tokenize", "train", "condition", "at", "generate", "rare", "interpret", "validate", "report",
    "structures", "constrain", "bench", "doctor", "demo", "experiment",
]  # fmt: skip


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must fail, and return its one line."""
    assert main([str(a) for a in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("nanomd: error: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    return captured.err


def test_every_command_has_help_and_the_shared_options() -> None:
    _, commands = build_parser()
    assert list(commands) == COMMANDS
    for name, parser in commands.items():
        text = parser.format_help()
        assert (parser.description or "").endswith((".", "folder")), name
        # An experiment is many runs: it has an output folder of its own.
        for option in ("--config", "--quiet", "--out" if name == "experiment" else "--run"):
            assert option in text, (name, option)
        if name not in {"doctor", "at"}:
            assert "--seed" in text, name
    for name in ("train", "generate"):
        assert "--resume" in commands[name].format_help()
    assert "--group-sizes" not in commands["train"].format_help()  # they come from the data


def test_help_and_version_as_a_process() -> None:
    done = subprocess.run([sys.executable, "-m", "nanomd.cli.main", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    for name in COMMANDS:
        assert f"    {name}" in done.stdout
    done = subprocess.run([sys.executable, "-m", "nanomd.cli.main", "--version"], capture_output=True, text=True)
    assert done.stdout.startswith("nanomd 0.")


@pytest.mark.parametrize(
    "arguments", [["frobnicate"], [], ["train", "--n-steps", "many"], ["generate", "--mod", "ring"]]
)
def test_usage_errors_are_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("nanomd: error: ")
    assert error.count("\n") == 1
    assert "--help" in error


def test_settings_from_a_file_and_flags_that_win(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text('[simulate]\nn-frames = 40\nn_trajs = 3\nquiet = true\nseed = 5\n[train]\npreset = "tiny"\n')
    assert main(["simulate", "--config", str(file), "--run", str(tmp_path / "run"), "--n-trajs", "2"]) == 0
    recorded = (tmp_path / "run" / "config.toml").read_text()
    assert "n_frames = 40" in recorded
    assert "n_trajs = 2" in recorded
    assert "seed = 5" in recorded
    assert len(list((tmp_path / "run" / "simulation").glob("xy_*.npy"))) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[simulate]\nframes = 3\n", "unknown option 'frames'"),
        ("[simulat]\nn_frames = 3\n", "unknown section [simulat]"),
        ("n_frames = 3\n", "unknown section [n_frames]"),
        ("simulate = 3\n", "must be a section"),
        ("[simulate]\nn_frames = 2.5\n", "must be of type int"),
        ("[simulate]\nn_frames = true\n", "must be of type int"),
        ('[simulate]\nquiet = "yes"\n', "must be of type bool"),
        ('[simulate]\npreset = "loud"\n', "must be one of demo, paper"),
        ("[simulate]\nn_frames = [3]\n", "must not be a list"),
        ("[train]\nnorm = 1\n", "must be of type str"),
        ("[simulate\n", "is not valid TOML"),
    ],
)
def test_wrong_settings_are_refused(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "study.toml"
    file.write_text(text)
    assert message in refused(capsys, "simulate", "--config", file, "--run", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_missing_settings_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such file" in refused(
        capsys, "simulate", "--config", tmp_path / "absent.toml", "--run", tmp_path / "run"
    )


def test_doctor_says_what_is_used_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for word in (
        "python",
        "torch",
        "CUDA engine",
        "instruction set",
        "triton",
        "nvtx",
        "rollout uses",
        "training uses",
    ):
        assert word in text
    assert main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["packages"]["numpy"] == np.__version__
    assert facts["cuda"]["devices"] or facts["cuda"]["reason"]


def test_interruption_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import nanomd.study.train

    def interrupt(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(nanomd.study.train, "train", interrupt)
    assert main(["train", "--run", "my_run"]) == 130
    assert "nanomd train --run my_run --resume" in capsys.readouterr().err


def test_a_full_disk_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import errno
    import os

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "save", full)
    error = refused(capsys, "simulate", "--run", tmp_path, "--n-frames", 10, "--quiet")
    assert "disk is full" in error
    assert not (tmp_path / "simulation").exists()
    monkeypatch.undo()
    assert main(["simulate", "--run", str(tmp_path), "--n-frames", "10", "--quiet"]) == 0


def test_a_folder_in_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from nanomd.study.folder import RunFolder

    with RunFolder(tmp_path).lock():
        assert "in use by process" in refused(capsys, "simulate", "--run", tmp_path, "--n-frames", 10)
    assert not (tmp_path / "simulation").exists()


def test_a_read_only_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import errno
    import os

    real = os.open

    def read_only(path: object, flags: int, *rest: int, **more: object) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, flags, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", read_only)
    assert "cannot be written" in refused(capsys, "simulate", "--run", tmp_path, "--n-frames", 10)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999"])
@pytest.mark.parametrize("flag", ["train --learning-rate", "generate --sampling-temperature", "validate --confidence"])
def test_numbers_that_are_none_are_refused_when_given(
    flag: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, flag = flag.split()
    with pytest.raises(SystemExit) as stop:
        main([command, "--run", str(tmp_path), f"{flag}={value}"])
    assert stop.value.code == 2
    assert f"must be a finite number, got '{value}'" in capsys.readouterr().err
    file = tmp_path / "study.toml"
    file.write_text(f"[{command}]\n{flag.lstrip('-')} = {value.replace('1e999', 'inf')}\n")
    assert "must be finite" in refused(capsys, command, "--config", file, "--run", tmp_path / "run")


@pytest.mark.parametrize("value", ["²", "٣", "1.5", "", "0x10"])
def test_whole_numbers_have_plain_digits(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["simulate", f"--n-frames={value}"])
    assert f"must be a whole number, got {value!r}" in capsys.readouterr().err


def test_an_interruption_before_anything_is_parsed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import nanomd.cli.main

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(nanomd.cli.main, "apply_config", interrupt)
    assert main(["train"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_python_without_docstrings() -> None:
    done = subprocess.run([sys.executable, "-OO", "-m", "nanomd", "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "validate" in done.stdout


def test_an_unknown_user_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["~nobody_here/a.npy"], ["--system", "ww-domain", "--data", "~nobody_here"]):
        assert "nobody_here" in refused(capsys, "tokenize", "--run", tmp_path / "run", *options)
