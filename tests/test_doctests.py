"""The examples in docstrings do what they show."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import nanomd

ROOT = Path(nanomd.__file__).parent


def _modules() -> list[str]:
    """Return the modules that have examples."""
    files = [file for file in ROOT.rglob("*.py") if ">>> " in file.read_text(encoding="utf-8")]
    return sorted(".".join(("nanomd", *file.relative_to(ROOT).with_suffix("").parts)) for file in files)


@pytest.mark.parametrize("name", _modules())
def test_examples(name: str) -> None:
    with np.printoptions(legacy=False):
        failed, tried = doctest.testmod(import_module(name))
    assert tried and not failed


@pytest.mark.parametrize(
    "name", ["FrameInterval", "GPTEstimator", "GPTModel", "Observables", "Sampler", "StateMap", "Tokenizer", "validate"]
)
def test_the_public_face_has_examples(name: str) -> None:
    public = getattr(nanomd, name)
    assert any(">>> " in (item.__doc__ or "") for item in (public, *vars(public).values()) if hasattr(item, "__doc__"))
