"""What a release consists of says one thing: versions, dependencies, wheels, citation."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import nanomd

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RECIPE = (ROOT / "recipe" / "meta.yaml").read_text()
CITATION = (ROOT / "CITATION.cff").read_text()


def test_one_version() -> None:
    version = PYPROJECT["project"]["version"]
    assert nanomd.__version__ == version
    assert re.search(r'set version = "(.*)"', RECIPE).group(1) == version
    assert re.search(r"^version: (.*)$", CITATION, re.MULTILINE).group(1) == version


def needed(section: str) -> dict[str, str]:
    """Requirements of an output of the recipe by name."""
    return dict(re.findall(r"^ +- ([a-z0-9-]+) (>=[0-9.]+)$", section, re.MULTILINE))


def test_the_recipe_needs_what_the_package_needs() -> None:
    light, everything = RECIPE.split("- name: nanomd-kinetics-all")
    run = needed(light.partition(" run:")[2].partition("run_constrained")[0])
    assert run == {Requirement(r).name: str(Requirement(r).specifier) for r in PYPROJECT["project"]["dependencies"]}
    names = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
    extras = PYPROJECT["project"]["optional-dependencies"]
    wanted = [Requirement(r) for name in ("train", "md", "report", "notebook", "openmm") for r in extras[name]]
    found = needed(everything.partition(" test:")[0])
    assert found == {names.get(r.name, r.name): str(r.specifier) for r in wanted if r.name != "triton"}
    host = needed(light.partition(" host:")[2].partition(" run:")[0])
    assert host == {Requirement(r).name: str(Requirement(r).specifier) for r in PYPROJECT["build-system"]["requires"]}


def test_wheels_of_every_python_that_is_promised() -> None:
    pythons = re.findall(r"Python :: (3\.\d+)", "\n".join(PYPROJECT["project"]["classifiers"]))
    tags = [f"cp{version.replace('.', '')}-manylinux_x86_64" for version in pythons]
    cuda = tomllib.loads((ROOT / "recipe" / "cibuildwheel-cuda.toml").read_text())["tool"]["cibuildwheel"]
    for wheels, switch in ((PYPROJECT["tool"]["cibuildwheel"], "OFF"), (cuda, "ON")):
        assert wheels["build"] == tags
        assert wheels["manylinux-x86_64-image"] == "manylinux_2_28"
        assert wheels["config-settings"] == {"cmake.define.NANOMD_CUDA": switch}
        assert (ROOT / wheels["test-command"].rpartition("{project}/")[2]).is_file()


def test_what_a_wheel_is_tried_with_runs() -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "recipe" / "try_wheel.py")], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "rolls out" in result.stdout


@pytest.mark.parametrize("text", ["recipe/meta.yaml", "CITATION.cff"])
def test_yaml_that_can_be_read(text: str) -> None:
    yaml, jinja2 = pytest.importorskip("yaml"), pytest.importorskip("jinja2")
    functions = {name: lambda *a, **k: "x" for name in ("compiler", "stdlib", "pin_subpackage")}
    rendered = (
        jinja2.Environment(autoescape=False).from_string((ROOT / text).read_text()).render(PYTHON="python", **functions)
    )
    found = yaml.safe_load(re.sub(r"#.*", "", rendered))
    if text == "CITATION.cff":
        assert found["references"][0]["doi"] == "10.1021/acs.jctc.5c00180"
    else:
        assert [output["name"] for output in found["outputs"]] == ["nanomd-kinetics", "nanomd-kinetics-all"]
        assert found["about"]["license"] == PYPROJECT["project"]["license"]
