"""What a release consists of says one thing: versions, dependencies, wheels, citation."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

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


def rendered(text: str) -> dict[str, Any]:
    """A file of YAML and Jinja as values; functions of the recipe give their name and arguments."""
    yaml, jinja2 = pytest.importorskip("yaml"), pytest.importorskip("jinja2")
    names = ("compiler", "stdlib", "pin_subpackage")
    functions = {name: lambda *a, name=name, **k: " ".join([name, *a, *k]) for name in names}
    environment = jinja2.Environment(autoescape=False, undefined=jinja2.StrictUndefined)
    plain = environment.from_string((ROOT / text).read_text()).render(PYTHON="python", **functions)
    return yaml.safe_load(re.sub(r"#.*", "", plain))


def test_the_recipe_keeps_the_rules_of_the_channel() -> None:
    """What conda-forge's linter asks of a recipe, as far as it concerns this one."""
    recipe = rendered("recipe/meta.yaml")
    assert list(recipe) == ["package", "source", "build", "outputs", "about", "extra"]
    assert set(recipe["about"]) >= {"home", "license", "summary", "license_file"}
    assert recipe["about"]["home"].startswith("https://") and len(recipe["about"]["summary"]) <= 80
    assert (ROOT / recipe["about"]["license_file"]).is_file()
    assert recipe["package"]["name"] == PYPROJECT["project"]["name"].lower()
    assert recipe["extra"]["recipe-maintainers"] and isinstance(recipe["build"]["number"], int)
    assert re.search(r"sha256: [0-9a-f]{64}$", RECIPE, re.MULTILINE) and recipe["source"]["url"].endswith(".tar.gz")
    versions = re.findall(r"py<3(\d+)", RECIPE)
    assert versions == [PYPROJECT["project"]["requires-python"].removeprefix(">=3.")]
    for output in recipe["outputs"]:
        needs = output["requirements"]
        assert output["test"]["imports"], "every output is tried"
        assert "python" in needs["host"] and "python" in needs["run"]
        assert ("compiler cxx" in needs.get("build", ())) == ("stdlib c" in needs.get("build", ()))
        for line in [line for section in needs.values() for line in section if " " in line]:
            assert re.fullmatch(r"(compiler|stdlib|pin_subpackage) .*|[a-z0-9-]+ [<>=!]=?[0-9a-z.]+", line), line
    for file in recipe["outputs"][0]["test"]["source_files"]:
        assert (ROOT / file).is_file()
    assert RECIPE.endswith("\n") and not RECIPE.endswith("\n\n") and "\t" not in RECIPE


@pytest.mark.parametrize("text", ["recipe/meta.yaml", "CITATION.cff"])
def test_yaml_that_can_be_read(text: str) -> None:
    found = rendered(text)
    if text == "CITATION.cff":
        assert found["references"][0]["doi"] == "10.1021/acs.jctc.5c00180"
    else:
        assert [output["name"] for output in found["outputs"]] == ["nanomd-kinetics", "nanomd-kinetics-all"]
        assert found["about"]["license"] == PYPROJECT["project"]["license"]
