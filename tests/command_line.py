"""The command line, called from tests."""

from __future__ import annotations

import pytest

from nanomd.cli.main import main

TRAIN = ["--preset", "tiny", "--n-steps", "6", "--batch-size", "4", "--train-length", "64", "--hold-out", "1"]
GENERATE = ["--n-steps", "600", "--n-trajs", "3"]


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def ok(*arguments: object) -> None:
    assert run(*arguments) == 0


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must fail with one line and exit code 2, and return the line."""
    capsys.readouterr()
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("nanomd: error: ")
    assert error.count("\n") == 1
    return error
