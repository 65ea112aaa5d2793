"""Every command end to end in a temporary folder, repeating steps, and bad input that must lose nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import GENERATE, TRAIN, ok, refused

from nanomd.base.files import sha256_of
from nanomd.data.dtrajs import save_dtrajs


def test_the_run_folder_holds_what_it_should(finished: Path) -> None:
    for name in (
        "config.toml", "provenance.json", "simulation/xy_0002.npy", "tokens/md_0002.npy", "tokens/manifest.json",
        "model/model.safetensors", "model/config.json", "logs/metrics.jsonl", "generated/shard_0000.npy",
        "generated/manifest.json", "report/index.html", "report/validation.json",
    ):  # fmt: skip
        assert (finished / name).is_file(), name
    stages = json.loads((finished / "provenance.json").read_text())["stages"]
    assert list(stages) == ["simulate", "tokenize", "train", "generate", "validate", "report"]
    for stage in stages.values():
        assert stage["environment"]["versions"]["nanomd"]
    assert stages["tokenize"]["inputs"]["xy_0000.npy"] == sha256_of(finished / "simulation/xy_0000.npy")
    assert stages["generate"]["tokens_per_second"] > 0
    assert stages["generate"]["backend"].startswith("cpu")
    page = (finished / "report/index.html").read_text()
    assert "GPT" in page
    assert "data:image/png;base64" in page
    assert list((finished / "report/png").glob("*.png"))


def test_no_reader_of_the_folder_needs_pickle(finished: Path) -> None:
    for file in finished.rglob("*.np[yz]"):
        np.load(file, allow_pickle=False)
    assert not [p for p in finished.rglob("*") if p.suffix in {".pt", ".pkl", ".pth"}]


def test_repeating_a_step_does_nothing_or_says_what_differs(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.stat().st_mtime_ns for p in copy.rglob("*") if p.is_file() and p.name != ".lock"}
    ok("simulate", "--run", copy, "--n-frames", 1500, "--n-trajs", 3)
    ok("train", "--run", copy, *TRAIN)
    ok("generate", "--run", copy, *GENERATE)
    assert capsys.readouterr().out.count("nothing to do") == 3
    assert before == {p: p.stat().st_mtime_ns for p in before}
    assert "n_frames (1500 -> 1600)" in refused(capsys, "simulate", "--run", copy, "--n-frames", 1600, "--n-trajs", 3)
    assert "--force" in refused(capsys, "train", "--run", copy, *TRAIN, "--seed", 3)
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_the_same_seed_gives_the_same_result_and_another_does_not(finished: Path, copy: Path) -> None:
    shard = "generated/shard_0000.npy"
    ok("generate", "--run", copy, *GENERATE, "--force", "--n-threads", 1, "--quiet")
    assert sha256_of(copy / shard) == sha256_of(finished / shard)
    ok("generate", "--run", copy, *GENERATE, "--force", "--seed", 1, "--quiet")
    assert sha256_of(copy / shard) != sha256_of(finished / shard)
    weights = "model/model.safetensors"
    ok("train", "--run", copy, *TRAIN, "--force", "--quiet")
    assert sha256_of(copy / weights) == sha256_of(finished / weights)
    ok("train", "--run", copy, *TRAIN, "--force", "--seed", 1, "--quiet")
    assert sha256_of(copy / weights) != sha256_of(finished / weights)


def test_results_of_another_model_are_not_judged(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ok("train", "--run", copy, *TRAIN, "--force", "--seed", 1, "--quiet")
    assert "made by another model" in refused(capsys, "validate", "--run", copy)


def test_a_training_killed_at_any_moment_resumes_to_the_same_model(finished: Path, copy: Path) -> None:
    more = [*TRAIN, "--force", "--checkpoint-interval", 2]
    ok("train", "--run", copy, *more, "--quiet")
    expected = sha256_of(copy / "model/model.safetensors")
    arguments = [sys.executable, "-m", "nanomd.cli.main", "train", "--run", str(copy), *map(str, more)]
    child = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list((copy / "checkpoints").glob("step_*")) or (copy / "model").exists():
        assert time.monotonic() < deadline
        assert child.poll() is None or (copy / "model").exists()
        if child.poll() is not None:
            break
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.wait()
    resumed = [a for a in more if a != "--force"]
    ok("train", "--run", copy, *resumed, "--resume", "--quiet")
    assert sha256_of(copy / "model/model.safetensors") == expected


def test_generate_from_a_given_state_and_with_a_stride(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ok("generate", "--run", copy, *GENERATE, "--force", "--start", "12", "--stride", "7", "--quiet")
    from nanomd import Rollout

    assert Rollout.load(copy / "generated").dtrajs[0].shape == (86,)
    assert "999" in refused(capsys, "generate", "--run", copy, *GENERATE, "--force", "--start", "999")
    assert "start must be" in refused(capsys, "generate", "--run", copy, *GENERATE, "--force", "--start", "somewhere")


def test_validate_against_other_trajectories(copy: Path, finished: Path) -> None:
    other = finished / "tokens" / "md_*.npy"
    options = ["--n-bootstrap", 20, "--macrostates", 2, "--memory-kernel", 3, "--quiet"]
    ok("validate", "--run", copy, "--force", "--reference", other, *options)
    assert "memory kernel" in json.loads((copy / "report" / "validation.json").read_text())["sources"]
    stages = json.loads((copy / "provenance.json").read_text())["stages"]
    assert stages["validate"]["judged_by"].startswith("given trajectories (md_0000.npy")


def test_later_steps_say_which_earlier_one_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("train", "generate", "validate", "report", "structures"):
        assert "does not exist" in refused(capsys, command, "--run", tmp_path / "absent")
    assert not (tmp_path / "absent").exists()
    for command, missing in (
        ("train", "tokenize"),
        ("generate", "train"),
        ("validate", "generate"),
        ("report", "validate"),
    ):
        assert f"nanomd {missing}" in refused(capsys, command, "--run", tmp_path)
    assert "nothing to tokenize" in refused(capsys, "tokenize", "--run", tmp_path)


# --- bad input -------------------------------------------------------------------------------------------------------
def _dtrajs(folder: Path, **arrays: object) -> list[Path]:
    files = []
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", np.asarray(values))
        files.append(folder / f"{name}.npy")
    return files


def test_discrete_trajectories_made_elsewhere(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    files = _dtrajs(tmp_path, a=random.choice([3, 7, 900], 300), b=random.choice([3, 7, -1], 300))
    ok("tokenize", "--run", tmp_path / "run", *files, "--frame-interval", "0.2 ns", "--quiet")
    manifest = json.loads((tmp_path / "run/tokens/manifest.json").read_text())
    assert manifest["n_states"] == 3
    assert manifest["frame_interval"] == {"value": 0.2, "unit": "ns"}
    ok("train", "--run", tmp_path / "run", "--preset", "tiny", "--n-steps", 2, "--quiet")
    ok("generate", "--run", tmp_path / "run", "--n-steps", 50, "--n-trajs", 2, "--start", "900", "--quiet")
    ok("validate", "--run", tmp_path / "run", "--n-bootstrap", 20, "--lagtimes", 1, 2, "--quiet")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.0, 1.0, np.nan, 1.0], "nan"),
        ([4, 4, 4, 4], "visit 1 state"),
        ([0.5, 1.0, 2.0], "whole numbers"),
        ([[0, 1], [1, 0]], "1-D"),
        ([], "empty"),
    ],
)
def test_bad_discrete_trajectories(
    values: object, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file,) = _dtrajs(tmp_path, bad=values)
    assert message.lower() in refused(capsys, "tokenize", "--run", tmp_path / "run", file).lower()
    assert not (tmp_path / "run/tokens").exists()
    (good,) = _dtrajs(tmp_path, good=[0, 1, 0, 1])
    ok("tokenize", "--run", tmp_path / "run", good, "--quiet")


def test_missing_and_unreadable_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "absent.npy" in refused(capsys, "tokenize", "--run", tmp_path / "run", tmp_path / "absent.npy")
    assert "x_*.npy" in refused(capsys, "tokenize", "--run", tmp_path / "run", tmp_path / "x_*.npy")
    (tmp_path / "torn.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr'")
    assert "torn.npy" in refused(capsys, "tokenize", "--run", tmp_path / "run", tmp_path / "torn.npy")
    np.save(tmp_path / "objects.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    assert "objects.npy" in refused(capsys, "tokenize", "--run", tmp_path / "run", tmp_path / "objects.npy")
    assert "absent.pdb" in refused(
        capsys, "tokenize", "--run", tmp_path / "run", "--top", tmp_path / "absent.pdb", tmp_path / "torn.npy"
    )
    assert "frame_interval" in refused(
        capsys, "tokenize", "--run", tmp_path / "run", tmp_path / "torn.npy", "--frame-interval", "3"
    )


def test_a_lag_longer_than_the_data(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sha256_of(copy / "report/validation.json")
    error = refused(capsys, "validate", "--run", copy, "--lagtimes", 50_000, "--seed", 5)
    assert "--force" in error
    error = refused(capsys, "validate", "--run", copy, "--lagtimes", 50_000, "--force")
    assert "50000" in error
    assert before


def test_a_truncated_or_hostile_model(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = copy / "model/model.safetensors"
    good = weights.read_bytes()
    kept = sha256_of(copy / "generated")
    for bad in (good[:-100], good[:10], b"", (2**62).to_bytes(8, "little") + good[8:], b"\x80\x04K\x01."):
        weights.write_bytes(bad)
        assert "model.safetensors" in refused(capsys, "generate", "--run", copy, *GENERATE, "--force")
    weights.write_bytes(good)
    config = copy / "model/config.json"
    text = config.read_text()
    for bad_text in (text[:50], "[]", text.replace('"n_layer": 2', '"n_layer": 3'), "{}"):
        config.write_text(bad_text)
        assert "config.json" in refused(capsys, "generate", "--run", copy, *GENERATE, "--force") or bad_text[2:5]
    config.write_text(text)
    assert sha256_of(copy / "generated") == kept
    ok("generate", "--run", copy, *GENERATE, "--quiet")


def test_options_that_do_not_fit(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "n_head" in refused(capsys, "train", "--run", copy, *TRAIN, "--force", "--n-head", 5)
    assert "n_steps" in refused(capsys, "generate", "--run", copy, "--force", "--n-steps", 0)
    assert "stride" in refused(capsys, "generate", "--run", copy, *GENERATE, "--force", "--stride", 601)
    assert "cuda" in refused(capsys, "generate", "--run", copy, *GENERATE, "--force", "--backend", "cuda")
    assert "hold_out" in refused(capsys, "train", "--run", copy, "--hold-out", 3)


# --- structures ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def protein(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a chain of 6 atoms that jumps between two shapes: top.pdb, two XTC files, one of 7 atoms."""
    import mdtraj

    folder = tmp_path_factory.mktemp("protein")

    def trajectory(n_atoms: int, n_frames: int, seed: int) -> mdtraj.Trajectory:
        topology = mdtraj.Topology()
        chain = topology.add_chain()
        for _ in range(n_atoms):
            residue = topology.add_residue("GLY", chain)
            topology.add_atom("CA", mdtraj.element.carbon, residue)
        random = np.random.default_rng(seed)
        stretched = np.cumsum(random.random(n_frames) < 0.1) % 2
        x = np.zeros((n_frames, n_atoms, 3), np.float32)
        x[:, :, 0] = np.arange(n_atoms) * (0.3 + 0.2 * stretched[:, None])
        x += random.normal(0, 0.01, x.shape)
        return mdtraj.Trajectory(x, topology, time=np.arange(n_frames) * 200.0)

    trajectory(6, 1, 0).save_pdb(str(folder / "top.pdb"))
    for index in range(2):
        trajectory(6, 300, index).save_xtc(str(folder / f"traj_{index}.xtc"))
    trajectory(7, 50, 3).save_xtc(str(folder / "other.xtc"))
    broken = trajectory(6, 50, 4)
    broken.xyz[20, 2, 1] = np.nan
    broken.save_dcd(str(folder / "nan.dcd"))
    return folder


