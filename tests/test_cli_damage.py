"""Run folders that were damaged, changed or half repeated: every command says so, and none loses a result."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import GENERATE, TRAIN, ok, refused, run

from nanomd.base.files import sha256_of


def test_changed_and_cut_shards_are_no_valid_result(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = copy / "generated/shard_0000.npy"
    good = shard.read_bytes()
    half = len(good) // 2
    shard.write_bytes(good[:half] + bytes(len(good) - half))
    for command in ("validate", "report"):
        assert "shard_0000.npy has changed" in refused(capsys, command, "--run", copy, "--force")
    shard.write_bytes(good[:half])
    for command in (["validate"], ["report"], ["generate", *GENERATE]):
        assert "it was truncated" in refused(capsys, command[0], "--run", copy, *command[1:])
    shard.write_bytes(good)
    ok("generate", "--run", copy, *GENERATE)


def test_what_a_repeated_training_makes_stale_is_said(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ok("train", "--run", copy, *TRAIN, "--seed", 1, "--force", "--quiet")
    capsys.readouterr()
    ok("report", "--run", copy, "--force")
    said, page = capsys.readouterr().out, (copy / "report/index.html").read_text()
    for stage in ("generate", "validate"):
        assert f"note: the result of `{stage}` is stale: `train` was repeated on" in said
        assert f"the result of `{stage}` is stale" in page
    assert "made by another model" in refused(capsys, "validate", "--run", copy)
    ok("generate", "--run", copy, *GENERATE, "--force", "--quiet")
    ok("validate", "--run", copy, "--n-bootstrap", 20, "--macrostates", 2, "--force", "--quiet")
    capsys.readouterr()
    ok("report", "--run", copy, "--force")
    assert "stale" not in capsys.readouterr().out
    assert "is stale" not in (copy / "report/index.html").read_text()


def test_a_refused_force_keeps_every_result(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {name: sha256_of(copy / name) for name in ("model", "checkpoints", "logs", "generated", "report")}
    refused(capsys, "train", "--run", copy, *TRAIN, "--force", "--n-head", 5)
    refused(capsys, "generate", "--run", copy, *GENERATE, "--force", "--stride", 601)
    refused(capsys, "validate", "--run", copy, "--force", "--lagtimes", 50_000)
    assert {name: sha256_of(copy / name) for name in before} == before
    ok("train", "--run", copy, *TRAIN)
    ok("generate", "--run", copy, *GENERATE)
    assert "nothing to do" in capsys.readouterr().out


def test_doctor_checks_every_result_of_a_run(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def flip(file: Path) -> None:
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)

    ok("doctor", "--run", copy)
    assert capsys.readouterr().out.count("; whole") == 6
    for name, stage, says in (
        ("generated/shard_0000.npy", "generate", "shard_0000.npy has changed"),
        ("tokens/md_0001.npy", "tokenize", "has changed since `train` read it"),
        ("model/model.safetensors", "generate", "was made by another model"),
    ):
        flip(copy / name)
        assert run("doctor", "--run", copy) == 2
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("run: ")]
        assert [line.split()[1] for line in lines if "whole" not in line] == [stage]
        assert says in "".join(lines)
        flip(copy / name)
    (copy / "report/validation.json").write_text("{}")
    assert run("doctor", "--run", copy) == 2
    ok("generate", "--run", copy, *GENERATE)
