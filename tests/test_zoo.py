"""The zoo: defaults on data that no setting was chosen for; here its chains, one small case whole, and the command."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nanomd import InputError, validate
from nanomd.cli.main import main
from nanomd.data.counts import transition_counts
from nanomd.experiments import ZOO, run_zoo, zoo
from nanomd.experiments.zoo_cases import ZooCase, hidden_gates, markov_chain, ring


def test_chains_have_the_transitions_they_are_made_of():
    transition = ring(6, 0.02, 0.005)
    counts = transition_counts([markov_chain(transition, 200_000, 0)], 6)
    n = counts.sum(axis=1, keepdims=True)
    error = np.sqrt(transition * (1 - transition) / n)
    assert (abs(counts / n - transition) <= 5 * error + 1e-12).all()


def test_a_driven_ring_is_judged_with_as_many_macrostates_as_it_has():
    """No gap in its timescales, and PCCA+ leaves macrostates empty where three are asked for."""
    md = [markov_chain(ring(6, 0.02, 0.005), 50_000, seed) for seed in (2, 3, 4)]
    with pytest.raises(InputError, match="empty; use fewer macrostates"):
        validate(md, md, n_macrostates=3, n_bootstrap=20)
    assert validate(md, md, n_bootstrap=20).verdict == "pass"


def test_gates_remember():
    side = hidden_gates(20, 200_000, 0) // 3
    change = np.diff(side) != 0
    soon = change[1:][change[:-1]].mean()  # right after a change the gate is open
    assert soon > 3 * change.mean()


def test_one_case_whole(tmp_path, monkeypatch):
    monkeypatch.setitem(
        ZOO, "small", ZooCase("small", "small", lambda _: ([hidden_gates(5, 3000, 1)], [hidden_gates(5, 9000, 2)]))
    )
    monkeypatch.setattr("nanomd.experiments.zoo._STEPS", 100_000)
    monkeypatch.setattr(zoo, "_in_own_process", zoo._record)  # another process would not know the case
    text = run_zoo(tmp_path, cases=["small"], n_threads=1)
    record = json.loads((tmp_path / "zoo" / "small_seed0.json").read_text())
    assert record["n_frames"] == 3000
    # Power: the model at its own stride, against data with a few hundred passages; twice too fast would be found.
    assert 1 <= record["gpt_model"] < 1.5
    assert 0.8 < record["timescales"][0] < 1.25 and record["populations_inside"] == 1.0
    assert record["memory_kernel"] >= 1 and record["train_megabytes"] > 100
    assert f"| small | 6 | 3,000 | {record['frame_stride']} | {record['gpt']:.3f} |" in text
    record["title"] = "from the record"
    (tmp_path / "zoo" / "small_seed0.json").write_text(json.dumps(record))
    assert "| from the record |" in run_zoo(tmp_path, cases=["small"])  # not made again


def test_the_command_knows_its_animals(tmp_path, capsys):
    assert main(["experiment", "list"]) == 0
    assert "ww-domain-pieces-50" in capsys.readouterr().out
    assert main(["experiment", "zoo", "--out", str(tmp_path), "--cases", "unicorn"]) == 2
    assert "the zoo has no unicorn" in capsys.readouterr().err
    with pytest.raises(InputError, match="has no unicorn"):
        run_zoo(tmp_path, cases=["unicorn"])
