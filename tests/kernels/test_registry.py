"""The registry: a named backend runs or raises, and only auto falls back, saying so once."""

from __future__ import annotations

import logging

import pytest
import torch

from nanomd.base.errors import BackendUnavailableError, InputError
from nanomd.kernels import registry

CPU = torch.device("cpu")


@pytest.fixture
def two(monkeypatch):
    """An operation whose fast implementation refuses odd sizes."""
    monkeypatch.delenv("NANOMD_BACKEND", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(registry, "_operations", {})
    monkeypatch.setattr(registry, "_said", set())
    needs_even = lambda request: "n must be even" if request.sizes["n"] % 2 else None  # noqa: E731
    registry.register("double", "triton", lambda: lambda x: x << 1, needs_even)
    registry.register("double", "reference", lambda: lambda x: x + x)
    return lambda n: registry.Request(CPU, torch.float32, {"n": n})


def test_auto_takes_the_first_that_can(two):
    assert registry.resolve("double", "auto", two(2)).name == "triton"
    assert registry.resolve("double", "auto", two(3)).name == "reference"
    assert registry.resolve("double", "auto", two(3)).run(4) == 8


def test_auto_says_once_why_it_fell_back(two, caplog):
    with caplog.at_level(logging.INFO, logger="nanomd.kernels"):
        for _ in range(3):
            registry.resolve("double", "auto", two(3))
    assert [record.getMessage() for record in caplog.records] == ["double: triton is not used: n must be even"]


def test_a_named_backend_runs_or_raises_with_the_reasons(two):
    assert registry.resolve("double", "triton", two(2)).name == "triton"
    assert registry.resolve("double", "reference", two(2)).name == "reference"
    with pytest.raises(BackendUnavailableError, match=r"triton: n must be even; reference: available"):
        registry.resolve("double", "triton", two(3))


def test_the_environment_overrides_and_ignores_rollout_backends(two, monkeypatch, caplog):
    monkeypatch.setenv("NANOMD_BACKEND", "reference")
    assert registry.resolve("double", "auto", two(2)).name == "reference"
    monkeypatch.setenv("NANOMD_BACKEND", "cpu")
    monkeypatch.setattr("nanomd.base.backends._said", set())
    for _ in range(3):
        assert registry.resolve("double", "auto", two(2)).name == "triton"
    assert [record.getMessage() for record in caplog.records] == [
        "NANOMD_BACKEND=cpu does not concern training, whose backend is auto"
    ]
    monkeypatch.setenv("NANOMD_BACKEND", "gpu")
    with pytest.raises(InputError, match="NANOMD_BACKEND must be one of auto, cpu, cuda, reference, triton, got 'gpu'"):
        registry.resolve("double", "auto", two(2))


def test_auto_never_interprets(two, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert registry.resolve("double", "auto", two(2)).name == "reference"


def test_unknown_names_are_errors(two):
    with pytest.raises(InputError, match="backend must be one of auto, reference, triton, got 'cuda'"):
        registry.resolve("double", "cuda", two(2))
    with pytest.raises(InputError, match="operation must be one of double"):
        registry.resolve("triple", "auto", two(2))
    with pytest.raises(InputError, match="registered once"):
        registry.register("double", "reference", lambda: None)


def test_every_operation_has_a_reference_that_runs_anywhere(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    request = registry.Request(CPU, torch.float64, {"d_head": 12, "n_states": 7, "n_columns": 7})
    listing = registry.describe(request)
    assert {"attention", "cross_entropy", "sample_mix"} <= set(listing)
    for op, reasons in listing.items():
        assert list(reasons) == ["triton", "reference"], op
        assert reasons["reference"] is None
        assert reasons["triton"]


def test_triton_by_name_on_the_cpu_says_what_it_needs(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendUnavailableError, match="reference: available"):
        registry.resolve("attention", "triton", registry.Request(CPU, torch.float32, {"d_head": 8}))
