"""The kernel benchmarks where there is no GPU: they refuse to time, and their proofs hold on small problems."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks" / "kernels"


@pytest.mark.parametrize("operation", ["attention", "cross_entropy", "sample_mix"])
def test_without_a_device_nothing_is_measured(operation, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["bench", "--out", str(tmp_path)])
    bench = importlib.import_module(f"bench_{operation}")
    assert bench.main(operation, bench.rows) == 3
    assert f"bench_{operation} needs a CUDA device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_proofs_hold_on_small_problems(run_with):
    assert " passed" in run_with("bench_cases.py", interpret=True)
