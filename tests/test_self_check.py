"""`backend="auto"` takes CUDA only where it agrees with the CPU engine, which is found out once and remembered."""

import json
import logging
import re
from dataclasses import dataclass

import numpy as np
import pytest
from rollout_models import make_files

from nanomd import _native
from nanomd.base.errors import BackendUnavailableError
from nanomd.rollout import engine as engines
from nanomd.rollout import self_check
from nanomd.rollout.sampler import Sampler

N_STEPS = 24  # past the window of both models; emulated threads are slow


EMULATED = _native.NativeCudaEngine  # before a test puts another in its place


def emulated(*model, **options):
    return EMULATED(*model, emulate=True, **options)


@dataclass
class Damaged:
    """An emulated engine of which one method does something else."""

    engine: _native.NativeCudaEngine
    fault: str

    def open(self, *arguments, **options):
        if self.fault == "other random numbers":
            options["seed"] += 1
        session = self.engine.open(*arguments, **options)
        return Session(session, self.fault)

    def log_probs(self, *arguments, **options):
        return self.engine.log_probs(*arguments, **options) + (0.05 if self.fault == "probabilities" else 0.0)


@dataclass
class Session:
    session: _native.NativeSession
    fault: str
    observes = True

    def advance(self, n_steps, out):
        self.session.advance(n_steps, out)
        if self.fault == "one state":
            out[1, 5] = (out[1, 5] + 1) % 9
        elif self.fault == "unwritten":
            out[0, -1] = 0xFFFF

    def collect(self, observables):
        self.session.collect(observables)
        if self.fault == "counts":
            observables.add(np.zeros((2, 1), np.uint16), 1)


def test_the_emulated_engine_passes(monkeypatch):
    monkeypatch.setattr(self_check, "_KERNELS", {"throughput": 3, "latency": 1})
    assert self_check.disagreement(emulated, N_STEPS) == ""


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("probabilities", r"rope positions, throughput, fp32: \|ln p error\| 5.*e-02 > 0.001"),
        ("one state", "states are not those that the random numbers give"),
        ("other random numbers", "states are not those that the random numbers give"),
        ("unwritten", "states that were not drawn"),
        ("counts", "counts that are not those of the states"),
    ],
)
def test_a_wrong_engine_is_found(fault, said, monkeypatch):
    monkeypatch.setattr(self_check, "_KERNELS", {"throughput": 2})
    found = self_check.disagreement(lambda *model, **options: Damaged(emulated(*model, **options), fault), N_STEPS)
    assert re.search(said, found), found


def test_kernels_that_the_card_has_not_are_left_out(monkeypatch):
    asked = []

    def make(*model, **options):
        asked.append(options["regime"])
        raise BackendUnavailableError("no clusters")

    assert self_check.disagreement(make, N_STEPS) == ""
    assert set(asked) == {"throughput", "latency"}


@pytest.fixture
def card(monkeypatch, tmp_path):
    """A machine with a card, as far as anybody asks; what its check finds, and how often it ran."""
    state = {"found": "", "runs": 0, "driver": 13000, "name": "a card"}

    def info():
        return {"built": True, "driver": state["driver"], "devices": [{"name": state["name"]}], "reason": ""}

    def check(make):
        state["runs"] += 1
        if isinstance(state["found"], Exception):
            raise state["found"]
        return state["found"]

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("NANOMD_BACKEND", raising=False)
    monkeypatch.setattr(_native, "cuda_info", info)
    monkeypatch.setattr(self_check, "disagreement", check)
    monkeypatch.setattr(engines, "_said", set())
    monkeypatch.setattr(_native, "NativeCudaEngine", lambda *model, precision: emulated(*model, precision=precision))
    state["file"] = tmp_path / "cache" / "nanomd" / "cuda_self_check.json"
    return state


def forget(monkeypatch):
    """As a new process would know nothing."""
    monkeypatch.setattr(self_check, "_known", {})


def test_the_verdict_is_remembered_for_each_driver_and_card(card, monkeypatch):
    for change, runs in (({}, 1), ({}, 1), ({"driver": 13010}, 2), ({"name": "another"}, 3), ({}, 3)):
        forget(monkeypatch)
        card.update(change)
        assert self_check.objection() == ""
        assert card["runs"] == runs
    assert len(json.loads(card["file"].read_text())) == 3
    monkeypatch.setattr(_native, "core_file", lambda: __file__)  # another build
    forget(monkeypatch)
    assert self_check.objection() == "" and card["runs"] == 4


def test_a_damaged_or_unwritable_record_only_costs_another_check(card, monkeypatch, tmp_path):
    card["file"].parent.mkdir(parents=True)
    card["file"].write_text("[1, 2")
    forget(monkeypatch)
    assert self_check.objection() == "" and card["runs"] == 1
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    forget(monkeypatch)
    assert self_check.objection() == "" and card["runs"] == 2


def test_auto_takes_the_card_that_agrees(card, monkeypatch):
    forget(monkeypatch)
    files = make_files(d_model=16, n_layer=1, n_head=1, context_length=5, mlp_ratio=1)
    assert Sampler(files).backend == "cuda"
    assert Sampler(files, precision="fp16").engine_name.startswith("cuda")
    # What is asked of the CPU engine, or another backend by name, is heeded.
    for options in ({"isa": "sse2"}, {"column_limit": 3}, {"precision": "fp16-cache"}, {"backend": "cpu"}):
        assert Sampler(files, **options).backend == "cpu"
    assert card["runs"] == 1


def test_auto_leaves_a_card_that_does_not_agree_or_cannot(card, monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    forget(monkeypatch)
    files = make_files(d_model=16, n_layer=1, n_head=1, context_length=5, mlp_ratio=1)
    card["found"] = "self-check, ring: |ln p error| 0.1 > 0.001"
    assert Sampler(files).backend == Sampler(files).backend == "cpu"
    assert [record.getMessage() for record in caplog.records] == [
        "rollouts run on the CPU, not on CUDA: self-check, ring: |ln p error| 0.1 > 0.001"
    ]
    assert Sampler(files, "cuda").backend == "cuda"  # by name, at the user's risk
    caplog.clear()
    # A check that could not run is no verdict.
    card.update(found=RuntimeError("out of memory"), driver=1, runs=0)
    assert Sampler(files).backend == "cpu"
    assert "its self-check could not run: out of memory" in caplog.text
    card["found"] = ""
    assert Sampler(files).backend == "cuda" and card["runs"] == 2
    # Heads wider than the kernels hold.
    wide = make_files(d_model=264, n_layer=1, n_head=1, context_length=5, mlp_ratio=1)
    caplog.clear()
    assert Sampler(wide).backend == "cpu"
    assert "256 features" in caplog.text
