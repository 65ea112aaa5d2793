"""nanomd with its base dependencies alone: rollouts work, and what needs more says in one line what it needs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from rollout_models import make_files

import nanomd
from nanomd.base.extras import EXTRAS
from nanomd.model.files import save_model

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def light(tmp_path_factory) -> Path:
    """A folder that holds nanomd and its base dependencies, and nothing else that is installed here."""
    site = tmp_path_factory.mktemp("light") / "site"
    (site / "nanomd").mkdir(parents=True)
    for path in Path(nanomd.__file__).parent.iterdir():
        (site / "nanomd" / path.name).symlink_to(path)
    core = Path(import_module("nanomd._core").__file__)
    if not (site / "nanomd" / core.name).exists():
        (site / "nanomd" / core.name).symlink_to(core)
    for requirement in PROJECT["dependencies"]:
        name = Requirement(requirement).name.replace("-", "_")
        package = Path(import_module(name).__file__).parent
        (site / name).symlink_to(package)
        if (libraries := package.with_name(f"{name}.libs")).exists():
            (site / libraries.name).symlink_to(libraries)
    save_model(site.parent / "model", make_files())
    return site


def run(light: Path, code: str) -> subprocess.CompletedProcess[str]:
    prelude = f"import sys; sys.path.append({str(light)!r}); import nanomd\n"
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", prelude + code],
        cwd=light.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_model_rolls_out(light):
    code = """
rollout = nanomd.Sampler.load("model").generate(200, 3, seed=1, observables=nanomd.Observables(lagtimes=[1, 5]))
assert rollout.transition_counts(5).sum() == rollout.observables.transition_counts(5).sum() == 3 * 195
rollout.save("rollout")
assert nanomd.Rollout.load("rollout") == rollout
assert not {"torch", "scipy", "mdtraj", "deeptime", "sklearn", "matplotlib"} & set(sys.modules)
"""
    result = run(light, code)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("code", "package", "extra"),
    [
        ("nanomd.GPTEstimator().fit([[0, 1, 0, 1]])", "torch", "train"),
        ("nanomd.Sampler.load('model', backend='reference')", "torch", "train"),
        ("nanomd.interpret.interpret_model", "torch", "train"),
        ("nanomd.validate([[0, 1, 0, 1] * 50])", "scipy", "md"),
        ("nanomd.kinetics.mfpt([[0, 1, 0, 1] * 50], [0], [1])", "scipy", "md"),
        ("nanomd.Tokenizer().fit('a.pdb', 'a.xtc')", "mdtraj", "md"),
        ("nanomd.Tokenizer(n_states=2).fit_transform_arrays([[[0.0], [1.0], [0.0]]])", "sklearn", "md"),
        ("nanomd.Sampler.load('model').generate(9).to_count_model()", "deeptime", "md"),
    ],
)
def test_what_needs_more_names_the_extra(light, code, package, extra):
    result = run(light, f"try:\n    {code}\nexcept nanomd.NanomdError as error:\n    print(error)")
    assert result.returncode == 0, result.stderr
    assert f"needs {package}, which is not installed: pip install 'nanomd-kinetics[{extra}]'" in result.stdout


def test_the_command_line_says_it_in_one_line(light):
    run(light, "from nanomd.cli.main import main; main(['simulate', '--run', 'r', '--n-frames', '200'])")
    run(light, "from nanomd.cli.main import main; main(['tokenize', '--run', 'r'])")
    result = run(light, "from nanomd.cli.main import main; raise SystemExit(main(['train', '--run', 'r']))")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1 and "nanomd: error: " in result.stderr
    assert "pip install 'nanomd-kinetics[train]'" in result.stderr


def test_the_extras_of_the_messages_are_those_of_the_distribution():
    declared = PROJECT["optional-dependencies"]
    name = {"sklearn": "scikit-learn", "PIL": "matplotlib"}  # matplotlib brings Pillow
    for package, extra in EXTRAS.items():
        assert name.get(package, package) in {Requirement(text).name for text in declared[extra]}, package
    everything = Requirement(declared["all"][0])
    assert everything.name == PROJECT["name"]
    assert everything.extras == set(declared) - {"all", "test", "dev", "docs", "peers"}


def test_the_other_project_of_this_name_is_refused(light, tmp_path):
    """Its files lie in the same folder where both are installed."""
    mixed = tmp_path / "nanomd"
    mixed.mkdir()
    for path in (light / "nanomd").iterdir():
        (mixed / path.name).symlink_to(path.resolve())
    (mixed / "__init__.py").unlink()
    (mixed / "__init__.py").write_text(Path(nanomd.__file__).read_text())
    (mixed / "modules").mkdir()
    (mixed / "modules" / "detectMod.py").write_text("")
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({str(tmp_path)!r}); import nanomd"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "pip uninstall nanomd nanomd-kinetics; pip install nanomd-kinetics" in result.stderr.splitlines()[-1]