def test_from_structures_to_structures(protein: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    tokenize = ["tokenize", "--run", folder, "--top", protein / "top.pdb", "--features", "distances", "--states", "4"]
    ok(*tokenize, "--quiet", protein / "traj_*.xtc")
    assert json.loads((folder / "tokens/manifest.json").read_text())["frame_interval"] == {"value": 200.0, "unit": "ps"}
    ok("train", "--run", folder, "--preset", "tiny", "--n-steps", 2, "--quiet")
    ok("generate", "--run", folder, "--n-steps", 100, "--n-trajs", 2, "--quiet")
    out = tmp_path / "generated.xtc"
    ok("structures", "--run", folder, "--out", out, "--n-frames", 20, "--stride", 2, "--quiet")
    import mdtraj

    assert mdtraj.load(str(out), top=str(protein / "top.pdb")).n_frames == 20
    first = sha256_of(out)
    assert "exists" in refused(capsys, "structures", "--run", folder, "--out", out)
    ok("structures", "--run", folder, "--out", out, "--n-frames", 20, "--stride", 2, "--force", "--quiet")
    assert sha256_of(out) == first
    assert "trajectory must be" in refused(capsys, "structures", "--run", folder, "--out", out, "--trajectory", 9)
    passage = ["structures", "--run", folder, "--out", tmp_path / "passage.xtc", "--passage"]
    assert "rare" in refused(capsys, *passage, 0)
    save_dtrajs([[0, 1], [1, 2, 0]], folder / "rare" / "paths", "path_")
    ok(*passage, 1, "--quiet")
    assert mdtraj.load(str(tmp_path / "passage.xtc"), top=str(protein / "top.pdb")).n_frames == 3
    assert "passage must be in [0, 1]" in refused(capsys, *passage, 2, "--force")

    assert "atoms" in refused(capsys, *tokenize, protein / "other.xtc", "--force")
    assert "nan" in refused(capsys, *tokenize, protein / "nan.dcd", "--force").lower()


def test_structures_need_structures(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "not tokenized from structures" in refused(capsys, "structures", "--run", copy, "--out", tmp_path / "a.xtc")


# --- the main job ----------------------------------------------------------------------------------------------------
def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ok("demo", "--quick", "--run", tmp_path / "run")
    text = capsys.readouterr().out
    for word in ("simulated", "trained", "generated", "timescale", "MSM", "MD"):
        assert word in text
    assert text.rstrip().endswith("index.html")
    assert Path(text.rstrip().rpartition(" ")[2]).is_file()
    ok("demo", "--quick", "--run", tmp_path / "run")
    assert capsys.readouterr().out.count("nothing to do") >= 5


@pytest.mark.data
@pytest.mark.slow
def test_demo_on_alanine_dipeptide(tmp_path: Path) -> None:
    data = Path(os.environ.get("NANOMD_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (data / "alanine_dipeptide" / "phi_psi_1.npy").exists():
        pytest.skip(f"no alanine dipeptide under {data}: set NANOMD_DATA")
    ok("demo", "--quick", "--system", "alanine-dipeptide", "--data", data, "--run", tmp_path / "run", "--quiet")
    assert (tmp_path / "run/report/index.html").is_file()


def test_demo_without_its_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "phi_psi" in refused(
        capsys, "demo", "--system", "alanine-dipeptide", "--data", tmp_path, "--run", tmp_path / "run"
    )


def test_bench_verifies_times_and_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ok("bench", "--quick", "--out", tmp_path / "record.json", "--n-threads", 1)
    assert "ours/this" in capsys.readouterr().out
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["environment"]["versions"]["torch"]
    cases = record["results"]["rollout"]["cases"]
    assert {case["mode"] for case in cases} == {"ring", "hop", "crop"}
    for case in cases:
        assert {"eager", f"nanomd {case['mode']}"} <= set(case["engines"])
        for engine in case["engines"].values():
            assert engine["max_log_prob_error"] < (1e-3 if engine["precision"] == "fp32" else 2e-2)
            assert 0 < engine["low"] <= engine["median"] <= engine["high"]


def test_bench_refuses_to_time_a_wrong_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nanomd.rollout.sampler import Sampler

    real = Sampler.log_probs
    monkeypatch.setattr(
        Sampler, "log_probs", lambda self, *args, **options: [x + 0.1 for x in real(self, *args, **options)]
    )
    assert "differs from the reference" in refused(capsys, "bench", "--quick")


def test_lookahead_changes_no_state_and_precision_is_recorded(finished: Path, tmp_path: Path) -> None:
    """One trajectory by the command line, drafted ahead or not; and with 16-bit weights."""
    folders = {}
    for name, flags in {
        "off": ("--lookahead", 0),
        "ahead": ("--lookahead", 4),
        "half": ("--precision", "fp16"),
    }.items():
        folders[name] = tmp_path / name
        shutil.copytree(finished, folders[name])
        ok("generate", "--run", folders[name], "--n-steps", 300, "--n-trajs", 1, "--force", *flags)
    states = {name: np.load(folder / "generated" / "shard_0000.npy") for name, folder in folders.items()}
    assert np.array_equal(states["off"], states["ahead"])
    assert states["half"].shape == states["off"].shape
    assert 'precision = "fp16"' in (folders["half"] / "config.toml").read_text()


def test_a_refused_first_step_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    np.save(tmp_path / "one.npy", np.zeros(50, np.int64))
    np.save(tmp_path / "table.npy", np.zeros((3, 3)))
    for options in ([], [tmp_path / "absent.npy"], [tmp_path / "one.npy"], [tmp_path / "table.npy"]):
        refused(capsys, "tokenize", "--run", folder, *options)
        assert not folder.exists()
    folder.mkdir()
    (folder / "mine.txt").write_text("kept")
    refused(capsys, "tokenize", "--run", folder, tmp_path / "one.npy")
    assert (folder / "mine.txt").read_text() == "kept"
