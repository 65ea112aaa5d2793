"""The installed package: metadata, files, and the compiled core where it belongs."""

from __future__ import annotations

import json
import tomllib
from importlib import metadata, resources
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import nanomd

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_metadata_and_version_agree() -> None:
    info = metadata.metadata("nanomd-kinetics")
    assert info["Version"] == nanomd.__version__ == PYPROJECT["project"]["version"]
    assert info["Requires-Python"] == ">=3.11"
    assert info["License-Expression"] == "MIT"


def test_the_command_is_installed() -> None:
    (entry,) = metadata.entry_points(group="console_scripts", name="nanomd")
    assert entry.value == "nanomd.cli.main:main"
    assert callable(entry.load())


def test_the_installed_package_is_typed_and_compiled() -> None:
    assert resources.files("nanomd").joinpath("py.typed").is_file()
    from nanomd import _core

    assert Path(_core.__file__).suffix == ".so"
    assert "nanomd" in Path(_core.__file__).parts


def test_the_templates_of_the_report_are_installed() -> None:
    templates = resources.files("nanomd.report").joinpath("templates")
    assert {"page.html.j2", "style.css"} <= {file.name for file in templates.iterdir()}


def test_emulated_cuda_threads_are_in_editable_builds_alone() -> None:
    """They are for tests: a wheel has no use for them."""
    from nanomd import _core

    origin = json.loads(metadata.distribution("nanomd-kinetics").read_text("direct_url.json") or "{}")
    editable = origin.get("dir_info", {}).get("editable", False)
    assert hasattr(_core, "emulated_cuda_engine") == editable


def test_kernels_are_installed_under_nanomd() -> None:
    import nanomd.kernels

    assert nanomd.kernels.__doc__


def test_constraints_satisfy_the_declared_requirements() -> None:
    lines = [line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pinned = {name.lower(): version for name, _, version in (line.partition("==") for line in lines if line)}
    project = PYPROJECT["project"]
    declared = [
        *project["dependencies"],
        *(requirement for extra in project["optional-dependencies"].values() for requirement in extra),
    ]
    for text in [*declared, *PYPROJECT["build-system"]["requires"]]:
        requirement = Requirement(text)
        version = pinned.get(requirement.name.lower())
        if version is not None:
            assert version in requirement.specifier, (
                f"constraints.txt has {requirement.name} {version}, but {text} is needed"
            )
    assert {"torch", "triton", "numpy", "deeptime", "mdtraj", "pytest"} <= set(pinned)


@pytest.mark.parametrize("name", ["LICENSE", "README.md", "Makefile", "CMakeLists.txt"])
def test_the_files_of_a_project(name: str) -> None:
    assert (ROOT / name).stat().st_size > 0
