"""The documentation: numbers are those of their records, the site builds without a warning, the tutorials run."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TUTORIALS = ("own_dtrajs", "short_trajectories", pytest.param("pentapeptide", marks=pytest.mark.data))


def module(path: str):
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_numbers_are_those_of_the_records(capsys):
    assert module("docs/fill_numbers.py").main(["--check"]) == 0, capsys.readouterr().out


def test_tables_are_made_of_the_records_that_are_times(monkeypatch, capsys):
    """As docs/benchmarks.md says it: of all records in the folder, some of which count what is not time."""
    records = sorted(map(str, (ROOT / "benchmarks" / "results").glob("*.json")))
    monkeypatch.setattr(sys, "argv", ["plot.py", "--table", *records])
    module("benchmarks/plot.py").main()
    shown = capsys.readouterr()
    assert "| nanomd ring |" in shown.out and "left out" in shown.err and "constrain.json" in shown.err


def test_a_number_that_went_stale_is_found(tmp_path, monkeypatch, capsys):
    fill = module("docs/fill_numbers.py")
    monkeypatch.setattr(fill, "HERE", tmp_path)
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "r.json").write_text('{"a": {"b": [1, 0.1249]}}')
    page = tmp_path / "page.md"
    page.write_text("is <!-- n r.a.b.1:.2f -->0.99<!-- / -->, of <!-- n r.a.b.0:d -->1<!-- / -->")
    assert fill.main(["--check"]) == 1
    assert "0.99" in page.read_text(), "a check writes nothing"
    assert fill.main([]) == 0
    assert page.read_text() == "is <!-- n r.a.b.1:.2f -->0.12<!-- / -->, of <!-- n r.a.b.0:d -->1<!-- / -->"
    assert fill.main(["--check"]) == 0
    page.write_text("<!-- n r.a.c:.2f -->1<!-- / -->")
    with pytest.raises(KeyError):
        fill.main(["--check"])


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    for name in ("mkdocs", "material", "mkdocstrings", "mkdocs_jupyter"):
        pytest.importorskip(name)
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    kinetics = (tmp_path / "site/api/kinetics/index.html").read_text()
    assert "ValidationResult" in kinetics and "to_dataframe" in kinetics
    assert re.search(r"<img[^>]+image/png;base64", (tmp_path / "site/tutorials/own_dtrajs/index.html").read_text())


def verdicts(outputs):
    """What the summaries among the outputs of a notebook say of the model."""
    return re.findall(r"^GPT: (\w+)", "\n".join(output.get("text", "") for output in outputs), re.MULTILINE)


@pytest.mark.parametrize("name", TUTORIALS)
def test_the_tutorials_show_models_that_hold(name):
    notebook = json.loads((ROOT / "docs/tutorials" / f"{name}.ipynb").read_text())
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    joined = [{"text": "".join(output.get("text", []))} for output in outputs]
    assert verdicts(joined) in (["PASS"], ["UNDECIDED"])


@pytest.mark.slow
@pytest.mark.parametrize("name", TUTORIALS)
def test_tutorials_run(name, monkeypatch):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    data = Path(os.environ.get("NANOMD_DATA", ROOT.parent / "shared" / "data"))
    if name == "pentapeptide" and not (data / "pentapeptide").is_dir():
        pytest.skip(f"no pentapeptide under {data}: set NANOMD_DATA")
    monkeypatch.setenv("NANOMD_DATA", str(data))
    notebook = module("docs/tutorials/make.py").execute(ROOT / "docs/tutorials" / f"{name}.ipynb")
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 1
    assert verdicts(outputs) in (["PASS"], ["UNDECIDED"])
