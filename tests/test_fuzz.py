"""Files that were damaged in any way are refused in one line: nothing but nanomd's own errors may come out of a reader.

The damage is seeded. ``NANOMD_FUZZ=20`` makes it twenty times as long, for an evening.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mutations import mutated
from rollout_models import make_files

from nanomd.base.codec import load_toml
from nanomd.base.errors import NanomdError
from nanomd.conditional.conditions import Conditions
from nanomd.conditional.files import ConditionalFiles, dependence_shapes, load_conditional_files, save_conditional
from nanomd.data.dtrajs import load_dtrajs
from nanomd.model.files import load_model_files
from nanomd.rollout.observables import Observables, ObservablesResult
from nanomd.rollout.result import Rollout
from nanomd.rollout.sampler import Sampler
from nanomd.rollout.store import TokenStore
from nanomd.study import report as report_step
from nanomd.study.folder import RunFolder
from nanomd.study.results import held_out_of, load_tokens, load_validation

LONGER = int(os.environ.get("NANOMD_FUZZ", "1"))


def survives(file: Path, read: Callable[[], object], number: int) -> None:
    """Read damaged copies of a file, put back afterwards; some must be refused, or the damage would be none."""
    good, refused, longest = file.read_bytes(), 0, 0
    read()
    for index, bad in enumerate(mutated(good, seed=len(good), number=number * LONGER)):
        file.write_bytes(bad)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read()
        except NanomdError as error:
            refused, longest = refused + 1, max(longest, len(str(error)))
        except Exception as error:
            kept = file.with_name(f"{file.name}.bad")
            kept.write_bytes(bad)
            raise AssertionError(f"copy {index} of {file.name} gives {error!r}; kept as {kept}") from error
    file.write_bytes(good)
    assert longest < 1000
    assert refused > number * LONGER / 20


def test_files_of_a_run_folder(copy: Path) -> None:
    folder = RunFolder(copy)
    dtrajs, _ = load_tokens(folder)

    def generated() -> None:
        TokenStore.open(folder.generated).verify()
        assert len(Rollout.load(folder.generated).dtrajs)

    def config() -> None:
        load_toml(copy / "config.toml")
        for stage in ("train", "tokenize"):
            folder.config(stage)
        folder.setting("tokenize", "stride", 1)
        folder.setting("tokenize", "system", "")
        folder.record_config("train", {"seed": 1})

    result = load_validation(folder)

    def provenance() -> None:
        stages = folder.provenance().stages
        folder.stale_notes("report", itself=True)
        held_out_of(folder, dtrajs)
        report_step._summary(stages, result)
        report_step._speeds(stages)
        with folder.lock():
            folder.begin("train", {}, {}, force=True)

    def validation() -> None:
        found = load_validation(folder)
        assert str(found)
        found.to_dict()

    survives(copy / "tokens/manifest.json", lambda: load_tokens(folder), 200)
    survives(copy / "tokens/md_0000.npy", lambda: load_tokens(folder), 200)
    survives(copy / "generated/manifest.json", generated, 300)
    survives(copy / "generated/shard_0000.npy", generated, 100)
    survives(copy / "model/config.json", lambda: load_model_files(folder.model), 200)
    survives(copy / "model/starts.safetensors", lambda: load_model_files(folder.model), 100)
    survives(copy / "report/validation.json", validation, 200)
    survives(copy / "config.toml", config, 150)
    survives(copy / "provenance.json", provenance, 150)
    survives(copy / "logs/metrics.jsonl", lambda: report_step._metrics(folder), 200)


def test_conditional_models(tmp_path: Path) -> None:
    shared = make_files(n_states=5, markov_head=True)
    given = [{"temperature": 300.0, "ligand": "atp"}, {"temperature": 330.0, "ligand": "none"}]
    conditions, _ = Conditions.of(given)
    shapes = dependence_shapes(shared.config, conditions.n_features)
    dependence = {name: np.full(shape, 0.1, np.float32) for name, shape in shapes.items()}
    save_conditional(tmp_path / "m", ConditionalFiles(shared, conditions, dependence, (shared.starts, shared.starts)))

    def read() -> None:
        load_conditional_files(tmp_path / "m").at({"temperature": 310.0, "ligand": "atp"})

    survives(tmp_path / "m/conditions.json", read, 400)
    survives(tmp_path / "m/dependence.safetensors", read, 200)


@pytest.mark.parametrize("suffix", ["npy", "npz", "txt"])
def test_discrete_trajectories(tmp_path: Path, suffix: str) -> None:
    file, labels = tmp_path / f"x.{suffix}", np.arange(60) % 7
    if suffix == "npy":
        np.save(file, labels)
    elif suffix == "npz":
        np.savez(file, a=labels, b=labels[:9])
    else:
        file.write_text("\n".join(map(str, labels)))
    survives(file, lambda: load_dtrajs(file), 600)


def test_a_store_under_way_with_observables(tmp_path: Path) -> None:
    files = make_files(n_states=5)
    watched = Observables(lagtimes=(1, 3), sets={"a": [5], "b": [8, 11]})
    Sampler(files).generate(60, 3, seed=1, out=tmp_path / "s", observables=watched)
    store = TokenStore.open(tmp_path / "s")

    def read() -> None:
        opened = TokenStore.open(store.path)
        Rollout.from_store(opened, partial=True)
        opened.verify()

    survives(store.path / "manifest.json", read, 400)
    survives(
        store.path / str(store.observables), lambda: ObservablesResult.load(store.path / str(store.observables)), 300
    )


def test_tokenizers(tmp_path: Path) -> None:
    import mdtraj

    from nanomd.tokenize import Tokenizer

    topology = mdtraj.Topology()
    chain = topology.add_chain()
    for number in range(6):
        topology.add_atom("CA", mdtraj.element.carbon, topology.add_residue("ALA", chain, number + 1))
    xyz = np.random.default_rng(0).normal(size=(80, 6, 3)).astype(np.float32)
    mdtraj.Trajectory(xyz, topology).save_xtc(str(tmp_path / "x.xtc"))
    mdtraj.Trajectory(xyz[:1], topology).save_pdb(str(tmp_path / "x.pdb"))
    tokenizer = Tokenizer("distances", reduction="tica", lagtime=2, n_components=2, n_states=5)
    tokenizer.fit(tmp_path / "x.pdb", [tmp_path / "x.xtc"])
    tokenizer.save(tmp_path / "t")
    for name, number in (("tokenizer.json", 400), ("tokenizer.npz", 60), ("frames_index.npz", 60)):
        survives(tmp_path / "t" / name, lambda: Tokenizer.load(tmp_path / "t"), number)


def test_the_same_seed_gives_the_same_damage() -> None:
    data = b'{"a": [1, 2, {"b": "c"}]}'
    assert list(mutated(data, 1, 50)) == list(mutated(data, 1, 50))
    assert len(set(mutated(data, 1, 50))) > 30
