"""What is loaded when: importing the package and asking for help must stay cheap, and rollouts need no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ["torch", "triton", "deeptime", "sklearn", "matplotlib", "mdtraj", "scipy", "pandas", "jinja2"]


def _loaded(code: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has loaded after running `code`."""
    script = f"import sys\n{code}\nprint('\\n'.join(sorted({{n.partition('.')[0] for n in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import nanomd; nanomd.__all__; dir(nanomd)",
        "from nanomd.cli.main import build_parser; build_parser()[0].format_help()",
        "from nanomd.cli.main import build_parser; [p.format_help() for p in build_parser()[1].values()]",
        "import nanomd.study.tokenize, nanomd.study.validate, nanomd.study.demo, nanomd.doctor, nanomd.bench",
        "import nanomd.kinetics, nanomd.data, nanomd.model.files, nanomd.report, nanomd.tokenize, nanomd.systems",
        "from nanomd import load_dtrajs, StateMap, ModelConfig, FrameInterval, Tokenizer, validate",
    ],
)
def test_light_imports(code: str) -> None:
    assert not _loaded(code) & set(HEAVY)


def test_help_loads_not_even_numpy() -> None:
    assert "numpy" not in _loaded("from nanomd.cli.main import build_parser; build_parser()[0].format_help()")


def test_the_sampler_needs_no_torch() -> None:
    assert not _loaded("from nanomd import Sampler, Rollout") & {"torch", "triton", "deeptime", "matplotlib"}


@pytest.mark.parametrize(
    "name", ["kinetics.mfpt_error", "experiments.CASES", "interpret.MemoryLength", "report.write_report"]
)
def test_packages_are_there_without_an_import_of_their_own(name: str) -> None:
    loaded = _loaded(f"import nanomd; assert nanomd.{name}")
    assert "nanomd" in loaded
    assert not loaded & {"torch", "matplotlib", "mdtraj"}


def test_the_check_can_fail() -> None:
    assert "json" in _loaded("import json")


def test_public_names_exist() -> None:
    import nanomd

    for name in nanomd.__all__:
        assert getattr(nanomd, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        nanomd.nothing  # noqa: B018
